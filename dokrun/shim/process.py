"""The supervisor's side of a worker: a process that is started, told what to do, listened to, killed.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import contextlib
import json
import os
import select
import signal
import threading
import time
from typing import Any, Dict, Optional, Tuple

from . import protocol
from .bootstrap import spawn

# A worker's process, and our ends of its pipes; see `spawn`.
Spawned = Tuple[int, int, int, int]
# What is heard of one: of what kind, and what.
Heard = Tuple[str, Any]

CHUNK = 64 << 10
# How long a worker has to write down where its threads are, before it is killed.
STACKS_S = 0.5


class Worker:
    """A worker process. It makes a process group of its own, so that it ends with all its children.

    `spawned` is one that was started before the shim was there.
    """

    def __init__(self, spawned: Optional[Spawned] = None) -> None:
        self._pid, self._commands, self._answers, self._lifeline = spawned or spawn(protocol.PAYLOAD_VARIABLES)
        # The folder or archive that this package was loaded from.
        archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        os.write(self._commands, os.fsencode(archive) + b"\n")
        # What it has ended with.
        self._status = 0
        self._dead = threading.Event()
        self._killed = False
        self._closed = False
        self._writing = threading.Lock()
        # What it has said and was not heard yet; and whether it says no more.
        self._said = b""
        self._silent = False
        os.set_blocking(self._answers, False)
        # Its other end is closed when the process has ended.
        self._ended, ending = os.pipe()
        self._heard = select.poll()
        self._heard.register(self._answers, select.POLLIN)
        self._heard.register(self._ended, select.POLLIN)
        threading.Thread(target=self._wait, args=(ending,), daemon=True).start()

    def send(self, command: Dict[str, Any]) -> None:
        """Tell the worker something; if it is dead, its end is what is heard next."""
        with self._writing:
            self._write(command)

    def _write(self, command: Dict[str, Any]) -> None:
        if self._closed:
            return
        try:
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            pass

    def hear(self, wait_s: float) -> Optional[Heard]:
        """Wait for what the worker says next, so long; None where that is nothing. For one thread.

        That is ("answer", …), or ("exit", its status): negative for a signal.
        """
        deadline = time.monotonic() + wait_s
        while True:
            line, newline, rest = self._said.partition(b"\n")
            if newline:
                self._said = rest
                return "answer", json.loads(line)
            ready = self._heard.poll(max(0.0, 1000 * (deadline - time.monotonic())))
            if not ready:
                return None
            # A child of a dead worker may hold the pipe open for ever, so its end is no sign.
            if not self._listen() and any(fd == self._ended for fd, _ in ready):
                return "exit", self._status

    def _listen(self) -> bool:
        """Take what it has said. Tells whether there was anything."""
        if self._silent:
            return False
        try:
            said = os.read(self._answers, CHUNK)
        except BlockingIOError:
            return False
        if not said:
            self._silent = True
            self._heard.unregister(self._answers)
        self._said += said
        return bool(said)

    def show_stacks(self, wait_s: float = STACKS_S) -> None:
        """Have the worker write to the log where each of its threads is, even one that never lets go of the GIL."""
        try:
            os.kill(self._pid, protocol.STACKS_SIGNAL)
        except ProcessLookupError:
            return
        time.sleep(wait_s)

    def kill(self) -> None:
        """End the worker and all its children. Once is enough: afterwards its group's number may be another's."""
        if self._killed:
            return
        self._killed = True
        # It may not have made its group yet; and macOS tells a group of zombies by a PermissionError.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if not self._dead.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._dead.wait()
        # Another thread may be about to write, and the number may soon be another file's.
        with self._writing:
            self._closed = True
            os.close(self._commands)
            os.close(self._lifeline)

    def end(self) -> None:
        """Kill it, and hear nothing any more. For the thread that hears it."""
        self.kill()
        os.close(self._answers)
        os.close(self._ended)

    def _wait(self, ending: int) -> None:
        with contextlib.suppress(ChildProcessError):  # somebody has told the system to forget how children end
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._dead.set()
        os.close(ending)
