# SPDX-License-Identifier: Apache-2.0
import threading

from otel_spiffe.credentials import _teller
from otel_spiffe.credentials._teller import Teller


def test_lines_are_written_in_order_by_a_thread_of_their_own_before_it_ends():
    said, teller = [], Teller()
    teller.start()
    for number in range(100):
        teller.tell(lambda number=number: said.append((number, threading.current_thread().name)))
    teller.stop()
    assert said == [(number, "otel-spiffe log") for number in range(100)]


def test_a_handler_that_fails_stops_nothing():
    said, teller = [], Teller()
    teller.start()
    teller.tell(lambda: 1 / 0)
    teller.tell(lambda: said.append("after it"))
    teller.stop()
    assert said == ["after it"]


def test_a_handler_that_hangs_delays_nobody_and_fills_no_memory(monkeypatch):
    monkeypatch.setattr(_teller, "STOP_TIMEOUT", 0.05)
    hold, said, teller = threading.Event(), [], Teller()
    teller.start()
    teller.tell(hold.wait)
    for number in range(10 * _teller.MAX_LINES):
        teller.tell(lambda number=number: said.append(number))
    teller.stop()
    assert teller._thread.is_alive()  # there was no room to tell it to end
    monkeypatch.undo()
    hold.set()
    teller.stop()
    assert not teller._thread.is_alive()
    assert len(said) <= _teller.MAX_LINES


def test_one_that_never_began_can_be_stopped():
    Teller().stop()
