# SPDX-License-Identifier: Apache-2.0
import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.ca._socket import MAX_SOCKET_PATH_BYTES
from otel_spiffe.errors import InvalidConfiguration

_APP = "spiffe://prod.example/app"


@pytest.mark.parametrize("over", [0, 1, 60])
def test_a_directory_for_temporary_files_with_a_long_name_is_not_used(authority, asked, monkeypatch, short_path, over):
    fits = MAX_SOCKET_PATH_BYTES - len("/otel-spiffe-12345678") - len("/.12345678/s")
    long = short_path / ("x" * (fits + over - len(str(short_path)) - 1))
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with WorkloadApiServer.open(identity=authority.identity(_APP)) as server:
        assert asked(server) is grpc.StatusCode.OK
        assert server.path.parent.parent == (Path("/tmp") if over else long)  # noqa: S108
        assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
        assert [*long.iterdir()] == ([] if over else [server.path.parent])
    assert not server.path.parent.exists()


def test_where_no_directory_can_be_made_the_configuration_is_refused(monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(InvalidConfiguration, match="No space left on device"):
        WorkloadApiServer.open()


def test_close_ends_everything_also_where_the_sockets_directory_has_become_a_file(authority, short_path):
    directory = short_path / "run"
    directory.mkdir()
    server = WorkloadApiServer.open(directory / "api.sock", identity=authority.identity(_APP))
    directory.rename(short_path / "moved")
    directory.write_text("a file")
    server.close()
    assert not server.listening
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(short_path / "moved" / "api.sock"))


def test_a_server_too_busy_to_answer_is_left_alone_and_not_waited_for(short_path):
    path = short_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(InvalidConfiguration, match="listens there already"):
            WorkloadApiServer.open(path)


FORKS = f"""
import os, signal, sys
from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
ca = CertificateAuthority.in_memory("prod.example")
with WorkloadApiServer.open(issue=lambda: ca.identity("{_APP}")) as server:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        assert not server.listening
        sys.exit(7)  # leaves the with statement
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert server.listening and server.path.is_socket()
print(server.path.exists())
"""


def test_a_forked_child_that_closes_leaves_the_socket_to_its_parent():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
