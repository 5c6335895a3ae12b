# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

pytest_plugins = ["pytester"]

_PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def examples():
    return re.findall(r"^```python\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_pass(pytester):
    pytester.makepyfile("\n\n".join(examples()))
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=9)


def test_every_fixture_and_every_fault_is_on_the_page():
    from otel_spiffe.testing import Fault, plugin  # noqa: PLC0415 -- the plugin is what is read

    for name in (*plugin.__all__, *(fault.name for fault in Fault)):
        assert f"`{name}" in _PAGE, name


def test_every_fixture_is_used_in_an_example_or_is_an_override():
    from otel_spiffe.testing import plugin  # noqa: PLC0415 -- the plugin is what is read

    used = set(re.findall(r"\w+", "\n".join(examples())))
    overrides = {"spiffe_trust_domain", "spiffe_federated_trust_domain", "spiffe_id"}  # tried in test_plugin.py
    assert set(plugin.__all__) - used == overrides
