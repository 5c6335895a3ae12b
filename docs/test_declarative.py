# SPDX-License-Identifier: Apache-2.0
"""Each configuration file that a page shows is loaded by the SDK, and what it builds exports as the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
SHOWN = re.findall(
    r"^```yaml\n(.*?)^```", Path(__file__).with_name("exporters.md").read_text(), re.DOTALL | re.MULTILINE
)
PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.configuration import configure_sdk, load_config_file
configure_sdk(load_config_file(sys.argv[1]))
trace.get_tracer("docs").start_span("a span").end()
"""


@pytest.mark.parametrize("text", SHOWN, ids=range(len(SHOWN)))
def test_a_file_that_is_shown_builds_exporters_that_export(text, tmp_path):
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        WorkloadApiServer.open(identity=authority.identity(APP)) as agent,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(APP)) as sink,
    ):
        assert "https://collector:4317" in text
        file = tmp_path / "otel.yaml"
        file.write_text(text.replace("https://collector:4317", sink.grpc_endpoint))
        environ = os.environ | {"SPIFFE_ENDPOINT_SOCKET": agent.endpoint}
        subprocess.run([sys.executable, "-c", PROGRAM, file], env=environ, check=True, timeout=60)  # noqa: S603 -- ours
        assert [span.name for span in sink.spans] == ["a span"]
        assert {str(each.peer) for each in sink.received()} == {APP}


def test_a_file_is_shown():
    assert SHOWN
