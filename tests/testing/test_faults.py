# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime

import pytest
from cryptography import x509

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity, PeerUntrusted, Untrusted
from otel_spiffe.identity import Identity, verify, x509_svid
from otel_spiffe.testing import Fault, faulty_svid

# What a verifier says to it; None where only the one who presents it could know.
_WHY = {
    Fault.EXPIRED: {Untrusted.EXPIRED},
    Fault.NOT_YET_VALID: {Untrusted.NOT_YET_VALID},
    Fault.NO_SAN: {Untrusted.NO_URI_SAN},
    Fault.DNS_ALONE: {Untrusted.NO_URI_SAN},
    Fault.TWO_URI_SANS: {Untrusted.SEVERAL_URI_SANS},
    Fault.NO_PATH: {Untrusted.NO_PATH},
    **{fault: {Untrusted.INVALID_ID} for fault in Fault if fault.value.startswith("id_")},
    Fault.CA_AS_LEAF: {Untrusted.CA_AS_LEAF},
    **{
        fault: {Untrusted.WRONG_KEY_USAGE}
        for fault in (
            Fault.NO_KEY_USAGE,
            Fault.KEY_USAGE_NOT_CRITICAL,
            Fault.NO_DIGITAL_SIGNATURE,
            Fault.WITH_CERT_SIGN,
            Fault.WITH_CRL_SIGN,
        )
    },
    Fault.SERVER_AUTH_ALONE: {Untrusted.WRONG_EXTENDED_KEY_USAGE},
    Fault.CLIENT_AUTH_ALONE: {Untrusted.WRONG_EXTENDED_KEY_USAGE},
    Fault.OTHER_EXTENDED_KEY_USAGE: {Untrusted.WRONG_EXTENDED_KEY_USAGE},
    Fault.UNKNOWN_CRITICAL_EXTENSION: {Untrusted.INVALID_CHAIN},
    Fault.RSA_1024: {Untrusted.WEAK_KEY},
    Fault.ED25519: {Untrusted.UNSUPPORTED_KEY},
    Fault.SECP256K1: {Untrusted.UNSUPPORTED_KEY},
    Fault.FOREIGN_AUTHORITY: {Untrusted.UNKNOWN_AUTHORITY},
    Fault.SELF_SIGNED: {Untrusted.UNKNOWN_AUTHORITY},
    Fault.WRONG_SIGNATURE: {Untrusted.UNKNOWN_AUTHORITY, Untrusted.INVALID_CHAIN},
    Fault.FORGED_BY_FEDERATED: {Untrusted.UNKNOWN_AUTHORITY},
    Fault.ISSUED_BY_LEAF: {Untrusted.INVALID_CHAIN, Untrusted.UNKNOWN_AUTHORITY},
    Fault.MISSING_INTERMEDIATE: {Untrusted.INCOMPLETE_CHAIN, Untrusted.UNKNOWN_AUTHORITY},
    Fault.EXPIRED_INTERMEDIATE: {Untrusted.EXPIRED, Untrusted.INVALID_CHAIN},
    Fault.KEY_MISMATCH: None,
}
_FORGER = CertificateAuthority.in_memory("federated.example")
_AUTHORITY = CertificateAuthority.in_memory("test.example")
_IDENTITY = Identity(
    chosen=None,
    bundles={each.trust_domain: each.bundle for each in (_AUTHORITY, _FORGER)},
)


def test_every_fault_is_in_the_table():
    assert set(_WHY) == set(Fault)


@pytest.mark.parametrize("fault", Fault)
def test_a_verifier_refuses_it_for_its_fault(fault):
    svid = faulty_svid(_AUTHORITY, fault, forger=_FORGER)
    if _WHY[fault] is None:
        assert str(verify(svid.chain, _IDENTITY, now=datetime.now(UTC))) == "spiffe://test.example/faulty"
        return
    with pytest.raises(PeerUntrusted) as refused:
        verify(svid.chain, _IDENTITY, now=datetime.now(UTC))
    assert refused.value.why in _WHY[fault], str(refused.value)


@pytest.mark.parametrize(
    "fault",
    sorted(
        set(Fault)
        - {  # these are right in themselves, and wrong for a verifier
            Fault.EXPIRED,
            Fault.NOT_YET_VALID,
            Fault.FOREIGN_AUTHORITY,
            Fault.FORGED_BY_FEDERATED,
            Fault.MISSING_INTERMEDIATE,
            Fault.EXPIRED_INTERMEDIATE,
            Fault.WRONG_SIGNATURE,
            Fault.UNKNOWN_CRITICAL_EXTENSION,
            Fault.SELF_SIGNED,
            Fault.ISSUED_BY_LEAF,
        }
    ),
)
def test_its_owner_refuses_to_present_it(fault):
    svid = faulty_svid(_AUTHORITY, fault, forger=_FORGER)
    with pytest.raises(InvalidIdentity):
        x509_svid(svid.chain, svid.private_key, expected_id=svid.id)


def test_the_fault_is_the_only_difference():
    good = _AUTHORITY.issue("spiffe://test.example/faulty")
    bad = faulty_svid(_AUTHORITY, Fault.KEY_MISMATCH)
    kinds = [{type(each.value) for each in svid.leaf.extensions} for svid in (good, bad)]
    assert kinds[0] == kinds[1]
    assert bad.private_key.public_key() != bad.leaf.public_key()


def test_it_names_the_id_that_is_asked_for():
    svid = faulty_svid(_AUTHORITY, "expired", id="spiffe://test.example/db")
    names = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://test.example/db"]
    assert str(svid.id) == "spiffe://test.example/db"


def test_it_is_faulty_at_the_time_that_is_given():
    now = datetime(2040, 1, 1, tzinfo=UTC)
    svid = faulty_svid(_AUTHORITY, Fault.EXPIRED, now=now)
    assert svid.leaf.not_valid_after_utc < now
    assert svid.leaf.not_valid_after_utc > datetime(2039, 12, 31, tzinfo=UTC)


def test_a_forgery_needs_a_forger():
    with pytest.raises(InvalidConfiguration, match="forger"):
        faulty_svid(_AUTHORITY, Fault.FORGED_BY_FEDERATED)


def test_an_unknown_fault_is_a_value_error():
    with pytest.raises(ValueError, match="no_such_fault"):
        faulty_svid(_AUTHORITY, "no_such_fault")
