"""The supervisor's side of a worker: a process that is started, told what to do, listened to, killed.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import json
import os
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from . import protocol
from .bootstrap import spawn

if TYPE_CHECKING:
    import subprocess

# A worker's process, and our ends of its pipes; see `spawn`.
Spawned = Tuple["subprocess.Popen[bytes]", int, int, int]

# How long a dead worker's last words may take to arrive through the pipe.
LAST_WORDS_S = 2.0
# How long a worker has to write down where its threads are, before it is killed.
STACKS_S = 0.5


class Worker:
    """A worker process. It makes a process group of its own, so that it ends with all its children.

    `spawned` is one that was started before the shim was there.
    """

    def __init__(self, spawned: Optional[Spawned] = None) -> None:
        self._process, self._commands, self._answers, self._lifeline = spawned or spawn(protocol.PAYLOAD_VARIABLES)
        # The folder or archive that this package was loaded from.
        archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        os.write(self._commands, os.fsencode(archive) + b"\n")
        self._killed = False
        self._closed = False
        self._writing = threading.Lock()
        self.events: queue.Queue[Tuple[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def send(self, command: Dict[str, Any]) -> None:
        """Tell the worker something; if it is dead, its exit arrives as an event."""
        with self._writing:
            self._write(command)

    def _write(self, command: Dict[str, Any]) -> None:
        if self._closed:
            return
        try:
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            pass

    def show_stacks(self, wait_s: float = STACKS_S) -> None:
        """Have the worker write to the log where each of its threads is, even one that never lets go of the GIL."""
        try:
            os.kill(self._process.pid, protocol.STACKS_SIGNAL)
        except ProcessLookupError:
            return
        time.sleep(wait_s)

    def kill(self) -> None:
        """End the worker and all its children. Once is enough: afterwards its group's number may be another's."""
        if self._killed:
            return
        self._killed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            pass
        self._process.kill()  # it may not have made its group yet
        self._process.wait()
        # Another thread may be about to write, and the number may soon be another file's.
        with self._writing:
            self._closed = True
            os.close(self._commands)
            os.close(self._lifeline)

    def _read(self) -> None:
        with open(self._answers, encoding="utf-8") as answers:
            for line in answers:
                self.events.put(("answer", json.loads(line)))

    def _wait(self) -> None:
        status = self._process.wait()
        # A child of the worker's may hold the pipe open for ever, so this wait has an end.
        self._reader.join(LAST_WORDS_S)
        self.events.put(("exit", status))
