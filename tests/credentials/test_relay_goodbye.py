# SPDX-License-Identifier: Apache-2.0
"""The end of a TLS connection in one direction, while data comes in the other."""

import os
import socket
import ssl

import pytest
from tls_ends import descriptors

from otel_spiffe.credentials._relay_goodbye import close_notify, hung_up

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


def ends(world, servers, version):
    """Both ends of a connection that is made, the server's first."""
    server_context = servers.tls_context(world, version=version, ask=False)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    here, there = socket.socketpair()
    for each in (here, there):
        each.setblocking(False)
    server = server_context.wrap_socket(here, server_side=True, do_handshake_on_connect=False)
    client = client_context.wrap_socket(there, do_handshake_on_connect=False)
    waiting = [server, client]
    while waiting:
        for each in tuple(waiting):
            try:
                each.do_handshake()
                waiting.remove(each)
            except ssl.SSLWantReadError:
                pass
    return server, client


@VERSIONS
def test_what_the_peer_was_saying_is_still_heard(world, servers, version):
    server, client = ends(world, servers, version)
    with server, client:
        server.send(b"too large")
        client.send(b"body")
        before = descriptors()
        record = close_notify(server)
        assert descriptors() <= before  # what other tests left may go meanwhile
        assert not os.get_inheritable(server.fileno())
        socket.socket.send(server, record)
        assert client.recv(100) == b"too large"
        assert client.recv(100) == b""
        client.send(b" and more")
        assert server.recv(100) == b"body"
        assert server.recv(100) == b" and more"


@VERSIONS
def test_it_is_said_to_a_peer_that_has_said_so_itself(world, servers, version):
    server, client = ends(world, servers, version)
    with server, client:
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        assert server.recv(100) == b""
        socket.socket.send(server, close_notify(server))
        client.unwrap()  # it has come, so this ends


def test_a_peer_that_has_closed_is_seen_and_one_that_has_ended_its_side_is_not():
    here, there = socket.socketpair()
    with here:
        assert not hung_up(here)
        there.shutdown(socket.SHUT_WR)
        assert not hung_up(here)
        there.close()
        assert hung_up(here)
