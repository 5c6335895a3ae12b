# SPDX-License-Identifier: Apache-2.0
from dataclasses import FrozenInstanceError, replace

import pytest

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import Health, Identity, parse_spiffe_id, parse_trust_domain

ID = parse_spiffe_id("spiffe://prod.example/db")


@pytest.fixture
def svid(mint, root):
    middle = mint.ca("middle", root, start=mint.now, end=mint.now.replace(hour=20))
    return mint.svid(mint.leaf(middle, end=mint.now.replace(hour=21)), middle, id=ID)


def test_an_svid_is_valid_while_its_whole_chain_is(svid, mint):
    assert svid.leaf is svid.chain[0]
    assert svid.not_before == mint.now
    assert svid.expires_at == mint.now.replace(hour=20)


def test_the_repr_of_an_svid_names_it_and_keeps_its_key(svid):
    shown = repr(svid)
    assert shown == f"X509Svid({ID}, serial={svid.leaf.serial_number:x}, expires_at=2026-03-01T20:00:00Z, hint='')"
    assert "key" not in repr(Identity(chosen=svid, bundles={})).lower()


def test_an_identity_is_frozen_with_its_bundles(svid, mint, root):
    given = {parse_trust_domain("prod.example"): mint.bundle(root)}
    identity = Identity(chosen=svid, bundles=given)
    given.clear()
    assert list(identity.bundles) == [parse_trust_domain("prod.example")]
    with pytest.raises(TypeError):
        identity.bundles[parse_trust_domain("a.b")] = mint.bundle(root)
    with pytest.raises(FrozenInstanceError):
        identity.generation = 2


def test_the_chosen_svid_is_among_the_svids(svid, mint, root):
    other = mint.svid(mint.leaf(root), id=ID)
    assert Identity(chosen=svid, bundles={}).svids == (svid,)
    assert Identity(chosen=svid, svids=(other, svid), bundles={}).svids == (other, svid)
    assert Identity(chosen=svid, svids=(other,), bundles={}).svids == (svid, other)
    assert Identity(chosen=None, bundles={}).svids == ()
    assert replace(Identity(chosen=svid, bundles={}), generation=9).svids == (svid,)


def test_a_bundle_filed_under_another_name_is_refused(mint, root):
    for name in (parse_trust_domain("other.example"), "other.example"):
        with pytest.raises(InvalidIdentity, match=r"bundle of prod\.example: it is filed under other\.example"):
            Identity(chosen=None, bundles={name: mint.bundle(root)})
    filed = Identity(chosen=None, bundles={"prod.example": mint.bundle(root)})
    assert parse_trust_domain("prod.example") in filed.bundles


def test_an_identity_with_an_svid_shows_it(svid):
    identity = Identity(chosen=svid, bundles={})
    assert (identity.svid, identity.id, identity.expires_at) == (svid, ID, svid.expires_at)


def test_an_identity_of_bundles_alone_has_no_svid_and_no_end():
    identity = Identity(chosen=None, bundles={})
    assert identity.expires_at is None
    for read in (lambda: identity.svid, lambda: identity.id):
        with pytest.raises(InvalidIdentity, match="it holds bundles and no X509-SVID; use a source that has one"):
            read()


def test_health_says_by_itself_that_nothing_is_known_yet():
    health = Health(ready=False, source="static")
    assert (health.id, health.generation, health.failures, health.problem) == (None, 0, 0, "")
