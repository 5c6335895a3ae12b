# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_HEAVY = ("grpc", "cryptography", "google.protobuf", "opentelemetry", "spiffe", "requests")


def run(pytester, test):
    pytester.makepyfile(test)
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider")


def test_the_plugin_is_found_by_its_entry_point():
    (plugin,) = (each for each in entry_points(group="pytest11") if each.name == "otel_spiffe")
    assert plugin.value == "otel_spiffe.testing.plugin"


def test_loading_the_plugin_imports_nothing_heavy():
    program = f"import otel_spiffe.testing.plugin, sys; print([name for name in {_HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_a_session_that_uses_no_fixture_imports_nothing_heavy(pytester):
    result = run(
        pytester,
        f"""
        import sys

        def test_nothing():
            assert [name for name in {_HEAVY} if name in sys.modules] == []
        """,
    )
    result.assert_outcomes(passed=1)


def test_no_fixture_is_automatic(pytester):
    result = run(pytester, "def test_nothing(request):\n    assert request.fixturenames == ['request']\n")
    result.assert_outcomes(passed=1)


def test_every_fixture_has_our_prefix_and_a_description(pytester):
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("--fixtures", "-p", "no:asyncio")
    _, _, ours = result.stdout.str().partition("fixtures defined from otel_spiffe.testing.plugin")
    ours, _, _ = ours.partition("fixtures defined from")
    names = [line.split(" ")[0] for line in ours.splitlines() if " -- " in line or " [" in line]
    assert len(names) >= 15
    assert all(name.startswith(("spiffe_", "otlp_sink")) for name in names), names
    assert "no docstring available" not in ours


def test_a_project_may_choose_its_trust_domains_and_id(pytester):
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def spiffe_trust_domain():
            return "prod.example"

        @pytest.fixture(scope="session")
        def spiffe_federated_trust_domain():
            return "partner.example"

        @pytest.fixture
        def spiffe_id():
            return "spiffe://prod.example/checkout"
        """
    )
    result = run(
        pytester,
        """
        def test_names(spiffe_source, spiffe_svid, spiffe_federated_ca):
            identity = spiffe_source.identity()
            assert str(identity.id) == "spiffe://prod.example/checkout"
            assert {str(domain) for domain in identity.bundles} == {"prod.example", "partner.example"}
            assert str(spiffe_svid("/db").id) == "spiffe://prod.example/db"
        """,
    )
    result.assert_outcomes(passed=1)


def test_the_authority_is_one_for_the_session_and_the_own_one_is_not(pytester):
    result = run(
        pytester,
        """
        seen = []

        def test_first(spiffe_ca, spiffe_own_ca):
            seen.append((spiffe_ca, spiffe_own_ca))

        def test_second(spiffe_ca, spiffe_own_ca):
            assert seen[0][0] is spiffe_ca
            assert seen[0][1] is not spiffe_own_ca
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_environment_names_the_workload_api(pytester):
    result = run(
        pytester,
        """
        import os
        from otel_spiffe.sources import WorkloadApiSource

        def test_set(spiffe_environment, spiffe_id):
            assert os.environ["SPIFFE_ENDPOINT_SOCKET"] == spiffe_environment
            with WorkloadApiSource.open() as source:
                assert str(source.wait(30).id) == spiffe_id

        def test_unset():
            assert "SPIFFE_ENDPOINT_SOCKET" not in os.environ
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_fixtures_work_together_under_xdist_and_leave_nothing_behind(pytester, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pytester.makepyfile(
        """
        import http.client
        import pytest
        from otel_spiffe.credentials import client_context
        from otel_spiffe.identity import authorize_id
        from otel_spiffe.testing import Fault

        @pytest.mark.parametrize("number", range(4))
        def test_export(spiffe_source, otlp_sink, spiffe_trust_domain, number):
            authorize = authorize_id(f"spiffe://{spiffe_trust_domain}/collector")
            host, _, port = otlp_sink.http_endpoint.removeprefix("https://").partition(":")
            context = client_context(spiffe_source, authorize=authorize)
            connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
            connection.request("POST", "/v1/traces", b"", {"Content-Type": "application/x-protobuf"})
            assert connection.getresponse().status == 200
            connection.close()
            (received,) = otlp_sink.wait_for(requests=1, timeout=30)
            assert received.peer == spiffe_source.identity().id

        def test_faulty(spiffe_faulty_svid, spiffe_source_of):
            for fault in Fault:
                spiffe_faulty_svid(fault)
            assert str(spiffe_source_of("/db").identity().id) == "spiffe://test.example/db"
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "-n", "2", "-p", "no:asyncio", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)
    assert [entry.name for entry in Path(tmp_path).iterdir() if entry.name.startswith("otel-spiffe")] == []


def test_every_name_of_the_package_can_be_imported_and_no_other():
    from otel_spiffe import testing  # noqa: PLC0415 -- what is tested is the import

    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = testing.no_such_name
    assert set(testing._HOMES) == set(testing.__all__) == set(dir(testing))
