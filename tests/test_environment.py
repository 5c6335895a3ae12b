# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from types import SimpleNamespace

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


def test_an_export_s_time_limit():
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "7", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "2.5"}
    assert environment.otlp_timeout("logs", environ) == 2.5
    assert environment.otlp_timeout("traces", environ) == 7.0
    assert environment.otlp_timeout("traces", {}) is None
    with pytest.raises(InvalidConfiguration, match=r"^OTEL_EXPORTER_OTLP_TIMEOUT: 'soon' is no number of seconds"):
        environment.otlp_timeout("traces", {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, True), ("", True), ("1", True), ("true", True), ("0", False), ("False", False), ("no", False)],
)
def test_fork_support_of_grpc_is_on_unless_switched_off(value, on):
    assert environment.grpc_fork_support({} if value is None else {"GRPC_ENABLE_FORK_SUPPORT": value}) is on


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),  # as curl and urllib: the small one decides
    ],
)
def test_which_variable_names_the_proxy(environ, proxy, proxy_variables):
    proxy_variables(environ)
    assert environment.https_proxy("collector", 4317) == proxy


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("collector", "collector", True),
        ("Collector", "COLLECTOR.", True),
        ("other, collector", "collector", True),
        ("collector", "my-collector", False),
        ("svc.local", "c.svc.local", True),
        (".svc.local", "c.svc.local", True),
        ("*.svc.local", "c.svc.local", True),
        ("svc.local", "evilsvc.local", False),
        ("*", "collector", True),
        ("", "collector", False),
        (" , ", "collector", False),
        (".", "collector", False),
        ("collector:4317", "collector", True),
        ("collector:4318", "collector", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:4317", "10.1.2.3", True),
        ("10.1.2", "10.1.2.3", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:4317", "::1", True),
        ("[::1]:4318", "::1", False),
        ("fd00::/8", "fd00::7", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("999.0.0.0/8", "10.1.2.3", False),
    ],
)
def test_what_no_proxy_excepts(entry, host, direct, proxy_variables):
    proxy_variables({"HTTPS_PROXY": PROXY, "NO_PROXY": entry})
    assert environment.https_proxy(host, 4317) == (None if direct else PROXY)


@pytest.fixture
def proxy_variables(monkeypatch):
    def put(environ):
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("module", "is_patched"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
@pytest.mark.parametrize("patched", ["threading", "thread", "ssl"])
def test_green_threads_are_refused_with_the_reason(module, is_patched, patched, monkeypatch):
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{is_patched: lambda name: name == patched}))
    with pytest.raises(InvalidConfiguration, match=f"^a thing under {module.partition('.')[0]}: .*; use real threads"):
        environment.refuse_green_threads("a thing")
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{is_patched: lambda _: False}))
    environment.refuse_green_threads("a thing")
