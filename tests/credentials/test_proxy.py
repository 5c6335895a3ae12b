# SPDX-License-Identifier: Apache-2.0
"""The way through a proxy: the exchange as values, and a real tinyproxy."""

import base64
import shutil
import socket
import subprocess
import time

import grpc
import pytest

from otel_spiffe.credentials import secure_channel
from otel_spiffe.credentials._proxy import MAX_ANSWER_BYTES, Proxy, connect_answer, connect_request, parse_proxy
from otel_spiffe.credentials._resolve import HostPort
from otel_spiffe.errors import InvalidConfiguration, PeerUnreachable
from otel_spiffe.identity import authorize_any

TARGET = HostPort("collector.example", 4317)
PROXY = Proxy(HostPort("proxy.example", 3128))


@pytest.mark.parametrize(
    ("url", "where", "credentials"),
    [
        ("http://proxy.example:3128", "proxy.example:3128", None),
        ("http://proxy.example", "proxy.example:80", None),
        ("proxy.example:3128", "proxy.example:3128", None),
        ("http://[::1]:3128/", "[::1]:3128", None),
        ("http://user:pass@proxy.example:3128", "proxy.example:3128", b"user:pass"),
        ("http://us%40er:p%3Ass@proxy.example:3128", "proxy.example:3128", b"us@er:p:ss"),
        ("http://user@proxy.example:3128", "proxy.example:3128", b"user:"),
        ("http://user:p%FF@proxy.example:3128", "proxy.example:3128", b"user:p\xff"),
    ],
)
def test_a_proxy_url_is_read(url, where, credentials):
    proxy = parse_proxy(url)
    assert str(proxy.where) == where
    expected = "Basic " + base64.b64encode(credentials).decode() if credentials else None
    assert proxy.authorization == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@proxy.example:3128",
        "socks5://user:secret@proxy.example",
        "http://user:secret@:3128",
        "http://user:secret@proxy.example:port",
        "http://user:secret@proxy.example:99999",
        "http://user:secret@[::1",
        "http://user:12/secret@proxy.example:3128",
        "http://proxy.example:3128/?secret",
    ],
)
def test_another_url_is_refused_without_its_password(url):
    with pytest.raises(InvalidConfiguration, match="HTTPS_PROXY") as caught:
        parse_proxy(url, setting="HTTPS_PROXY")
    assert "secret" not in str(caught.value)


def test_a_name_that_cannot_be_written_is_unreachable():
    with pytest.raises(PeerUnreachable, match="is no host name"):
        connect_request(HostPort("collector\u3002\u3002example", 4317), parse_proxy("http://proxy.example:3128"))


def test_the_request_names_the_target_and_shows_credentials_nowhere_else():
    proxy = parse_proxy("http://user:secret@proxy.example:3128")
    assert connect_request(TARGET, PROXY) == (
        b"CONNECT collector.example:4317 HTTP/1.1\r\nHost: collector.example:4317\r\n\r\n"
    )
    assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in connect_request(TARGET, proxy)
    assert connect_request(HostPort("::1", 1), PROXY).startswith(b"CONNECT [::1]:1 ")
    assert connect_request(HostPort("b\u00fccher.example", 1), PROXY).startswith(b"CONNECT xn--bcher-kva.example:1 ")
    assert "dXNlcjpzZWNyZXQ" not in repr(proxy) + str(proxy)


@pytest.mark.parametrize(
    ("received", "stands"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200 Connection established\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nVia: a\r\n\r\n", True),
    ],
)
def test_a_tunnel_stands_when_the_answer_is_whole(received, stands):
    assert connect_answer(received, TARGET, PROXY) is stands


@pytest.mark.parametrize(
    ("received", "words"),
    [
        (b"HTTP/1.1 403 Filtered\r\n\r\n", "answered 403 Filtered"),
        (b"HTTP/1.1 407 Auth\r\n\r\n", "put the proxy's user and password into its URL"),
        (b"HTTP/1.1 302 \x1b[31mFound\r\n\r\n", r"answered 302 \[31mFound"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer in HTTP/1.1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "did not answer in HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "sent something after its answer"),
        (b"x" * (MAX_ANSWER_BYTES + 1), "no end of its answer"),
    ],
)
def test_another_answer_is_a_sentence(received, words):
    with pytest.raises(PeerUnreachable, match=words) as caught:
        connect_answer(received, TARGET, PROXY)
    assert str(caught.value).startswith("cannot reach collector.example:4317: the proxy proxy.example:3128 ")


@pytest.fixture
def tinyproxy(tmp_path):
    if shutil.which("tinyproxy") is None:
        pytest.skip("tinyproxy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "tinyproxy.conf"
    settings.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nBasicAuth user secret\n")
    process = subprocess.Popen(["tinyproxy", "-d", "-c", str(settings)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_a_call_goes_through_a_real_proxy(world, servers, tinyproxy):
    with (
        servers.echo(world) as port,
        secure_channel(
            f"127.0.0.1:{port}",
            world.source(),
            authorize=authorize_any(),
            proxy=f"http://user:secret@127.0.0.1:{tinyproxy}",
            connect_timeout=30,
        ) as channel,
    ):
        assert channel.unary_unary("/test/Echo")(b"x" * 212_000, timeout=60) == b"x" * 212_000


def test_the_environment_names_the_proxy(world, servers, tinyproxy, monkeypatch):
    """The stock variable sends the call through the proxy, whose refusal is quoted; NO_PROXY keeps it out."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@127.0.0.1:{tinyproxy}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with servers.echo(world) as port:

        def call():
            with secure_channel(
                f"127.0.0.1:{port}", world.source(), authorize=authorize_any(), connect_timeout=30
            ) as channel:
                return channel.unary_unary("/test/Echo")(b"hello", timeout=60)

        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert f"the proxy 127.0.0.1:{tinyproxy} answered 40" in caught.value.details()
        assert "wrong" not in caught.value.details()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert call() == b"hello"


def test_a_proxy_that_is_not_there_is_named(world):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        secure_channel(
            "collector.example:4317",
            world.source(),
            authorize=authorize_any(),
            proxy=f"http://user:secret@127.0.0.1:{port}",
        ) as channel,
        pytest.raises(grpc.RpcError, match=rf"the proxy 127.0.0.1:{port}: Connection refused") as caught,
    ):
        channel.unary_unary("/test/Echo")(b"hello", timeout=30)
    assert "secret" not in caught.value.details()
