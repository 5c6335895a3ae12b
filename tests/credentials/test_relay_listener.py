# SPDX-License-Identifier: Apache-2.0
"""The socket that a gRPC channel dials: where it stands, and who may reach it."""

import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from otel_spiffe.credentials._relay_listener import PrivateListener

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
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path_of(listener))
    finally:
        os.seteuid(0)
        listener.close()
