# SPDX-License-Identifier: Apache-2.0
"""What is said of a TLS connection that could not be made."""

import errno
import os
import ssl

import pytest

from otel_spiffe.credentials._relay_dial import unreachable
from otel_spiffe.credentials._resolve import HostPort
from otel_spiffe.errors import PeerUnreachable


def os_error(code):
    return OSError(code, os.strerror(code))


def hung_up():
    error = ssl.SSLEOFError(8, "EOF")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"  # OpenSSL's errors have one
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (os_error(errno.ECONNRESET), "it closed the connection during the TLS handshake (Connection reset by peer)"),
        (os_error(errno.EPIPE), "it closed the connection during the TLS handshake (Broken pipe)"),
        (hung_up(), "it closed the connection during the TLS handshake (EOF)"),
        (os_error(errno.EMFILE), "the TLS handshake failed: Too many open files; raise the limit on open files"),
        (os_error(errno.EHOSTUNREACH), "the TLS handshake failed: No route to host; see that it runs"),
        (os_error(errno.ENOMEM), "the TLS handshake failed: Cannot allocate memory"),
    ],
)
def test_who_ended_it_is_said_as_it_was(error, sentence):
    said = str(unreachable(HostPort("collector", 4317), error, None))
    assert said.startswith(f"cannot reach collector:4317: {sentence}")


def test_a_sentence_of_our_own_is_kept():
    own = PeerUnreachable("collector:4317", "the proxy refuses")
    assert unreachable(HostPort("collector", 4317), own, None) is own
