# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity, PeerNotAuthorized
from otel_spiffe.identity import (
    all_of,
    any_of,
    authorize,
    authorize_any,
    authorize_id,
    authorize_id_prefix,
    authorize_member_of,
    authorize_one_of,
    not_,
    parse_spiffe_id,
    parse_trust_domain,
)

DB = "spiffe://prod.example/db"
WEB = "spiffe://prod.example/web"
LOCAL = parse_spiffe_id("spiffe://prod.example/app")


def refuses(peer):
    raise PeerNotAuthorized(peer, "refuses", detail="it is Sunday")


def allows(peer):
    pass


def breaks(peer):
    raise KeyError(peer)


def predicate(_peer):
    return False


def allowed(policy, peer):
    try:
        authorize(policy, parse_spiffe_id(peer), local=LOCAL)
    except PeerNotAuthorized:
        return False
    return True


@pytest.mark.parametrize(
    ("policy", "peer", "expected"),
    [
        (authorize_any(), DB, True),
        (authorize_any(), "spiffe://other.example/x", True),
        (authorize_id(DB), DB, True),
        (authorize_id(parse_spiffe_id(DB)), DB, True),
        (authorize_id("SPIFFE://PROD.example/db"), DB, True),
        (authorize_id(DB), "spiffe://prod.example/DB", False),
        (authorize_id(DB), "spiffe://prod.example/db2", False),
        (authorize_id(DB), "spiffe://prod.example/db/x", False),
        (authorize_id(DB), "spiffe://other.example/db", False),
        (authorize_one_of(DB, WEB), WEB, True),
        (authorize_one_of(DB, WEB), "spiffe://prod.example/app", False),
        (authorize_member_of("prod.example"), DB, True),
        (authorize_member_of("other.example", parse_trust_domain("prod.example")), DB, True),
        (authorize_member_of("prod.example"), "spiffe://sub.prod.example/db", False),
        (authorize_member_of("prod.example"), "spiffe://prod.example.evil/db", False),
        (authorize_id_prefix(DB), DB, True),
        (authorize_id_prefix(DB), f"{DB}/replica/1", True),
        (authorize_id_prefix(DB), f"{DB}2", False),
        (authorize_id_prefix(DB), f"{DB}2/replica", False),
        (authorize_id_prefix("spiffe://prod.example"), WEB, True),
        (authorize_id_prefix("spiffe://prod.example"), "spiffe://prod.example.evil/x", False),
        (any_of(authorize_id(WEB), authorize_id(DB)), DB, True),
        (any_of(authorize_id(WEB), refuses), DB, False),
        (any_of(breaks, allows), DB, False),  # a broken policy refuses everybody
        (any_of(allows, breaks), DB, True),
        (any_of(predicate, allows), DB, False),
        (all_of(authorize_member_of("prod.example"), not_(authorize_id(WEB))), DB, True),
        (all_of(authorize_member_of("prod.example"), not_(authorize_id(WEB))), WEB, False),
        (all_of(allows, refuses), DB, False),
        (all_of(allows, predicate), DB, False),
        (not_(refuses), DB, True),
        (not_(allows), DB, False),
        (not_(breaks), DB, False),
        (not_(predicate), DB, False),
        (not_(not_(predicate)), DB, False),
        (not_(not_(authorize_id(DB))), DB, True),
        (not_(not_(authorize_id(DB))), WEB, False),
        (breaks, DB, False),
        (predicate, DB, False),
        (lambda _: True, DB, False),
        (None, DB, False),
        (allows, DB, True),
    ],
)
def test_a_policy_allows_whom_it_names_and_nobody_else(policy, peer, expected):
    assert allowed(policy, peer) is expected


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        (authorize_any(), "any()"),
        (authorize_id(DB), f"one_of({DB})"),
        (authorize_one_of(DB, WEB), f"one_of({DB}, {WEB})"),
        (authorize_member_of("a.b", "c.d"), "member_of(a.b, c.d)"),
        (authorize_id_prefix(DB), f"id_prefix({DB})"),
        (
            any_of(authorize_id(DB), all_of(authorize_member_of("a.b"), not_(authorize_id_prefix(WEB)))),
            f"any_of(one_of({DB}), all_of(member_of(a.b), not_(id_prefix({WEB}))))",
        ),
    ],
)
def test_a_policy_reads_as_what_it_says(policy, shown):
    assert repr(policy) == shown


def test_a_refusal_names_the_peer_the_policy_what_it_said_and_us():
    with pytest.raises(PeerNotAuthorized) as caught:
        authorize(refuses, parse_spiffe_id(DB), local=LOCAL)
    sentence = f"peer {DB} is not in refuses: it is Sunday (we are {LOCAL})"
    assert str(caught.value) == f"{sentence}; if it is the peer that is meant, authorize its ID"
    assert caught.value.fix == "if it is the peer that is meant, authorize its ID"
    assert (caught.value.peer, caught.value.policy, caught.value.detail) == (DB, "refuses", "it is Sunday")
    assert isinstance(caught.value.__cause__, PeerNotAuthorized)


def test_a_policy_that_breaks_is_quoted():
    with pytest.raises(PeerNotAuthorized, match="it raised KeyError") as caught:
        authorize(breaks, parse_spiffe_id(DB))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_predicate_taken_for_a_policy_is_told_so():
    with pytest.raises(PeerNotAuthorized, match="returned bool; an authorizer returns None or raises"):
        authorize(predicate, parse_spiffe_id(DB))


@pytest.mark.parametrize("make", [authorize_one_of, authorize_member_of, any_of, all_of])
def test_a_policy_that_names_nobody_is_refused_when_made(make):
    with pytest.raises(InvalidConfiguration, match="it names nobody"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: authorize_id("prod.example/db"),
        lambda: authorize_id(None),
        lambda: authorize_one_of(DB, ""),
        lambda: authorize_member_of("spiffe://prod.example"),
        lambda: authorize_id_prefix(f"{DB}/"),
        lambda: authorize_id_prefix("spiffe://prod.example/*"),
    ],
)
def test_a_policy_with_an_invalid_name_is_refused_when_made(make):
    with pytest.raises(InvalidIdentity):
        make()


def test_policies_of_the_same_names_are_equal():
    assert authorize_one_of(DB, WEB) == authorize_one_of(DB, WEB)
    assert authorize_one_of(DB) != authorize_one_of(WEB)


leaves = st.sampled_from([authorize_any(), authorize_id(DB), authorize_id(WEB), authorize_member_of("a.b"), refuses])
policies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda each: any_of(*each)),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: all_of(*each)),
        inner.map(not_),
    ),
)


@given(policies, policies)
def test_combinators_obey_de_morgan(left, right):
    assert allowed(not_(any_of(left, right)), DB) == allowed(all_of(not_(left), not_(right)), DB)
    assert allowed(not_(not_(left)), DB) == allowed(left, DB)


@given(policies)
def test_no_combination_lets_a_broken_policy_allow(policy):
    for broken in (breaks, predicate):
        for combined in (all_of(policy, broken), not_(broken), not_(all_of(broken, policy)), any_of(broken, policy)):
            assert not allowed(combined, DB)
