"""What waits in a container to be told: in order, until it is known to have come, and not all that is printed."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from waiting import PATIENCE_S

from dokrun.shim import mail
from dokrun.shim.mail import OUTPUT, Event, Mail

MOST = 1 << 20


def said(data: bytes, kind: str = "report", *, patient: bool = False) -> Event:
    return Event({"kind": kind}, data, patient)


def told(box: Mail, number: int = 0, most: int = MOST) -> list[tuple[int, bytes]]:
    return [(at, event.data) for at, event in box.after(number, 0.0, most)]


class Waiting:
    """Somebody who waits for something to be told."""

    def __init__(self, box: Mail, number: int = 0) -> None:
        self.heard: list[tuple[int, Event]] = []
        self._thread = threading.Thread(target=lambda: self.heard.extend(box.after(number, PATIENCE_S, MOST)))
        self._thread.start()

    def end(self) -> list[bytes]:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return [event.data for _, event in self.heard]


def test_events_are_told_again_and_again_until_they_are_known_to_have_come() -> None:
    box = Mail()
    for data in (b"a", b"b", b"c"):
        box.post(said(data))
    assert told(box) == told(box) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert told(box, 2) == [(3, b"c")]
    assert [event.data for event in box.forget(2)] == [b"a", b"b"]
    assert box.forget(2) == []
    assert told(box) == [(3, b"c")]
    box.post(said(b"d"))
    assert told(box, 3) == [(4, b"d")], "numbers go on"
    assert not box.empty
    box.forget(4)
    assert box.empty


def test_whoever_waits_is_told_all_that_comes_together() -> None:
    box = Mail()
    waiting = Waiting(box)
    box.post(said(b"a"), said(b"b"), said(b"c", patient=True))
    assert waiting.end() == [b"a", b"b", b"c"]


def test_those_that_have_come_before_others_are_forgotten_too() -> None:
    box = Mail()
    for data in (b"a", b"b", b"c", b"d"):
        box.post(said(data))
    assert [event.data for event in box.forget(0, [2, 4])] == [b"b", b"d"]
    assert box.forget(0, [2, 4, 9]) == [], "it is told again, and of some that nobody knows"
    assert told(box) == [(1, b"a"), (3, b"c")]
    assert [event.data for event in box.forget(3, [3])] == [b"a", b"c"]
    assert box.empty
    box.post(said(b"e"))
    assert told(box, 4) == [(5, b"e")]


def test_what_is_put_away_keeps_nothing_until_it_is_opened_again() -> None:
    box = Mail()
    box.post(said(b"a"))
    box.put_away()
    box.post(said(b"b"))
    assert box.away
    assert box.empty
    box.open()
    box.post(said(b"c"))
    assert told(box, 1) == [(2, b"c")], "numbers go on from what was told before"


@pytest.mark.parametrize("patient", [False, True])
def test_whoever_is_back_and_knows_nothing_of_what_was_put_away_waits_for_what_comes(*, patient: bool) -> None:
    box = Mail()
    box.post(said(b"a", patient=patient))
    box.put_away()
    box.open()
    waiting = Waiting(box)
    # It should be waiting by then, and long past where it waits for what is patient.
    threading.Event().wait(2 * mail.PATIENCE_S)
    box.post(said(b"b", patient=patient))
    assert waiting.end() == [b"b"]


def test_no_more_are_told_at_once_than_fit_and_one_at_least() -> None:
    box = Mail()
    for data in (b"aaaa", b"bbb", b"cc"):
        box.post(said(data))
    assert told(box, most=1) == [(1, b"aaaa")]
    assert told(box, most=7) == [(1, b"aaaa"), (2, b"bbb")]
    assert told(box, 1, most=4) == [(2, b"bbb")]
    for _ in range(mail.MOST):
        box.post(said(b""))
    assert len(told(box)) == mail.MOST
    assert [at for at, _ in told(box, mail.MOST)] == list(range(mail.MOST + 1, mail.MOST + 4))


def test_whoever_waits_hears_at_once_what_comes() -> None:
    box = Mail()
    waiting = Waiting(box)
    # It should be waiting by then, and long past where it waits for what is patient.
    threading.Event().wait(2 * mail.PATIENCE_S)
    box.post(said(b"a"))
    assert waiting.end() == [b"a"]
    waiting = Waiting(box, 1)
    box.wake()
    assert waiting.end() == []
    began = time.monotonic()
    assert box.after(1, 2 * mail.PATIENCE_S, MOST) == [], "nobody is woken twice"
    assert time.monotonic() - began >= 2 * mail.PATIENCE_S


def test_what_is_patient_waits_a_little_for_others_and_goes_with_them() -> None:
    box = Mail()
    box.post(said(b"patient", patient=True))
    began = time.monotonic()
    waiting = Waiting(box)
    assert waiting.end() == [b"patient"], "it is told though nothing else comes"
    assert time.monotonic() - began >= mail.PATIENCE_S
    box.post(said(b"pressing"))
    assert Waiting(box).end() == [b"patient", b"pressing"]
    assert told(box) == [(1, b"patient"), (2, b"pressing")], "nobody who does not wait is kept"


def test_of_what_is_printed_the_oldest_goes_and_nothing_else_does() -> None:
    box = Mail()
    quarter = bytes(mail.PRINTED_BYTES // 4)
    box.post(said(b"report"))
    for _ in range(6):
        box.post(said(quarter, OUTPUT))
    box.post(said(b"another"))
    assert [at for at, _ in told(box, most=1 << 30)] == [1, 4, 5, 6, 7, 8]
    # What has come makes room.
    box.forget(5, [6])
    for _ in range(3):
        box.post(said(quarter, OUTPUT))
    assert [at for at, _ in told(box, most=1 << 30)] == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("size", [1, mail.PRINTED_BYTES + 1])
def test_what_alone_is_too_much_is_left_out_itself(size: Any) -> None:
    box = Mail()
    box.post(said(bytes(size), OUTPUT))
    assert box.empty == (size > mail.PRINTED_BYTES)
    box.post(said(b"more", OUTPUT))
    assert told(box)[-1][1] == b"more"
