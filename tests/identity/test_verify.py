# SPDX-License-Identifier: Apache-2.0
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from otel_spiffe.errors import InvalidConfiguration, PeerUntrusted, Untrusted
from otel_spiffe.identity import Identity, X509Bundle, parse_spiffe_id, parse_trust_domain, verify

ID = parse_spiffe_id("spiffe://prod.example/db")
LOCAL = parse_spiffe_id("spiffe://prod.example/app")
SECOND = timedelta(seconds=1)
BROKEN = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"garbage")
PRIVATE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def chain(*issued):
    return [each.certificate for each in issued]


def refused(certificates, identity, now):
    with pytest.raises(PeerUntrusted) as caught:
        verify(certificates, identity, now=now)
    return caught.value


class TestAccepted:
    def test_a_leaf_under_a_root(self, mint, root):
        assert verify(chain(mint.leaf(root)), mint.identity(mint.bundle(root)), now=mint.now) == ID

    @pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048"])
    def test_every_supported_key_as_root_and_as_leaf(self, kind, mint):
        root = mint.ca(key=mint.key(kind))
        leaf = mint.leaf(root, key=mint.key(kind))
        assert verify(chain(leaf), mint.identity(mint.bundle(root)), now=mint.now) == ID

    def test_intermediates_in_any_order_with_the_root_and_strangers_among_them(self, mint, root):
        upper = mint.ca("upper", root)
        lower = mint.ca("lower", upper)
        leaf = mint.leaf(lower)
        identity = mint.identity(mint.bundle(root))
        for above in ([lower, upper], [upper, lower], [root, upper, lower], [mint.ca("stranger"), upper, leaf, lower]):
            assert verify(chain(leaf, *above), identity, now=mint.now) == ID

    def test_an_intermediate_as_the_only_authority(self, mint, root):
        middle = mint.ca("middle", root)
        assert verify(chain(mint.leaf(middle)), mint.identity(mint.bundle(middle)), now=mint.now) == ID

    def test_a_leaf_of_either_root_while_two_are_in_the_bundle(self, mint, root):
        new = mint.ca("new")
        identity = mint.identity(mint.bundle(new, root))
        for each in (root, new):
            assert verify(chain(mint.leaf(each)), identity, now=mint.now) == ID

    def test_roots_of_one_name_with_different_keys(self, mint, root):
        identity = mint.identity(mint.bundle(mint.ca(), root, mint.ca()))
        assert verify(chain(mint.leaf(root)), identity, now=mint.now) == ID

    @pytest.mark.parametrize(
        "given",
        [
            {"ca": None},
            {"purposes": None},
            {"purposes_critical": True},
            {"san_critical": True},
            {"san_critical": False},
            {"subject": "", "san_critical": True},
            {"subject": "", "san_critical": False},
            {"aki": False},
            {"ski": False},
            {
                "names": [
                    x509.DNSName("db.prod.example"),
                    x509.IPAddress(__import__("ipaddress").ip_address("10.0.0.1")),
                ]
            },
            {"uris": ("SPIFFE://PROD.EXAMPLE/db",)},
        ],
        ids=str,
    )
    def test_leaves_as_the_standard_allows_them(self, given, mint, root):
        assert verify(chain(mint.leaf(root, **given)), mint.identity(mint.bundle(root)), now=mint.now) == ID

    @pytest.mark.parametrize(
        "given",
        [{"uris": ()}, {"san_critical": True}, {"usage_critical": False}, {"ski": False, "aki": False}],
        ids=str,
    )
    def test_authorities_as_enterprises_have_them(self, given, mint):
        root = mint.ca(**given)
        assert verify(chain(mint.leaf(root)), mint.identity(mint.bundle(root)), now=mint.now) == ID

    @pytest.mark.parametrize(
        "uris", [(), ("https://ca.example",), ("spiffe://prod.example/ca",), ("SPIFFE://Prod.example",)]
    )
    def test_an_intermediate_with_no_foreign_id(self, uris, mint, root):
        middle = mint.ca("middle", root, uris=uris)
        identity = mint.identity(mint.bundle(root))
        assert verify(chain(mint.leaf(middle), middle), identity, now=mint.now) == ID

    def test_a_federated_peer_by_its_own_bundle(self, mint, root):
        other = mint.ca("other", uris=("spiffe://other.example",))
        identity = mint.identity(mint.bundle(root), mint.bundle(other, of="other.example"))
        leaf = mint.leaf(other, "spiffe://other.example/web")
        assert str(verify(chain(leaf), identity, now=mint.now)) == "spiffe://other.example/web"

    def test_from_the_first_second_to_the_last_in_any_time_zone(self, mint, root):
        leaf = mint.leaf(root, start=mint.now, end=mint.now + SECOND)
        identity = mint.identity(mint.bundle(root))
        for moment in (mint.now, mint.now + SECOND, mint.now.astimezone(timezone(timedelta(hours=9)))):
            assert verify(chain(leaf), identity, now=moment) == ID

    def test_eight_intermediates(self, mint, root):
        above = [root]
        for number in range(8):
            above.insert(0, mint.ca(f"ca {number}", above[0]))
        identity = mint.identity(mint.bundle(root))
        assert verify(chain(mint.leaf(above[0]), *above), identity, now=mint.now) == ID


class TestTrustDomains:
    def test_a_federated_ca_cannot_name_a_workload_of_ours(self, mint, root):
        other = mint.ca("other", uris=("spiffe://other.example",))
        identity = mint.identity(mint.bundle(root), mint.bundle(other, of="other.example"))
        error = refused(chain(mint.leaf(other)), identity, mint.now)
        assert (error.why, error.peer) == (Untrusted.UNKNOWN_AUTHORITY, ID)
        assert "that is an authority of other.example, which may not speak for prod.example" in error.detail

    def test_nor_can_its_intermediate_though_our_root_is_sent_along(self, mint, root):
        other = mint.ca("other", uris=("spiffe://other.example",))
        middle = mint.ca("middle", other)
        identity = mint.identity(mint.bundle(root), mint.bundle(other, of="other.example"))
        error = refused(chain(mint.leaf(middle), middle, root, other), identity, mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert (
            "its chain ends at 'CN=other', issued by 'CN=other': that is an authority of other.example" in error.detail
        )

    @pytest.mark.parametrize("uri", ["spiffe://other.example", "spiffe://prod.example.evil", "SPIFFE:x", "spiffe://"])
    def test_an_intermediate_of_another_trust_domain_is_refused(self, uri, mint, root):
        middle = mint.ca("middle", root, uris=(uri,))
        error = refused(chain(mint.leaf(middle), middle), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN
        assert f"'CN=middle' is {uri!r}, an authority of another trust domain" in error.detail

    def test_no_bundle(self, mint, root):
        leaf = mint.leaf(root, "spiffe://far.example/db")
        error = refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now)
        assert (error.why, str(error.peer)) == (Untrusted.NO_BUNDLE, "spiffe://far.example/db")
        assert "we have no bundle of far.example, only of prod.example: federate" in error.detail
        assert "only of nobody" in refused(chain(leaf), mint.identity(), mint.now).detail

    def test_no_bundle_among_many(self, mint, root):
        many = [mint.bundle(root, of=f"d{number}.example") for number in range(7)]
        error = refused(chain(mint.leaf(root)), mint.identity(*many), mint.now)
        assert "d0.example, d1.example, d2.example, d3.example, d4.example and 2 more" in error.detail

    def test_an_empty_bundle_revokes_everybody(self, mint, root):
        error = refused(chain(mint.leaf(root)), mint.identity(mint.bundle()), mint.now)
        assert error.why is Untrusted.EMPTY_BUNDLE

    def test_a_withdrawn_root_is_unknown(self, mint, root):
        error = refused(chain(mint.leaf(root)), mint.identity(mint.bundle(mint.ca("new"))), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY


class TestDates:
    @pytest.mark.parametrize(
        ("moment", "why", "text"),
        [
            (12 * SECOND, Untrusted.EXPIRED, "it expired 12 s ago, at 2026-03-01T12:00:00Z"),
            (timedelta(days=900), Untrusted.EXPIRED, "it expired 77760000 s ago"),
            (
                -timedelta(hours=2, seconds=5),
                Untrusted.NOT_YET_VALID,
                "it is not valid before 2026-03-01T11:00:00Z, 3605 s from now: compare the clocks",
            ),
        ],
    )
    def test_the_leaf_is_out_of_time(self, moment, why, text, mint):
        root = mint.ca(start=mint.now - timedelta(days=1000), end=mint.now + timedelta(days=1000))
        leaf = mint.leaf(root, end=mint.now)
        error = refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now + moment)
        assert (error.why, error.peer) == (why, ID)
        assert text in error.detail

    def test_an_intermediate_is_out_of_time(self, mint, root):
        middle = mint.ca("middle", root, end=mint.now - SECOND)
        error = refused(chain(mint.leaf(middle), middle), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.EXPIRED
        assert "its issuer 'CN=middle' expired 1 s ago" in error.detail

    def test_an_authority_is_out_of_time(self, mint):
        root = mint.ca(start=mint.now + SECOND)
        error = refused(chain(mint.leaf(root)), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.NOT_YET_VALID
        assert "its issuer 'CN=root' is not valid before" in error.detail

    def test_an_expired_leaf_of_a_stranger_is_a_strangers(self, mint, root):
        leaf = mint.leaf(mint.ca("stranger"), end=mint.now - SECOND)
        assert refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now).why is Untrusted.UNKNOWN_AUTHORITY

    def test_the_clock_is_read_at_each_call(self, mint, root):
        identity, leaf = mint.identity(mint.bundle(root)), mint.leaf(root, end=mint.now)
        assert verify(chain(leaf), identity, now=mint.now) == ID
        assert refused(chain(leaf), identity, mint.now + SECOND).why is Untrusted.EXPIRED
        assert verify(chain(leaf), identity, now=mint.now) == ID

    def test_a_naive_clock_is_refused(self, mint, root):
        with pytest.raises(InvalidConfiguration, match="naive"):
            verify(chain(mint.leaf(root)), mint.identity(mint.bundle(root)), now=datetime(2026, 3, 1))  # noqa: DTZ001


class TestBrokenChains:
    def test_no_certificate(self, mint, root):
        error = refused([], mint.identity(mint.bundle(root)), mint.now)
        assert (error.why, error.peer) == (Untrusted.NO_CERTIFICATE, None)

    def test_too_many_certificates(self, mint, root):
        leaf = mint.leaf(root)
        error = refused(chain(leaf, *[root] * 10), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN
        assert "it sent 11 certificates, and may send 10" in error.detail
        with pytest.raises(PeerUntrusted, match="it sent 2 certificates, and may send 1"):
            verify(chain(leaf, root), mint.identity(mint.bundle(root)), now=mint.now, max_chain=1)
        assert verify(chain(leaf), mint.identity(mint.bundle(root)), now=mint.now, max_chain=1) == ID

    def test_a_stranger(self, mint, root):
        leaf = mint.leaf(mint.ca("stranger"))
        error = refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "it is issued by 'CN=stranger', which is not the one authority of prod.example" in error.detail
        error = refused(chain(leaf), mint.identity(mint.bundle(root, mint.ca("new"))), mint.now)
        assert "not among the 2 authorities of prod.example" in error.detail

    def test_a_stranger_with_the_name_of_the_authority(self, mint, root):
        error = refused(chain(mint.leaf(mint.ca())), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "by another key than the certificate of that name has" in error.detail

    def test_a_stranger_who_sends_its_root(self, mint, root):
        stranger = mint.ca("stranger")
        error = refused(chain(mint.leaf(stranger), stranger), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "its chain ends at 'CN=stranger', self-signed and not the one authority of prod.example" in error.detail

    def test_a_self_signed_leaf(self, mint, root):
        error = refused(chain(mint.leaf(None)), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "it is self-signed" in error.detail

    def test_the_issuer_of_the_last_intermediate_is_unknown(self, mint, root):
        middle = mint.ca("middle", mint.ca("stranger"))
        error = refused(chain(mint.leaf(middle), middle), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "its chain ends at 'CN=middle', issued by 'CN=stranger'" in error.detail

    def test_a_missing_intermediate_that_we_have_ourselves(self, mint, root):
        middle = mint.ca("middle", root)
        ours = mint.svid(mint.leaf(middle, str(LOCAL)), middle, id=LOCAL)
        identity = mint.identity(mint.bundle(root), chosen=ours)
        error = refused(chain(mint.leaf(middle)), identity, mint.now)
        assert (error.why, error.local) == (Untrusted.INCOMPLETE_CHAIN, LOCAL)
        assert "'CN=middle', an intermediate CA whose certificate is missing: the peer must send" in error.detail

    def test_a_missing_intermediate_below_one_that_was_sent(self, mint, root):
        upper = mint.ca("upper", root)
        lower = mint.ca("lower", upper)
        error = refused(chain(mint.leaf(lower), upper), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INCOMPLETE_CHAIN

    @pytest.mark.parametrize(
        ("issuer", "why"),
        [("root", Untrusted.INCOMPLETE_CHAIN), ("stranger", Untrusted.UNKNOWN_AUTHORITY)],
    )
    def test_a_missing_intermediate_whose_issuer_the_aki_names(self, issuer, why, mint, root):
        middle = mint.ca("middle", root)
        name = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        key = x509.AuthorityKeyIdentifier(b"x" * 20, [name], 7)
        leaf = mint.leaf(middle, aki=False, extra=[(key, False)])
        assert refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now).why is why

    def test_a_missing_intermediate_may_be_the_reason_and_is_named(self, mint, root):
        for aki in (True, False):
            leaf = mint.leaf(mint.ca("middle", root), aki=aki)
            error = refused(chain(leaf), mint.identity(mint.bundle(root)), mint.now)
            assert "if it is an intermediate, the peer must send its certificate" in error.detail

    def test_an_intermediate_sent_beside_a_leaf_that_it_did_not_sign(self, mint, root):
        middle, namesake = mint.ca("middle", root), mint.ca("middle", root)
        error = refused(chain(mint.leaf(middle), namesake), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY
        assert "by another key" in error.detail

    def test_a_leaf_that_signs(self, mint, root):
        other = mint.leaf(root, "spiffe://prod.example/other", subject="other")
        error = refused(chain(mint.leaf(other), other), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN
        assert "'CN=other' is no CA certificate" in error.detail

    def test_a_leaf_among_the_authorities_is_no_anchor(self, mint, root):
        leaf = mint.leaf(root)
        bundle = X509Bundle(trust_domain=parse_trust_domain("prod.example"), authorities=(leaf.certificate,))
        error = refused(chain(leaf), mint.identity(bundle), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN
        assert "its leaf stands among the authorities" in error.detail

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"key": "Ed25519"}, (Untrusted.UNSUPPORTED_KEY, "has an unsupported key: Ed25519")),
            ({"key": "RSA-1024"}, (Untrusted.WEAK_KEY, "has a weak key: RSA of 1024 bits")),
            ({"key_usage": None}, (Untrusted.WRONG_KEY_USAGE, "lacks the key usage keyCertSign")),
            ({"key_usage": "crl"}, (Untrusted.WRONG_KEY_USAGE, "lacks the key usage keyCertSign")),
            (
                {"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]},
                (Untrusted.WRONG_EXTENDED_KEY_USAGE, "an extendedKeyUsage without clientAuth"),
            ),
            ({"extra": [(PRIVATE, True)]}, (Untrusted.INVALID_CHAIN, "its chain breaks RFC 5280 6: ")),
        ],
        ids=lambda each: str(each)[:40],
    )
    @pytest.mark.parametrize("anchored", [True, False])
    def test_an_issuer_that_may_not_issue(self, given, expected, anchored, mint):
        root, given, (why, text) = mint.ca(), dict(given), expected
        if isinstance(given.get("key"), str):
            given["key"] = mint.key(given["key"])
        if given.get("key_usage") == "crl":
            given["key_usage"] = mint.usage(crl_sign=True)
        issuer = mint.ca("issuer", None if anchored else root, **given)
        identity = mint.identity(mint.bundle(issuer if anchored else root))
        error = refused(chain(mint.leaf(issuer), issuer), identity, mint.now)
        assert error.why is why
        assert text in error.detail

    def test_an_issuer_whose_extensions_cannot_be_read(self, mint, root):
        issuer = mint.ca("issuer", root, uris=(), extra=[(BROKEN, False)])
        error = refused(chain(mint.leaf(issuer), issuer), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNREADABLE
        late = mint.ca("issuer", root, uris=(), extra=[(BROKEN, False)], end=mint.now - SECOND)
        error = refused(chain(mint.leaf(late), late), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.EXPIRED

    def test_an_issuer_with_a_name_that_pyca_does_not_know(self, mint, root):
        """Path validation passes over the SANs of issuers; the rule on trust domains must not."""
        x400 = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3004a3023000"))
        issuer = mint.ca("issuer", root, uris=(), extra=[(x400, False)])
        error = refused(chain(mint.leaf(issuer), issuer), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNREADABLE

    def test_a_path_longer_than_its_authority_allows(self, mint):
        root = mint.ca(path_length=0)
        middle = mint.ca("middle", root)
        error = refused(chain(mint.leaf(middle), middle), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN

    def test_many_roots_of_one_name_are_no_way_to_keep_us_busy(self, mint):
        key = mint.key()
        namesakes = [mint.ca(key=key, ski=False, aki=False) for _ in range(140)]
        error = refused(chain(mint.leaf(mint.ca())), mint.identity(mint.bundle(*namesakes)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY

    def test_certificates_that_issue_each_other_end_the_search(self, mint, root):
        one, two = mint.key(), mint.key()
        first = mint.ca("a", key=one)
        a_by_b = mint.ca("a", type(first)(mint.ca("b", key=two).certificate, two), key=one)
        b_by_a = mint.ca("b", first, key=two)
        error = refused(chain(mint.leaf(first), a_by_b, b_by_a), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.UNKNOWN_AUTHORITY


def test_an_error_names_us_where_we_have_an_svid(mint, root):
    ours = mint.svid(mint.leaf(root, str(LOCAL)), id=LOCAL)
    identity = mint.identity(mint.bundle(root), chosen=ours)
    for certificates in ([], chain(mint.leaf(root, uris=())), chain(mint.leaf(mint.ca("stranger")))):
        error = refused(certificates, identity, mint.now)
        assert error.local == LOCAL
        assert f" (we are {LOCAL})" in str(error)
    assert refused([], mint.identity(mint.bundle(root)), mint.now).local is None


def test_a_bundle_filed_under_another_trust_domain_never_gets_here(mint, root):
    with pytest.raises(ValueError, match=r"bundle of prod\.example: it is filed under other\.example"):
        Identity(chosen=None, bundles={parse_trust_domain("other.example"): mint.bundle(root)})


class TestCanaries:
    """Each fails when pyca mends what we work around, so that the work can end."""

    def verify(self, mint, certificates, roots):
        verifier = PolicyBuilder().store(Store(chain(*roots))).time(mint.now).build_client_verifier()
        return verifier.verify(certificates[0], certificates[1:])

    def test_pyca_still_refuses_uri_name_constraints_that_allow_the_leaf(self, mint):
        """Then docs/identity.md and `_issuer_fault` may drop their sentence."""
        allowed = x509.NameConstraints([x509.UniformResourceIdentifier("prod.example")], None)
        root = mint.ca(extra=[(allowed, True)])
        error = refused(chain(mint.leaf(root)), mint.identity(mint.bundle(root)), mint.now)
        assert error.why is Untrusted.INVALID_CHAIN
        assert "has name constraints, which pyca/cryptography does not apply to URIs" in error.detail

    def test_pyca_still_accepts_a_leaf_that_stands_in_the_store(self, mint, root):
        """Then `_issuers_fault` may drop its first rule."""
        leaf = mint.leaf(root)
        assert len(self.verify(mint, chain(leaf), [leaf]).chain) == 1

    def test_pyca_still_refuses_ed25519_authorities(self, mint):
        """Then `_keys` may allow them, as go-spiffe does."""
        root = mint.ca(key=mint.key("Ed25519"))
        with pytest.raises(VerificationError, match="Forbidden public key algorithm"):
            self.verify(mint, chain(mint.leaf(root)), [root])

    def test_pyca_still_does_not_look_at_the_leafs_key(self, mint, root):
        """Then `leaf_fault` need not."""
        assert self.verify(mint, chain(mint.leaf(root, key=mint.key("RSA-1024"))), [root])
