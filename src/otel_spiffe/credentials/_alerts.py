# SPDX-License-Identifier: Apache-2.0
"""What the peer's certificate message and its alerts say, read from OpenSSL's own words."""

from __future__ import annotations

import re
import socket
import ssl

__all__ = ["alert_of", "certificates_of_message", "unreachable_reason"]

# SSLV3_ALERT_CERTIFICATE_EXPIRED, TLSV1_ALERT_UNKNOWN_CA, TLSV13_ALERT_CERTIFICATE_REQUIRED (OpenSSL 1.1.1 to
# 3.0) and SSL/TLS_ALERT_..., 3.2 and later: the prefix is the version that invented the alert, not the one in use.
_ALERT = re.compile(r"(?:SSL|TLS)V?[0-9]*(?:_[0-9])?_ALERT_([A-Z0-9_]+)")


def alert_of(error: BaseException) -> str:
    """Return the name (RFC 8446 6) of the alert that `error` reports as received, or an empty string."""
    reason = getattr(error, "reason", None)
    found = _ALERT.fullmatch(reason) if isinstance(reason, str) else None
    return found.group(1).lower() if found else ""


def certificates_of_message(message: bytes, version: ssl.TLSVersion | int) -> tuple[bytes, ...]:
    """Return the DER certificates of a Certificate handshake message, leaf first.

    Args:
        message: with its header of four bytes (RFC 5246 7.4.2, RFC 8446 4.4.2).
        version: of the connection; the layouts of TLS 1.2 and 1.3 differ.

    Raises:
        ValueError: it is cut off or otherwise malformed.
    """
    tls13 = int(version) >= 0x0304  # noqa: PLR2004 -- the version as the wire has it
    body = _take(message, 1, 3)[0]
    if tls13:
        body = _take(body, 0, 1)[1]  # certificate_request_context
    entries = _take(body, 0, 3)[0]
    found: list[bytes] = []
    while entries:
        certificate, entries = _take(entries, 0, 3)
        found.append(certificate)
        if tls13:
            entries = _take(entries, 0, 2)[1]  # the entry's extensions
    return tuple(found)


def _take(data: bytes, skip: int, width: int) -> tuple[bytes, bytes]:
    # One vector of TLS's presentation language: a length of `width` bytes, then so many bytes, then the rest.
    start = skip + width
    end = start + int.from_bytes(data[skip:start], "big")
    if len(data) < end or len(data) < start:
        msg = "the Certificate message ends too early"
        raise ValueError(msg)
    return data[start:end], data[end:]


def unreachable_reason(error: BaseException, *, timeout: object = None) -> str:
    """Say in a few words why no TLS handshake took place.

    Args:
        error: what the operating system, OpenSSL or urllib3 raised.
        timeout: seconds that were allowed, where that is known.
    """
    root = _root(error)
    reason = getattr(root, "reason", None)
    if isinstance(root, socket.gaierror):
        return f"its name does not resolve ({root.strerror})"
    if isinstance(root, TimeoutError) or "timed out" in str(error):
        return f"it did not answer within {timeout:g} s" if isinstance(timeout, int | float) else "it did not answer"
    if reason in _NOT_TLS:
        return f"what answers there does not speak TLS ({reason})"
    if isinstance(root, ssl.SSLEOFError | ConnectionResetError):
        return "it closed the connection during the TLS handshake"
    if isinstance(root, ssl.SSLError):
        return f"the TLS handshake failed ({reason or root})"
    return str(getattr(root, "strerror", None) or root)


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


def _root(error: BaseException) -> BaseException:
    # urllib3's errors carry the operating system's as their cause.
    while not isinstance(error, OSError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
