# SPDX-License-Identifier: Apache-2.0
"""A program on go-spiffe that does what it is asked, many things at once."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otel_spiffe.identity import bundle_to_pem
from peerlib.build import binary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from cryptography import x509

    from otel_spiffe.identity import Identity, PrivateKey, X509Bundle

__all__ = ["GoSpiffe", "GoSpiffeError", "identity_fields"]

ANSWER = 60.0
"""Seconds until an answer must be there."""


class GoSpiffeError(Exception):
    """Go-spiffe refused, in its own words.

    Attributes:
        answer: what it said besides.
    """

    def __init__(self, words: str, answer: Mapping[str, Any]) -> None:
        super().__init__(words)
        self.answer = answer


def identity_fields(
    identity: Identity | None = None,
    *,
    chain: Sequence[x509.Certificate] = (),
    key: PrivateKey | None = None,
    bundles: Sequence[X509Bundle] = (),
) -> dict[str, Any]:
    """Return an identity as go-spiffe takes it: PEM as it stands, faults and all."""
    if identity is not None:
        bundles = tuple(identity.bundles.values())
        if identity.chosen is not None:
            chain, key = identity.chosen.chain, identity.chosen.private_key
    fields: dict[str, Any] = {"bundles": {b.trust_domain.name: bundle_to_pem(b).decode() for b in bundles}}
    if key is not None:
        fields["chain"] = "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)
        fields["key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return fields


class GoSpiffe:
    """Runs the program and puts requests to it; any thread may."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._log: list[str] = []
        self._process = subprocess.Popen(
            [binary("gospiffe", "gospiffe")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=target, name="go-spiffe", daemon=True) for target in (self._answers, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it did, for a failure's report."""
        return "---- go-spiffe\n" + "\n".join(self._log[-100:])

    def ask(self, op: str, **fields: Any) -> Future[dict[str, Any]]:
        """Put a request and return its answer to come; `error` in it is left there."""
        number, answer = next(self._numbers), Future[dict[str, Any]]()
        with self._lock:
            self._waiting[number] = answer
            if self._process.stdin is None or self._process.poll() is not None:
                raise RuntimeError(f"go-spiffe has ended\n{self.log}")
            self._process.stdin.write(json.dumps({"seq": number, "op": op, **fields}) + "\n")
            self._process.stdin.flush()
        return answer

    def call(self, op: str, *, timeout: float = ANSWER, **fields: Any) -> dict[str, Any]:
        """Put a request and return its answer.

        Raises:
            GoSpiffeError: it said no.
        """
        answer = self.ask(op, **fields).result(timeout)
        if "error" in answer:
            raise GoSpiffeError(answer["error"], answer)
        return answer

    def new_name(self) -> str:
        """Return a name that nothing has."""
        return f"n{next(self._names)}"

    def serve(self, **fields: Any) -> GoServer:
        """Listen on a free port of the loopback interface."""
        name = self.new_name()
        answer = self.call("serve", name=name, **{"address": "127.0.0.1:0", **fields})
        return GoServer(self, name, answer["address"])

    def close(self) -> None:
        """End the program; may be called again."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _answers(self) -> None:
        for line in self._process.stdout or ():
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer.pop("seq"))
            waiting.set_result(answer)
        with self._lock:
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.set_exception(RuntimeError(f"go-spiffe has ended\n{self.log}"))

    def _listen(self) -> None:
        for line in self._process.stderr or ():
            self._log.append(line.rstrip("\n"))


class GoServer:
    """A listener of go-spiffe: answers each line, request or call with the client's SPIFFE ID and what it said."""

    def __init__(self, go: GoSpiffe, name: str, address: str) -> None:
        self._go = go
        self._name = name
        self.address = address

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.address.rpartition(":")[2])

    def handshake(self, *, seconds: float = 30.0) -> dict[str, Any]:
        """Return what came of the next handshake: `peer`, or `error`; for raw TLS."""
        return self._go.call("handshake", name=self._name, seconds=seconds)["outcome"]

    def stop(self) -> None:
        """Listen no more."""
        self._go.call("stop", name=self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
