# SPDX-License-Identifier: Apache-2.0
"""What a peer may put beside its X509-SVID, and what a federated domain may publish: nobody else is harmed by it."""

from __future__ import annotations

import pickle
import socket
import ssl
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from socketserver import BaseRequestHandler, TCPServer

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tls_ends import APP, COLLECTOR, VERSIONS, WAIT, Listener, ask, capped, meet, pair

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import (
    AuthorizationInterceptor,
    _tls_inner,
    client_context,
    server_context,
    server_credentials,
)
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.errors import InvalidIdentity, PeerUntrusted, Untrusted
from otel_spiffe.identity import Identity, X509Bundle, authorize_any
from otel_spiffe.sources import StaticSource

YEAR_2060 = datetime(2060, 1, 1, tzinfo=UTC)  # from 2050 on a date is a GeneralizedTime, of four digits


def ca_der(name="extra", *, start=datetime(2020, 1, 1, tzinfo=UTC), end=YEAR_2060):
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string(f"CN={name}")
    builder = x509.CertificateBuilder(
        subject_name=subject, issuer_name=subject, public_key=key.public_key(), serial_number=99
    )
    builder = builder.not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def one_of(der, old, new):
    assert der.count(old) == 1
    assert len(old) == len(new)
    return der.replace(old, new)


def negative(der):
    # A serial number of 0x63 becomes -0x63; nobody checks the signature of a certificate that leads nowhere.
    return one_of(der, b"\x02\x01\x63", b"\x02\x01\x9d")


EXTRAS = {
    "version 5": lambda: one_of(ca_der(), b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04"),
    "ends in the year 0": lambda: one_of(ca_der(), b"20600101000000Z", b"00000101000000Z"),
    "negative serial number": lambda: negative(ca_der()),
    "ended long ago": lambda: ca_der(start=datetime(2020, 1, 1, tzinfo=UTC), end=datetime(2021, 1, 1, tzinfo=UTC)),
}


@pytest.fixture(params=EXTRAS, ids=lambda name: name.replace(" ", "-"))
def extra(request):
    return EXTRAS[request.param]()


@pytest.fixture
def peer_with_extra(tmp_path, extra):
    """Make contexts of the plain standard library that present an X509-SVID and one more certificate."""

    def make(protocol, svid, version):
        path = tmp_path / "chain.pem"
        path.write_bytes(key_pem(svid) + chain_pem(svid) + ssl.DER_cert_to_PEM_cert(extra).encode())
        context = ssl.SSLContext(protocol)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(path)
        context.maximum_version = version
        return context

    return make


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("strict", [False, True], ids=["warnings", "-W error"])
def test_a_server_of_the_standard_library_outlives_whatever_a_client_presents(
    collector, spiffe_svid, peer_with_extra, version, strict
):
    """`socketserver` goes on after an OSError of `accept`, and ends after any other exception."""
    context = server_context(collector, authorize=authorize_any())

    class Server(TCPServer):
        def get_request(self):
            connection, address = self.socket.accept()
            return context.wrap_socket(connection, server_side=True), address

    class Greeting(BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"hello")

    stranger = CertificateAuthority.in_memory("test.example").issue(APP)
    clients = [peer_with_extra(ssl.PROTOCOL_TLS_CLIENT, each, version) for each in (stranger, spiffe_svid("/app"))]
    died = []

    def serve():
        try:
            for _ in range(3):
                server.handle_request()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the server is gone
            died.append(error)

    with warnings.catch_warnings(), Server(("127.0.0.1", 0), Greeting) as server:
        warnings.simplefilter("error" if strict else "ignore")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for each in clients:
            with socket.create_connection(server.server_address, WAIT) as sock:
                _greeted(each, sock)
        good = client_context(collector, authorize=authorize_any())
        with socket.create_connection(server.server_address, WAIT) as sock, good.wrap_socket(sock) as connection:
            assert connection.recv(10) == b"hello"
        thread.join(WAIT)
    assert died == []


def _greeted(context, sock):
    try:
        with context.wrap_socket(sock) as connection:
            connection.recv(10)
    except OSError:
        pass


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_is_a_stranger_is_refused_in_our_words_whatever_it_presents(app, peer_with_extra, version):
    stranger = CertificateAuthority.in_memory("test.example").issue(COLLECTOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meeting = meet(
            client_context(app, authorize=authorize_any()), peer_with_extra(ssl.PROTOCOL_TLS_SERVER, stranger, version)
        )
    assert isinstance(meeting.client.error, PeerUntrusted)
    assert meeting.client.error.why in {Untrusted.UNKNOWN_AUTHORITY, Untrusted.UNREADABLE, Untrusted.INVALID_CHAIN}


@pytest.mark.parametrize("extra", ["ended long ago", "ends in the year 0"], indirect=True)
def test_a_needless_certificate_that_has_ended_does_not_end_the_connection(app, spiffe_svid, peer_with_extra):
    svid = spiffe_svid("/collector")
    context = client_context(app, authorize=authorize_any())
    listening = peer_with_extra(ssl.PROTOCOL_TLS_SERVER, svid, ssl.TLSVersion.TLSv1_3)
    with pair() as (a, b):
        thread = threading.Thread(target=_greeted_as_server, args=(listening, b), daemon=True)
        thread.start()
        with context.wrap_socket(a) as connection:
            assert connection.recv(10) == b"hello"
            assert connection.expires_at == min(svid.expires_at, app.identity().expires_at)
            assert context.is_current(connection)
        thread.join(WAIT)


def _greeted_as_server(context, sock):
    with context.wrap_socket(sock, server_side=True) as connection:
        connection.sendall(b"hello")
        connection.recv(1)


@pytest.fixture
def unreadable_bundle():
    """A federated domain's, of one authority whose name OpenSSL cannot read; it would refuse all loaded with it."""
    authority = x509.load_der_x509_certificate(ca_der("extra").replace(b"extra", b"extr\xff"))
    bundle = X509Bundle(
        trust_domain=CertificateAuthority.in_memory("fed.example").trust_domain, authorities=(authority,)
    )
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authority.public_bytes(Encoding.DER))
    return bundle


def beside(identity, bundle, *, first):
    bundles = {bundle.trust_domain: bundle}
    both = {**bundles, **identity.bundles} if first else {**identity.bundles, **bundles}
    return Identity(chosen=identity.chosen, svids=identity.svids, bundles=both)


@pytest.mark.parametrize("first", [True, False])
def test_a_federated_authority_that_openssl_cannot_read_costs_its_own_domain_alone(
    spiffe_identity, unreadable_bundle, caplog, first
):
    ours = beside(spiffe_identity("/app"), unreadable_bundle, first=first)
    theirs = beside(spiffe_identity("/collector"), unreadable_bundle, first=first)
    with StaticSource(ours) as client, StaticSource(theirs) as server:
        meeting = meet(
            client_context(client, authorize=authorize_any()), server_context(server, authorize=authorize_any())
        )
    assert (meeting.client.peer_id, meeting.server.peer_id) == (COLLECTOR, APP)
    assert "bundle of fed.example: OpenSSL cannot read the authority with serial number 63" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_so_it_is_for_a_grpc_server(spiffe_ca, spiffe_svid, unreadable_bundle, first):
    theirs = beside(
        Identity(chosen=spiffe_ca.issue(COLLECTOR, dns_names=["collector"]), bundles=spiffe_ca.identity().bundles),
        unreadable_bundle,
        first=first,
    )
    app = spiffe_svid("/app")
    roots = b"".join(each.public_bytes(Encoding.PEM) for each in spiffe_ca.bundle.authorities)
    credentials = grpc.ssl_channel_credentials(roots, key_pem(app), chain_pem(app))
    with StaticSource(theirs) as source:
        server = grpc.server(
            ThreadPoolExecutor(2), interceptors=[AuthorizationInterceptor(source, authorize=authorize_any())]
        )
        server.add_registered_method_handlers(
            "test", {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
        )
        port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
        server.start()
        options = [("grpc.ssl_target_name_override", "collector")]
        try:
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
                assert channel.unary_unary("/test/Echo")(b"hello", timeout=WAIT) == b"hello"
        finally:
            server.stop(None).wait()


def test_an_accepting_socket_without_an_svid_raises_what_servers_go_on_after(spiffe_ca):
    with (
        StaticSource(spiffe_ca.identity()) as bundles,
        pair() as (a, _),
        pytest.raises(InvalidIdentity, match="bundles and no X509-SVID") as caught,
    ):
        server_context(bundles, authorize=authorize_any()).wrap_socket(a, server_side=True)
    assert isinstance(caught.value, ssl.SSLError)
    same = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 -- our own bytes
    assert (type(same), str(same), same.what) == (InvalidIdentity, str(caught.value), caught.value.what)


def test_openssl_keeps_a_bounded_number_of_sessions(collector, raw_context, monkeypatch):
    monkeypatch.setattr(_tls_inner, "MAX_SESSIONS", 3)
    context = server_context(collector, authorize=authorize_any())
    client = raw_context(ssl.PROTOCOL_TLS_CLIENT, version=ssl.TLSVersion.TLSv1_2)
    kept = []
    with Listener(context) as listener:
        for _ in range(12):
            ask(client, listener.address)
            kept.append(context.session_stats()["number"])
    assert max(kept) <= 4
    assert context.session_stats()["accept"] < 12  # so a new context did take the first one's place


def test_a_setting_that_is_made_while_another_thread_builds_counts(app, collector, monkeypatch):
    context = client_context(app, authorize=authorize_any())
    build = _tls_inner.build

    def slow(*arguments, **keywords):
        built = build(*arguments, **keywords)
        monkeypatch.undo()
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # as another thread would, now
        return built

    monkeypatch.setattr("otel_spiffe.credentials._tls.build", slow)
    context.cert_store_stats()
    server = capped(server_context(collector, authorize=authorize_any()), ssl.TLSVersion.TLSv1_2)
    assert "protocol_version" in str(meet(context, server).client.error)
    assert meet(context, server_context(collector, authorize=authorize_any())).client.version == "TLSv1.3"
