# SPDX-License-Identifier: Apache-2.0
"""The socket that a gRPC channel dials: where it stands, and who may reach it."""

import errno
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path
from socket import AF_UNIX

import pytest

from otel_spiffe.credentials import Relay, _relay_slots
from otel_spiffe.credentials._relay_listener import PrivateListener
from otel_spiffe.credentials._relay_slots import Slots
from otel_spiffe.identity import authorize_any

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names sockets by descriptors in /proc")
NOBODY = 65_534


def path_of(listener):
    return listener.target.removeprefix("unix:")


def test_elsewhere_the_socket_stands_in_a_private_directory(monkeypatch):
    """As on macOS: removed at close."""
    monkeypatch.setattr(PrivateListener, "_bind_unnamed", lambda *_: False)
    listener = PrivateListener()
    path = Path(path_of(listener))
    assert not listener.survives_fork
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.name.startswith(f"otel-spiffe-relay-{os.getpid()}-")
    listener.close()
    assert not path.parent.exists()


@LINUX
def test_a_long_tmpdir_is_no_obstacle(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    listener = PrivateListener()
    assert len(listener.target) < 40
    assert list(deep.iterdir()) == []
    listener.close()


@LINUX
def test_a_tmpdir_that_cannot_be_written_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    PrivateListener().close()


@LINUX
@pytest.mark.parametrize("umask", [0o022, 0o777])
def test_no_umask_keeps_this_process_out(umask):
    before = os.umask(umask)
    try:
        listener = PrivateListener()
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(path_of(listener)).stat().st_mode) == 0o666
    listener.close()


@LINUX
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root to give up")
def test_it_is_reached_after_the_process_has_given_up_root():
    listener = PrivateListener()
    os.seteuid(NOBODY)  # connect() judges by it, and it can be had back
    try:
        with socket.socket(AF_UNIX) as client:
            client.connect(path_of(listener))
    finally:
        os.seteuid(0)
        listener.close()


# The number in its target: a channel that outlives its relay goes on to dial it.


@LINUX
def test_a_number_is_not_soon_used_again():
    targets = set()
    for _ in range(200):
        listener = PrivateListener()
        targets.add(listener.target)
        listener.close()
    assert len(targets) == 200


@LINUX
def test_a_channel_of_a_closed_relay_does_not_reach_the_next(world, servers):
    source = world.source()
    with servers.echo(world) as port:
        with Relay.outbound(f"127.0.0.1:{port}", source, authorize=authorize_any()) as first:
            before = path_of(first)
        with Relay.outbound(f"127.0.0.1:{port}", source, authorize=authorize_any()), socket.socket(AF_UNIX) as client:
            assert client.connect_ex(before) == errno.ENOENT


@pytest.fixture
def limit():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda files: resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@LINUX
@pytest.mark.parametrize(("files", "ceiling"), [(512, 4096), (1024, 512)])
def test_numbers_go_round_in_the_upper_half(limit, monkeypatch, files, ceiling):
    limit(files)
    monkeypatch.setattr(_relay_slots, "CEILING", ceiling)
    slots, numbers = Slots(), []
    for _ in range(257):
        numbers.append(slots.move(os.open(os.devnull, os.O_RDONLY)))
        os.close(numbers[-1])
    assert numbers == [*range(256, 512), 256]


@LINUX
def test_a_number_that_is_in_use_is_passed_over(limit):
    limit(512)
    slots = Slots()
    held = [slots.move(os.open(os.devnull, os.O_RDONLY)) for _ in range(256)]
    os.close(held.pop(7))
    assert slots.move(os.open(os.devnull, os.O_RDONLY)) == 256 + 7
    spare = os.open(os.devnull, os.O_RDONLY)
    assert slots.move(spare) == spare  # none is left
    for each in (*held, 256 + 7, spare):
        os.close(each)
