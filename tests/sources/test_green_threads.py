# SPDX-License-Identifier: Apache-2.0
"""Under gevent sources refuse at the start and say why, where their threads would stop the whole process."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import sys
from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources import FileSource, IssuingSource, StaticSource, WorkloadApiSource, from_spiffe
openers = {
    "WorkloadApiSource": lambda: WorkloadApiSource.open("unix:///nonexistent"),
    "FileSource": lambda: FileSource.open("/nonexistent"),
    "IssuingSource": lambda: IssuingSource.open(lambda: None),
    "from_spiffe": lambda: from_spiffe(None),
}
identity = CertificateAuthority.in_memory("prod.example").identity("spiffe://prod.example/app")
with StaticSource(identity) as source:  # needs no thread
    print(source.wait(1).id)
try:
    openers[sys.argv[1]]()
except InvalidConfiguration as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["WorkloadApiSource", "FileSource", "IssuingSource", "from_spiffe"])
def test_a_source_with_threads_refuses_and_one_without_works(what):
    done = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    static, refusal = done.stdout.splitlines()
    assert static == "spiffe://prod.example/app"
    assert refusal.startswith(f"{what} under gevent: gevent has replaced this process's threads and TLS sockets")
    assert "gunicorn's gthread workers" in refusal
