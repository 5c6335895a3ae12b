# SPDX-License-Identifier: Apache-2.0
"""What the relay's tests stand on: an authority, a source that the test turns, gRPC and raw TLS servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.errors import IdentityExpired, SourceUnavailable
from otel_spiffe.identity import Health, Identity
from otel_spiffe.sources import StaticSource

COLLECTOR = "spiffe://prod.example/collector"
APP = "spiffe://prod.example/app"


class HeldSource:
    """A source whose identity the test sets; its subscribers are called by whoever sets it."""

    def __init__(self, identity=None):
        self._identity = identity
        self._callbacks = []
        self._changed = threading.Condition()

    def put(self, identity):
        with self._changed:
            generation = self._identity.generation + 1 if self._identity else 1
            self._identity = Identity(
                chosen=identity.chosen, svids=identity.svids, bundles=identity.bundles, generation=generation
            )
            self._changed.notify_all()
        for callback in list(self._callbacks):
            callback(self._identity)

    def identity(self):
        if self._identity is None:
            raise SourceUnavailable("held source", "no identity has come yet")
        end, now = self._identity.expires_at, dt.datetime.now(dt.UTC)
        if end is not None and end <= now:
            raise IdentityExpired("held source", id=self._identity.id, expired_at=end, now=now)
        return self._identity

    def wait(self, timeout=None):
        with self._changed:
            self._changed.wait_for(lambda: self._identity is not None, timeout)
        return self.identity()

    def subscribe(self, callback):
        self._callbacks.append(callback)
        if self._identity is not None:
            callback(self._identity)
        return lambda: self._callbacks.remove(callback)

    @property
    def subscribers(self):
        return len(self._callbacks)

    def health(self):
        return Health(ready=self._identity is not None, source="held source")

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class World:
    """One authority, and what it issues."""

    def __init__(self, trust_domain="prod.example"):
        self.ca = CertificateAuthority.in_memory(trust_domain)

    def identity(self, id=APP, *, bundles=None, **keywords):  # noqa: A002
        svid = self.ca.issue(id, **keywords)
        bundles = [self.ca.bundle] if bundles is None else bundles
        return Identity(chosen=svid, svids=(svid,), bundles={each.trust_domain: each for each in bundles})

    def source(self, id=APP, **keywords):  # noqa: A002
        return HeldSource(self.identity(id, **keywords))

    @property
    def bundle_pem(self):
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.ca.bundle.authorities)


def pem(svid):
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key, b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain)


class _Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test/Stream":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: requests)
        if details.method == "/test/Slow":
            return grpc.unary_stream_rpc_method_handler(self._slow)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    @staticmethod
    def _slow(request, _context):
        for _ in range(int(request)):
            yield b"x" * 100_000


@contextlib.contextmanager
def echo_server(world, id=COLLECTOR, *, roots=None, svid=None, credentials=True):  # noqa: A002
    """A stock gRPC server that asks for client certificates; yields its port."""
    server = grpc.server(ThreadPoolExecutor(16), handlers=[_Echo()])
    if credentials:
        pair = pem(svid or world.ca.issue(id))
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([pair], roots or world.bundle_pem, require_client_auth=True)
        )
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def tls_context(world, id=COLLECTOR, *, version=None, alpn=("h2",), svid=None, ask=True):  # noqa: A002
    """A plain OpenSSL server context: it sends the alerts of RFC 8446 when it refuses a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    key, chain = pem(svid or world.ca.issue(id))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "svid.pem"
        path.write_bytes(key + chain)
        context.load_cert_chain(path)
    context.load_verify_locations(cadata=world.bundle_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED if ask else ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@contextlib.contextmanager
def raw_server(serve):
    """A TCP server that gives each connection to `serve` in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def handle(connection):
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                thread = threading.Thread(target=handle, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join(20)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)


def tls_serve(context):
    """Shake hands, then hold the connection until the other end closes it."""

    def serve(connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            while tls.recv(65536):
                pass

    return serve


class Servers:
    """The functions above, as a fixture: test folders are no packages."""

    echo = staticmethod(echo_server)
    raw = staticmethod(raw_server)
    tls = staticmethod(tls_serve)
    tls_context = staticmethod(tls_context)
    pem = staticmethod(pem)


@pytest.fixture(scope="session")
def servers():
    return Servers


@pytest.fixture(scope="session")
def world():
    return World()


@pytest.fixture(scope="session")
def stranger_world():
    return World("evil.example")


@pytest.fixture
def held_source():
    return HeldSource


class ChangingSource(StaticSource):
    """A real source, cell and clock included, whose identity a test changes by hand."""

    def put(self, identity):
        self._cell.put(identity)


@pytest.fixture
def changing_source():
    """Make sources that `put` changes; closed at the end of the test."""
    with contextlib.ExitStack() as closed:
        yield lambda identity, **keywords: closed.enter_context(ChangingSource(identity, **keywords))


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


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop that the test turns by hand."""

    now = 0.0

    def time(self):
        return self.now

    def turn(self, seconds=0.0):
        """Let `seconds` pass, and do all that is to be done by then."""
        self.now += seconds
        for _ in range(5):
            self.call_soon(self.stop)
            self.run_forever()


@pytest.fixture
def still_loop():
    loop = StillLoop()
    yield loop
    loop.close()
