# SPDX-License-Identifier: Apache-2.0
import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import (
    X509Bundle,
    bundle_from_der,
    bundle_from_jwks,
    bundle_from_pem,
    bundle_to_der,
    bundle_to_jwks,
    bundle_to_pem,
    bundles_from_map,
    bundles_to_map,
    parse_trust_domain,
)

TD = parse_trust_domain("prod.example")
OTHER = parse_trust_domain("other.example")


@pytest.fixture(scope="module")
def authorities(mint):
    return tuple(
        mint.ca(f"root {kind}", key=mint.key(kind)).certificate for kind in ("P-256", "P-384", "P-521", "RSA-2048")
    )


@pytest.fixture(scope="module")
def bundle(authorities):
    return X509Bundle(trust_domain=TD, authorities=authorities)


@pytest.fixture(scope="module")
def entry(root):
    only = X509Bundle(trust_domain=TD, authorities=(root.certificate,))
    return json.loads(bundle_to_jwks(only))["keys"][0]


def jwks(**members):
    return json.dumps(members).encode()


class TestRoundTrips:
    @pytest.mark.parametrize(
        ("write", "read"),
        [(bundle_to_pem, bundle_from_pem), (bundle_to_der, bundle_from_der), (bundle_to_jwks, bundle_from_jwks)],
    )
    def test_what_is_written_is_read_again(self, write, read, bundle):
        assert read("prod.example", write(bundle)) == bundle
        assert read(TD, write(bundle)) == bundle

    def test_a_jwks_bundle_keeps_sequence_and_refresh_hint(self, authorities):
        bundle = X509Bundle(
            trust_domain=TD, authorities=authorities, sequence=2**64 - 1, refresh_hint=timedelta(minutes=5)
        )
        assert bundle_from_jwks(TD, bundle_to_jwks(bundle)) == bundle

    def test_a_map_keeps_sequences_and_no_refresh_hints(self, authorities):
        ours = X509Bundle(trust_domain=TD, authorities=authorities, sequence=7, refresh_hint=timedelta(minutes=5))
        theirs = X509Bundle(trust_domain=OTHER, authorities=())
        found = bundles_from_map(bundles_to_map([ours, theirs]))
        assert found == {TD: X509Bundle(trust_domain=TD, authorities=authorities, sequence=7), OTHER: theirs}
        assert bundles_from_map(bundles_to_map([])) == {}

    def test_an_authority_that_comes_twice_counts_once_and_order_stays(self, authorities):
        doubled = X509Bundle(trust_domain=TD, authorities=(*authorities, authorities[0]))
        assert bundle_from_der(TD, bundle_to_der(doubled)).authorities == authorities


class TestEmpty:
    def test_der_and_jwks_have_a_legal_empty_bundle(self):
        empty = X509Bundle(trust_domain=TD, authorities=())
        assert bundle_from_der(TD, b"") == empty
        assert bundle_from_jwks(TD, b'{"keys": []}') == empty
        assert bundle_from_jwks(TD, bundle_to_jwks(empty)) == empty

    def test_an_empty_pem_is_a_file_half_written(self):
        for text in (b"", b"\n", b"# nobody\n"):
            with pytest.raises(InvalidIdentity, match=r"bundle of prod\.example: PEM certificates"):
                bundle_from_pem(TD, text)


class TestAuthorities:
    @pytest.mark.parametrize("write", [bundle_to_pem, bundle_to_der, bundle_to_jwks])
    @pytest.mark.parametrize("ca", [False, None])
    def test_a_certificate_that_is_no_ca_is_refused_by_name(self, write, ca, mint, root):
        leaf = mint.leaf(root, ca=ca)
        read = {bundle_to_pem: bundle_from_pem, bundle_to_der: bundle_from_der, bundle_to_jwks: bundle_from_jwks}[write]
        with pytest.raises(InvalidIdentity, match=r"bundle of prod\.example: 'CN=db' is no CA certificate.*issuer"):
            read(TD, write(mint.bundle(root, leaf)))

    def test_a_certificate_whose_extensions_cannot_be_read_is_refused(self, root):
        der = root.certificate.public_bytes(Encoding.DER)
        broken = der.replace(b"\x30\x03\x01\x01\xff", b"\x30\x03\x01\x02\xff")  # basicConstraints
        assert broken != der
        with pytest.raises(InvalidIdentity, match="the extensions of 'CN=root' cannot be read"):
            bundle_from_der(TD, broken)

    @pytest.mark.parametrize(
        ("part", "old", "new", "which"),
        [
            ("issuer", b"\x0c\x04root", b"\x0c\x04roo\xff", 0),
            ("subject", b"\x0c\x04root", b"\x0c\x04roo\xff", 1),
            ("key", bytes.fromhex("03420004"), bytes.fromhex("03420005"), 0),
            ("notBefore", b"\x18\x0f2060", b"\x18\x0f0000", 0),
            ("notAfter", b"\x18\x0f2060", b"\x18\x0f0000", 1),
        ],
    )
    def test_a_certificate_of_which_a_part_cannot_be_read_is_refused(self, mint, part, old, new, which):
        """One such authority, and OpenSSL refuses all that it is given with it."""
        der = mint.ca(start=datetime(2060, 1, 1, tzinfo=UTC), end=datetime(2060, 1, 2, tzinfo=UTC))
        pieces = der.certificate.public_bytes(Encoding.DER).split(old)
        broken = old.join(pieces[: which + 1]) + new + old.join(pieces[which + 1 :])
        with pytest.raises(InvalidIdentity, match=rf"bundle of prod\.example: the {part} of .* cannot be read"):
            bundle_from_der(TD, broken)

    def test_a_certificate_whose_key_cannot_be_read_is_refused_in_jwks(self, root, entry):
        der = bytearray(root.certificate.public_bytes(Encoding.DER))
        der[der.index(bytes.fromhex("03420004")) + 3] = 5  # the form of the curve point
        with pytest.raises(InvalidIdentity, match="key 1: the key of 'CN=root' cannot be read"):
            bundle_from_jwks(TD, jwks(keys=[entry | {"x5c": [base64.b64encode(der).decode()]}]))

    def test_a_key_without_a_form_in_jwks_is_refused_by_the_writers_and_read_from_der(self, mint):
        for kind in ("Ed25519", "secp256k1"):
            bundle = mint.bundle(mint.ca("odd", key=mint.key(kind)))
            assert bundle_from_der(TD, bundle_to_der(bundle)) == bundle
            with pytest.raises(InvalidIdentity, match="the key of 'CN=odd' has no form in a SPIFFE bundle"):
                bundle_to_jwks(bundle)
            with pytest.raises(InvalidIdentity):
                bundles_to_map([bundle])

    @pytest.mark.parametrize("data", [b"\x30\x00", b"garbage"])
    def test_a_broken_bundle_says_whose_it_is(self, data):
        with pytest.raises(InvalidIdentity, match=r"^bundle of prod\.example: DER certificate 1: "):
            bundle_from_der(TD, data)

    @pytest.mark.parametrize("read", [bundle_from_pem, bundle_from_der, bundle_from_jwks])
    def test_a_bundle_of_no_trust_domain_is_refused(self, read):
        with pytest.raises(InvalidIdentity, match="trust domain"):
            read("spiffe://prod.example", b"")


class TestJwks:
    @pytest.mark.parametrize(
        "changes",
        [
            {"use": "jwt-svid", "kid": "k"},
            {"use": "X509-SVID"},
            {"use": "sig"},
            {"use": None},
            {"use": ["x509-svid"]},
            {"kty": "OKP"},
            {"kty": "ec"},
            {"kty": None},
            {"kty": ["EC"]},
            {"kty": {}},
            {"x5c": None},
            {"x5c": []},
        ],
        ids=str,
    )
    def test_what_the_standard_passes_over_is_passed_over(self, changes, entry, root):
        other = {name: value for name, value in (entry | changes).items() if value is not None}
        assert bundle_from_jwks(TD, jwks(keys=[other])).authorities == ()
        assert bundle_from_jwks(TD, jwks(keys=[other, entry])).authorities == (root.certificate,)

    def test_an_unknown_curve_is_passed_over(self, mint, entry):
        odd = mint.ca(key=mint.key("secp256k1")).certificate.public_bytes(Encoding.DER)
        other = entry | {"crv": "secp256k1", "x5c": [base64.b64encode(odd).decode()]}
        assert len(bundle_from_jwks(TD, jwks(keys=[other, entry])).authorities) == 1

    @pytest.mark.parametrize(
        "changes",
        [{"kid": "x"}, {"alg": "ES256"}, {"x5c+": "garbage"}, {"pad": True}, {"zeros": True}],
        ids=str,
    )
    def test_what_publishers_vary_is_accepted(self, changes, entry, root):
        given = dict(entry)
        if "x5c+" in changes:
            given["x5c"] = [*given["x5c"], changes["x5c+"]]
        elif "pad" in changes:
            given["x"] += "="
        elif "zeros" in changes:
            octets = base64.urlsafe_b64decode(given["x"] + "=")
            given["x"] = base64.urlsafe_b64encode(b"\x00" * 3 + octets).decode()
        else:
            given |= changes
        assert bundle_from_jwks(TD, jwks(keys=[given], unknown=[1.5])).authorities == (root.certificate,)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"x5c": "text"}, "key 1: its x5c is no array of strings"),
            ({"x5c": {}}, "key 1: its x5c is no array of strings"),
            ({"x5c": [7]}, "key 1: its x5c is no array of strings"),
            ({"x5c": ["%%%"]}, "key 1: its x5c is no base64"),
            ({"x5c": ["ü"]}, "key 1: its x5c is no base64"),
            ({"x5c": [""]}, "key 1: DER certificates: there are no bytes"),
            ({"x5c": ["MAA="]}, "key 1: DER certificate 1: it cannot be read"),
            ({"x": "AAAA"}, "key 1: its parameters are not the key of its x5c certificate"),
            ({"x": 7}, "key 1: its parameters are not the key"),
            ({"x": "*"}, "key 1: its parameters are not the key"),
            ({"x": "ü"}, "key 1: its parameters are not the key"),
            ({"crv": "P-384"}, "key 1: its parameters are not the key"),
            ({"kty": "RSA"}, "key 1: its parameters are not the key"),
        ],
        ids=str,
    )
    def test_a_broken_entry_is_refused_by_its_number(self, changes, reason, entry):
        with pytest.raises(InvalidIdentity) as caught:
            bundle_from_jwks(TD, jwks(keys=[entry | changes]))
        assert str(caught.value).startswith(f"bundle of prod.example, {reason}")

    def test_two_certificates_in_one_x5c_string_are_refused(self, entry):
        der = base64.b64decode(entry["x5c"][0])
        with pytest.raises(InvalidIdentity, match="there are more than 1"):
            bundle_from_jwks(TD, jwks(keys=[entry | {"x5c": [base64.b64encode(der * 2).decode()]}]))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "no JSON that can be read"),
            (b"{", "no JSON that can be read"),
            (b"\xff", "no JSON that can be read"),
            (b"\xef\xbb\xbf{}", "no JSON that can be read"),
            (b'{"keys": []}'.decode().encode("utf-16"), "no JSON that can be read"),
            (b"[" * 100_000, "no JSON that can be read"),
            (b'{"a":' * 100_000, "no JSON that can be read"),
            (b"[]", "it is no JSON object"),
            (b"null", "it is no JSON object"),
            (b"{}", "it has no 'keys' array"),
            (b'{"keys": null}', "it has no 'keys' array"),
            (b'{"keys": {}}', "it has no 'keys' array"),
            (b'{"keys": [7]}', "key 1: it is no JSON object"),
            (b'{"keys": [], "keys": []}', "'keys' stands twice"),
            (b'{"keys": [{"use": "x", "use": "y"}]}', "'use' stands twice"),
            (b'{"keys": [], "x": NaN}', "NaN is no JSON value"),
            (b'{"keys": [], "x": -Infinity}', "-Infinity is no JSON value"),
            (b'{"keys": [], "spiffe_sequence": -1}', "spiffe_sequence is no whole number"),
            (b'{"keys": [], "spiffe_sequence": 18446744073709551616}', "spiffe_sequence is no whole number"),
            (b'{"keys": [], "spiffe_sequence": 1.0}', "spiffe_sequence is no whole number"),
            (b'{"keys": [], "spiffe_sequence": true}', "spiffe_sequence is no whole number"),
            (b'{"keys": [], "spiffe_sequence": "1"}', "spiffe_sequence is no whole number"),
            (b'{"keys": [], "spiffe_refresh_hint": "300"}', "spiffe_refresh_hint is no whole number"),
            (b'{"keys": [], "spiffe_refresh_hint": 18446744073709551615}', "out of all proportion"),
            (b'{"keys": [], "spiffe_sequence": ' + b"9" * 5000 + b"}", "no JSON that can be read"),
            (b'{"keys": [' + b"{}," * 2000 + b"{}]}", "there are more than 2000 keys"),
        ],
        ids=lambda each: str(each)[:50],
    )
    def test_what_is_no_bundle_is_refused(self, data, reason):
        with pytest.raises(InvalidIdentity) as caught:
            bundle_from_jwks(TD, data)
        assert reason in str(caught.value)
        assert str(caught.value).startswith("bundle of prod.example")

    def test_more_bytes_than_allowed_are_refused(self):
        with pytest.raises(InvalidIdentity, match="12 bytes are more than the 11 allowed"):
            bundle_from_jwks(TD, b'{"keys": []}', max_bytes=11)
        assert bundle_from_jwks(TD, b'{"keys": []}', max_bytes=12)

    def test_many_names_are_no_way_to_keep_us_busy(self):
        """In the square of their number this would end in pytest's timeout."""
        names = ",".join(f'"{number}": 0' for number in range(200_000))
        with pytest.raises(InvalidIdentity, match="'199999' stands twice"):
            bundle_from_jwks(TD, f'{{"keys": [], {names}, "199999": 1}}'.encode())

    def test_null_members_count_as_absent(self):
        bundle = bundle_from_jwks(TD, b'{"keys": [], "spiffe_sequence": null, "spiffe_refresh_hint": null}')
        assert (bundle.sequence, bundle.refresh_hint) == (None, None)


class TestMap:
    def test_what_is_left_out_is_told_and_the_others_are_returned(self, bundle):
        whole = json.loads(bundles_to_map([bundle]))["trust_domains"]
        broken = {"a.b": [], "c.d": {"keys": []}, "C.d": {"keys": []}, "no domain": {"keys": []}}
        told = {}
        found = bundles_from_map(jwks(trust_domains={**broken, **whole}), leave_out=told.__setitem__)
        assert found == {TD: bundle}
        assert set(told) == set(broken)
        assert "it holds c.d twice" in str(told["C.d"])

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"{}", "bundle map: it has no 'trust_domains' object"),
            (b'{"trust_domains": []}', "bundle map: it has no 'trust_domains' object"),
            (b'{"trust_domains": {"a.b": []}}', "bundle of a.b: it is no JSON object"),
            (b'{"trust_domains": {"a.b": {}}}', "bundle of a.b: it has no 'keys' array"),
            (b'{"trust_domains": {"a b": {"keys": []}}}', "trust domain 'a b'"),
            (b'{"trust_domains": {"spiffe://a.b": {"keys": []}}}', "trust domain 'spiffe://a.b'"),
            (b'{"trust_domains": {"a.b": {"keys": []}, "a.b": {"keys": []}}}', "'a.b' stands twice"),
            (b'{"trust_domains": {"a.b": {"keys": []}, "A.b": {"keys": []}}}', "it holds a.b twice"),
            (b'{"trust_domains": {}, "trust_domains": {}}', "'trust_domains' stands twice"),
            (b'{"trust_domains": {"a.b": {"keys": [], "spiffe_sequence": -1}}}', "bundle of a.b: its spiffe_sequence"),
        ],
    )
    def test_what_is_no_map_is_refused(self, data, reason):
        with pytest.raises(InvalidIdentity) as caught:
            bundles_from_map(data)
        assert reason in str(caught.value)

    def test_a_refresh_hint_in_a_map_does_not_count_even_a_broken_one(self):
        data = b'{"trust_domains": {"prod.example": {"keys": [], "spiffe_refresh_hint": "soon"}}}'
        assert bundles_from_map(data)[TD].refresh_hint is None

    def test_two_bundles_of_one_trust_domain_are_not_written(self, bundle):
        with pytest.raises(InvalidIdentity, match=r"it would hold prod\.example twice"):
            bundles_to_map([bundle, bundle])

    def test_more_bytes_than_allowed_are_refused(self):
        with pytest.raises(InvalidIdentity, match="are more than the 5 allowed"):
            bundles_from_map(b'{"trust_domains": {}}', max_bytes=5)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["keys", "use", "kty", "x5c", "x", "y", "crv", "n", "trust_domains", "spiffe_sequence", "a.b"]
            ),
            inner | st.sampled_from(["x509-svid", "EC", "RSA", "P-256", "MAA="]),
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(value=values)
def test_any_json_is_a_bundle_or_invalid(value):
    for each in (
        value,
        {"keys": value},
        {"keys": [value]},
        {"trust_domains": value},
        {"trust_domains": {"a.b": value}},
    ):
        data = json.dumps(each).encode()
        for read in (lambda data: bundle_from_jwks(TD, data), bundles_from_map):
            try:
                read(data)
            except InvalidIdentity:
                continue


@given(changes=st.dictionaries(st.sampled_from(["use", "kty", "crv", "x", "y", "x5c"]), values, min_size=1))
def test_an_entry_changed_in_any_way_never_yields_another_authority(changes, entry, root):
    try:
        found = bundle_from_jwks(TD, jwks(keys=[entry | changes])).authorities
    except InvalidIdentity:
        return
    assert found in {(), (root.certificate,)}


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_invalid(data):
    for read in (bundle_from_pem, bundle_from_jwks):
        with pytest.raises(InvalidIdentity):
            read(TD, data)
    if data:
        with pytest.raises(InvalidIdentity):
            bundle_from_der(TD, data)
    with pytest.raises(InvalidIdentity):
        bundles_from_map(data)
