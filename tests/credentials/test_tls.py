# SPDX-License-Identifier: Apache-2.0
"""Who is let in by our contexts, who is refused, and what each end reads of it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from tls_ends import (
    APP,
    COLLECTOR,
    VERSIONS,
    Unchecked,
    capped,
    meet,
    pair,
)

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import client_context, server_context
from otel_spiffe.errors import (
    IdentityExpired,
    InvalidIdentity,
    PeerNotAuthorized,
    PeerUntrusted,
    RefusedByPeer,
    SourceUnavailable,
    Untrusted,
)
from otel_spiffe.identity import Identity, authorize_any, authorize_id, verify
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import Fault

AUTHORIZE = "; if it is the peer that is meant, authorize its ID"


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_know_each_other_by_spiffe_id(app, collector, version):
    meeting = meet(
        capped(client_context(app, authorize=authorize_id(COLLECTOR)), version),
        server_context(collector, authorize=authorize_id(APP)),
    )
    assert (meeting.client.error, meeting.server.error) == (None, None)
    assert (meeting.client.peer_id, meeting.server.peer_id) == (COLLECTOR, APP)
    assert (meeting.client.data, meeting.server.data) == (b"server", b"client")
    assert meeting.client.version == version.name.replace("v1_", "v1.")


# Not even OpenSSL presents these: another key's certificate, a curve that nobody asks for, and as a server of
# TLS 1.2 a certificate that may not sign.
PRESENTABLE = [fault for fault in Fault if fault not in {Fault.KEY_MISMATCH, Fault.SECP256K1}]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", [fault for fault in PRESENTABLE if fault is not Fault.NO_DIGITAL_SIGNATURE])
def test_a_client_refuses_each_faulty_server_and_says_why(app, raw_context, spiffe_faulty_svid, fault, version):
    svid = spiffe_faulty_svid(fault, "/collector")
    meeting = meet(client_context(app, authorize=authorize_any()), raw_context(ssl.PROTOCOL_TLS_SERVER, svid, version))
    _is_what_verify_says(meeting.client.error, svid, app, APP)
    assert meeting.client.data is None
    assert meeting.server.data in (None, b"")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", PRESENTABLE)
def test_a_server_refuses_each_faulty_client_and_says_why(collector, raw_context, spiffe_faulty_svid, fault, version):
    svid = spiffe_faulty_svid(fault, "/app")
    meeting = meet(
        raw_context(ssl.PROTOCOL_TLS_CLIENT, svid, version), server_context(collector, authorize=authorize_any())
    )
    _is_what_verify_says(meeting.server.error, svid, collector, COLLECTOR)
    assert meeting.server.data is None
    assert meeting.client.data in (None, b"")


def _is_what_verify_says(error, svid, source, us):
    assert isinstance(error, PeerUntrusted), error
    with pytest.raises(PeerUntrusted) as expected:
        verify(svid.chain, source.identity(), now=datetime.now(UTC))
    assert (error.why, error.peer) == (expected.value.why, expected.value.peer)
    assert f"(we are {us})" in str(error)
    assert error.peer is None or f"peer {error.peer} is not trusted: " in str(error)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_is_not_authorized_is_refused_by_name(app, collector, version):
    meeting = meet(
        capped(client_context(app, authorize=authorize_id("spiffe://test.example/db")), version),
        server_context(collector, authorize=authorize_any()),
    )
    assert isinstance(meeting.client.error, PeerNotAuthorized)
    assert isinstance(meeting.client.error, ssl.SSLCertVerificationError)
    assert str(meeting.client.error) == (
        f"peer {COLLECTOR} is not in one_of(spiffe://test.example/db) (we are {APP}){AUTHORIZE}"
    )
    assert meeting.server.data in (None, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_is_not_authorized_learns_who_refused_it(app, collector, version):
    meeting = meet(
        capped(client_context(app, authorize=authorize_any()), version),
        server_context(collector, authorize=authorize_id("spiffe://test.example/db")),
    )
    assert isinstance(meeting.server.error, PeerNotAuthorized)
    assert str(meeting.server.error).startswith(f"peer {APP} is not in one_of(spiffe://test.example/db)")
    assert isinstance(meeting.client.error, RefusedByPeer)
    assert str(meeting.client.error).startswith(f"{COLLECTOR} refused {APP}: it closed the connection; ")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("fault", "alert"),
    [
        (Fault.FOREIGN_AUTHORITY, "unknown_ca"),
        (Fault.EXPIRED, "certificate_expired"),
        (Fault.NOT_YET_VALID, "bad_certificate"),
        (Fault.SERVER_AUTH_ALONE, "unsupported_certificate"),
    ],
)
def test_a_client_learns_the_alert_that_refused_it(collector, spiffe_faulty_svid, fault, alert, version):
    bad = spiffe_faulty_svid(fault, "/app")
    identity = Identity(chosen=bad, bundles=collector.identity().bundles)
    client = capped(client_context(Unchecked(identity), authorize=authorize_any()), version)
    meeting = meet(client, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.client.error, RefusedByPeer), meeting.client.error
    assert meeting.client.error.alert == alert
    assert str(meeting.client.error).startswith(f"{COLLECTOR} refused {APP}: {alert}")


@pytest.mark.parametrize(
    ("version", "alert"), list(zip(VERSIONS, ["handshake_failure", "certificate_required"], strict=True))
)
def test_a_client_without_svid_is_refused_in_words_on_both_ends(app, collector, version, alert):
    client = capped(client_context(app, authorize=authorize_any(), present_svid=False), version)
    meeting = meet(client, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.server.error, PeerUntrusted)
    assert meeting.server.error.why is Untrusted.NO_CERTIFICATE
    assert "presented no X509-SVID" in str(meeting.server.error)
    assert isinstance(meeting.client.error, RefusedByPeer)
    assert str(meeting.client.error).startswith(f"{COLLECTOR} refused us, who presented no X509-SVID: {alert}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_learns_that_its_client_refuses_it(collector, version):
    stranger = CertificateAuthority.in_memory("test.example").identity(APP)
    with StaticSource(stranger) as source:
        client = capped(client_context(source, authorize=authorize_any()), version)
        meeting = meet(client, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.client.error, PeerUntrusted)
    assert meeting.client.error.why is Untrusted.UNKNOWN_AUTHORITY
    assert str(meeting.server.error).startswith(f"the peer refused {COLLECTOR}: unknown_ca; ")


def test_a_client_without_svid_and_with_bundles_alone_checks_the_server(spiffe_ca, raw_context, spiffe_svid):
    with StaticSource(spiffe_ca.identity()) as bundles:
        server = raw_context(ssl.PROTOCOL_TLS_SERVER, spiffe_svid("/collector"))
        good = client_context(bundles, authorize=authorize_id(COLLECTOR), present_svid=False)
        assert meet(good, server).client.peer_id == COLLECTOR
        wrong = client_context(bundles, authorize=authorize_id(APP), present_svid=False)
        assert str(meet(wrong, server).client.error) == f"peer {COLLECTOR} is not in one_of({APP}){AUTHORIZE}"


def test_a_source_of_bundles_alone_serves_nobody(spiffe_ca):
    with StaticSource(spiffe_ca.identity()) as bundles, pair() as (a, _):
        with pytest.raises(InvalidIdentity, match="it holds bundles and no X509-SVID"):
            server_context(bundles, authorize=authorize_any()).wrap_socket(a, server_side=True)
        assert a.fileno() == -1


def test_intermediates_are_presented_and_verified(spiffe_ca, app):
    with StaticSource(spiffe_ca.intermediate().identity(COLLECTOR)) as below:
        meeting = meet(client_context(app, authorize=authorize_any()), server_context(below, authorize=authorize_any()))
    assert (meeting.client.peer_id, meeting.server.peer_id) == (COLLECTOR, APP)


def test_an_intermediate_may_be_the_only_authority(spiffe_ca):
    below = spiffe_ca.intermediate()
    svid = below.issue(COLLECTOR)
    bundle = type(spiffe_ca.bundle)(trust_domain=spiffe_ca.trust_domain, authorities=(svid.chain[1],))
    with StaticSource(Identity(chosen=svid, svids=(svid,), bundles={bundle.trust_domain: bundle})) as source:
        meeting = meet(
            client_context(source, authorize=authorize_any()), server_context(source, authorize=authorize_any())
        )
    assert (meeting.client.peer_id, meeting.server.peer_id) == (COLLECTOR, COLLECTOR)


def test_a_revoked_client_is_refused_though_openssl_has_no_list(spiffe_own_ca, changing_source):
    bad = spiffe_own_ca.identity(APP)
    spiffe_own_ca.revoke(bad.svid)
    server = changing_source(spiffe_own_ca.identity(COLLECTOR))
    with StaticSource(bad) as client:
        meeting = meet(
            client_context(client, authorize=authorize_any()), server_context(server, authorize=authorize_any())
        )
    assert isinstance(meeting.server.error, PeerUntrusted)
    assert meeting.server.error.why is Untrusted.REVOKED


def test_an_authorizer_that_raises_or_answers_refuses(app, collector):
    def broken(_):
        raise RuntimeError("boom")

    for policy, words in ((broken, "it raised RuntimeError: boom"), (lambda _: True, "an authorizer returns None")):
        meeting = meet(client_context(app, authorize=policy), server_context(collector, authorize=authorize_any()))
        assert isinstance(meeting.client.error, PeerNotAuthorized)
        assert words in str(meeting.client.error)


def test_an_expired_identity_makes_no_connection(spiffe_ca, changing_source):
    now = datetime.now(UTC)
    source = changing_source(
        spiffe_ca.identity(APP, lifetime=timedelta(minutes=5)), clock=lambda: now + timedelta(hours=1)
    )
    for context, side in (
        (client_context(source, authorize=authorize_any()), False),
        (server_context(source, authorize=authorize_any()), True),
    ):
        with pair() as (a, _):
            with pytest.raises(IdentityExpired, match=f"the X509-SVID of {APP} expired"):
                context.wrap_socket(a, server_side=side)
            assert a.fileno() == -1  # and nothing is left open
        connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=side)
        for use in (connection.do_handshake, connection.read, lambda c=connection: c.write(b"x")):
            with pytest.raises(IdentityExpired, match=f"the X509-SVID of {APP} expired") as caught:
                use()
            assert isinstance(caught.value, ssl.SSLError)  # what asyncio and uvloop look for


def test_a_missing_identity_makes_no_connection(spiffe_ca):
    source = StaticSource(spiffe_ca.identity(APP))
    source.close()
    with pair() as (a, _), pytest.raises(SourceUnavailable, match="closed"):
        client_context(source, authorize=authorize_any()).wrap_socket(a)


def test_a_key_that_does_not_match_is_refused_before_the_handshake(spiffe_faulty_svid, spiffe_ca):
    bad = spiffe_faulty_svid(Fault.KEY_MISMATCH, "/app")
    identity = Identity(chosen=bad, bundles={spiffe_ca.trust_domain: spiffe_ca.bundle})
    with pair() as (a, _), pytest.raises(InvalidIdentity, match=f"X509-SVID of {APP}: OpenSSL does not take it"):
        client_context(Unchecked(identity), authorize=authorize_any()).wrap_socket(a)
