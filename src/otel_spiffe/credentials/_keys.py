# SPDX-License-Identifier: Apache-2.0
"""How a private key reaches OpenSSL: through memory, or a file that is gone before the call returns.

`ssl.SSLContext.load_cert_chain` takes paths alone. On Linux the path is that of an anonymous file in
memory; elsewhere it is a file of mode 0600 whose key is encrypted with a password that nobody else knows.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from otel_spiffe.errors import InvalidIdentity

if TYPE_CHECKING:
    from otel_spiffe.identity import X509Svid

__all__ = ["chain_pem", "key_pem", "load_svid"]


def chain_pem(svid: X509Svid) -> bytes:
    """Return the SVID's certificates in PEM, leaf first."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.chain)


def key_pem(svid: X509Svid, encryption: KeySerializationEncryption | None = None) -> bytes:
    """Return the SVID's private key in PEM, PKCS#8."""
    return svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def load_svid(context: ssl.SSLContext, svid: X509Svid) -> None:
    """Have `context` present `svid`; nothing of the key is left on a disk.

    Raises:
        InvalidIdentity: OpenSSL refuses it, for example a key that is not the leaf's.
    """
    try:
        if not _load_from_memory(context, svid):
            _load_from_disk(context, svid)
    except ssl.SSLError as error:
        raise InvalidIdentity(f"X509-SVID of {svid.id}", f"OpenSSL does not take it: {error.reason}") from error


def _load_from_memory(context: ssl.SSLContext, svid: X509Svid) -> bool:
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112 -- no tree is walked
        return False
    try:
        descriptor = os.memfd_create("x509-svid", os.MFD_CLOEXEC)
    except OSError:  # a seccomp profile without it
        return False
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(key_pem(svid) + chain_pem(svid))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return True


def _load_from_disk(context: ssl.SSLContext, svid: X509Svid) -> None:
    password = secrets.token_bytes(32)
    descriptor, path = tempfile.mkstemp(prefix="x509-svid-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key_pem(svid, BestAvailableEncryption(password)) + chain_pem(svid))
        context.load_cert_chain(path, password=password)
    finally:
        os.unlink(path)  # noqa: PTH108 -- mkstemp speaks str
