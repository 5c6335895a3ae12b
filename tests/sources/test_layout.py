# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources import CREDENTIAL_BUNDLE, LAYOUTS, Layout


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"svid": "svid.pem"}, "names no bundle"),
        ({"bundles": "bundle.pem"}, "does not hold {trust_domain} once"),
        ({"bundles": "{trust_domain}/{trust_domain}"}, "does not hold {trust_domain} once"),
        ({"key": "key.pem", "bundle": "bundle.pem"}, "a key and no X509-SVID"),
    ],
)
def test_a_layout_that_could_not_work_is_refused(keywords, sentence):
    with pytest.raises(InvalidConfiguration, match=sentence):
        Layout(**keywords)


def test_the_names_of_a_layout_are_those_that_must_be_there():
    assert Layout(svid="a", key="a", bundle="b").names == ("a", "b")
    assert CREDENTIAL_BUNDLE.names == ("credential-bundle.private-key.pem",)


def test_bundles_are_found_by_trust_domain_and_other_files_are_not_taken():
    names = ["prod.example.pem", "other.example.pem", "credential-bundle.private-key.pem", ".hidden.pem", "UP per.pem"]
    found = CREDENTIAL_BUNDLE.bundle_names([*names, "README", ".pem", "..2026.pem"])
    assert {str(domain): name for domain, name in found.items()} == {
        "prod.example": "prod.example.pem",
        "other.example": "other.example.pem",
    }


def test_a_layout_without_a_pattern_finds_no_bundles():
    assert Layout(bundle="ca.pem").bundle_names(["prod.example.pem"]) == {}


def test_no_two_presets_are_the_same():
    assert len(set(LAYOUTS)) == len(LAYOUTS)
