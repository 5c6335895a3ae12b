# SPDX-License-Identifier: Apache-2.0
"""What an update of the Workload API may and may not say. Each refusal leaves what was held before as it is."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe._proto import X509SvidMessage, X509SvidResponse, decode_x509_svid_response
from otel_spiffe.errors import PeerUntrusted, Untrusted
from otel_spiffe.identity import bundle_to_der, verify
from otel_spiffe.sources._choose import picker_for
from otel_spiffe.sources._fault import BadUpdate
from otel_spiffe.sources._fault import Fault as Kind
from otel_spiffe.sources._limits import DEFAULT_LIMITS, Limits
from otel_spiffe.sources._update import identity_from_response
from otel_spiffe.testing import Fault


def message(svid, bundle, **changes):
    plain = X509SvidMessage(
        spiffe_id=str(svid.id),
        x509_svid=b"".join(each.public_bytes(Encoding.DER) for each in svid.chain),
        x509_svid_key=svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=bundle_to_der(bundle),
        hint=svid.hint,
    )
    return dataclasses.replace(plain, **changes)


def parsed(response, *, limits=DEFAULT_LIMITS, now=None, hint=None):
    now = now if now is not None else datetime.now(UTC)
    return identity_from_response(response, picker=picker_for(None, hint), limits=limits, now=now)


def taken(response, **how):
    identity, flaw = parsed(response, **how)
    assert flaw is None
    return identity


def flawed(response, **how):
    identity, flaw = parsed(response, **how)
    assert flaw.fault is Kind.FEDERATED_BUNDLE
    return {each.name for each in identity.bundles}, flaw.reason


def refused(response, **how):
    with pytest.raises(BadUpdate) as bad:
        taken(response, **how)
    return bad.value.problem


@pytest.fixture
def good(spiffe_svid, spiffe_ca):
    return message(spiffe_svid("/app"), spiffe_ca.bundle)


def test_all_of_an_update_is_taken(spiffe_svid, spiffe_ca, spiffe_federated_ca):
    crls = spiffe_ca.crls
    app, db = spiffe_svid("/app", hint="internal"), spiffe_svid("/db")
    identity = taken(
        X509SvidResponse(
            svids=(message(app, spiffe_ca.bundle), message(db, spiffe_ca.bundle)),
            federated_bundles={"spiffe://federated.example": bundle_to_der(spiffe_federated_ca.bundle)},
            crl=tuple(each.public_bytes(Encoding.DER) for each in crls),
        )
    )
    assert [str(svid.id) for svid in identity.svids] == ["spiffe://test.example/app", "spiffe://test.example/db"]
    assert identity.chosen is identity.svids[0]
    assert identity.chosen.hint == "internal"
    assert identity.chosen.chain == app.chain
    assert dict(identity.bundles) == {
        spiffe_ca.trust_domain: spiffe_ca.bundle,
        spiffe_federated_ca.trust_domain: spiffe_federated_ca.bundle,
    }
    assert identity.crls == crls


def test_revocation_lists_are_kept_and_counted_with(spiffe_own_ca):
    app, revoked = spiffe_own_ca.issue("spiffe://test.example/app"), spiffe_own_ca.issue("spiffe://test.example/db")
    spiffe_own_ca.revoke(revoked)
    crls = tuple(each.public_bytes(Encoding.DER) for each in spiffe_own_ca.crls)
    assert crls
    identity = taken(X509SvidResponse(svids=(message(app, spiffe_own_ca.bundle),), crl=crls))
    with pytest.raises(PeerUntrusted, match="revocation list") as error:
        verify(revoked.chain, identity, now=datetime.now(UTC))
    assert error.value.why is Untrusted.REVOKED


@pytest.mark.parametrize("name", ["spiffe_id", "x509_svid", "x509_svid_key", "bundle"])
def test_an_empty_mandatory_field_discards_the_update(good, name):
    empty = dataclasses.replace(good, **{name: type(getattr(good, name))()})
    problem = refused(X509SvidResponse(svids=(empty,)))
    assert problem.fault is Kind.INVALID_UPDATE
    assert "svids[0]" in problem.reason
    assert f"{name} is empty (SPIFFE Workload API 4.5)" in problem.reason


def test_an_update_without_svids_is_discarded():
    assert "holds no X509-SVID (SPIFFE Workload API 4.5)" in refused(X509SvidResponse()).reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spiffe_id": "spiffe://test.example/other"}, "it was delivered as that of spiffe://test.example/other"),
        ({"spiffe_id": "spiffe://test.example/app\n"}, "SPIFFE ID"),
        ({"spiffe_id": "nonsense"}, "does not begin with spiffe://"),
        ({"x509_svid": b"garbage"}, "does not begin with a DER SEQUENCE"),
        ({"x509_svid_key": b"garbage"}, "DER private key"),
        ({"bundle": b"garbage"}, "does not begin with a DER SEQUENCE"),
    ],
)
def test_material_that_breaks_its_standard_discards_the_update(good, changes, reason):
    problem = refused(X509SvidResponse(svids=(dataclasses.replace(good, **changes),)))
    assert problem.fault is Kind.INVALID_UPDATE
    assert "svids[0]" in problem.reason
    assert reason in problem.reason


@pytest.mark.parametrize(
    "fault",
    [
        Fault.KEY_MISMATCH,
        Fault.TWO_URI_SANS,
        Fault.NO_PATH,
        Fault.CA_AS_LEAF,
        Fault.NO_DIGITAL_SIGNATURE,
        Fault.ID_TRAILING_NEWLINE,
        Fault.RSA_1024,
    ],
)
def test_an_svid_that_peers_would_refuse_is_not_taken(spiffe_faulty_svid, spiffe_ca, fault):
    svid = spiffe_faulty_svid(fault, "/app")
    problem = refused(X509SvidResponse(svids=(message(svid, spiffe_ca.bundle),)))
    assert problem.fault is Kind.INVALID_UPDATE
    assert "svids[0]" in problem.reason


def test_one_bad_svid_of_several_discards_the_whole_update(good, spiffe_svid, spiffe_ca):
    other = message(spiffe_svid("/db"), spiffe_ca.bundle, x509_svid_key=good.x509_svid_key)
    problem = refused(X509SvidResponse(svids=(good, other)))
    assert "svids[1] ('spiffe://test.example/db')" in problem.reason
    assert "the private key is not the leaf's" in problem.reason


def test_an_empty_federated_bundle_is_legal_and_trusts_nobody(good, spiffe_federated_ca):
    identity = taken(X509SvidResponse(svids=(good,), federated_bundles={"spiffe://federated.example": b""}))
    assert identity.bundles[spiffe_federated_ca.trust_domain].authorities == ()
    foreign = spiffe_federated_ca.issue("spiffe://federated.example/app")
    with pytest.raises(PeerUntrusted, match="federated") as error:
        verify(foreign.chain, identity, now=datetime.now(UTC))
    assert error.value.why is Untrusted.EMPTY_BUNDLE


@pytest.mark.parametrize("name", ["spiffe://federated.example", "federated.example", "SPIFFE://Federated.Example"])
def test_a_trust_domain_is_named_by_its_id_or_its_name(good, spiffe_federated_ca, name):
    data = bundle_to_der(spiffe_federated_ca.bundle)
    identity = taken(X509SvidResponse(svids=(good,), federated_bundles={name: data}))
    assert identity.bundles[spiffe_federated_ca.trust_domain] == spiffe_federated_ca.bundle


@pytest.mark.parametrize("name", ["spiffe://federated.example/path", "a b", "", "spiffe://", "federated.example\n"])
def test_a_federated_bundle_of_nobody_costs_only_itself(good, name):
    bundles, reason = flawed(X509SvidResponse(svids=(good,), federated_bundles={name: b"", "other.example": b""}))
    assert bundles == {"test.example", "other.example"}
    assert f"federated_bundles[{name!r}]" in reason


def leaf_as_authority(authority):
    return authority.issue("spiffe://federated.example/x").leaf.public_bytes(Encoding.DER)


@pytest.mark.parametrize("spoil", [lambda _: b"garbage", leaf_as_authority, lambda ca: bundle_to_der(ca.bundle)[:-1]])
def test_a_broken_federated_bundle_costs_only_its_own_domain(good, spiffe_federated_ca, spoil):
    """Or a hostile federated domain could stop the renewal of our own X509-SVID."""
    broken = {"federated.example": spoil(spiffe_federated_ca), "other.example": b""}
    response = X509SvidResponse(svids=(good,), federated_bundles=broken)
    bundles, reason = flawed(response)
    assert bundles == {"test.example", "other.example"}
    assert "federated_bundles['federated.example']" in reason
    assert "peers of that trust domain are refused" in reason
    foreign = spiffe_federated_ca.issue("spiffe://federated.example/app")
    with pytest.raises(PeerUntrusted) as error:
        verify(foreign.chain, parsed(response)[0], now=datetime.now(UTC))
    assert error.value.why is Untrusted.NO_BUNDLE


def test_a_federated_bundle_over_the_limit_costs_only_its_own_domain(good):
    big = {"federated.example": b"x" * (len(good.bundle) + 1), "other.example": b""}
    bundles, reason = flawed(
        X509SvidResponse(svids=(good,), federated_bundles=big), limits=Limits(bundle_bytes=len(good.bundle))
    )
    assert bundles == {"test.example", "other.example"}
    assert f"{len(good.bundle) + 1} bytes, {len(good.bundle)} are taken" in reason


def test_a_trust_domain_with_two_federated_bundles_has_none(good):
    twice = {"federated.example": b"", "spiffe://FEDERATED.example": b"", "spiffe://federated.example": b""}
    bundles, reason = flawed(X509SvidResponse(svids=(good,), federated_bundles=twice))
    assert bundles == {"test.example"}
    assert "federated.example has two bundles, so neither counts (and 1 more)" in reason


def test_a_federated_bundle_never_replaces_that_of_our_own_domain(good, spiffe_ca, spiffe_federated_ca):
    data = bundle_to_der(spiffe_federated_ca.bundle)
    identity = taken(X509SvidResponse(svids=(good,), federated_bundles={"spiffe://test.example": data}))
    assert identity.bundles[spiffe_ca.trust_domain] == spiffe_ca.bundle


def test_two_bundles_of_our_own_domain_contradict_each_other(good, spiffe_own_ca):
    other = message(spiffe_own_ca.issue("spiffe://test.example/db"), spiffe_own_ca.bundle)
    assert (
        "two different bundles of the trust domain test.example"
        in refused(X509SvidResponse(svids=(good, other))).reason
    )


def test_absent_fields_clear_what_an_earlier_update_said(good, spiffe_federated_ca):
    data = bundle_to_der(spiffe_federated_ca.bundle)
    assert len(taken(X509SvidResponse(svids=(good,), federated_bundles={"federated.example": data})).bundles) == 2
    assert len(taken(X509SvidResponse(svids=(good,))).bundles) == 1


def test_of_two_svids_with_one_hint_the_first_counts(spiffe_svid, spiffe_ca):
    first, second, third = spiffe_svid("/a", hint="h"), spiffe_svid("/b", hint="h"), spiffe_svid("/c")
    response = X509SvidResponse(svids=tuple(message(each, spiffe_ca.bundle) for each in (third, first, second)))
    assert [svid.id.path for svid in taken(response).svids] == ["/c", "/a"]
    assert taken(response, hint="h").id.path == "/a"


def test_several_svids_without_a_hint_are_all_kept(spiffe_svid, spiffe_ca):
    response = X509SvidResponse(svids=tuple(message(spiffe_svid(each), spiffe_ca.bundle) for each in ("/a", "/b")))
    assert len(taken(response).svids) == 2


def test_an_expired_svid_is_not_taken(good):
    problem = refused(X509SvidResponse(svids=(good,)), now=datetime.now(UTC) + timedelta(days=1))
    assert problem.fault is Kind.EXPIRED_UPDATE
    assert "clock" in problem.fix


def test_an_expired_svid_that_is_not_presented_does_no_harm(good, spiffe_svid, spiffe_ca):
    short = spiffe_svid("/db", lifetime=timedelta(seconds=1))
    response = X509SvidResponse(svids=(good, message(short, spiffe_ca.bundle)))
    assert len(taken(response, now=datetime.now(UTC) + timedelta(minutes=1)).svids) == 2


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(svids=1), "2 X509-SVIDs, 1 are taken"),
        (Limits(bundles=1), "2 federated bundles, 1 are taken"),
        (Limits(bundle_bytes=100), "bytes in one bundle, 100 are taken"),
        (Limits(hint_bytes=3), "4 bytes in one hint, 3 are taken"),
    ],
)
def test_an_update_over_a_limit_is_discarded(good, limits, reason):
    response = X509SvidResponse(
        svids=(good, dataclasses.replace(good, hint="höh")), federated_bundles={"a.example": b"", "b.example": b""}
    )
    assert len(taken(response).svids) == 2
    problem = refused(response, limits=limits)
    assert problem.fault is Kind.LIMIT_EXCEEDED
    assert reason in problem.reason


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Limits)])
def test_a_limit_that_takes_nothing_is_refused(name):
    with pytest.raises(ValueError, match="less than 1"):
        Limits(**{name: 0})


def test_a_revocation_list_that_cannot_be_read_discards_the_update(good):
    problem = refused(X509SvidResponse(svids=(good,), crl=(b"garbage",)))
    assert "a revocation list cannot be read" in problem.reason


def test_a_revocation_list_of_no_known_version_discards_the_update(good, spiffe_own_ca):
    spiffe_own_ca.revoke(spiffe_own_ca.issue("spiffe://test.example/db"))
    (crl,) = (each.public_bytes(Encoding.DER) for each in spiffe_own_ca.crls)
    problem = refused(X509SvidResponse(svids=(good,), crl=(crl.replace(b"\x02\x01\x01", b"\x02\x01\x04", 1),)))
    assert "a revocation list cannot be read: 4 is not a valid CRL version" in problem.reason


def der(tag, content):
    length = len(content)
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return tag + (bytes([length]) if length < 128 else bytes([128 + len(octets)]) + octets) + content


def unreadable_list(ca, old, new):
    """A revocation list with something in it that pyca loads and cannot read, under a signature that is right."""
    key = ca._signers[0].key
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(datetime(2026, 1, 1, tzinfo=UTC))
    body = builder.next_update(datetime(2060, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256()).tbs_certlist_bytes
    assert old in body
    body = body.replace(old, new)
    signature = b"\0" + key.sign(body, ec.ECDSA(hashes.SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    return der(b"\x30", body + ecdsa_with_sha256 + der(b"\x03", signature))


UNREADABLE = [(b"somebody", b"somebod\xff"), (b"\x18\x0f2060", b"\x18\x0f0000")]


@pytest.mark.parametrize(("old", "new"), UNREADABLE)
def test_a_federated_revocation_list_that_cannot_be_read_costs_only_its_own_domain(good, spiffe_federated_ca, old, new):
    federated = {"federated.example": bundle_to_der(spiffe_federated_ca.bundle), "other.example": b""}
    crl = unreadable_list(spiffe_federated_ca, old, new)
    response = X509SvidResponse(svids=(good,), federated_bundles=federated, crl=(crl,))
    bundles, reason = flawed(response)
    assert bundles == {"test.example", "other.example"}
    assert "the revocation list of federated.example cannot be read" in reason
    assert parsed(response)[0].crls == ()


@pytest.mark.parametrize(("old", "new"), UNREADABLE)
def test_our_own_revocation_list_that_cannot_be_read_discards_the_update(spiffe_own_ca, old, new):
    own = message(spiffe_own_ca.issue("spiffe://test.example/app"), spiffe_own_ca.bundle)
    problem = refused(X509SvidResponse(svids=(own,), crl=(unreadable_list(spiffe_own_ca, old, new),)))
    assert "our own trust domain's revocation list cannot be read" in problem.reason


@pytest.mark.parametrize(("old", "new"), UNREADABLE)
def test_an_unreadable_revocation_list_of_nobody_is_left_out(good, spiffe_own_ca, old, new):
    response = X509SvidResponse(
        svids=(good,), federated_bundles={"other.example": b""}, crl=(unreadable_list(spiffe_own_ca, old, new),)
    )
    identity = taken(response)
    assert {each.name for each in identity.bundles} == {"test.example", "other.example"}
    assert identity.crls == ()


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data):
    try:
        response = decode_x509_svid_response(data)
    except ValueError:
        return
    with pytest.raises(BadUpdate):
        taken(response)
