# SPDX-License-Identifier: Apache-2.0
"""The minimal HTTP/2 server: checked against the `h2` package, against hand-made frames and against noise."""

import struct
import urllib.parse

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.credentials._h2 import GOAWAY, PREFACE, Answerer, FrameBoundary, percent_encoded

MESSAGE = "peer spiffe://prod.example/db is not in one_of(spiffe://prod.example/collector)"


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def client():
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    return connection


REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a/b"), ("te", "trailers")]


def begun():
    answerer = Answerer(status=14, message=MESSAGE)
    answerer.start()
    answerer.feed(PREFACE + frame(4, 0, 0))
    return answerer


def errors_of(answer):
    """The error codes of the GOAWAY frames in `answer`."""
    codes = []
    while answer:
        length = int.from_bytes(answer[:3], "big")
        if answer[3] == 7:
            codes.append(struct.unpack("!LL", answer[9:17])[1])
        answer = answer[9 + length :]
    return codes


def test_each_call_is_answered_trailers_only():
    peer, answerer = client(), Answerer(status=14, message=MESSAGE)
    events = peer.receive_data(answerer.start())
    for stream in (1, 3, 5):
        peer.send_headers(stream, REQUEST)
        peer.send_data(stream, b"\0" * 100, end_stream=stream == 3)
    events = peer.receive_data(answerer.feed(peer.data_to_send()))
    answers = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert [answer.stream_id for answer in answers] == [1, 3, 5]
    for answer in answers:
        headers = dict(answer.headers)
        assert headers[b":status"] == b"200"
        assert headers[b"content-type"] == b"application/grpc"
        assert headers[b"grpc-status"] == b"14"
        assert urllib.parse.unquote(headers[b"grpc-message"].decode()) == MESSAGE
        assert answer.stream_ended is not None
    assert not answerer.closed


def test_every_way_to_cut_the_bytes_gives_the_same_answer():
    peer = client()
    peer.send_headers(1, REQUEST, end_stream=True)
    peer.ping(b"12345678")
    said = peer.data_to_send()
    whole = Answerer(status=14, message=MESSAGE).feed(said)
    for size in (1, 2, 7, 9, 24, 100):
        answerer = Answerer(status=14, message=MESSAGE)
        assert b"".join(answerer.feed(said[i : i + size]) for i in range(0, len(said), size)) == whole


def test_a_header_block_over_several_frames_is_answered_once():
    answerer = begun()
    assert answerer.feed(frame(1, 1, 1, b"x")) == b""
    assert answerer.feed(frame(9, 0, 1, b"y")) == b""
    answer = answerer.feed(frame(9, 4, 1, b"z"))
    assert answer[3:4] == b"\x01"
    assert len(answer) == 9 + int.from_bytes(answer[:3], "big")  # END_STREAM was set, so no RST_STREAM follows


def test_a_request_that_goes_on_is_reset_without_error():
    answer = begun().feed(frame(1, 4, 1, b"x"))
    length = int.from_bytes(answer[:3], "big")
    assert answer[9 + length :] == frame(3, 0, 1, struct.pack("!L", 0))


def test_data_is_given_back_to_the_window():
    answerer = begun()
    answerer.feed(frame(1, 4, 1, b"x"))
    assert answerer.feed(frame(0, 0, 1, b"x" * 1000)) == frame(8, 0, 0, struct.pack("!L", 1000))
    assert answerer.feed(frame(0, 1, 1)) == b""


def test_trailers_of_an_answered_request_are_ignored():
    answerer = begun()
    answerer.feed(frame(1, 4, 1, b"x"))
    assert answerer.feed(frame(1, 5, 1, b"x")) == b""


def test_settings_and_pings_are_acknowledged_and_acknowledgements_are_not():
    answerer = begun()
    assert answerer.feed(frame(4, 0, 0, b"\0\3\0\0\0\1")) == frame(4, 1, 0)
    assert answerer.feed(frame(6, 0, 0, b"12345678")) == frame(6, 1, 0, b"12345678")
    assert answerer.feed(frame(4, 1, 0) + frame(6, 1, 0, b"12345678")) == b""


@pytest.mark.parametrize("kind", [2, 3, 7, 8, 10, 200])
def test_frames_that_change_nothing_are_ignored(kind):
    assert begun().feed(frame(kind, 0, 0, b"1234")) == b""


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + b" " * 20, 1),
        (PREFACE + frame(1, 4, 0), 1),
        (PREFACE + frame(1, 4, 2), 1),
        (PREFACE + frame(0, 0, 0, b"x"), 1),
        (PREFACE + frame(0, 0, 1, b"x"), 1),
        (PREFACE + frame(5, 4, 1), 1),
        (PREFACE + frame(9, 4, 1), 1),
        (PREFACE + frame(1, 0, 1) + frame(6, 0, 0, b"12345678"), 1),
        (PREFACE + frame(1, 0, 1) + frame(9, 4, 3), 1),
        (PREFACE + frame(4, 0, 1), 1),
        (PREFACE + frame(4, 0, 0, b"12345"), 6),
        (PREFACE + frame(4, 1, 0, b"123456"), 6),
        (PREFACE + frame(6, 0, 1, b"12345678"), 1),
        (PREFACE + frame(6, 0, 0, b"1234567"), 6),
        (PREFACE + frame(0, 0, 1, b"x" * 16_385), 6),
        (PREFACE + frame(1, 0, 1, b"x") + frame(9, 0, 1, b"x" * 16_384) * 4, 11),
        (PREFACE + frame(1, 0, 1, b"x") + frame(9, 0, 1) * 8000, 11),
    ],
)
def test_a_client_that_breaks_the_protocol_is_told_and_ended(said, code):
    answerer = Answerer(status=14, message=MESSAGE)
    assert errors_of(answerer.feed(said)) == [code]
    assert answerer.closed
    assert answerer.feed(said) == b""


@given(st.lists(st.binary(max_size=100)), st.booleans())
def test_noise_never_breaks_it(pieces, prefaced):
    answerer = Answerer(status=14, message=MESSAGE)
    if prefaced:
        answerer.feed(PREFACE)
    for piece in pieces:
        errors_of(answerer.feed(piece))
        assert len(answerer._inbox) <= 9 + 16_384 + 100


@given(
    st.lists(
        st.builds(
            frame,
            st.integers(0, 12),
            st.integers(0, 255),
            st.integers(0, 9),
            st.binary(max_size=40),
        )
    )
)
def test_frames_in_any_order_never_break_it(frames):
    answerer = begun()
    for each in frames:
        errors_of(answerer.feed(each))


@given(st.text())
def test_a_message_survives_its_encoding(message):
    encoded = percent_encoded(message, limit=10_000)
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert urllib.parse.unquote(encoded.decode(), errors="strict") == message.encode("utf-8", "replace").decode()


@given(st.text(min_size=100), st.integers(10, 200))
def test_a_long_message_is_cut_between_characters(message, limit):
    encoded = percent_encoded(message, limit=limit)
    assert len(encoded) <= limit
    urllib.parse.unquote(encoded.decode(), errors="strict")


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 4000])
def test_lengths_are_hpack_integers(length):
    peer, answerer = client(), Answerer(status=14, message="x" * length)
    peer.receive_data(answerer.start())
    peer.send_headers(1, REQUEST, end_stream=True)
    events = peer.receive_data(answerer.feed(peer.data_to_send()))
    answer = next(event for event in events if isinstance(event, h2.events.ResponseReceived))
    assert len(dict(answer.headers)[b"grpc-message"]) == length


SERVER = [
    frame(4, 0, 0, b"\0\3\0\0\0\1"),
    frame(1, 0, 1, b"headers"),
    frame(9, 0, 1, b"more"),
    frame(9, 4, 1, b"last"),
    frame(0, 0, 1, b"x" * 300),
    frame(1, 5, 1, b"trailers"),
]


def places(frames):
    """Where a frame may be put, counted by hand: after each frame but inside a header block."""
    found, position, in_block = [], 0, False
    for each in frames:
        position += len(each)
        if each[3] in {1, 9}:
            in_block = not each[4] & 4
        if not in_block:
            found.append(position)
    return found


@given(st.lists(st.integers(1, 400), max_size=60))
def test_a_boundary_is_found_however_the_bytes_are_cut(cuts):
    data, boundary, position, expected = b"".join(SERVER), FrameBoundary(), 0, places(SERVER)
    assert not boundary.here
    for step in [*cuts, len(data)]:
        piece = data[position : position + step]
        offset = boundary.feed(memoryview(piece))
        inside = [place for place in expected if position < place <= position + len(piece)]
        assert offset == (inside[-1] - position if inside else -1)
        position += len(piece)
        assert boundary.here == (position in expected)


def test_a_goaway_leaves_open_streams_alone():
    peer = client()
    peer.send_headers(1, REQUEST, end_stream=True)
    events = peer.receive_data(frame(4, 0, 0) + GOAWAY)
    gone = next(event for event in events if isinstance(event, h2.events.ConnectionTerminated))
    assert gone.error_code == 0
    assert gone.last_stream_id == 2**31 - 1
