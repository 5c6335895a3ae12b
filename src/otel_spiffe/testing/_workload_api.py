# SPDX-License-Identifier: Apache-2.0
"""A Workload API server that misbehaves on order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from otel_spiffe.ca import WorkloadApiServer

if TYPE_CHECKING:
    from datetime import datetime

    from otel_spiffe.identity import Identity

__all__ = ["FaultyWorkloadApi"]

# A field of three bytes whose content ends after two: no parser takes it.
_GARBAGE = b"\x0a\x03ab"


class FaultyWorkloadApi(WorkloadApiServer):
    """A real Workload API on a real socket that can lie, be silent, refuse, go away and come back.

    `serve` ends every fault but an absence. It serves an expired identity as any other.
    """

    def _end_of(self, identity: Identity) -> datetime | None:  # noqa: ARG002
        return None

    def push_bytes(self, svids: bytes, bundles: bytes = b"") -> None:
        """Send these bytes as messages to every open stream and to each later one: they may be anything.

        Args:
            svids: as X509SVIDResponse.
            bundles: as X509BundlesResponse.
        """
        self._tell(svids=svids, bundles=bundles)

    def garble(self) -> None:
        """Send a message that cannot be parsed."""
        self.push_bytes(_GARBAGE, _GARBAGE)

    def send_nothing(self) -> None:
        """Send the message without any field: a client must discard it (Workload API 4.5)."""
        self.push_bytes(b"", b"")

    def stall(self) -> None:
        """Accept streams and say nothing on them."""
        self._tell(svids=None, bundles=None)

    def deny(
        self, code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED, details: str = "no identity issued"
    ) -> None:
        """End every open stream, and each later one, with this status; `OK` ends them cleanly."""
        refusal = self._refusal(code, details)
        self._tell(svids=refusal, bundles=refusal)

    def go_away(self) -> None:
        """End the streams and remove the socket, as an agent that stops."""
        self._unlisten()

    def come_back(self, identity: Identity | None = None) -> None:
        """Listen at the same path again, with a new socket; serve what was served before, or `identity`."""
        if identity is not None:
            self.serve(identity)
        if not self.listening:
            self._listen()

    def replace_socket(self) -> None:
        """Put a new socket over the old one's name, then end the old one: the path never vanishes."""
        self._listen()
