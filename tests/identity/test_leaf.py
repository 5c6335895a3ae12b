# SPDX-License-Identifier: Apache-2.0
"""One table of leaf faults, held against both of its users: our own SVIDs and the peers'."""

from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import assume, given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidIdentity, PeerUntrusted, Untrusted
from otel_spiffe.identity import certificates_from_der, parse_spiffe_id, peer_spiffe_id, verify, x509_svid

LONG = "spiffe://prod.example/" + "x" * 2048
DIRECTORY = x509.DirectoryName(x509.Name([]))


def faulty(mint):
    u = mint.usage
    signs = {"digital_signature": True}
    duplicate = (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"garbage"), False)
    return {
        "no SAN": ({"uris": ()}, Untrusted.NO_URI_SAN, "no URI SAN"),
        "DNS SAN": ({"uris": (), "names": [x509.DNSName("db")]}, Untrusted.NO_URI_SAN, "no X509-SVID"),
        "two URIs": (
            {"uris": ("spiffe://prod.example/a", "spiffe://prod.example/b")},
            Untrusted.SEVERAL_URI_SANS,
            "2 URI SANs",
        ),
        "same URI twice": ({"uris": ("spiffe://prod.example/a",) * 2}, Untrusted.SEVERAL_URI_SANS, "2 URI SANs"),
        "second URI is https": (
            {"uris": ("spiffe://prod.example/a", "https://a")},
            Untrusted.SEVERAL_URI_SANS,
            "2 URI SANs",
        ),
        "https": ({"uris": ("https://prod.example/a",)}, Untrusted.INVALID_ID, "begin with spiffe://"),
        "newline": ({"uris": ("spiffe://prod.example/a\n",)}, Untrusted.INVALID_ID, "something other"),
        "too long": ({"uris": (LONG,)}, Untrusted.INVALID_ID, "longer than 2048"),
        "query": ({"uris": ("spiffe://prod.example/a?b",)}, Untrusted.INVALID_ID, "no query"),
        "no path": ({"uris": ("spiffe://prod.example",)}, Untrusted.NO_PATH, "X509-SVID 3.1"),
        "CA": ({"ca": True}, Untrusted.CA_AS_LEAF, "CA certificate"),
        "no usage": ({"key_usage": None}, Untrusted.WRONG_KEY_USAGE, "no keyUsage"),
        "usage not critical": ({"usage_critical": False}, Untrusted.WRONG_KEY_USAGE, "not critical"),
        "no signature": ({"key_usage": u(key_agreement=True)}, Untrusted.WRONG_KEY_USAGE, "lacks digitalSignature"),
        "certSign": ({"key_usage": u(key_cert_sign=True, **signs)}, Untrusted.WRONG_KEY_USAGE, "keyCertSign or"),
        "cRLSign": ({"key_usage": u(crl_sign=True, **signs)}, Untrusted.WRONG_KEY_USAGE, "or cRLSign"),
        "server only": (
            {"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]},
            Untrusted.WRONG_EXTENDED_KEY_USAGE,
            "lacks clientAuth",
        ),
        "client only": (
            {"purposes": [ExtendedKeyUsageOID.CLIENT_AUTH]},
            Untrusted.WRONG_EXTENDED_KEY_USAGE,
            "lacks serverAuth",
        ),
        "neither": (
            {"purposes": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
            Untrusted.WRONG_EXTENDED_KEY_USAGE,
            "lacks serverAuth and clientAuth",
        ),
        "weak": ({"key": mint.key("RSA-1024")}, Untrusted.WEAK_KEY, "RSA of 1024 bits"),
        "Ed25519": ({"key": mint.key("Ed25519")}, Untrusted.UNSUPPORTED_KEY, "Ed25519"),
        "curve": ({"key": mint.key("secp256k1")}, Untrusted.UNSUPPORTED_KEY, "curve secp256k1"),
        "garbage SAN": ({"uris": (), "extra": [duplicate]}, Untrusted.UNREADABLE, "cannot be read"),
    }


NAMES = [
    "no SAN",
    "DNS SAN",
    "two URIs",
    "same URI twice",
    "second URI is https",
    "https",
    "newline",
    "too long",
    "query",
    "no path",
    "CA",
    "no usage",
    "usage not critical",
    "no signature",
    "certSign",
    "cRLSign",
    "server only",
    "client only",
    "neither",
    "weak",
    "Ed25519",
    "curve",
    "garbage SAN",
]


def test_the_table_is_whole(mint):
    assert list(faulty(mint)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_faulty_leaf_is_refused_to_be_ours_and_to_be_a_peer(name, mint, root):
    changes, why, text = faulty(mint)[name]
    leaf = mint.leaf(root, **changes)
    with pytest.raises(PeerUntrusted) as refused:
        verify([leaf.certificate], mint.identity(mint.bundle(root)), now=mint.now)
    assert refused.value.why is why
    assert text in refused.value.detail
    with pytest.raises(InvalidIdentity) as invalid:
        x509_svid([leaf.certificate], leaf.key)
    assert text in str(invalid.value)
    assert refused.value.detail == invalid.value.reason


def test_a_claimed_id_can_be_had_without_verification(mint):
    stranger = mint.leaf(mint.ca("stranger"), start=mint.now.replace(year=2000), end=mint.now.replace(year=2001))
    assert str(peer_spiffe_id(stranger.certificate)) == "spiffe://prod.example/db"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"uris": ()}, (Untrusted.NO_URI_SAN, None, "CN=db")),
        ({"uris": ("spiffe://a/b", "spiffe://a/c")}, (Untrusted.SEVERAL_URI_SANS, None, "CN=db")),
        ({"uris": ("http://a/b",)}, (Untrusted.INVALID_ID, None, "CN=db")),
        ({"uris": ("spiffe://a",)}, (Untrusted.NO_PATH, parse_spiffe_id("spiffe://a"), "")),
    ],
)
def test_a_claim_that_names_no_workload_is_refused(changes, expected, mint, root):
    local = parse_spiffe_id("spiffe://prod.example/app")
    with pytest.raises(PeerUntrusted) as refused:
        peer_spiffe_id(mint.leaf(root, **changes).certificate, local=local)
    assert (refused.value.why, refused.value.peer, refused.value.subject) == expected
    assert refused.value.local == local


def test_a_certificate_without_a_subject_is_named_by_its_serial_number_and_a_long_issuer_in_part(mint, root):
    nameless = mint.leaf(root, subject="", uris=()).certificate
    with pytest.raises(PeerUntrusted, match=f"serial number {nameless.serial_number:x}"):
        peer_spiffe_id(nameless)
    many = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "x" * 60)] * 20)
    parent = mint.leaf(root, issuer_name=many, ca=None)
    with pytest.raises(PeerUntrusted) as refused:
        verify([parent.certificate], mint.identity(mint.bundle(root)), now=mint.now)
    assert "..." in refused.value.detail
    assert len(str(refused.value)) < 900


def renamed(certificate, old, new):
    der = certificate.public_bytes(Encoding.DER)
    assert der.count(old) == 1
    return certificates_from_der(der.replace(old, new))[0]


def test_a_certificate_whose_names_cannot_be_read_is_untrusted(mint, root):
    text, garbage = b"\x0c\x02db", b"\x0c\x02\xff\xfe"
    bad = renamed(mint.leaf(root, uris=()).certificate, text, garbage)
    with pytest.raises(PeerUntrusted, match=f"'serial number {bad.serial_number:x}' is not trusted: it has no URI SAN"):
        peer_spiffe_id(bad)
    identity = mint.identity(mint.bundle(root))
    bad = renamed(mint.leaf(root).certificate, b"\x0c\x04root", b"\x0c\x04\xff\xfe\xff\xfe")
    with pytest.raises(PeerUntrusted) as refused:
        verify([bad], identity, now=mint.now)
    assert refused.value.why is Untrusted.UNREADABLE


def test_what_a_certificate_says_is_escaped_in_the_sentence(mint, root):
    with pytest.raises(PeerUntrusted) as refused:
        peer_spiffe_id(mint.leaf(root, subject="db\nERROR all is well\x1b[2J", uris=()).certificate)
    assert str(refused.value).isprintable()


@pytest.fixture(scope="module")
def sound(mint, root):
    return mint.leaf(root, key=mint.old_key("P-256")).certificate.public_bytes(Encoding.DER)


@given(data=st.data())
def test_a_damaged_certificate_is_untrusted_and_nothing_else(data, sound, mint, root):
    der = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    assume(bytes(der) != sound)
    try:
        leaf = certificates_from_der(bytes(der))[0]
    except InvalidIdentity:
        return
    identity = mint.identity(mint.bundle(root))
    with suppress(PeerUntrusted):
        verify([leaf], identity, now=mint.now)
        # The count of unused bits in the signature's BIT STRING is not signed; whatever is must be whole.
        assert leaf.tbs_certificate_bytes == certificates_from_der(sound)[0].tbs_certificate_bytes
    with suppress(InvalidIdentity):
        x509_svid([leaf], mint.old_key("P-256"))  # its signature is not its bearer's to check
