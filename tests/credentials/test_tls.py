# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import SpiffeSSLSocket, client_context, server_context
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.errors import (
    IdentityExpired,
    InvalidConfiguration,
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

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
APP, COLLECTOR = "spiffe://test.example/app", "spiffe://test.example/collector"
WAIT = 30.0


@dataclass
class End:
    """How one end of a meeting went."""

    peer_id: str | None = None
    data: bytes | None = None
    error: BaseException | None = None
    version: str | None = None


@dataclass
class Meeting:
    client: End = field(default_factory=End)
    server: End = field(default_factory=End)


def meet(client: ssl.SSLContext, server: ssl.SSLContext) -> Meeting:
    """Have two contexts shake hands over a socket pair and greet each other."""
    meeting = Meeting()
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_greet, args=(server, theirs, meeting.server, b"server"), daemon=True)
    thread.start()
    _greet(client, ours, meeting.client, b"client")
    thread.join(WAIT)
    assert not thread.is_alive()
    return meeting


def _greet(context, sock, end, word):
    sock.settimeout(WAIT)
    try:
        with context.wrap_socket(sock, server_side=word == b"server") as connection:
            end.version = connection.version()
            peer = getattr(connection, "peer_id", None)
            end.peer_id = str(peer) if peer is not None else None
            connection.sendall(word)
            end.data = connection.recv(100)
    except OSError as error:
        end.error = error
    finally:
        sock.close()


def capped(context, version):
    context.maximum_version = version
    return context


@pytest.fixture
def app(spiffe_source_of):
    return spiffe_source_of("/app")


@pytest.fixture
def collector(spiffe_source_of):
    return spiffe_source_of("/collector")


@pytest.fixture
def raw_context(tmp_path, spiffe_svid):
    """Make contexts of the plain standard library that present an X509-SVID and believe anybody."""

    def make(protocol, svid=None, version=None):
        svid = svid or spiffe_svid("/app")
        path = tmp_path / "raw.pem"
        path.write_bytes(key_pem(svid) + chain_pem(svid))
        context = ssl.SSLContext(protocol)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # weak keys are ours to refuse
        context.load_cert_chain(path)
        if version is not None:
            context.maximum_version = version
        return context

    return make


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
    assert str(meeting.client.error) == (f"peer {COLLECTOR} is not in one_of(spiffe://test.example/db) (we are {APP})")
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
    client = capped(client_context(_Unchecked(identity), authorize=authorize_any()), version)
    meeting = meet(client, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.client.error, RefusedByPeer), meeting.client.error
    assert meeting.client.error.alert == alert
    assert str(meeting.client.error).startswith(f"{COLLECTOR} refused {APP}: {alert}")


class _Unchecked:
    """A source that gives out what a real one would refuse."""

    def __init__(self, identity):
        self._identity = identity

    def identity(self):
        return self._identity


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
        assert str(meet(wrong, server).client.error) == f"peer {COLLECTOR} is not in one_of({APP})"


def test_a_source_of_bundles_alone_serves_nobody(spiffe_ca):
    with StaticSource(spiffe_ca.identity()) as bundles, _pair() as (a, _):
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


@contextlib.contextmanager
def _pair():
    a, b = socket.socketpair()
    a.settimeout(WAIT)
    b.settimeout(WAIT)
    with contextlib.closing(a), contextlib.closing(b):
        yield a, b


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.recv(10),
        lambda s: s.read(10),
        lambda s: s.recv_into(bytearray(10)),
        lambda s: s.makefile("rb").read(1),
        lambda s: s.send(b"x"),
        lambda s: s.write(b"x"),
        lambda s: s.sendall(b"x"),
        lambda s: s.do_handshake(),
    ],
    ids=["recv", "read", "recv_into", "makefile", "send", "write", "sendall", "do_handshake"],
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_no_way_of_reading_or_writing_goes_past_the_check(app, collector, raw_context, side, use, version):
    """OpenSSL would do the handshake inside any of them and pass the bytes on."""
    nobody = authorize_id("spiffe://test.example/db")
    if side == "client":
        ours = client_context(app, authorize=nobody)
        theirs = raw_context(ssl.PROTOCOL_TLS_SERVER, collector.identity().svid, version)
    else:
        ours = server_context(collector, authorize=nobody)
        theirs = raw_context(ssl.PROTOCOL_TLS_CLIENT, app.identity().svid, version)
    with _pair() as (a, b):
        end = End()
        thread = threading.Thread(
            target=_greet, args=(theirs, b, end, b"server" if side == "client" else b"other"), daemon=True
        )
        thread.start()
        connection = ours.wrap_socket(a, server_side=side == "server", do_handshake_on_connect=False)
        for _ in range(2):  # refused once, refused for good
            with pytest.raises(PeerNotAuthorized, match=r"is not in one_of\(spiffe://test.example/db\)"):
                use(connection)
        with pytest.raises(ValueError, match="handshake not done yet"):
            _ = connection.peer_id
        connection.close()
        thread.join(WAIT)
        assert end.data in (None, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_non_blocking_sockets_shake_hands_step_by_step(app, collector, version):
    with _pair() as (a, b):
        a.setblocking(False)
        b.setblocking(False)
        client = capped(client_context(app, authorize=authorize_id(COLLECTOR)), version).wrap_socket(
            a, do_handshake_on_connect=False
        )
        server = server_context(collector, authorize=authorize_id(APP)).wrap_socket(
            b, server_side=True, do_handshake_on_connect=False
        )
        _in_turns(client.do_handshake, server.do_handshake)
        assert (str(client.peer_id), str(server.peer_id)) == (COLLECTOR, APP)
        assert client.send(b"hello") == 5
        assert _in_turns(lambda: server.recv(10)) == [b"hello"]
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(10)
        client.close()
        server.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_bios_shake_hands_and_read_nothing_before_the_check(app, collector, version):
    """What asyncio and uvloop do; here the first read does the client's handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = capped(client_context(app, authorize=authorize_id("spiffe://test.example/db")), version).wrap_bio(
        to_client, to_server
    )
    server = server_context(collector, authorize=authorize_any()).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(PeerNotAuthorized):
        _in_turns(lambda: client.read(10), server.do_handshake)
    with pytest.raises(PeerNotAuthorized):
        client.write(b"x")


@pytest.mark.parametrize(
    "end", [lambda s: s.shutdown(socket.SHUT_RDWR), lambda s: s.close()], ids=["shutdown", "close"]
)
def test_a_connection_that_its_program_ends_during_the_handshake_fails_as_any_other(app, collector, end):
    """A server that stops does it from another thread; here the authorizer does, at the worst moment."""
    connections = queue.Queue()
    context = client_context(app, authorize=lambda _: end(connections.get_nowait()))
    with _pair() as (a, b):
        thread = threading.Thread(
            target=_greet, args=(server_context(collector, authorize=authorize_any()), b, End(), b"server"), daemon=True
        )
        thread.start()
        connection = context.wrap_socket(a, do_handshake_on_connect=False)
        connections.put(connection)
        with contextlib.closing(connection), pytest.raises(OSError, match=r"closed|Bad file descriptor|EOF|pipe"):
            connection.sendall(b"x")
        thread.join(WAIT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR])
def test_the_direction_that_stays_open_is_still_tls(app, collector, version, how):
    """An `ssl.SSLSocket` forgets TLS in `shutdown`: what it sends or gives out then is what is on the wire."""
    client = capped(client_context(app, authorize=authorize_any()), version)
    with _pair() as (a, b), ThreadPoolExecutor(1) as threads:
        server = server_context(collector, authorize=authorize_any())
        accepting = threads.submit(server.wrap_socket, b, server_side=True)
        with client.wrap_socket(a) as connection, accepting.result(WAIT) as other:
            other.sendall(b"hello")
            assert connection.recv(10) == b"hello"
            connection.shutdown(how)
            speaks, hears = (connection, other) if how == socket.SHUT_RD else (other, connection)
            speaks.sendall(b"a secret word")
            assert hears.recv(20) == b"a secret word"


def _in_turns(*steps):
    results = {}
    for _ in range(10_000):
        for number, step in enumerate(steps):
            if number not in results:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    results[number] = step()
        if len(results) == len(steps):
            return [results[number] for number in range(len(steps))]
    raise AssertionError(results)


class _Listener:
    """Serves one greeting a connection over a context that wraps the listening socket, as `http.server` does."""

    def __init__(self, context):
        self.errors = queue.Queue()
        self.closing = False
        self.sock = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.address = self.sock.getsockname()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError as error:
                if self.closing:
                    return
                self.errors.put(error)
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(WAIT)
                connection.sendall(str(connection.peer_id).encode())
                connection.unwrap()  # or OpenSSL forgets the session

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()


def _ask(context, address):
    with socket.create_connection(address, WAIT) as sock, context.wrap_socket(sock) as connection:
        return connection.recv(200).decode(), connection


def test_a_listening_socket_presents_each_new_identity(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(COLLECTOR))
    client = client_context(source, authorize=authorize_any())
    with _Listener(server_context(source, authorize=authorize_any())) as listener:
        first, connection = _ask(client, listener.address)
        assert (first, connection.generation, str(connection.peer_id)) == (COLLECTOR, 1, COLLECTOR)
        source.put(spiffe_own_ca.identity("spiffe://test.example/renamed"))
        second, connection = _ask(client, listener.address)
        assert (second, connection.generation) == ("spiffe://test.example/renamed", 2)
        assert str(connection.peer_id) == "spiffe://test.example/renamed"


def test_a_withdrawn_authority_is_refused_at_the_next_handshake(spiffe_own_ca, changing_source):
    old = spiffe_own_ca.identity(APP)
    server = changing_source(spiffe_own_ca.identity(COLLECTOR))
    with StaticSource(old) as client, _Listener(server_context(server, authorize=authorize_any())) as listener:
        context = client_context(client, authorize=authorize_any())
        assert _ask(context, listener.address)[0] == APP
        spiffe_own_ca.rotate()
        keeps_both = spiffe_own_ca.bundle
        spiffe_own_ca.withdraw()
        svid = server.identity().svid  # the server's own SVID stays the old one, only its bundle changes
        server.put(Identity(chosen=svid, svids=(svid,), bundles=dict.fromkeys([keeps_both.trust_domain], keeps_both)))
        assert _ask(context, listener.address)[0] == APP
        server.put(Identity(chosen=svid, svids=(svid,), bundles={keeps_both.trust_domain: spiffe_own_ca.bundle}))
        with pytest.raises(RefusedByPeer, match=f"{COLLECTOR} refused {APP}: unknown_ca"):
            _ask(context, listener.address)
        assert listener.errors.get(timeout=WAIT).why is Untrusted.UNKNOWN_AUTHORITY


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


def test_connecting_late_uses_the_identity_of_that_moment(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(APP))
    context = client_context(source, authorize=authorize_any())
    with _Listener(server_context(source, authorize=authorize_any())) as listener:
        connection = context.wrap_socket(socket.socket())
        source.put(spiffe_own_ca.identity("spiffe://test.example/later"))
        connection.settimeout(WAIT)
        connection.connect(listener.address)
        with connection:
            assert connection.recv(100) == b"spiffe://test.example/later"
            assert str(connection.local_id) == "spiffe://test.example/later"
            assert connection.context is context


def test_an_expired_identity_makes_no_connection(spiffe_ca, changing_source):
    now = datetime.now(UTC)
    source = changing_source(
        spiffe_ca.identity(APP, lifetime=timedelta(minutes=5)), clock=lambda: now + timedelta(hours=1)
    )
    for context, side in (
        (client_context(source, authorize=authorize_any()), False),
        (server_context(source, authorize=authorize_any()), True),
    ):
        with _pair() as (a, _):
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
    with _pair() as (a, _), pytest.raises(SourceUnavailable, match="closed"):
        client_context(source, authorize=authorize_any()).wrap_socket(a)


def test_a_key_that_does_not_match_is_refused_before_the_handshake(spiffe_faulty_svid, spiffe_ca):
    bad = spiffe_faulty_svid(Fault.KEY_MISMATCH, "/app")
    identity = Identity(chosen=bad, bundles={spiffe_ca.trust_domain: spiffe_ca.bundle})
    with _pair() as (a, _), pytest.raises(InvalidIdentity, match=f"X509-SVID of {APP}: OpenSSL does not take it"):
        client_context(_Unchecked(identity), authorize=authorize_any()).wrap_socket(a)


def test_a_connection_says_when_the_first_of_both_svids_ends(spiffe_source_of, spiffe_identity):
    short = spiffe_source_of(spiffe_identity("/collector", lifetime=timedelta(minutes=7)))
    with _Listener(server_context(short, authorize=authorize_any())) as listener:
        _, connection = _ask(client_context(spiffe_source_of("/app"), authorize=authorize_any()), listener.address)
    assert connection.expires_at == short.identity().expires_at


def test_a_connection_is_current_until_the_source_has_a_newer_identity(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(APP))
    context = client_context(source, authorize=authorize_any())
    with _Listener(server_context(source, authorize=authorize_any())) as listener:
        _, connection = _ask(context, listener.address)
        assert context.is_current(connection)
        source.put(spiffe_own_ca.identity(APP))
        assert not context.is_current(connection)
        assert not context.is_current(None)


REFUSED = [
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
    with _Listener(server) as listener:
        assert _ask(client, listener.address)[1].context is client
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
            _ask(client, listener.address)


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
            _Listener(server) as listener,
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
    with _Listener(server) as listener:
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
    with _Listener(server_context(source, authorize=authorize_any())) as listener:
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
    with _Listener(server_context(collector, authorize=authorize_any())) as listener:
        _, first = _ask(context, listener.address)
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
    with _Listener(server_context(collector, authorize=authorize_any())) as listener:
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
                _ask(context, listener.address)
            except OSError as error:
                failures.append(error)
                return

    with _Listener(server_context(source, authorize=authorize_any())) as listener:
        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            source.put(spiffe_own_ca.identity(APP))
            _ask(context, listener.address)
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
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0

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
    assert descriptors() == before


def test_an_authorizer_that_raises_or_answers_refuses(app, collector):
    def broken(_):
        raise RuntimeError("boom")

    for policy, words in ((broken, "it raised RuntimeError: boom"), (lambda _: True, "an authorizer returns None")):
        meeting = meet(client_context(app, authorize=policy), server_context(collector, authorize=authorize_any()))
        assert isinstance(meeting.client.error, PeerNotAuthorized)
        assert words in str(meeting.client.error)


def test_canary_the_outer_context_makes_no_connection_by_itself(app, collector):
    """If a future Python stops calling `_wrap_socket` on the context, every handshake must fail, not go unchecked."""
    context = client_context(app, authorize=authorize_any())
    with _pair() as (a, b):
        thread = threading.Thread(
            target=_greet, args=(server_context(collector, authorize=authorize_any()), b, End(), b"server"), daemon=True
        )
        thread.start()
        raw = super(type(context), context)._wrap_socket(a, False, None)
        with pytest.raises(ssl.SSLCertVerificationError):
            raw.do_handshake()
        a.close()
        thread.join(WAIT)


def test_canary_a_socket_of_another_context_is_refused(raw_context, collector):
    context = raw_context(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = SpiffeSSLSocket
    meeting = meet(context, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.client.error, PeerUntrusted)
    assert "no SPIFFE context made this connection" in str(meeting.client.error)


def test_canary_python_still_shows_the_certificates_that_openssl_refuses():
    """`ssl.SSLContext._msg_callback` is private: without it a refusal cannot name the peer."""
    assert hasattr(ssl.SSLContext, "_msg_callback")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="get_unverified_chain is public from 3.13 on")
def test_canary_the_peer_chain_stands_on_the_private_object(app, collector):
    context = client_context(app, authorize=authorize_any())
    with (
        _Listener(server_context(collector, authorize=authorize_any())) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        context.wrap_socket(sock) as connection,
    ):
        chain = connection._sslobj.get_unverified_chain()
        assert chain[0].public_bytes(2) == connection.getpeercert(binary_form=True)


def test_canary_records_after_the_handshake_do_not_call_into_python(app, collector):
    """The callback that watches for certificates halved the throughput: 550 instead of 1100 MB/s."""
    context = client_context(app, authorize=authorize_any())
    with (
        _Listener(server_context(collector, authorize=authorize_any())) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        context.wrap_socket(sock) as connection,
    ):
        assert connection._sslobj.context._msg_callback is None
        assert connection.context is context
        with pytest.raises(AttributeError):
            connection.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_early_answer_is_still_read_when_the_pipe_breaks(app, collector, version):
    """A server may answer 413 and hang up while the body is on its way."""

    def answer(sock):
        connection = server_context(collector, authorize=authorize_any()).wrap_socket(sock, server_side=True)
        connection.sendall(b"413")
        connection.close()

    with _pair() as (a, b):
        thread = threading.Thread(target=answer, args=(b,), daemon=True)
        thread.start()
        with capped(client_context(app, authorize=authorize_any()), version).wrap_socket(a) as connection:
            thread.join(WAIT)
            with pytest.raises(OSError, match=r"EOF|pipe|reset") as caught:
                connection.sendall(b"x" * 50_000_000)
            assert not isinstance(caught.value, RefusedByPeer)
            target = bytearray(10)
            assert connection.recv_into(target) == 1
            assert target[:1] + connection.recv(10) == b"413"


def test_a_large_write_that_meets_a_closed_pipe_says_the_alert(spiffe_own_ca, changing_source):
    """TLS 1.3: our handshake is over when the server refuses us, and the first thing we do is write."""
    stranger = CertificateAuthority.in_memory("test.example").identity(APP)
    source = changing_source(Identity(chosen=stranger.svid, bundles=spiffe_own_ca.identity().bundles))
    server = server_context(changing_source(spiffe_own_ca.identity(COLLECTOR)), authorize=authorize_any())
    with (
        _Listener(server) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        client_context(source, authorize=authorize_any()).wrap_socket(sock) as connection,
        pytest.raises(RefusedByPeer, match=f"{COLLECTOR} refused {APP}: unknown_ca"),
    ):
        connection.sendall(b"x" * 50_000_000)
