# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from otel_spiffe.environment import Settings
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters._choice import choose_authorizer, choose_source, refuse_beside_source, take_keywords
from otel_spiffe.identity import authorize_any, authorize_id

A, B = "spiffe://a.example/x", "spiffe://a.example/y"
SOCKET = "unix:///run/agent.sock"


def authorizer(settings=None, **keywords):
    return repr(choose_authorizer(take_keywords(keywords), settings or Settings()))


def place(settings=None, **keywords):
    chosen = choose_source(take_keywords(keywords), settings or Settings())
    return {name: given.value for name, given in chosen.items()}


@pytest.mark.parametrize(
    ("keywords", "policy"),
    [
        ({"authorized_ids": A}, f"one_of({A})"),
        ({"authorized_ids": f"{A}, {B}"}, f"one_of({A}, {B})"),
        ({"authorized_ids": [A, B]}, f"one_of({A}, {B})"),
        ({"authorized_ids": (A,), "authorize_any_peer": False, "hint": None}, f"one_of({A})"),
        ({"authorized_trust_domains": ["a.example"]}, "member_of(a.example)"),
        ({"authorized_id_prefixes": A}, f"id_prefix({A})"),
        ({"authorized_id_prefixes": [A, B]}, f"any_of(id_prefix({A}), id_prefix({B}))"),
        (
            {"authorized_ids": A, "authorized_trust_domains": "b.example"},
            f"any_of(one_of({A}), member_of(b.example))",
        ),
        ({"authorize_any_peer": True}, "any()"),
        ({"authorize": authorize_id(A)}, f"one_of({A})"),
    ],
)
def test_keywords_name_the_peer(keywords, policy):
    assert authorizer(**keywords) == policy


def test_the_environment_names_the_peer_where_no_keyword_does():
    settings = Settings(authorized_ids=(A,), authorized_id_prefixes=(B,))
    assert authorizer(settings) == f"any_of(one_of({A}), id_prefix({B}))"
    assert authorizer(settings, authorize_any_peer=False) == f"any_of(one_of({A}), id_prefix({B}))"


@pytest.mark.parametrize("keywords", [{"authorized_ids": A}, {"authorize": authorize_id(A)}])
def test_the_environment_never_widens_what_a_keyword_says(keywords):
    assert authorizer(Settings(authorize_any_peer=True), **keywords) == f"one_of({A})"


def test_without_an_authorizer_nothing_starts_and_the_variable_is_named():
    with pytest.raises(InvalidConfiguration, match=r"OTEL_SPIFFE_AUTHORIZED_IDS .*authorize="):
        authorizer()
    with pytest.raises(InvalidConfiguration, match="OTEL_SPIFFE_AUTHORISED_IDS is no variable of ours"):
        authorizer(Settings(unknown=("OTEL_SPIFFE_AUTHORISED_IDS",)))


@pytest.mark.parametrize(
    ("keywords", "where"),
    [
        ({"authorized_ids": "spiffe://A.example//x"}, "authorized_ids="),
        ({"authorized_ids": []}, "authorized_ids="),
        ({"authorized_ids": " , "}, "authorized_ids="),
        ({"authorized_ids": 5}, "authorized_ids="),
        ({"authorized_ids": [5]}, "authorized_ids="),
        ({"authorized_ids": {"a": 1}}, "authorized_ids="),
        ({"authorized_id_prefixes": f"{A}/"}, "authorized_id_prefixes="),
        ({"authorized_trust_domains": "a.example/x y"}, "authorized_trust_domains="),
        ({"authorize_any_peer": "true"}, "authorize_any_peer="),
        ({"authorize_any_peer": True, "authorized_ids": A}, "authorize_any_peer="),
        ({"authorize": authorize_any(), "authorized_ids": A}, "authorize="),
    ],
)
def test_what_contradicts_itself_or_cannot_be_read_is_refused_with_the_keyword(keywords, where):
    with pytest.raises(InvalidConfiguration) as refusal:
        authorizer(**keywords)
    assert refusal.value.setting == where


def test_a_bad_id_in_the_environment_is_refused_with_the_variable():
    with pytest.raises(InvalidConfiguration) as refusal:
        authorizer(Settings(authorized_ids=("https://a.example",)))
    assert refusal.value.setting == "OTEL_SPIFFE_AUTHORIZED_IDS"


@pytest.mark.parametrize(
    ("settings", "keywords", "chosen"),
    [
        (Settings(spiffe_endpoint_socket=SOCKET), {}, {"spiffe_endpoint_socket": SOCKET}),
        (
            Settings(spiffe_endpoint_socket=SOCKET, hint="out"),
            {},
            {"spiffe_endpoint_socket": SOCKET, "hint": "out"},
        ),
        (
            Settings(spiffe_endpoint_socket=SOCKET, hint="out"),
            {"hint": "in"},
            {"spiffe_endpoint_socket": SOCKET, "hint": "in"},
        ),
        (
            Settings(spiffe_endpoint_socket="unix:///other"),
            {"spiffe_endpoint_socket": SOCKET},
            {"spiffe_endpoint_socket": SOCKET},
        ),
        (Settings(spiffe_endpoint_socket=SOCKET), {"svid_directory": Path("/d")}, {"svid_directory": "/d"}),
        (Settings(spiffe_endpoint_socket=SOCKET, svid_directory="/d"), {}, {"svid_directory": "/d"}),
        (
            Settings(),
            {"svid_file": "/c", "svid_key_file": "/k", "bundle_file": "/b"},
            {"svid_file": "/c", "svid_key_file": "/k", "bundle_file": "/b"},
        ),
    ],
)
def test_where_the_identity_comes_from(settings, keywords, chosen):
    assert place(settings, **keywords) == chosen


def test_without_a_place_nothing_starts_and_the_variable_is_named():
    with pytest.raises(InvalidConfiguration, match="SPIFFE_ENDPOINT_SOCKET"):
        place()


@pytest.mark.parametrize(
    ("keywords", "where"),
    [
        ({"spiffe_endpoint_socket": SOCKET, "svid_directory": "/d"}, "spiffe_endpoint_socket="),
        ({"svid_directory": "/d", "hint": "in"}, "hint="),
        ({"spiffe_endpoint_socket": 5}, "spiffe_endpoint_socket="),
        ({"svid_directory": ""}, "svid_directory="),
    ],
)
def test_two_places_or_none_are_refused_with_the_keyword(keywords, where):
    with pytest.raises(InvalidConfiguration) as refusal:
        place(**keywords)
    assert refusal.value.setting == where


def test_a_source_stands_alone():
    refuse_beside_source(take_keywords({"source": object(), "authorized_ids": A}))
    with pytest.raises(InvalidConfiguration, match="source=: it is given beside hint="):
        refuse_beside_source(take_keywords({"source": object(), "hint": "in"}))


def test_the_keywords_of_the_stock_class_are_left_to_it():
    keywords = {"authorized_ids": A, "timeout": 5, "hint": None}
    assert take_keywords(keywords) == {"authorized_ids": A}
    assert keywords == {"timeout": 5}
