# SPDX-License-Identifier: Apache-2.0
import pytest
from cryptography import x509

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import parse_spiffe_id, x509_svid

ID = "spiffe://prod.example/db"


def test_a_sound_svid_comes_back_with_its_id_chain_key_and_hint(mint, root):
    middle = mint.ca("middle", root)
    leaf = mint.leaf(middle)
    chain = [leaf.certificate, middle.certificate]
    svid = x509_svid(chain, leaf.key, hint="internal", expected_id=ID)
    assert (svid.id, svid.chain, svid.private_key, svid.hint) == (
        parse_spiffe_id(ID),
        tuple(chain),
        leaf.key,
        "internal",
    )
    assert svid.leaf is leaf.certificate


def test_a_root_at_the_end_of_the_chain_is_left_out(mint, root):
    leaf = mint.leaf(root)
    assert x509_svid([leaf.certificate, root.certificate], leaf.key).chain == (leaf.certificate,)


@pytest.mark.parametrize("declared", [ID, "SPIFFE://PROD.example/db", parse_spiffe_id(ID), None])
def test_the_declared_id_is_compared_in_its_canonical_form(declared, mint, root):
    leaf = mint.leaf(root)
    assert str(x509_svid([leaf.certificate], leaf.key, expected_id=declared).id) == ID


@pytest.mark.parametrize("declared", ["spiffe://prod.example/web", "spiffe://prod.example", "", "nonsense"])
def test_another_declared_id_is_refused(declared, mint, root):
    leaf = mint.leaf(root)
    with pytest.raises(InvalidIdentity):
        x509_svid([leaf.certificate], leaf.key, expected_id=declared)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048"])
def test_leaf_keys_that_are_strong_enough_are_accepted(kind, mint, root):
    leaf = mint.leaf(root, key=mint.key(kind))
    assert x509_svid([leaf.certificate], leaf.key)


@pytest.mark.parametrize(
    "given",
    [
        {"ca": None},
        {"purposes": None},
        {"purposes_critical": True},
        {"san_critical": True},
        {"subject": "", "san_critical": True},
        {"names": [x509.DNSName("db.prod.example")]},
        {"aki": False, "ski": False},
    ],
    ids=str,
)
def test_what_the_standard_leaves_open_is_accepted(given, mint, root):
    leaf = mint.leaf(root, **given)
    assert x509_svid([leaf.certificate], leaf.key)


def test_dates_are_not_looked_at(mint, root):
    leaf = mint.leaf(root, start=mint.now.replace(year=2020), end=mint.now.replace(year=2021))
    assert x509_svid([leaf.certificate], leaf.key)


def test_a_key_of_another_certificate_is_refused(mint, root):
    leaf = mint.leaf(root)
    with pytest.raises(
        InvalidIdentity, match=r"of spiffe://prod.example/db: the private key is not the leaf's; deliver"
    ):
        x509_svid([leaf.certificate], mint.key())
    with pytest.raises(InvalidIdentity, match="the private key is not the leaf's"):
        x509_svid([leaf.certificate], mint.key("RSA-2048"))
    with pytest.raises(InvalidIdentity, match="unsupported key: Ed25519"):
        x509_svid([leaf.certificate], mint.key("Ed25519"))


def test_a_chain_without_certificates_or_with_too_many_is_refused(mint, root):
    with pytest.raises(InvalidIdentity, match="its chain has 0 certificates"):
        x509_svid([], mint.key())
    leaf = mint.leaf(root)
    with pytest.raises(InvalidIdentity, match="its chain has 11 certificates"):
        x509_svid([leaf.certificate] * 11, leaf.key)


def test_a_chain_in_disorder_is_refused(mint, root):
    upper = mint.ca("upper", root)
    lower = mint.ca("lower", upper)
    leaf = mint.leaf(lower)
    for above in ([upper, lower], [root], [lower, root], [leaf]):
        chain = [each.certificate for each in (leaf, *above)]
        with pytest.raises(InvalidIdentity, match=r"is not issued by .*; deliver the leaf first"):
            x509_svid(chain, leaf.key)


def test_an_issuer_that_is_no_ca_is_refused(mint, root):
    other = mint.leaf(root, "spiffe://prod.example/other", subject="other")
    leaf = mint.leaf(other)
    with pytest.raises(InvalidIdentity, match="'CN=other' is no CA certificate"):
        x509_svid([leaf.certificate, other.certificate], leaf.key)


def test_a_leaf_of_no_id_is_named_by_its_subject(mint, root):
    leaf = mint.leaf(root, uris=())
    with pytest.raises(InvalidIdentity, match=r"X509-SVID 'CN=db': it has no URI SAN"):
        x509_svid([leaf.certificate], leaf.key)
