# SPDX-License-Identifier: Apache-2.0
"""Just enough of an HTTP/2 server to refuse gRPC calls with a sentence, and to end a connection politely.

client's bytes ──► Answerer ──► bytes for the client: every call answered Trailers-Only
server's bytes ──► FrameBoundary ──► where a GOAWAY may be put between its frames

No socket, no clock. Request headers are never decoded: the answer is the same for every call, so the HPACK
state that a decoder would have to keep (and bound) does not exist.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["GOAWAY", "PREFACE", "Answerer", "FrameBoundary", "percent_encoded"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES: Final = 16_384
"""SETTINGS_MAX_FRAME_SIZE's initial value (RFC 9113 6.5.2): a larger frame is a connection error."""
MAX_HEADER_BYTES: Final = 65_536
"""Of one header block over all its CONTINUATION frames."""
MAX_MESSAGE_BYTES: Final = 4096
"""Of an encoded grpc-message: grpc-core's soft limit on all metadata of a call is 8 KiB."""

_FRAME_HEADER: Final = 9
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0x0, 0x1, 0x3, 0x4, 0x5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x6, 0x7, 0x8, 0x9
_END_STREAM = _ACK = 0x1
_END_HEADERS: Final = 0x4
_NO_ERROR, _PROTOCOL_ERROR, _FRAME_SIZE_ERROR, _ENHANCE_YOUR_CALM = 0x0, 0x1, 0x6, 0xB
_LAST_STREAM_ID: Final = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


GOAWAY: Final = _frame(_GOAWAY, 0, 0, struct.pack("!LL", _LAST_STREAM_ID, _NO_ERROR))
"""RFC 9113 6.8: open streams go on, those already under way are still served, new ones need a new connection."""


class Answerer:
    """Answers each request stream of one connection with a status and a message, and nothing else.

    Args:
        status: the grpc-status, for example 14 for UNAVAILABLE.
        message: what the caller reads in `grpc.RpcError.details()`.
    """

    def __init__(self, *, status: int, message: str) -> None:
        self._answer = _trailers_only(status, message)
        self._inbox = bytearray()
        self._preface = PREFACE
        self._last_stream = 0
        self._block: tuple[int, int, int] | None = None  # stream, flags and bytes of an unfinished header block
        self.closed = False

    def start(self) -> bytes:
        """Return the server's connection preface (RFC 9113 3.4)."""
        return _frame(_SETTINGS, 0, 0)

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return what to send the client after `data` came from it; `closed` says that this is the last."""
        if self.closed:
            return b""
        self._inbox += data
        out = bytearray()
        try:
            self._read_preface()
            while not self._preface and (frame := self._next_frame()) is not None:
                out += self._on_frame(*frame)
        except _ConnectionFailure as failure:
            self.closed = True
            self._inbox.clear()
            out += _frame(_GOAWAY, 0, 0, struct.pack("!LL", self._last_stream, failure.code))
        return bytes(out)

    def _read_preface(self) -> None:
        n = min(len(self._preface), len(self._inbox))
        if not self._preface.startswith(self._inbox[:n]):
            raise _ConnectionFailure(_PROTOCOL_ERROR)
        self._preface = self._preface[n:]
        del self._inbox[:n]

    def _next_frame(self) -> tuple[int, int, int, bytes] | None:
        if len(self._inbox) < _FRAME_HEADER:
            return None
        high, low, kind, flags, stream = struct.unpack_from("!BHBBL", self._inbox)
        length: int = (high << 16) | low
        if length > MAX_FRAME_BYTES:
            raise _ConnectionFailure(_FRAME_SIZE_ERROR)
        if len(self._inbox) < _FRAME_HEADER + length:
            return None
        payload = bytes(self._inbox[_FRAME_HEADER : _FRAME_HEADER + length])
        del self._inbox[: _FRAME_HEADER + length]
        return kind, flags, stream & _LAST_STREAM_ID, payload

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if self._block is not None or kind == _CONTINUATION:
            return self._on_continuation(kind, flags, stream, len(payload))
        match kind:
            case 0x1:  # HEADERS
                return self._on_headers(flags, stream, len(payload))
            case 0x0:  # DATA
                return self._on_data(stream, len(payload))
            case 0x4:  # SETTINGS
                return _on_settings(flags, stream, payload)
            case 0x6:  # PING
                return _on_ping(flags, stream, payload)
            case 0x5:  # PUSH_PROMISE, which no client may send (RFC 9113 8.4)
                raise _ConnectionFailure(_PROTOCOL_ERROR)
            case _:  # PRIORITY, RST_STREAM, GOAWAY, WINDOW_UPDATE, and unknown ones (RFC 9113 5.5)
                return b""

    def _on_headers(self, flags: int, stream: int, length: int) -> bytes:
        if stream % 2 == 0:
            raise _ConnectionFailure(_PROTOCOL_ERROR)
        if not flags & _END_HEADERS:
            self._block = (stream, flags, length)
            return b""
        return self._on_request(flags, stream)

    def _on_continuation(self, kind: int, flags: int, stream: int, length: int) -> bytes:
        if self._block is None or kind != _CONTINUATION or stream != self._block[0]:
            raise _ConnectionFailure(_PROTOCOL_ERROR)  # RFC 9113 6.10
        _, first_flags, total = self._block
        # An endless block of empty frames costs its sender little, so each counts for its header too.
        total += length + _FRAME_HEADER
        if total > MAX_HEADER_BYTES:
            raise _ConnectionFailure(_ENHANCE_YOUR_CALM)
        if not flags & _END_HEADERS:
            self._block = (stream, first_flags, total)
            return b""
        self._block = None
        return self._on_request(first_flags, stream)

    def _on_request(self, flags: int, stream: int) -> bytes:
        if stream <= self._last_stream:
            return b""  # trailers of a request that was answered
        self._last_stream = stream
        answer = _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, self._answer)
        if not flags & _END_STREAM:  # the rest of the request is not wanted (RFC 9113 8.1)
            answer += _frame(_RST_STREAM, 0, stream, struct.pack("!L", _NO_ERROR))
        return answer

    def _on_data(self, stream: int, length: int) -> bytes:
        if stream % 2 == 0 or stream > self._last_stream:
            raise _ConnectionFailure(_PROTOCOL_ERROR)
        # Given back at once, or requests under way would use up the connection's window for all others.
        return _frame(_WINDOW_UPDATE, 0, 0, struct.pack("!L", length)) if length else b""


class _ConnectionFailure(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _on_settings(flags: int, stream: int, payload: bytes) -> bytes:
    if stream:
        raise _ConnectionFailure(_PROTOCOL_ERROR)
    if len(payload) % 6 or (flags & _ACK and payload):
        raise _ConnectionFailure(_FRAME_SIZE_ERROR)
    return b"" if flags & _ACK else _frame(_SETTINGS, _ACK, 0)


def _on_ping(flags: int, stream: int, payload: bytes) -> bytes:
    if stream:
        raise _ConnectionFailure(_PROTOCOL_ERROR)
    if len(payload) != 8:  # noqa: PLR2004 -- RFC 9113 6.7
        raise _ConnectionFailure(_FRAME_SIZE_ERROR)
    return b"" if flags & _ACK else _frame(_PING, _ACK, 0, payload)


def _trailers_only(status: int, message: str) -> bytes:
    """Return the header block of a gRPC Trailers-Only response (gRPC over HTTP2, Responses)."""
    return b"\x88" + b"".join(  # RFC 7541 A, index 8: ":status 200"
        _literal(name, value)
        for name, value in (
            (b"content-type", b"application/grpc"),
            (b"grpc-status", str(status).encode()),
            (b"grpc-message", percent_encoded(message)),
        )
    )


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a literal header field without indexing, new name, no Huffman (RFC 7541 6.2.2)."""
    return b"\x00" + _length(name) + name + _length(value) + value


def _length(data: bytes) -> bytes:
    """Return the length of `data` as an HPACK integer with a 7-bit prefix (RFC 7541 5.1)."""
    rest = len(data) - 0x7F
    if rest < 0:
        return bytes([len(data)])
    out = bytearray([0x7F])
    while rest >= 0x80:  # noqa: PLR2004 -- seven bits an octet
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def percent_encoded(message: str, *, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    """Return `message` as a grpc-message (gRPC over HTTP2, Status-Message), cut to `limit` bytes."""
    out = bytearray()
    for character in message:
        raw = character.encode("utf-8", "replace")
        piece = raw if " " <= character <= "~" and character != "%" else b"".join(b"%%%02X" % octet for octet in raw)
        if len(out) + len(piece) > limit - 3:
            return bytes(out) + b"..."
        out += piece
    return bytes(out)


class FrameBoundary:
    """Follows one direction of a connection by its frame headers alone, without keeping a payload."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0  # payload bytes of the current frame still to come
        self._in_block = False  # a header block goes on in CONTINUATION frames, with nothing between (RFC 9113 6.10)
        self._seen = False  # SETTINGS must be the first frame (RFC 9113 3.4)

    @property
    def here(self) -> bool:
        """A frame of our own may follow what was seen so far."""
        return self._seen and not self._left and not self._header and not self._in_block

    def feed(self, data: memoryview) -> int:
        """Return how many bytes of `data` come before the last place where a frame may be put, -1 for no place."""
        position, end, place = 0, len(data), -1
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                self._left -= step
            else:
                step = min(_FRAME_HEADER - len(self._header), end - position)
                self._header += data[position : position + step]
                if len(self._header) == _FRAME_HEADER:
                    self._begin()
            position += step
            if self.here:
                place = position
        return place

    def _begin(self) -> None:
        high, low, kind, flags = struct.unpack_from("!BHBB", self._header)
        self._left = (high << 16) | low
        self._header.clear()
        self._seen = True
        if kind in {_HEADERS, _PUSH_PROMISE, _CONTINUATION}:
            self._in_block = not flags & _END_HEADERS
