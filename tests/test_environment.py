# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from otel_spiffe import environment
from otel_spiffe.environment import Setting, Settings
from otel_spiffe.errors import InvalidConfiguration


def test_nothing_set_is_nothing_said():
    assert environment.settings({}) == Settings()


def test_an_empty_variable_counts_as_not_set():
    names = [name for name in environment.__all__ if name.startswith(("OTEL_SPIFFE_", "SPIFFE_"))]
    assert environment.settings(dict.fromkeys(names, "")) == Settings()


def test_every_variable_has_its_field():
    assert environment.settings(
        {
            "SPIFFE_ENDPOINT_SOCKET": "unix:///run/agent.sock",
            "OTEL_SPIFFE_HINT": " internal ",
            "OTEL_SPIFFE_SVID_DIRECTORY": "/run/svids",
            "OTEL_SPIFFE_SVID_FILE": "/run/svid.pem",
            "OTEL_SPIFFE_SVID_KEY_FILE": "/run/key.pem",
            "OTEL_SPIFFE_BUNDLE_FILE": "/run/bundle.pem",
            "OTEL_SPIFFE_AUTHORIZED_IDS": "spiffe://a.example/x , spiffe://a.example/y,",
            "OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES": "spiffe://a.example/otel",
            "OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS": "a.example,b.example",
            "OTEL_SPIFFE_AUTHORIZE_ANY_PEER": "TRUE",
            "OTEL_SPIFFE_AUTHORISED_IDS": "spiffe://a.example/typo",
            "PATH": "/bin",
        }
    ) == Settings(
        spiffe_endpoint_socket="unix:///run/agent.sock",
        hint="internal",
        svid_directory="/run/svids",
        svid_file="/run/svid.pem",
        svid_key_file="/run/key.pem",
        bundle_file="/run/bundle.pem",
        authorized_ids=("spiffe://a.example/x", "spiffe://a.example/y"),
        authorized_id_prefixes=("spiffe://a.example/otel",),
        authorized_trust_domains=("a.example", "b.example"),
        authorize_any_peer=True,
        unknown=("OTEL_SPIFFE_AUTHORISED_IDS",),
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SPIFFE_AUTHORIZED_IDS", " , ,"),
        ("OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES", ","),
        ("OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS", ","),
        ("OTEL_SPIFFE_AUTHORIZE_ANY_PEER", "yes"),
        ("OTEL_SPIFFE_AUTHORIZE_ANY_PEER", "1"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_with_the_variable(variable, value):
    with pytest.raises(InvalidConfiguration) as refusal:
        environment.settings({variable: value})
    assert refusal.value.setting == variable


def test_the_constants_are_their_own_names_and_every_otel_one_is_a_field():
    names = [name for name in environment.__all__ if name.isupper()]
    assert all(getattr(environment, name) == name for name in names)
    fields = {f"OTEL_SPIFFE_{name.upper()}" for name in Settings.__slots__}
    assert {name for name in names if name.startswith("OTEL_")} <= fields


def test_no_foreign_otel_name_is_in_the_module_where_it_would_become_a_flag_twice():
    assert {name for name in dir(environment) if name.startswith("OTEL_")} <= set(environment.__all__)


@pytest.mark.parametrize("reader", [environment.otlp_endpoint, environment.otlp_protocol])
def test_the_variable_of_the_signal_goes_before_the_general_one(reader):
    name = reader.__name__.removeprefix("otlp_").upper()
    general, own = f"OTEL_EXPORTER_OTLP_{name}", f"OTEL_EXPORTER_OTLP_TRACES_{name}"
    assert reader("traces", {}) is None
    assert reader("traces", {general: "g"}) == Setting(general, "g")
    assert reader("traces", {general: "g", own: ""}) == Setting(general, "g")
    assert reader("traces", {general: "g", own: "o"}) == Setting(own, "o")
    assert reader("logs", {general: "g", own: "o"}) == Setting(general, "g")


def test_the_stock_tls_variables_that_are_set_are_named():
    environ = {
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE": "/ca.pem",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/general.pem",
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": "/key.pem",
    }
    assert environment.otlp_tls_variables("logs", environ) == (
        "OTEL_EXPORTER_OTLP_INSECURE",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
    )


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, True), ("", True), ("1", True), ("true", True), ("0", False), ("False", False), ("no", False)],
)
def test_fork_support_of_grpc_is_on_unless_switched_off(value, on):
    assert environment.grpc_fork_support({} if value is None else {"GRPC_ENABLE_FORK_SUPPORT": value}) is on


@pytest.mark.parametrize(
    ("environ", "host", "proxy"),
    [
        ({}, "collector", None),
        ({"https_proxy": "http://proxy:3128"}, "collector", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "collector"}, "collector", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".svc.local"}, "c.svc.local:4317", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "collector", None),
        ({"ALL_PROXY": "http://proxy:3128"}, "collector", "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "collector", None),
    ],
)
def test_the_proxy_for_a_host(environ, host, proxy, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert environment.https_proxy(host) == proxy
