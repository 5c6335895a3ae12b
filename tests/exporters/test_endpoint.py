# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters._endpoint import grpc_target, http_url


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch):
    for middle in ("", "TRACES_", "METRICS_", "LOGS_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{middle}ENDPOINT", raising=False)


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        (None, "localhost:4317"),
        ("", "localhost:4317"),
        ("https://collector:4317", "collector:4317"),
        ("https://collector:4317/", "collector:4317"),
        ("https://collector:4317/ignored/path", "collector:4317"),
        ("HTTPS://collector:4317", "collector:4317"),
        ("https://collector", "collector:443"),
        ("https://[::1]:4317", "[::1]:4317"),
        ("collector:4317", "collector:4317"),
        ("127.0.0.1:4317", "127.0.0.1:4317"),
        ("[::1]:4317", "[::1]:4317"),
    ],
)
def test_a_grpc_endpoint_is_a_target(endpoint, target):
    assert grpc_target(endpoint, "traces") == target


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://collector:4317",
        "unix:///run/otel.sock",
        "dns:///collector:4317",
        "grpc://collector:4317",
        "https://",
        "https://:4317",
        "https://user:secret@collector:4317",
        "user:secret@collector:4317",
        "https://collector:notaport",
        "https://collector:99999",
        "https://[::1",
        "collector",
        "unix:/run/otel.sock",
    ],
)
@pytest.mark.parametrize("variable", [None, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"])
def test_what_is_no_tls_server_is_refused_by_grpc_with_the_place(endpoint, variable, monkeypatch):
    if variable:
        monkeypatch.setenv(variable, endpoint)
    with pytest.raises(InvalidConfiguration) as refusal:
        grpc_target(None if variable else endpoint, "logs")
    assert refusal.value.setting == (variable or "endpoint")
    assert "secret" not in str(refusal.value)


def test_the_grpc_variable_of_the_signal_wins(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://general:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://own:4317")
    assert grpc_target(None, "metrics") == "own:4317"
    assert grpc_target(None, "logs") == "general:4317"
    assert grpc_target("https://said:1", "metrics") == "said:1"


def test_a_general_http_endpoint_gets_the_path_of_the_signal_and_others_do_not(monkeypatch):
    assert http_url(None, "traces") == "https://localhost:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://general:4318/otlp/")
    assert http_url(None, "metrics") == "https://general:4318/otlp/v1/metrics"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://own:4318/here")
    assert http_url(None, "logs") == "https://own:4318/here"
    assert http_url("https://said:1/there", "logs") == "https://said:1/there"


@pytest.mark.parametrize(
    "endpoint", ["http://c:4318/v1/traces", "c:4318", "/v1/traces", "https://", "https://u:secret@c/"]
)
def test_what_is_no_https_url_is_refused_by_http(endpoint):
    with pytest.raises(InvalidConfiguration) as refusal:
        http_url(endpoint, "traces")
    assert refusal.value.setting == "endpoint"
    assert "secret" not in str(refusal.value)
