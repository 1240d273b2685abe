"""What several calls print, one worker beside another: passed on in whole lines, each marked with whose it is.

A worker that runs calls of many writes into a named pipe; before each call it says there which one begins. On standard
output a line tells whose lines follow, wherever that changes.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import os
import select
import threading
from typing import Callable, Optional

from . import protocol

# Begins what a worker says of itself in the pipe. Where no number follows, it is the user's own.
MARK = b"\x1e"
# A call's number has no more digits.
DIGITS = 15
LONGEST_MARK = 1 + DIGITS
CHUNK = 64 << 10
# How long the last output may take to arrive, where a process that the function has left still holds the pipe.
LAST_WORDS_S = 2.0
# How long what is printed may wait to be passed on.
PAUSE_S = 0.02

_lock = threading.Lock()
# The call whose line was the last one that was passed on.
_last: Optional[bytes] = None


def begin(number: int) -> None:
    """Say that what follows is a call's. For the worker."""
    os.write(1, MARK + str(number).encode() + b"\n")


def enter(path: str) -> None:
    """Let standard output and standard error lead into the pipe. For the worker."""
    pipe = os.open(path, os.O_WRONLY)
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.close(pipe)


# Told the number of a call, in digits, and some lines of what it has printed.
Heard = Callable[[bytes, bytes], None]


def nobody(_call: bytes, _text: bytes) -> None:
    """Listen to nothing."""


class Passing:
    """Passes on what comes out of a named pipe, in a thread, until all who hold it have ended.

    `heard` is told too, whose it is and what.
    """

    def __init__(self, path: str, heard: Heard) -> None:
        os.mkfifo(path)
        self._path = path
        self._heard = heard
        self._call = b""
        self._line = b""
        # Whoever holds it reads, and passes on what was read.
        self._reading = threading.Lock()
        self._pipe: Optional[int] = None
        self._opened = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for the last words of a worker that has ended, and remove the pipe."""
        self._ending.set()
        try:
            # Where the worker has never opened it, somebody has to.
            os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            pass
        self._thread.join(LAST_WORDS_S)
        with contextlib.suppress(OSError):  # a function may have removed it
            os.unlink(self._path)

    def catch_up(self, *, ended: bool) -> None:
        """Pass on all that the worker has written by now, in this thread; the last line too where its call has ended.

        What a call prints is told before what it comes to.
        """
        self._opened.wait(LAST_WORDS_S)
        with self._reading:
            # A pipe holds no more than one of them; what it is given meanwhile is not waited for.
            self._read()
            if ended:
                self._end_line()

    def _run(self) -> None:
        pipe = os.open(self._path, os.O_RDONLY)  # waits for the worker
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._opened.set()
        readable, going_on = select.poll(), True
        readable.register(pipe, select.POLLIN)
        while going_on:
            readable.poll()
            # Short calls come to their end meanwhile, and have it read by whoever sees to that: see `catch_up`.
            self._ending.wait(PAUSE_S)
            with self._reading:
                going_on = self._read()
        with self._reading:
            self._end_line()
            self._pipe = None
        os.close(pipe)

    def _read(self) -> bool:
        """Pass on what there is to be read. Tells whether more may come."""
        if self._pipe is None:
            return False
        try:
            chunk = os.read(self._pipe, CHUNK)
        except BlockingIOError:
            return True  # somebody else has read it
        self._take(chunk)
        return bool(chunk)

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        self._pass_on(line)

    def _take(self, chunk: bytes) -> None:
        text, *begun = (self._line + chunk).split(MARK)
        for one in begun:
            number, ended, rest = one.partition(b"\n")
            if ended and number.isdigit() and len(number) <= DIGITS:
                self._pass_on(text)
                self._call, text = number, rest
            else:
                text += MARK + one
        whole, newline, self._line = text.rpartition(b"\n")
        self._pass_on(whole + newline)
        if len(self._line) > CHUNK:
            # But for what may be the beginning of a mark.
            self._pass_on(self._line[:-LONGEST_MARK])
            self._line = self._line[-LONGEST_MARK:]

    def _pass_on(self, text: bytes) -> None:
        global _last  # noqa: PLW0603 - there is one standard output
        while text.startswith(protocol.OURS_IN_LOG.encode()):
            line, newline, text = text.partition(b"\n")
            with _lock:
                _write(line + (newline or b"\n"))
        if not text:
            return
        with _lock:
            if _last != self._call:
                _write(protocol.CALL.format(self._call.decode()).encode() + b"\n")
                _last = self._call
            _write(text if text.endswith(b"\n") else text + b"\n")
        self._heard(self._call, text)


def say(line: str) -> None:
    """Write a line of the supervisor's own into the log, if that takes any."""
    with _lock:
        _write(line.encode() + b"\n")


def _write(text: bytes) -> None:
    view = memoryview(text)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError:
        pass  # nobody hears it any more, and the calls go on
