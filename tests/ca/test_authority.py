# SPDX-License-Identifier: Apache-2.0
import itertools
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from spiffe import X509Svid as SpiffeX509Svid

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import InvalidIdentity, PeerUntrusted, Untrusted
from otel_spiffe.identity import Identity, parse_spiffe_id, verify

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def authority():
    return CertificateAuthority.in_memory("prod.example", clock=lambda: _NOW)


def check(chain, *authorities, now=_NOW, crls=()):
    bundles = {each.trust_domain: each.bundle for each in authorities}
    return verify(chain, Identity(chosen=None, bundles=bundles, crls=crls), now=now)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_an_svid_has_the_profile_of_x509_svid_2_to_4(authority):
    leaf = authority.issue("spiffe://prod.example/app").leaf
    constraints, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    names = extension(leaf, x509.SubjectAlternativeName)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature) == (True, True)
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://prod.example/app")]
    assert not names.critical  # RFC 5280 4.2.1.6: critical with an empty subject alone
    assert leaf.subject


def test_a_root_has_the_profile_of_x509_svid_3_and_4(authority):
    (root,) = authority.bundle.authorities
    constraints, usage = extension(root, x509.BasicConstraints), extension(root, x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    assert list(extension(root, x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier("spiffe://prod.example")
    ]
    root.verify_directly_issued_by(root)


def test_each_certificate_names_the_key_that_signed_it(authority):
    svid = authority.intermediate().intermediate().issue("spiffe://prod.example/app")
    (root,) = authority.bundle.authorities
    assert len(svid.chain) == 3
    for certificate, issuer in itertools.pairwise((*svid.chain, root)):
        certificate.verify_directly_issued_by(issuer)
        signer = extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        assert signer == extension(issuer, x509.SubjectKeyIdentifier).value.digest
    assert len({certificate.subject for certificate in (*svid.chain[1:], root)}) == 3


@pytest.mark.parametrize(
    ("kind", "key", "size"),
    [
        ("ec-p256", ec.EllipticCurvePrivateKey, 256),
        ("ec-p384", ec.EllipticCurvePrivateKey, 384),
        ("rsa-2048", rsa.RSAPrivateKey, 2048),
        ("rsa-4096", rsa.RSAPrivateKey, 4096),
    ],
)
def test_an_svid_of_each_key_type_verifies_here_and_loads_in_the_spiffe_package(kind, key, size):
    authority = CertificateAuthority.in_memory("prod.example", key_type=kind, clock=lambda: _NOW)
    svid = authority.issue("spiffe://prod.example/app")
    assert isinstance(svid.private_key, key)
    assert svid.private_key.key_size == size
    assert check(svid.chain, authority) == svid.id
    loaded = SpiffeX509Svid.parse_raw(
        b"".join(each.public_bytes(Encoding.DER) for each in svid.chain),
        svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    )
    assert str(loaded.spiffe_id) == "spiffe://prod.example/app"


def test_an_svid_may_have_another_key_type_than_its_authority(authority):
    svid = authority.issue("spiffe://prod.example/app", key_type="rsa-2048")
    assert isinstance(svid.private_key, rsa.RSAPrivateKey)
    assert check(svid.chain, authority) == svid.id


def test_dns_names_stand_beside_the_one_uri(authority):
    svid = authority.issue("spiffe://prod.example/app", dns_names=["localhost"])
    assert extension(svid.leaf, x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["localhost"]
    assert check(svid.chain, authority) == svid.id


def test_an_svid_begins_a_little_before_now_and_ends_with_its_issuer_at_the_latest():
    authority = CertificateAuthority.in_memory("prod.example", lifetime=timedelta(hours=2), clock=lambda: _NOW)
    assert authority.issue("spiffe://prod.example/a", lifetime=timedelta(hours=1)).expires_at == _NOW + timedelta(
        hours=1
    )
    assert authority.issue("spiffe://prod.example/a", lifetime=timedelta(days=1)).expires_at == _NOW + timedelta(
        hours=2
    )
    assert authority.issue("spiffe://prod.example/a").not_before == _NOW - timedelta(seconds=30)
    below = authority.intermediate(lifetime=timedelta(days=1))
    assert below.issue("spiffe://prod.example/a", lifetime=timedelta(days=1)).expires_at == _NOW + timedelta(hours=2)


def test_an_authority_at_its_end_issues_nothing_until_it_is_rotated():
    now = [_NOW]
    authority = CertificateAuthority.in_memory("prod.example", lifetime=timedelta(hours=1), clock=lambda: now[0])
    now[0] += timedelta(hours=1)
    with pytest.raises(InvalidIdentity, match=r"rotate\(\)"):
        authority.issue("spiffe://prod.example/app")
    with pytest.raises(InvalidIdentity, match=r"rotate\(\)"):
        authority.intermediate()
    authority.rotate()
    assert authority.issue("spiffe://prod.example/app").expires_at == now[0] + timedelta(hours=1)


@pytest.mark.parametrize(
    "spiffe_id",
    ["spiffe://prod.example", "spiffe://other.example/app", "spiffe://prod.example/a//b", "https://a/b", ""],
)
def test_an_id_that_is_not_its_own_is_refused(authority, spiffe_id):
    with pytest.raises(InvalidIdentity):
        authority.issue(spiffe_id)


def test_a_trust_domain_that_is_none_is_refused():
    with pytest.raises(InvalidIdentity):
        CertificateAuthority.in_memory("spiffe://prod.example")


def test_a_trust_domain_of_255_bytes_works():
    domain = "a" * 255
    authority = CertificateAuthority.in_memory(domain, clock=lambda: _NOW)
    svid = authority.issue(f"spiffe://{domain}/app")
    assert check(svid.chain, authority) == svid.id


def test_after_rotate_old_and_new_svids_verify_and_after_withdraw_the_new_ones_alone(authority):
    old = authority.issue("spiffe://prod.example/app")
    authority.rotate()
    new = authority.issue("spiffe://prod.example/app")
    assert check(old.chain, authority) == check(new.chain, authority)
    new.leaf.verify_directly_issued_by(authority.bundle.authorities[0])
    authority.withdraw()
    assert check(new.chain, authority) == new.id
    with pytest.raises(PeerUntrusted) as refused:
        check(old.chain, authority)
    assert refused.value.why is Untrusted.UNKNOWN_AUTHORITY


def test_an_svid_of_an_intermediate_verifies_with_the_root_alone(authority):
    svid = authority.intermediate().issue("spiffe://prod.example/app")
    assert check(svid.chain, authority) == svid.id
    with pytest.raises(PeerUntrusted) as refused:
        check(svid.chain[:1], authority)
    assert refused.value.why in {Untrusted.INCOMPLETE_CHAIN, Untrusted.UNKNOWN_AUTHORITY}


def test_a_revoked_svid_is_refused_and_its_sibling_is_not(authority):
    revoked, kept = authority.issue("spiffe://prod.example/a"), authority.issue("spiffe://prod.example/b")
    authority.revoke(revoked)
    assert check(kept.chain, authority, crls=authority.crls) == kept.id
    with pytest.raises(PeerUntrusted) as refused:
        check(revoked.chain, authority, crls=authority.crls)
    assert refused.value.why is Untrusted.REVOKED


def test_each_signing_key_has_its_own_list_and_numbers_go_up(authority):
    first = authority.issue("spiffe://prod.example/a")
    authority.rotate()
    second = authority.issue("spiffe://prod.example/b")
    authority.revoke(first)
    authority.revoke(second)
    new, old = authority.crls
    assert [entry.serial_number for entry in new] == [second.leaf.serial_number]
    assert [entry.serial_number for entry in old] == [first.leaf.serial_number]
    newest, oldest = authority.bundle.authorities
    assert new.is_signature_valid(newest.public_key())
    assert old.is_signature_valid(oldest.public_key())
    (again, _) = authority.crls
    assert extension(again, x509.CRLNumber).value.crl_number > extension(new, x509.CRLNumber).value.crl_number


def test_what_somebody_else_issued_is_not_revoked(authority):
    foreign = CertificateAuthority.in_memory("prod.example").issue("spiffe://prod.example/a")
    with pytest.raises(InvalidIdentity, match="did not issue it"):
        authority.revoke(foreign)


def test_an_identity_holds_an_svid_for_each_id_and_all_bundles(authority):
    other = CertificateAuthority.in_memory("other.example")
    identity = authority.identity("spiffe://prod.example/a", "spiffe://prod.example/b", federated=[other.bundle])
    assert identity.id == parse_spiffe_id("spiffe://prod.example/a")
    assert [svid.id.path for svid in identity.svids] == ["/a", "/b"]
    assert dict(identity.bundles) == {
        authority.trust_domain: authority.bundle,
        other.trust_domain: other.bundle,
    }
    assert identity.crls == ()
    authority.revoke(identity.svid)
    assert len(authority.identity("spiffe://prod.example/a").crls) == 1


def test_an_identity_without_id_holds_bundles_alone(authority):
    identity = authority.identity()
    assert identity.chosen is None
    assert identity.bundles[authority.trust_domain] == authority.bundle


def test_many_threads_rotate_and_issue_and_no_root_is_lost(authority):
    done = threading.Barrier(9)
    svids = []

    def work():
        for _ in range(5):
            authority.rotate()
            svids.append(authority.issue("spiffe://prod.example/app"))
        done.wait(60)

    for _ in range(8):
        threading.Thread(target=work).start()
    done.wait(60)
    assert len(authority.bundle.authorities) == 41
    for svid in svids:
        assert check(svid.chain, authority) == svid.id


def test_no_key_is_in_a_repr(authority):
    assert "private_key" not in repr(authority.issue("spiffe://prod.example/app"))
    assert "key=" not in repr(authority._signers[0])


def test_the_lists_of_an_identity_last_as_long_as_its_svids():
    authority = CertificateAuthority.in_memory("prod.example")
    authority.revoke(authority.issue("spiffe://prod.example/lost"))
    identity = authority.identity("spiffe://prod.example/app", lifetime=timedelta(days=5))
    assert identity.crls[0].next_update_utc >= identity.expires_at
