# SPDX-License-Identifier: Apache-2.0
"""host:port ──► addresses ──► a connected TCP socket, on the relay's loop, without an executor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Address", "HostPort", "Resolver", "connect", "parse_host_port"]

THREADS: Final = 3
"""That resolve names."""
STOP_TIMEOUT: Final = 1.0
"""Seconds that `Resolver.stop` waits: getaddrinfo cannot be interrupted, its thread ends when it returns."""
HEAD_START: Final = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305 5)."""
MAX_ADDRESSES: Final = 8
"""Of one name that are tried."""
_MAX_PORT: Final = 65_535

Address = tuple[socket.AddressFamily, Any]
"""A family and the socket address of that family."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host name or numeric address, without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str, *, setting: str, lowest_port: int = 1) -> HostPort:
    """Return the parts of ``host:port`` or ``[IPv6]:port``.

    Raises:
        InvalidConfiguration: `text` is something else; `setting` is named in it.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        plausible = ":" in host
    else:
        plausible = bool(host) and ":" not in host
    plausible = plausible and not any(character in host for character in "/@?# \t\r\n") and host.isprintable()
    if not colon or not plausible or not (port.isascii() and port.isdigit() and len(port) < 6):  # noqa: PLR2004
        raise InvalidConfiguration(
            setting, f"{text!r} is not host:port", fix="write it like collector:4317 or [::1]:4317"
        )
    if not lowest_port <= int(port) <= _MAX_PORT:
        raise InvalidConfiguration(setting, f"port {port} of {text!r} is not from {lowest_port} to {_MAX_PORT}")
    return HostPort(host, int(port))


class Resolver:
    """A few threads that call getaddrinfo; those who ask for the same name while one does share the answer.

    Several, so that a name whose server is silent does not keep all others waiting; all started before they are needed,
    because later the interpreter may be ending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._questions: queue.SimpleQueue[HostPort | None] = queue.SimpleQueue()
        self._waiting: dict[HostPort, list[asyncio.Future[list[Address]]]] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"otel-spiffe resolver {number}", daemon=True)
            for number in range(1, THREADS + 1)
        ]

    def start(self) -> None:
        """Start the threads."""
        # The codec of host names is imported at its first use; while the interpreter shuts down is too late.
        "a".encode("idna")
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, each after the name that it resolves now."""
        end = time.monotonic() + STOP_TIMEOUT
        for _ in self._threads:
            self._questions.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    async def resolve(self, where: HostPort) -> list[Address]:
        """Return the addresses of a host, numeric ones at once.

        Raises:
            OSError: the name cannot be resolved.
        """
        if (literal := _literal(where)) is not None:
            return [literal]
        waiting = self._waiting.setdefault(where, [])
        answer: asyncio.Future[list[Address]] = self._loop.create_future()
        waiting.append(answer)
        if len(waiting) == 1:
            self._questions.put(where)
        return await answer

    def _run(self) -> None:
        while (where := self._questions.get()) is not None:
            answer = _look_up(where)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever asked
                self._loop.call_soon_threadsafe(self._deliver, where, answer)

    def _deliver(self, where: HostPort, answer: list[Address] | OSError) -> None:
        for future in self._waiting.pop(where, []):
            if future.done():
                continue
            if isinstance(answer, OSError):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _literal(where: HostPort) -> Address | None:
    try:
        address = ipaddress.ip_address(where.host)
    except ValueError:
        return None
    if "%" in where.host:
        return None  # a scope's name is turned into its number by getaddrinfo
    if address.version == 4:  # noqa: PLR2004
        return socket.AF_INET, (str(address), where.port)
    return socket.AF_INET6, (str(address), where.port, 0, 0)


def _look_up(where: HostPort) -> list[Address] | OSError:
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except UnicodeError as error:  # a label longer than 63 bytes, an empty one
        return OSError(f"not a host name: {error}")
    addresses: list[Address] = [(family, address) for family, _, _, _, address in found]
    return list(dict.fromkeys(addresses))[:MAX_ADDRESSES]


async def connect(loop: asyncio.AbstractEventLoop, addresses: Sequence[Address]) -> socket.socket:
    """Return a non-blocking socket connected to the first of `addresses` that answers (RFC 8305, in small).

    Raises:
        OSError: none does; its text says of each address why, so that none hides another's reason.
    """
    errors: dict[Address, OSError] = {}
    pending: dict[asyncio.Task[socket.socket], Address] = {}
    waiting = list(addresses)
    try:
        while waiting or pending:
            if waiting:
                address = waiting.pop(0)
                pending[loop.create_task(_connect_one(loop, address))] = address
            head_start = HEAD_START if waiting else None
            done, _ = await asyncio.wait(pending, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = pending.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                errors[address] = error
    finally:
        await _give_up(pending)
    raise OSError(_reasons(errors))


async def _give_up(pending: dict[asyncio.Task[socket.socket], Address]) -> None:
    for task in pending:
        task.cancel()
    for result in await asyncio.gather(*pending, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()


async def _connect_one(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    family, where = address
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        if family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _connected(loop, connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


async def _connected(loop: asyncio.AbstractEventLoop, connection: socket.socket, where: object) -> None:
    # Not loop.sock_connect: it resolves what it does not recognise as numeric with an executor.
    code = connection.connect_ex(where)  # type: ignore[arg-type]
    if code in {errno.EINPROGRESS, errno.EINTR}:  # EAGAIN is a Unix socket's full backlog
        writable = asyncio.Event()
        loop.add_writer(connection, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(connection)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _reasons(errors: dict[Address, OSError]) -> str:
    by_reason: dict[str, list[str]] = {}
    for (_, where), error in errors.items():
        by_reason.setdefault(error.strerror or str(error), []).append(
            where if isinstance(where, str) else str(where[0])
        )
    return ", ".join(f"{reason} ({', '.join(hosts)})" for reason, hosts in by_reason.items()) or "it has no address"
