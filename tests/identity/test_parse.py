# SPDX-License-Identifier: Apache-2.0
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import (
    certificates_from_der,
    certificates_from_pem,
    private_key_from_der,
    private_key_from_pem,
)

PLAIN = NoEncryption()
SECRET = BestAvailableEncryption(b"secret")


@pytest.fixture(scope="module")
def pair(mint, root):
    leaf = mint.leaf(root)
    return [leaf.certificate, root.certificate]


@pytest.fixture(scope="module")
def der(pair):
    return [each.public_bytes(Encoding.DER) for each in pair]


@pytest.fixture(scope="module")
def pem(pair):
    return [each.public_bytes(Encoding.PEM) for each in pair]


@pytest.fixture(scope="module")
def key(mint):
    return mint.key()


def as_pem(key, form=PrivateFormat.PKCS8, encryption=PLAIN):
    return key.private_bytes(Encoding.PEM, form, encryption)


def as_der(key, form=PrivateFormat.PKCS8, encryption=PLAIN):
    return key.private_bytes(Encoding.DER, form, encryption)


def test_concatenated_der_comes_back_whole_and_in_order(der, pair):
    assert list(certificates_from_der(b"".join(der))) == pair
    assert list(certificates_from_der(der[0])) == pair[:1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: b"", "there are no bytes"),
        (lambda d: d[0] + b"\n", "DER certificate 2: it does not begin with a DER SEQUENCE"),
        (lambda d: d[0] + b"\x00" * 20, "DER certificate 2: it does not begin with a DER SEQUENCE"),
        (lambda d: d[0] + d[1][:-1], "DER certificate 2: it is cut short"),
        (lambda d: d[0][:-1], "DER certificate 1: it is cut short"),
        (lambda d: d[0] + b"\x30", "DER certificate 2: it does not begin"),
        (lambda d: d[0] + b"\x30\x00", "DER certificate 2: it cannot be read"),
        (lambda d: d[0] + b"\x30\x80" + d[1][4:] + b"\x00\x00", "its DER length is malformed"),
        (lambda d: d[0] + b"\x30\x85\x00\x00\x00\x00\x01\x00", "its DER length is malformed"),
        (lambda d: d[0] + b"\x30\x84\xff\xff\xff\xff", "it is cut short"),
        (lambda d: d[0] + b"\x30\x84", "it is cut short"),
        (lambda d: b"\xef\xbb\xbf" + d[0], "DER certificate 1: it does not begin"),
        (lambda _: b"-----BEGIN CERTIFICATE-----", "it does not begin with a DER SEQUENCE"),
    ],
)
def test_der_that_holds_anything_but_whole_certificates_is_refused(make, reason, der):
    with pytest.raises(InvalidIdentity, match=reason):
        certificates_from_der(make(der))


def test_der_over_a_limit_is_refused(der):
    both = b"".join(der)
    assert len(certificates_from_der(both, max_bytes=len(both), max_certificates=2)) == 2
    with pytest.raises(InvalidIdentity, match="are more than the"):
        certificates_from_der(both, max_bytes=len(both) - 1)
    with pytest.raises(InvalidIdentity, match="there are more than 1"):
        certificates_from_der(both, max_certificates=1)


def test_pem_comes_back_in_order_with_keys_and_prose_passed_over(pem, pair, key):
    text = b"# the workload\n" + as_pem(key) + pem[0] + b"\nthe root:\r\n" + pem[1].replace(b"\n", b"\r\n")
    assert list(certificates_from_pem(text)) == pair


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: b"", "there are no bytes"),
        (lambda _: b"\n", "holds no -----BEGIN CERTIFICATE-----"),
        (lambda _: b"\x30\x82", "holds no -----BEGIN CERTIFICATE-----"),
        (lambda p: p[0] + p[1][:100], "2 begin and 1 are whole: the text is cut short"),
        (lambda p: p[0][:-10], "cut short|cannot be read"),
        (lambda p: p[0][:100] + p[1], "cut short|cannot be read"),
        (lambda p: p[0].replace(b"M", b"!"), "cannot be read|cut short"),
        (lambda p: p[0] + p[1].replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"), "2 begin and 1 are whole"),
        (lambda p: p[0] + b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "cannot be read"),
    ],
)
def test_pem_with_a_broken_block_is_refused(make, reason, pem):
    with pytest.raises(InvalidIdentity, match=reason):
        certificates_from_pem(make(pem))


def test_pem_over_a_limit_is_refused(pem):
    both = b"".join(pem)
    assert len(certificates_from_pem(both, max_bytes=len(both), max_certificates=2)) == 2
    with pytest.raises(InvalidIdentity, match="are more than the"):
        certificates_from_pem(both, max_bytes=len(both) - 1)
    with pytest.raises(InvalidIdentity, match="there are more than 1"):
        certificates_from_pem(both, max_certificates=1)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_keys_that_an_svid_may_have_are_read(kind, form, mint):
    key = mint.key(kind)
    assert private_key_from_der(as_der(key, form)).private_numbers() == key.private_numbers()
    assert private_key_from_pem(as_pem(key, form)).private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("secp256k1", "unsupported key: curve secp256k1; use P-256"),
        ("Ed25519", "unsupported key: Ed25519; use EC P-256"),
        ("RSA-1024", "weak key: RSA of 1024 bits; use 2048 or more"),
    ],
)
def test_keys_that_an_svid_may_not_have_are_refused(kind, reason, mint):
    key = mint.key(kind)
    with pytest.raises(InvalidIdentity, match=reason):
        private_key_from_der(as_der(key))
    with pytest.raises(InvalidIdentity, match=reason):
        private_key_from_pem(as_pem(key))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: b"", "there are no bytes"),
        (lambda _: b"\x30\x00", "it cannot be read"),
        (lambda _: b"garbage", "does not begin with a DER SEQUENCE"),
        (lambda k: as_der(k) + b"\x00", "something follows it"),
        (lambda k: as_der(k)[:-1], "it is cut short"),
        (lambda k: as_der(k, encryption=SECRET), "it is encrypted; decrypt it"),
        (lambda k: k.public_key().public_bytes_raw() if hasattr(k, "x") else as_pem(k), "does not begin"),
    ],
)
def test_der_that_is_no_key_is_refused(make, reason, key):
    with pytest.raises(InvalidIdentity, match=reason):
        private_key_from_der(make(key))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda *_: b"", "there are no bytes"),
        (lambda _, p: p[0], "there are 0 -----BEGIN"),
        (lambda k, _: as_pem(k) * 2, "there are 2 -----BEGIN"),
        (lambda k, _: as_pem(k)[:-20], "no -----END"),
        (lambda k, _: as_pem(k)[:60], "no -----END"),
        (lambda k, _: as_pem(k, encryption=SECRET), "it is encrypted; decrypt it"),
        (lambda k, _: as_pem(k, PrivateFormat.TraditionalOpenSSL, SECRET), "it is encrypted; decrypt it"),
        (lambda k, _: as_pem(k)[:60] + as_pem(k)[80:], "it cannot be read"),
        (lambda k, _: as_pem(k) + b" " * (4 * 1024 * 1024), "are more than the"),
    ],
)
def test_pem_without_one_whole_key_is_refused(make, reason, key, pem):
    with pytest.raises(InvalidIdentity, match=reason) as caught:
        private_key_from_pem(make(key, pem))
    secret = as_pem(key).splitlines()[1].decode()
    assert secret not in str(caught.value)


def test_the_key_of_a_combined_file_is_read(key, pem):
    text = as_pem(key, PrivateFormat.TraditionalOpenSSL) + b"".join(pem)
    assert private_key_from_pem(text).private_numbers() == key.private_numbers()


PARSERS = [certificates_from_der, certificates_from_pem, private_key_from_der, private_key_from_pem]


@pytest.mark.parametrize("parse", PARSERS)
@given(data=st.binary(max_size=200))
def test_garbage_is_invalid_and_nothing_else(parse, data):
    for each in (data, b"\x30" + data, b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"):
        with pytest.raises(InvalidIdentity):
            parse(each)


@pytest.mark.parametrize("parse", [certificates_from_der, private_key_from_der])
@given(data=st.data())
def test_bytes_changed_in_something_valid_are_read_or_invalid(parse, data, der, key):
    valid = bytearray(der[0] if parse is certificates_from_der else as_der(key))
    for _ in range(data.draw(st.integers(1, 3))):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InvalidIdentity):
        assert parse(bytes(valid))


@given(order=st.lists(st.integers(0, 1), min_size=1, max_size=8), text=st.booleans())
def test_what_is_joined_is_split_again(pair, der, pem, order, text):
    if text:
        found = certificates_from_pem(b"".join(pem[each] for each in order))
    else:
        found = certificates_from_der(b"".join(der[each] for each in order))
    assert list(found) == [pair[each] for each in order]
