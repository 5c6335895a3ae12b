# SPDX-License-Identifier: Apache-2.0
import gc
import weakref
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.errors import PeerUntrusted, Untrusted
from otel_spiffe.identity import _revocation, verify

SECOND = timedelta(seconds=1)
POINT = {
    "full_name": None,
    "relative_name": None,
    "only_contains_user_certs": False,
    "only_contains_ca_certs": False,
    "only_some_reasons": None,
    "indirect_crl": False,
    "only_contains_attribute_certs": False,
}


def point(**given):
    if not given:
        given = {"full_name": [x509.UniformResourceIdentifier("http://ca/crl")]}
    return x509.IssuingDistributionPoint(**{**POINT, **given}), True


def outcome(mint, anchor, certificates, *crls):
    identity = mint.identity(mint.bundle(anchor), crls=crls)
    try:
        verify([each.certificate for each in certificates], identity, now=mint.now)
    except PeerUntrusted as error:
        return error.why
    return None


def test_a_revoked_leaf_is_refused_and_its_neighbour_is_not(mint, root):
    bad, good = mint.leaf(root), mint.leaf(root)
    crl = mint.crl(root, revoked=[bad])
    assert outcome(mint, root, [good], crl) is None
    identity = mint.identity(mint.bundle(root), crls=[crl])
    with pytest.raises(PeerUntrusted) as refused:
        verify([bad.certificate], identity, now=mint.now)
    assert refused.value.why is Untrusted.REVOKED
    assert refused.value.detail == (
        f"it, with serial number {bad.certificate.serial_number:x}, is in the revocation list of 'CN=root'"
    )


def test_a_key_s_list_counts_in_each_certificate_of_that_key(mint, root):
    """An intermediate that was issued anew, by another method of naming its key, does not take a revocation back."""
    other = x509.SubjectKeyIdentifier(b"another way of naming it")
    first = mint.ca("middle", root)
    second = mint.ca("middle", root, key=first.key, extra=[(other, False)], ski=False)
    bad = mint.leaf(first)
    crl = mint.crl(first, revoked=[bad])
    for middle in (first, second):
        assert outcome(mint, root, [bad, middle], crl) is Untrusted.REVOKED


def test_a_list_whose_issuer_cannot_be_read_is_nobody_s(mint, root):
    crl = mint.crl(mint.ca("extra"))
    broken = x509.load_der_x509_crl(crl.public_bytes(Encoding.DER).replace(b"extra", b"extr\xff"))
    assert outcome(mint, root, [mint.leaf(root)], broken) is None


def test_the_memory_of_who_signed_a_list_is_bounded(mint, root):
    leaf, crl = mint.leaf(root), mint.crl(root)
    identity = mint.identity(mint.bundle(root), crls=[crl])
    verify([leaf.certificate], identity, now=mint.now)
    (read,) = _revocation._read_lists[identity]
    for _ in range(3 * _revocation._MAX_SIGNERS):
        _revocation._is_signed(read, mint.ca("root").certificate)
    assert len(read.signers) <= _revocation._MAX_SIGNERS


def test_a_revoked_intermediate_takes_its_leaves_along(mint, root):
    middle = mint.ca("middle", root)
    crl = mint.crl(root, revoked=[middle])
    identity = mint.identity(mint.bundle(root), crls=[crl])
    with pytest.raises(PeerUntrusted, match="its issuer 'CN=middle', with serial number") as refused:
        verify([mint.leaf(middle).certificate, middle.certificate], identity, now=mint.now)
    assert refused.value.why is Untrusted.REVOKED


def test_each_authority_is_held_to_its_own_list(mint, root):
    middle = mint.ca("middle", root)
    leaf = mint.leaf(middle)
    path = [leaf, middle]
    assert outcome(mint, root, path, mint.crl(root)) is None
    assert outcome(mint, root, path, mint.crl(middle)) is None
    assert outcome(mint, root, path, mint.crl(root), mint.crl(middle, revoked=[leaf])) is Untrusted.REVOKED
    assert outcome(mint, root, path, mint.crl(root, revoked=[leaf])) is None  # a serial number is one issuer's own
    assert outcome(mint, root, path, mint.crl(mint.ca("stranger"), revoked=[leaf])) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"end": -12 * SECOND}, "the revocation list expired 12 s ago, at 2026-03-01T11:59:48Z"),
        ({"start": SECOND}, "the revocation list is not valid before 2026-03-01T12:00:01Z"),
        ({"extra": [point(only_contains_ca_certs=True)]}, "is not complete for leaves"),
        ({"extra": [point(indirect_crl=True)]}, "is not complete for leaves"),
        ({"extra": [point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))]}, "is not complete"),
        ({"extra": [point(only_contains_attribute_certs=True)]}, "is not complete for leaves"),
        ({"extra": [(x509.DeltaCRLIndicator(1), True)]}, "is not complete for leaves"),
        ({"key": "another"}, "is not signed by its key"),
        ({"key": "another", "aki": False}, "is not signed by its key"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_list_that_cannot_tell_leaves_the_revocation_unknown(given, text, mint, root):
    given = dict(given)
    for name in ("start", "end"):
        if name in given:
            given[name] = mint.now + given[name]
    if "key" in given:
        given["key"] = mint.key()
    leaf, crl = mint.leaf(root), mint.crl(root, **given)
    identity = mint.identity(mint.bundle(root), crls=[crl])
    with pytest.raises(PeerUntrusted) as refused:
        verify([leaf.certificate], identity, now=mint.now)
    assert refused.value.why is Untrusted.REVOCATION_UNKNOWN
    assert text in refused.value.detail
    assert outcome(mint, root, [leaf], crl, mint.crl(root)) is None  # another list can tell


@pytest.mark.parametrize("extra", [point(), point(only_contains_user_certs=True)], ids=["all", "leaves"])
def test_a_list_for_leaves_tells_of_leaves(extra, mint, root):
    leaf = mint.leaf(root)
    assert outcome(mint, root, [leaf], mint.crl(root, extra=[extra])) is None
    assert outcome(mint, root, [leaf], mint.crl(root, extra=[extra], revoked=[leaf])) is Untrusted.REVOKED


def test_a_list_for_leaves_does_not_tell_of_authorities(mint, root):
    middle = mint.ca("middle", root)
    crl = mint.crl(root, extra=[point(only_contains_user_certs=True)])
    assert outcome(mint, root, [mint.leaf(middle), middle], crl) is Untrusted.REVOCATION_UNKNOWN


def test_what_a_late_list_revoked_stays_revoked(mint, root):
    leaf = mint.leaf(root)
    crl = mint.crl(root, revoked=[leaf], end=mint.now - SECOND)
    assert outcome(mint, root, [leaf], crl) is Untrusted.REVOKED


def test_a_delta_revokes_and_never_takes_back_what_the_base_says(mint, root):
    leaf = mint.leaf(root)
    delta = [(x509.DeltaCRLIndicator(1), True)]
    removed = [(x509.CRLReason(x509.ReasonFlags.remove_from_crl), False)]
    assert outcome(mint, root, [leaf], mint.crl(root), mint.crl(root, extra=delta, revoked=[leaf])) is Untrusted.REVOKED
    back = mint.crl(root, extra=delta, revoked=[leaf], entry_extra=removed)
    assert outcome(mint, root, [leaf], mint.crl(root), back) is None
    assert outcome(mint, root, [leaf], mint.crl(root, revoked=[leaf]), back) is Untrusted.REVOKED


def test_the_list_of_a_namesake_does_not_count(mint, root):
    namesake, leaf = mint.ca(), mint.leaf(root)
    assert outcome(mint, root, [leaf], mint.crl(namesake, revoked=[leaf])) is None
    # Without a key identifier nobody can tell whose it is.
    unmarked = mint.crl(namesake, revoked=[leaf], aki=False)
    assert outcome(mint, root, [leaf], unmarked) is Untrusted.REVOCATION_UNKNOWN
    markless = mint.ca(ski=False)
    theirs = mint.leaf(markless)
    assert outcome(mint, markless, [theirs], mint.crl(markless, revoked=[theirs])) is Untrusted.REVOKED


def test_a_list_signed_by_an_authority_that_may_not_is_none(mint):
    root = mint.ca(key_usage=mint.usage(key_cert_sign=True))
    assert outcome(mint, root, [mint.leaf(root)], mint.crl(root)) is Untrusted.REVOCATION_UNKNOWN


def test_a_list_that_cannot_be_read_leaves_the_revocation_unknown(mint, root):
    garbage = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.35"), b"garbage")
    crl = mint.crl(root, aki=False, extra=[(garbage, False)])
    assert outcome(mint, root, [mint.leaf(root)], crl) is Untrusted.REVOCATION_UNKNOWN


def test_a_list_that_does_not_say_until_when_it_holds_leaves_the_revocation_unknown(mint, root):
    whole = mint.crl(root).tbs_certlist_bytes
    end = b"\x17\x0d260301130000Z"
    assert (whole[0], whole[1], whole.count(end)) == (0x30, len(whole) - 2, 1)
    body = whole[2:].replace(end, b"")
    to_sign = sequence(body)
    signature = root.key.sign(to_sign, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\x00" + signature
    crl = x509.load_der_x509_crl(sequence(to_sign + algorithm + bits))
    identity = mint.identity(mint.bundle(root), crls=[crl])
    with pytest.raises(PeerUntrusted, match="the revocation list has no nextUpdate") as refused:
        verify([mint.leaf(root).certificate], identity, now=mint.now)
    assert refused.value.why is Untrusted.REVOCATION_UNKNOWN


def sequence(body):
    size = len(body)
    return b"\x30" + (bytes([size]) if size < 0x80 else bytes([0x81, size])) + body


def test_a_list_is_read_once_for_an_identity_and_forgotten_with_it(mint, root):
    leaves = [mint.leaf(root) for _ in range(3)]
    identity = mint.identity(mint.bundle(root), crls=[mint.crl(root, revoked=leaves[:1])])
    for leaf in leaves[1:] * 2:
        assert verify([leaf.certificate], identity, now=mint.now)
    gone = weakref.ref(identity)
    del identity
    gc.collect()
    assert gone() is None
