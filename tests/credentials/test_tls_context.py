# SPDX-License-Identifier: Apache-2.0
"""Our contexts: each new identity at the next handshake, and nothing that would widen trust."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import pytest
from tls_ends import (
    APP,
    COLLECTOR,
    VERSIONS,
    WAIT,
    End,
    Listener,
    ask,
    capped,
    descriptors,
    greet,
    meet,
    pair,
)

from otel_spiffe.credentials import client_context, server_context
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.errors import (
    InvalidConfiguration,
    RefusedByPeer,
    Untrusted,
)
from otel_spiffe.identity import Identity, authorize_any, authorize_id
from otel_spiffe.sources import StaticSource


def test_a_listening_socket_presents_each_new_identity(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(COLLECTOR))
    client = client_context(source, authorize=authorize_any())
    with Listener(server_context(source, authorize=authorize_any())) as listener:
        first, connection = ask(client, listener.address)
        assert (first, connection.generation, str(connection.peer_id)) == (COLLECTOR, 1, COLLECTOR)
        source.put(spiffe_own_ca.identity("spiffe://test.example/renamed"))
        second, connection = ask(client, listener.address)
        assert (second, connection.generation) == ("spiffe://test.example/renamed", 2)
        assert str(connection.peer_id) == "spiffe://test.example/renamed"


def test_a_withdrawn_authority_is_refused_at_the_next_handshake(spiffe_own_ca, changing_source):
    old = spiffe_own_ca.identity(APP)
    server = changing_source(spiffe_own_ca.identity(COLLECTOR))
    with StaticSource(old) as client, Listener(server_context(server, authorize=authorize_any())) as listener:
        context = client_context(client, authorize=authorize_any())
        assert ask(context, listener.address)[0] == APP
        spiffe_own_ca.rotate()
        keeps_both = spiffe_own_ca.bundle
        spiffe_own_ca.withdraw()
        svid = server.identity().svid  # the server's own SVID stays the old one, only its bundle changes
        server.put(Identity(chosen=svid, svids=(svid,), bundles=dict.fromkeys([keeps_both.trust_domain], keeps_both)))
        assert ask(context, listener.address)[0] == APP
        server.put(Identity(chosen=svid, svids=(svid,), bundles={keeps_both.trust_domain: spiffe_own_ca.bundle}))
        with pytest.raises(RefusedByPeer, match=f"{COLLECTOR} refused {APP}: unknown_ca"):
            ask(context, listener.address)
        assert listener.errors.get(timeout=WAIT).why is Untrusted.UNKNOWN_AUTHORITY


def test_a_connection_is_current_until_the_source_has_a_newer_identity(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(APP))
    context = client_context(source, authorize=authorize_any())
    with Listener(server_context(source, authorize=authorize_any())) as listener:
        _, connection = ask(context, listener.address)
        assert context.is_current(connection)
        source.put(spiffe_own_ca.identity(APP))
        assert not context.is_current(connection)
        assert not context.is_current(None)


REFUSED = [
    ("verify_flags", ssl.VERIFY_CRL_CHECK_LEAF),
    ("verify_mode", ssl.CERT_NONE),
    ("verify_mode", ssl.CERT_OPTIONAL),
    ("check_hostname", True),
    ("minimum_version", ssl.TLSVersion.MINIMUM_SUPPORTED),
    ("minimum_version", ssl.TLSVersion.TLSv1_1),
    ("maximum_version", ssl.TLSVersion.TLSv1_1),
    ("sni_callback", lambda *_: None),
    ("sslsocket_class", ssl.SSLSocket),
    ("sslobject_class", ssl.SSLObject),
    ("num_tickets", 2),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_attributes_that_would_widen_trust_are_refused(collector, name, value):
    context = server_context(collector, authorize=authorize_any())
    before = getattr(context, name)
    with pytest.raises(InvalidConfiguration, match=f"SSLContext.{name}: "):
        setattr(context, name, value)
    assert getattr(context, name) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.load_cert_chain("x.pem"),
        lambda c: c.load_verify_locations(cafile="ca.pem"),
        lambda c: c.load_default_certs(),
        lambda c: c.set_default_verify_paths(),
        lambda c: c.set_psk_client_callback(lambda _: (None, b"")),
        lambda c: c.set_psk_server_callback(lambda _: b""),
    ],
    ids=["cert_chain", "verify_locations", "default_certs", "default_verify_paths", "psk_client", "psk_server"],
)
def test_methods_that_would_widen_trust_are_refused(app, call):
    with pytest.raises(InvalidConfiguration, match="the SPIFFE source decides what is trusted and presented"):
        call(client_context(app, authorize=authorize_any()))


def test_what_libraries_set_in_passing_is_taken(app):
    """As urllib3, http.client, aiohttp and httpx do."""
    context = client_context(app, authorize=authorize_any())
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = False
    context.post_handshake_auth = True
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.options = 0
    assert context.options & ssl.OP_NO_TICKET
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION


def test_protocol_settings_count_from_the_next_handshake_on(app, collector):
    client, server = (
        client_context(app, authorize=authorize_any()),
        server_context(collector, authorize=authorize_any()),
    )
    with Listener(server) as listener:
        assert ask(client, listener.address)[1].context is client
        client.set_alpn_protocols(["h2", "http/1.1"])
        server.set_alpn_protocols(["h2"])
        with socket.create_connection(listener.address, WAIT) as sock, client.wrap_socket(sock) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            assert connection.version() == "TLSv1.3"
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        server.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        with socket.create_connection(listener.address, WAIT) as sock, client.wrap_socket(sock) as connection:
            assert connection.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
        server.minimum_version = ssl.TLSVersion.TLSv1_2
        client.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(OSError, match=r"ALERT_PROTOCOL_VERSION|protocol_version"):
            ask(client, listener.address)


def test_only_the_bundles_are_trusted(app, spiffe_ca, spiffe_federated_ca):
    context = client_context(app, authorize=authorize_any())
    authorities = {*spiffe_ca.bundle.authorities, *spiffe_federated_ca.bundle.authorities}
    assert context.cert_store_stats() == {"x509": len(authorities), "crl": 0, "x509_ca": len(authorities)}
    assert len(context.get_ca_certs()) == len(authorities)


def test_tls_1_3_hands_out_no_tickets_and_1_2_no_session_to_resume_by(collector, raw_context):
    server = server_context(collector, authorize=authorize_any())
    for version in VERSIONS:
        client = raw_context(ssl.PROTOCOL_TLS_CLIENT, version=version)
        with (
            Listener(server) as listener,
            socket.create_connection(listener.address, WAIT) as sock,
            client.wrap_socket(sock) as connection,
        ):
            assert connection.recv(100)
            assert connection.session is None or not connection.session.has_ticket


def test_a_session_that_openssl_resumes_is_verified_and_authorized_again(collector, raw_context, spiffe_ca):
    """Python cannot turn OpenSSL's cache of TLS 1.2 sessions off; nothing may hang on that."""
    asked = []
    server = server_context(collector, authorize=lambda peer: asked.append(str(peer)))
    svid = spiffe_ca.intermediate().issue(APP)
    client = raw_context(ssl.PROTOCOL_TLS_CLIENT, svid, ssl.TLSVersion.TLSv1_2)
    session = None
    with Listener(server) as listener:
        for _ in range(2):
            with (
                socket.create_connection(listener.address, WAIT) as sock,
                client.wrap_socket(sock, session=session) as connection,
            ):
                assert connection.recv(100) == APP.encode()
                session, reused = connection.session, connection.session_reused
    assert reused
    assert asked == [APP, APP]


def test_a_session_of_an_older_generation_is_not_resumed(spiffe_own_ca, changing_source, raw_context):
    source = changing_source(spiffe_own_ca.identity(COLLECTOR))
    client = raw_context(ssl.PROTOCOL_TLS_CLIENT, spiffe_own_ca.issue(APP), ssl.TLSVersion.TLSv1_2)
    session = None
    with Listener(server_context(source, authorize=authorize_any())) as listener:
        for _ in range(2):
            with (
                socket.create_connection(listener.address, WAIT) as sock,
                client.wrap_socket(sock, session=session) as connection,
            ):
                assert connection.recv(100) == APP.encode()
                session, reused = connection.session, connection.session_reused
            source.put(spiffe_own_ca.identity(COLLECTOR))
    assert not reused


def test_our_client_resumes_nothing(app, collector):
    context = capped(client_context(app, authorize=authorize_any()), ssl.TLSVersion.TLSv1_2)
    with Listener(server_context(collector, authorize=authorize_any())) as listener:
        _, first = ask(context, listener.address)
        with (
            socket.create_connection(listener.address, WAIT) as sock,
            context.wrap_socket(sock, session=first.session) as connection,
        ):
            assert connection.recv(100) == APP.encode()
            assert not connection.session_reused


@pytest.mark.skipif(sys.platform == "win32", reason="openssl is no part of it")
@pytest.mark.parametrize(("flag", "word"), [("-tls1_3", "Reused"), ("-tls1_2", "Compression: zlib")])
def test_openssl_s_client_sees_no_resumption_in_1_3_and_no_compression(collector, tmp_path, spiffe_svid, flag, word):
    svid = spiffe_svid("/app")
    path = tmp_path / "client.pem"
    path.write_bytes(key_pem(svid) + chain_pem(svid))
    with Listener(server_context(collector, authorize=authorize_any())) as listener:
        address = "{}:{}".format(*listener.address)
        run = subprocess.run(
            ["openssl", "s_client", "-connect", address, "-cert", path, "-key", path, flag, "-reconnect"],
            input=b"",
            capture_output=True,
            timeout=WAIT,
            check=False,
        )
    assert b"New, TLSv1" in run.stdout
    assert word.encode() not in run.stdout


def test_two_threads_may_meet_a_rotation(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(APP))
    context, failures, rotated = client_context(source, authorize=authorize_any()), [], threading.Event()

    def hammer():
        while not rotated.is_set():
            try:
                ask(context, listener.address)
            except OSError as error:
                failures.append(error)
                return

    with Listener(server_context(source, authorize=authorize_any())) as listener:
        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            source.put(spiffe_own_ca.identity(APP))
            ask(context, listener.address)
        rotated.set()
        for thread in threads:
            thread.join(WAIT)
    assert not failures
    assert list(listener.errors.queue) == []


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has it")
def test_keys_reach_openssl_without_a_file(app, collector, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    meeting = meet(client_context(app, authorize=authorize_any()), server_context(collector, authorize=authorize_any()))
    assert meeting.client.data == b"server"


def test_where_memory_has_no_name_the_file_is_gone_at_once(app, collector, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = tmp_path.stat().st_mtime_ns
    meeting = meet(client_context(app, authorize=authorize_any()), server_context(collector, authorize=authorize_any()))
    assert meeting.client.data == b"server"
    assert tmp_path.stat().st_mtime_ns != before
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left(app, collector):
    client, server = (
        client_context(app, authorize=authorize_any()),
        server_context(collector, authorize=authorize_any()),
    )
    nobody = client_context(app, authorize=authorize_id(APP))
    meet(client, server)
    before = descriptors()
    for _ in range(5):
        meet(client, server)
        meet(nobody, server)
    assert descriptors() <= before  # what other tests left may go meanwhile


def test_canary_the_outer_context_makes_no_connection_by_itself(app, collector):
    """If a future Python stops calling `_wrap_socket` on the context, every handshake must fail, not go unchecked."""
    context = client_context(app, authorize=authorize_any())
    with pair() as (a, b):
        thread = threading.Thread(
            target=greet, args=(server_context(collector, authorize=authorize_any()), b, End(), b"server"), daemon=True
        )
        thread.start()
        raw = super(type(context), context)._wrap_socket(a, False, None)
        with pytest.raises(ssl.SSLCertVerificationError):
            raw.do_handshake()
        a.close()
        thread.join(WAIT)


def test_canary_python_still_shows_the_certificates_that_openssl_refuses():
    """`ssl.SSLContext._msg_callback` is private: without it a refusal cannot name the peer."""
    assert hasattr(ssl.SSLContext, "_msg_callback")
