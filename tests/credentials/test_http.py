# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import gc
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import requests
from tls_ends import descriptors

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import http_session, server_context
from otel_spiffe.errors import (
    IdentityExpired,
    InvalidConfiguration,
    PeerNotAuthorized,
    PeerUnreachable,
    PeerUntrusted,
    RefusedByPeer,
    SourceUnavailable,
)
from otel_spiffe.identity import authorize_any, authorize_id
from otel_spiffe.sources import StaticSource

APP, COLLECTOR, DB = (f"spiffe://test.example/{name}" for name in ("app", "collector", "db"))
AUTHORIZE = "; if it is the peer that is meant, authorize its ID"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
WAIT = 30.0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, self.client_address, self.headers))
        if self.path.startswith("/to/"):
            self.send_response(307)
            self.send_header("Location", self.server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = f"{getattr(self.connection, 'peer_id', 'nobody')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


class _Proxy(_Handler):
    """An HTTP proxy that knows CONNECT and, where it is told to, asks for a password."""

    def do_CONNECT(self):
        self.server.seen.append((self.path, self.client_address, self.headers))
        self.close_connection = True
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.end_headers()
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT) as upstream:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join(WAIT)


def _pump(one, other):
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def _serving(context=None, handler=_Handler):
    with _Server(("127.0.0.1", 0), handler) as server:
        server.seen, server.location, server.status = [], "", 200
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        server.url = f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
        thread.join(WAIT)


@pytest.fixture
def app(spiffe_own_ca, changing_source):
    return changing_source(spiffe_own_ca.identity(APP))


@pytest.fixture
def collector(spiffe_own_ca, changing_source):
    return changing_source(spiffe_own_ca.identity(COLLECTOR))


@pytest.fixture
def server(collector):
    with _serving(server_context(collector, authorize=authorize_any())) as server:
        yield server


@pytest.fixture
def session(app):
    with http_session(app, authorize=authorize_id(COLLECTOR), proxy=None) as session:
        yield session


def test_a_request_reaches_the_authorized_server_and_names_us(session, server):
    assert session.get(server.url, timeout=WAIT).text == APP


def test_a_connection_is_kept_for_the_next_request(session, server):
    for _ in range(3):
        session.post(server.url, data=b"x" * 1000, timeout=WAIT)
    assert len({address for _, address, _ in server.seen}) == 1


def test_an_idle_connection_of_an_older_generation_is_not_used_again(session, server, app, spiffe_own_ca):
    session.get(server.url, timeout=WAIT)
    app.put(spiffe_own_ca.identity(DB))
    assert session.get(server.url, timeout=WAIT).text == DB
    assert len({address for _, address, _ in server.seen}) == 2


def test_an_idle_connection_is_not_used_past_the_end_of_the_peers_svid(session, spiffe_own_ca, changing_source):
    soon = timedelta(seconds=2)
    short = changing_source(spiffe_own_ca.identity(COLLECTOR, lifetime=soon))
    with _serving(server_context(short, authorize=authorize_any())) as server:
        session.get(server.url, timeout=WAIT)
        end = short.identity().expires_at
        short.put(spiffe_own_ca.identity(COLLECTOR))
        while datetime.now(UTC) <= end:
            time.sleep(0.05)  # for the machine's clock, which OpenSSL and the certificate share
        session.get(server.url, timeout=WAIT)
        assert len({address for _, address, _ in server.seen}) == 2


def test_what_the_otlp_exporter_does_to_a_session_lets_nobody_in(session, server, monkeypatch, tmp_path):
    """Its `verify=True` made 145 trusted authorities of one; `REQUESTS_CA_BUNDLE` would have done the same."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    monkeypatch.setenv("CURL_CA_BUNDLE", requests.certs.where())
    session.verify, session.cert = True, (str(tmp_path / "no.crt"), str(tmp_path / "no.key"))
    context = session.get_adapter(server.url)._context
    before = context.cert_store_stats()["x509_ca"]
    for verify in (True, False, requests.certs.where()):
        session.verify = verify
        assert session.get(server.url, timeout=WAIT, verify=verify).text == APP
    assert context.cert_store_stats()["x509_ca"] == before == 1


@pytest.mark.parametrize("verify", [True, False])
def test_no_setting_lets_a_stranger_in(app, verify):
    with (
        StaticSource(CertificateAuthority.in_memory("test.example").identity(COLLECTOR)) as stranger,
        _serving(server_context(stranger, authorize=authorize_any())) as server,
        http_session(app, authorize=authorize_any(), proxy=None) as session,
    ):
        session.verify = verify
        with pytest.raises(requests.exceptions.SSLError) as caught:
            session.get(server.url, timeout=WAIT, verify=verify)
    assert isinstance(caught.value.__cause__, PeerUntrusted)
    assert str(caught.value).startswith(f"peer {COLLECTOR} is not trusted: ")
    assert server.seen == []


def test_the_wrong_peer_is_named(app, server):
    with (
        http_session(app, authorize=authorize_id(DB), proxy=None) as session,
        pytest.raises(requests.exceptions.SSLError) as caught,
    ):
        session.get(server.url, timeout=WAIT)
    assert str(caught.value) == f"peer {COLLECTOR} is not in one_of({DB}) (we are {APP}){AUTHORIZE}"
    assert isinstance(caught.value.__cause__, PeerNotAuthorized)
    assert caught.value.request.url == f"{server.url}/"
    assert server.seen == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 10, 5_000_000], ids=["empty", "small", "large"])
def test_who_refuses_us_is_named_whatever_was_sent(app, changing_source, spiffe_own_ca, version, size):
    """A large body meets a broken pipe before the alert is read."""
    stranger = CertificateAuthority.in_memory("test.example")
    svid = spiffe_own_ca.issue(COLLECTOR)
    knows_others = type(app.identity())(chosen=svid, svids=(svid,), bundles={stranger.trust_domain: stranger.bundle})
    context = server_context(changing_source(knows_others), authorize=authorize_any())
    context.maximum_version = version
    with (
        _serving(context) as server,
        http_session(app, authorize=authorize_any(), proxy=None) as session,
        pytest.raises(requests.exceptions.SSLError) as caught,
    ):
        session.post(server.url, data=b"x" * size, timeout=WAIT)
    assert isinstance(caught.value.__cause__, RefusedByPeer)
    assert str(caught.value).startswith(f"{COLLECTOR} refused {APP}: ")
    if size < 1_000_000:
        assert str(caught.value).startswith(f"{COLLECTOR} refused {APP}: unknown_ca")


def test_a_client_that_presents_nothing_is_told_so(app, server):
    with (
        http_session(app, authorize=authorize_any(), present_svid=False, proxy=None) as session,
        pytest.raises(requests.exceptions.SSLError, match="refused us, who presented no X509-SVID: certificate_requi"),
    ):
        session.get(server.url, timeout=WAIT)


def test_plaintext_is_refused(session):
    with _serving() as server:
        with pytest.raises(requests.exceptions.InvalidSchema, match="plaintext is refused; use https://") as caught:
            session.get(server.url, timeout=WAIT)
        assert isinstance(caught.value.__cause__, InvalidConfiguration)
        assert server.seen == []


def test_a_redirect_to_plaintext_is_refused(session, server):
    with _serving() as plain:
        server.location = plain.url
        with pytest.raises(requests.exceptions.InvalidSchema, match="plaintext is refused"):
            session.get(f"{server.url}/to/plain", timeout=WAIT)
        assert plain.seen == []


def test_a_redirect_goes_to_authorized_servers_alone(session, server, spiffe_own_ca, changing_source):
    again = changing_source(spiffe_own_ca.identity(COLLECTOR))
    with _serving(server_context(again, authorize=authorize_any())) as good:
        server.location = good.url
        assert session.get(f"{server.url}/to/good", timeout=WAIT).text == APP
    other = changing_source(spiffe_own_ca.identity(DB))
    with _serving(server_context(other, authorize=authorize_any())) as bad:
        server.location = bad.url
        with pytest.raises(requests.exceptions.SSLError, match=f"peer {DB} is not in one_of"):
            session.get(f"{server.url}/to/bad", timeout=WAIT)
        assert bad.seen == []


def _closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_an_unreachable_server_is_named(session):
    port = _closed_port()
    with pytest.raises(requests.exceptions.ConnectionError) as caught:
        session.get(f"https://127.0.0.1:{port}/", timeout=WAIT)
    assert (
        str(caught.value)
        == f"cannot reach 127.0.0.1:{port} from {APP}: Connection refused; see that it runs and listens there"
    )
    assert isinstance(caught.value.__cause__, PeerUnreachable)


def test_a_name_that_does_not_resolve_is_named(session):
    with pytest.raises(requests.exceptions.ConnectionError) as caught:
        session.get("https://collector.invalid:4318/", timeout=WAIT)
    assert f"cannot reach collector.invalid:4318 from {APP}: its name does not resolve (" in str(caught.value)


def test_a_server_that_says_nothing_is_a_timeout(session):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(requests.exceptions.ConnectTimeout) as caught:
            session.get(f"https://127.0.0.1:{port}/", timeout=0.3)
    sentence = f"cannot reach 127.0.0.1:{port} from {APP}: it did not answer within 0.3 s"
    assert str(caught.value) == f"{sentence}; see that it runs and listens there"


def test_a_plaintext_server_is_found_out(session):
    with (
        _serving() as plain,
        pytest.raises(requests.exceptions.ConnectionError, match="what answers there does not speak TLS"),
    ):
        session.get(plain.url.replace("http:", "https:"), timeout=WAIT)


def test_an_expired_identity_sends_nothing(spiffe_own_ca, changing_source, server):
    now = datetime.now(UTC)
    source = changing_source(spiffe_own_ca.identity(APP), clock=lambda: now + timedelta(hours=2))
    with (
        http_session(source, authorize=authorize_any(), proxy=None, identity_timeout=0.1) as session,
        pytest.raises(requests.exceptions.ConnectionError, match=f"the X509-SVID of {APP} expired") as caught,
    ):
        session.get(server.url, timeout=WAIT)
    assert isinstance(caught.value.__cause__, IdentityExpired)
    assert server.seen == []


class _Late(StaticSource):
    def __init__(self, identity):
        super().__init__(identity)
        self._state, self._cell._state = self._cell._state, type(self._cell._state)()

    def arrive(self):
        with self._cell._changed:
            self._cell._state = self._state
            self._cell._changed.notify_all()


def test_the_first_request_waits_for_the_first_identity(spiffe_own_ca, server):
    with _Late(spiffe_own_ca.identity(APP)) as source, http_session(source, authorize=authorize_any()) as session:
        timer = threading.Timer(0.2, source.arrive)
        timer.start()
        assert session.get(server.url, timeout=WAIT).text == APP
        timer.join()


def test_a_missing_identity_is_said_when_the_wait_is_over(spiffe_own_ca, server):
    with (
        _Late(spiffe_own_ca.identity(APP)) as source,
        http_session(source, authorize=authorize_any(), identity_timeout=0.1) as session,
    ):
        with pytest.raises(requests.exceptions.ConnectionError, match="static source: ") as caught:
            session.get(server.url, timeout=WAIT)
        assert isinstance(caught.value.__cause__, SourceUnavailable)


@pytest.fixture
def proxy():
    with _serving(handler=_Proxy) as proxy:
        yield proxy


def _with_password(proxy):
    return proxy.url.replace("http://", "http://user:hunter2@")


def test_a_proxy_is_tunnelled_through(app, server, proxy):
    with http_session(app, authorize=authorize_id(COLLECTOR), proxy=_with_password(proxy)) as session:
        assert session.get(server.url, timeout=WAIT).text == APP
    path, _, headers = proxy.seen[0]
    assert path == server.url.removeprefix("https://")
    assert headers["Proxy-Authorization"] == "Basic dXNlcjpodW50ZXIy"
    assert "Proxy-Authorization" not in server.seen[0][2]


def test_the_environment_names_the_proxy_and_what_goes_past_it(app, server, proxy, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with http_session(app, authorize=authorize_any()) as session:
        session.get(server.url, timeout=WAIT)
        assert len(proxy.seen) == 1
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_session(app, authorize=authorize_any()) as session:
        session.get(server.url, timeout=WAIT)
        assert len(proxy.seen) == 1
    monkeypatch.delenv("NO_PROXY")
    with http_session(app, authorize=authorize_any(), proxy=None) as session:
        session.get(server.url, timeout=WAIT)
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxys_refusal_is_said_without_its_password(app, server, proxy, status):
    proxy.status = status
    with (
        http_session(app, authorize=authorize_any(), proxy=_with_password(proxy)) as session,
        pytest.raises(requests.exceptions.ProxyError) as caught,
    ):
        session.get(server.url, timeout=WAIT)
    where, through = server.url.removeprefix("https://"), proxy.url.removeprefix("http://")
    assert f"cannot reach {where} through the proxy {through} from {APP}: " in str(caught.value)
    assert str(status) in str(caught.value)
    _has_no_password(caught.value)


def test_an_unreachable_proxy_is_said_without_its_password(app, server):
    port = _closed_port()
    with (
        http_session(app, authorize=authorize_any(), proxy=f"http://user:hunter2@127.0.0.1:{port}") as session,
        pytest.raises(requests.exceptions.ConnectionError, match="Connection refused") as caught,
    ):
        session.get(server.url, timeout=WAIT)
    assert f"through the proxy 127.0.0.1:{port}" in str(caught.value)
    _has_no_password(caught.value)


def _has_no_password(error):
    while error is not None:
        assert "hunter2" not in f"{error!r} {error}"
        assert "aHVudGVyMg" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def test_a_proxy_that_cannot_be_is_refused_at_once(app):
    with pytest.raises(InvalidConfiguration, match="proxy: a proxy of scheme 'socks5' is not supported") as caught:
        http_session(app, authorize=authorize_any(), proxy="socks5://user:hunter2@proxy:1080")
    _has_no_password(caught.value)


def test_closing_a_session_leaves_nothing_open(app, server):
    gc.collect()
    before = descriptors()
    session = http_session(app, authorize=authorize_any(), proxy=None)
    session.get(server.url, timeout=WAIT)
    session.close()
    server.shutdown()
    deadline = time.monotonic() + WAIT
    while not descriptors() <= before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)  # the server's thread closes its end
    assert descriptors() <= before


def test_many_threads_share_a_session(session, server):
    texts, threads = [], []
    for _ in range(20):
        threads.append(threading.Thread(target=lambda: texts.append(session.get(server.url, timeout=WAIT).text)))
        threads[-1].start()
    for thread in threads:
        thread.join(WAIT)
    assert texts == [APP] * 20


def test_a_request_works_while_the_interpreter_ends(tmp_path):
    """The flush of an exporter's last batch runs in atexit, where no thread can be started any more."""
    script = tmp_path / "ends.py"
    script.write_text(_ENDS)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "200"), run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_process_opens_connections_of_its_own(tmp_path):
    script = tmp_path / "forks.py"
    script.write_text(_FORKS)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["parent", "child", "parent", "addresses", "2"]


_SERVER = """
import http.server, os, sys, threading
from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import http_session, server_context
from otel_spiffe.identity import authorize_any
from otel_spiffe.sources import StaticSource

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        seen.add(self.client_address)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass

seen = set()
source = StaticSource(CertificateAuthority.in_memory("test.example").identity("spiffe://test.example/app"))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
server.socket = server_context(source, authorize=authorize_any()).wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"https://127.0.0.1:{server.server_address[1]}/"
session = http_session(source, authorize=authorize_any(), proxy=None)

"""

_FORKS = (
    _SERVER
    + """
def get(who):
    session.get(url, timeout=30).raise_for_status()
    print(who, flush=True)

get("parent")
child = os.fork()
if child == 0:
    get("child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
get("parent")
print("addresses", len(seen), flush=True)
os._exit(0)
"""
)

_ENDS = (
    _SERVER.replace("ThreadingHTTPServer", "HTTPServer")  # no thread starts at the end
    + """
import atexit
atexit.register(lambda: print(session.get(url, timeout=30).status_code))
"""
)
