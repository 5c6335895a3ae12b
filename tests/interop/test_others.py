# SPDX-License-Identifier: Apache-2.0
"""Other TLS stacks as peers, where this machine has them: OpenSSL's and GnuTLS's tools, curl, nginx, HAProxy."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess

import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from peerlib import PlainSink, Process, free_port, write_material
from peerlib.echo import EchoServer, HttpServer, dial

from otel_spiffe.credentials import Relay, client_context, http_session, server_context
from otel_spiffe.errors import PeerNotAuthorized, RefusedByPeer
from otel_spiffe.exporters.grpc import OTLPSpanExporter
from otel_spiffe.identity import authorize_id

US, PEER = "spiffe://test.example/us", "spiffe://test.example/peer"
OTHER = authorize_id("spiffe://test.example/other")
_NOT_OTHER = rf"peer {PEER} is not in one_of\(spiffe://test\.example/other\)"


def _needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def source(spiffe_ca, spiffe_source_of):
    """Ours has an intermediate, and a DNS SAN for those who look for one."""
    return spiffe_source_of(spiffe_ca.intermediate().issue(US, dns_names=["localhost"]))


@pytest.fixture
def files(spiffe_ca, tmp_path):
    """The peer's, with an intermediate, under spiffe-helper's names."""
    svid = spiffe_ca.intermediate().issue(PEER, dns_names=["localhost"])
    write_material(tmp_path, svid, spiffe_ca.bundle)
    both = (tmp_path / "svid.pem").read_bytes() + (tmp_path / "svid_key.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    (tmp_path / "both.pem").chmod(0o600)
    return tmp_path


@pytest.fixture
def ours(source):
    """What we do as a client."""
    return client_context(source, authorize=authorize_id(PEER))


@pytest.fixture
def theirs(source):
    """What we do as a server."""
    return server_context(source, authorize=authorize_id(PEER))


def _say(command, *, said="hello\n"):
    return subprocess.run(
        [str(word) for word in command], check=False, input=said, capture_output=True, text=True, timeout=60
    )


# OpenSSL


@_needs("openssl")
@pytest.mark.peer("openssl", "s_client to our server, TLS 1.2 and 1.3; it verifies our chain")
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_client(theirs, files, version):
    with EchoServer(theirs) as server:
        command = ["openssl", "s_client", "-connect", server.address, f"-{version}", "-verify_return_error"]
        command += ["-cert", files / "svid.pem", "-cert_chain", files / "svid.pem", "-key", files / "svid_key.pem"]
        command += ["-CAfile", files / "svid_bundle.pem", "-verify_hostname", "localhost"]
        with _talking(command, "hello") as client:
            client.wait_for_line(f"^{re.escape(PEER)} hello$")
            client.wait_for_line("Verify return code: 0", timeout=1)
        assert str(server.outcome()) == PEER


@_needs("openssl")
@pytest.mark.peer("openssl", "s_client without a certificate: refused by an alert")
def test_s_client_without_a_certificate_is_refused(theirs, files):
    with EchoServer(theirs) as server:
        command = ["openssl", "s_client", "-connect", server.address, "-CAfile", files / "svid_bundle.pem"]
        done = _say([*command, "-ign_eof"])
        assert isinstance(server.outcome(), OSError)
    assert "certificate required" in done.stderr or "alert number 116" in done.stderr


@_needs("openssl")
@pytest.mark.peer("openssl", "s_client that reconnects with its session: no ticket, each connection verified anew")
def test_every_connection_of_a_session_is_verified(theirs, files):
    """OpenSSL's server keeps TLS 1.2 sessions, and Python cannot turn that off: so a resumed one is verified too."""
    with EchoServer(theirs) as server:
        command = ["openssl", "s_client", "-connect", server.address, "-reconnect", "-tls1_2", "-cert"]
        command += [files / "svid.pem", "-cert_chain", files / "svid.pem", "-key", files / "svid_key.pem"]
        done = _say([*command, "-CAfile", files / "svid_bundle.pem"])
        connections = len(re.findall("^(New|Reused), TLSv1.2", done.stdout, re.MULTILINE))
        assert connections == 6
        assert [str(server.outcome()) for _ in range(connections)] == [PEER] * connections
    assert "session ticket" not in done.stdout


@_needs("openssl")
@pytest.mark.peer("openssl", "s_server, our client, TLS 1.2 and 1.3; it verifies our chain")
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_server(ours, files, version):
    with _s_server(files, version) as address:
        peer, answer = dial(ours, address)
    assert (str(peer), answer) == (PEER, "olleh")


@_needs("openssl")
@pytest.mark.peer("openssl", "s_server with another SPIFFE ID than the authorized one: refused, TLS 1.2 and 1.3")
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_another_s_server_is_refused(source, files, version):
    with _s_server(files, version) as address, pytest.raises(PeerNotAuthorized, match=_NOT_OTHER) as refused:
        dial(client_context(source, authorize=OTHER), address)
    assert str(refused.value.peer) == PEER


@contextlib.contextmanager
def _s_server(files, version):
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", f"-{version}", "-rev", "-Verify", "4"]
    command += ["-cert", files / "svid.pem", "-cert_chain", files / "svid.pem", "-key", files / "svid_key.pem"]
    command += ["-CAfile", files / "svid_bundle.pem", "-verify_return_error", "-naccept", "1"]
    with Process(command, name="s_server") as server:
        server.wait_for_line("ACCEPT")
        yield f"127.0.0.1:{port}"


# GnuTLS


@_needs("gnutls-cli")
@pytest.mark.peer("GnuTLS", "gnutls-cli to our server; it verifies our chain and its DNS name")
def test_gnutls_cli(theirs, files):
    with EchoServer(theirs) as server:
        command = ["gnutls-cli", "--x509cafile", files / "svid_bundle.pem", "--x509certfile", files / "svid.pem"]
        command += ["--x509keyfile", files / "svid_key.pem", "-p", server.port, "localhost"]
        with _talking(command, "hello") as client:
            client.wait_for_line(f"^{re.escape(PEER)} hello$")
            client.wait_for_line("The certificate is trusted", timeout=1)
        assert str(server.outcome()) == PEER


@_needs("gnutls-serv")
@pytest.mark.peer("GnuTLS", "gnutls-serv, our client; it verifies our chain")
def test_gnutls_serv(ours, files, eventually):
    port = free_port()
    command = ["gnutls-serv", "--echo", "-p", port, "--x509cafile", files / "svid_bundle.pem", "--x509certfile"]
    command += [files / "svid.pem", "--x509keyfile", files / "svid_key.pem", "--require-client-cert"]
    command += ["--verify-client-cert"]
    with Process(command, name="gnutls-serv"):
        eventually(lambda: _listens(port))
        peer, answer = dial(ours, f"127.0.0.1:{port}")
    assert (str(peer), answer) == (PEER, "hello")


# curl


@_needs("curl")
@pytest.mark.peer("curl", "to our HTTPS server; it verifies our chain and its DNS name")
def test_curl(theirs, files):
    with HttpServer(theirs) as address:
        command = ["curl", "-sS", "--data", "hello", "--cacert", files / "svid_bundle.pem", "--cert"]
        command += [files / "svid.pem", "--key", files / "svid_key.pem", "--noproxy", "*"]
        done = _say([*command, f"https://localhost:{address.rpartition(':')[2]}/"])
    assert done.stdout == f"{PEER} hello", done.stderr


@_needs("curl")
@pytest.mark.peer("curl", "without a certificate: refused by an alert")
def test_curl_without_a_certificate(theirs, files):
    with HttpServer(theirs) as address:
        command = ["curl", "-sS", "--data", "hello", "--cacert", files / "svid_bundle.pem", "--noproxy", "*"]
        done = _say([*command, f"https://localhost:{address.rpartition(':')[2]}/"])
    assert done.returncode in {35, 55, 56}, done.stderr  # it meets the alert at the handshake, a write or a read
    assert not done.stdout


# nginx

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr notice;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {folder}/svid.pem; ssl_certificate_key {folder}/svid_key.pem;
    ssl_client_certificate {folder}/svid_bundle.pem; ssl_verify_client on; ssl_verify_depth 4;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{ return 200 "$ssl_client_verify $ssl_protocol"; }}
    location /opentelemetry {{ grpc_pass grpc://{behind}; }}
  }}
  server {{
    listen 127.0.0.1:{plain};
    location / {{
      proxy_pass https://{ours}; proxy_ssl_certificate {folder}/svid.pem;
      proxy_ssl_certificate_key {folder}/svid_key.pem; proxy_ssl_trusted_certificate {folder}/svid_bundle.pem;
      proxy_ssl_verify on; proxy_ssl_verify_depth 4; proxy_ssl_name localhost; proxy_ssl_server_name on;
      proxy_http_version 1.1;
    }}
  }}
}}
"""


@_needs("nginx")
@pytest.mark.peer("nginx", "as TLS server: our HTTP session and our gRPC exporter through it; it verifies our chain")
def test_nginx_as_server(source, files, eventually):
    port = free_port()
    with PlainSink() as sink, _nginx(files, port=port, behind=sink.address):
        eventually(lambda: _listens(port))
        with http_session(source, authorize=authorize_id(PEER)) as session:
            assert session.get(f"https://127.0.0.1:{port}/", timeout=30).text == "SUCCESS TLSv1.3"
        _export(f"https://127.0.0.1:{port}", source)
        assert [span.name for span in sink.spans] == ["operation"]


@_needs("nginx")
@pytest.mark.peer("nginx", "as TLS client (proxy_pass) of our HTTPS server; it verifies our chain and its DNS name")
def test_nginx_as_client(theirs, files, eventually):
    plain = free_port()
    with HttpServer(theirs) as address, _nginx(files, plain=plain, ours=address):
        eventually(lambda: _listens(plain))
        answer = requests.post(f"http://127.0.0.1:{plain}/", data=b"hello", timeout=30)
    assert (answer.status_code, answer.text) == (200, f"{PEER} hello")


@_needs("nginx")
@pytest.mark.peer("nginx", "as TLS server with another SPIFFE ID than the authorized one: refused")
def test_another_nginx_is_refused(source, files, eventually):
    port = free_port()
    with _nginx(files, port=port):
        eventually(lambda: _listens(port))
        with pytest.raises(PeerNotAuthorized, match=_NOT_OTHER):
            dial(client_context(source, authorize=OTHER), f"127.0.0.1:{port}")


def _nginx(files, *, port=0, plain=0, behind="127.0.0.1:1", ours="127.0.0.1:1"):
    values = {"port": port or free_port(), "plain": plain or free_port(), "behind": behind, "ours": ours}
    config = files / "nginx.conf"
    config.write_text(_NGINX.format(folder=files, **values))
    return Process(["nginx", "-c", config, "-p", files], name="nginx")


# HAProxy

_HAPROXY = """
global
  log stderr format raw local0 info
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend secure
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem ca-file {folder}/svid_bundle.pem verify required alpn h2,http/1.1
  default_backend behind
backend behind
  server s {behind} {proto}
frontend plain
  bind 127.0.0.1:{plain}
  default_backend ours
backend ours
  default-server ssl crt {folder}/both.pem ca-file {folder}/svid_bundle.pem verify required
  server s {ours} verifyhost localhost sni str(localhost)
"""


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS server: our HTTP session through it; it verifies our chain")
def test_haproxy_as_server(source, files, eventually):
    port = free_port()
    with HttpServer(None) as plain, _haproxy(files, port=port, behind=plain):
        eventually(lambda: _listens(port))
        with http_session(source, authorize=authorize_id(PEER)) as session:
            assert session.post(f"https://127.0.0.1:{port}/", data=b"hello", timeout=30).text == "nobody hello"


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS server: our gRPC exporter through it")
def test_haproxy_before_grpc(source, files, eventually):
    port = free_port()
    with PlainSink() as sink, _haproxy(files, port=port, behind=sink.address, proto="proto h2"):
        eventually(lambda: _listens(port))
        _export(f"https://127.0.0.1:{port}", source)
        assert [span.name for span in sink.spans] == ["operation"]


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS server that does not trust us: refused, and the alert says so")
def test_haproxy_refuses_a_stranger(files, eventually, spiffe_ca, spiffe_federated_ca, spiffe_source_of):
    stranger = spiffe_federated_ca.identity("spiffe://federated.example/us", federated=[spiffe_ca.bundle])
    port = free_port()
    with _haproxy(files, port=port):
        eventually(lambda: _listens(port))
        with pytest.raises(RefusedByPeer, match=rf"{PEER} refused spiffe://federated.example/us: unknown_ca"):
            dial(client_context(spiffe_source_of(stranger), authorize=authorize_id(PEER)), f"127.0.0.1:{port}")


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS server with another SPIFFE ID than the authorized one: refused")
def test_another_haproxy_is_refused(source, files, eventually):
    port = free_port()
    with _haproxy(files, port=port):
        eventually(lambda: _listens(port))
        with pytest.raises(PeerNotAuthorized, match=_NOT_OTHER):
            dial(client_context(source, authorize=OTHER), f"127.0.0.1:{port}")


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS client of our HTTPS server; it verifies our chain and its DNS name")
def test_haproxy_as_client(theirs, files, eventually):
    plain = free_port()
    with HttpServer(theirs) as address, _haproxy(files, plain=plain, ours=address):
        eventually(lambda: _listens(plain))
        answer = requests.post(f"http://127.0.0.1:{plain}/", data=b"hello", timeout=30)
    assert (answer.status_code, answer.text) == (200, f"{PEER} hello")


@_needs("haproxy")
@pytest.mark.peer("HAProxy", "as TLS client of Relay.inbound before a plaintext server")
def test_haproxy_through_an_inbound_relay(source, files, eventually):
    port = free_port()
    with (
        HttpServer(None) as behind,
        Relay.inbound("127.0.0.1:0", source, authorize=authorize_id(PEER), upstream=behind, alpn=["http/1.1"]) as relay,
        _haproxy(files, plain=port, ours=f"127.0.0.1:{relay.address[1]}"),
    ):
        eventually(lambda: _listens(port))
        answer = requests.post(f"http://127.0.0.1:{port}/", data=b"hello", timeout=30)
    assert (answer.status_code, answer.text) == (200, "nobody hello")


def _haproxy(files, *, port=0, plain=0, behind="127.0.0.1:1", ours="127.0.0.1:1", proto=""):
    values = {"port": port or free_port(), "plain": plain or free_port(), "behind": behind, "ours": ours}
    config = files / "haproxy.cfg"
    config.write_text(_HAPROXY.format(folder=files, proto=proto, **values))
    return Process(["haproxy", "-db", "-f", config], name="haproxy")


def _export(endpoint, source):
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint, source=source, authorize=authorize_id(PEER), timeout=20)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("interop").start_as_current_span("operation"):
        pass
    provider.shutdown()


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _talking(Process):  # noqa: N801 -- used as a function
    """A program whose standard input stays open after the words."""

    def __init__(self, command, words):
        super().__init__(command, name=str(command[0]), stdin=f"{words}\n")
