"""The files of reports that workers have written: the manifest names each, and some go ahead of it into the bucket.

A file that nobody writes to any more is sent after a while, small ones together, and announced on standard output with
its digest: the log is a channel that only the service writes, so the client takes what lies in the bucket on its word.
There are so many places for that as the client has provided; what finds none waits for the artifact.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import os
import threading
import time
from typing import Any, Dict, List, Mapping, Sequence

from . import digests, fetch, output, protocol
from .envelope import Span

# Files of this size are sent on their own.
LARGE_BYTES = 4 << 20
# At the very end the artifact is nearly there, so no large file is sent.
LAST_BYTES = 1 << 20
LAST_WAIT_S = 5.0
CHUNK = 1 << 20

Entry = Dict[str, Any]


class Reports:
    """Gathers what became of the calls. For any thread.

    Args:
        out: the folder of the files, in the artifact.
        slots: addresses for what is sent ahead.
        word: what the supervisor's lines in the log bear.

    Attributes:
        entries: the manifest's `reports`.
        failures: the manifest's `calls`.
        good: whether every call has brought a value, as far as was heard.
    """

    def __init__(self, out: str, slots: List[str], word: str) -> None:
        self.entries: List[Entry] = []
        self.failures: List[Entry] = []
        self.good = True
        self._out = out
        self._slots = slots
        self._word = word
        self._used = 0
        self._files: List[str] = []
        self._count = 0
        self._last: List[Entry] = []
        self._changed = threading.Condition()
        self._publishing = threading.Lock()
        self._ending = False
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, path: str, _digests: Mapping[str, Sequence[str]], *, good: bool) -> None:
        """Take a file of reports that is whole."""
        with self._changed:
            self._files.append(path)
            self.good &= good
            self._changed.notify()

    def reached(self, _span: Span) -> None:
        """Hear that some calls have come to their end; of those that have no report, the manifest says nothing."""

    def failed(self, span: Span, failure: Dict[str, Any]) -> None:
        """Take down what became of calls that have no report."""
        with self._changed:
            self.failures.append({"calls": list(span), "failure": failure})
            self.good = False

    def finish(self) -> None:
        """Put what is left into the manifest. What is being sent meanwhile is not waited for."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._last = self._publish()
        # What a function has removed meanwhile is no file of a stranger's.
        self.entries[:] = [entry for entry in self.entries if os.path.exists(self._path(entry))]

    def send_last(self) -> None:
        """Send what was left, unless it is large, or the store is slow: the artifact is nearly there."""
        self._thread.join(LAST_WAIT_S)
        for entry in self._last if not self._thread.is_alive() else ():
            if entry["size"] <= LAST_BYTES:
                self._send(entry, once=True)

    def _run(self) -> None:
        while True:
            passed_s = time.monotonic() - self._started
            wait_s = max(protocol.RESULTS_LEAST_WAIT_S, protocol.RESULTS_WAIT * passed_s)
            with self._changed:
                self._changed.wait_for(lambda: self._files or self._ending)
                if self._changed.wait_for(lambda: self._ending, timeout=wait_s):
                    return
            for entry in self._publish():
                self._send(entry)

    def _publish(self) -> List[Entry]:
        """Put what has come into the manifest, small files together. Tells what it says of them."""
        with self._publishing:
            with self._changed:
                files, self._files = self._files, []
            large = [path for path in files if _size(path) >= LARGE_BYTES]
            small = [path for path in files if _size(path) < LARGE_BYTES]
            if len(small) > 1:
                small = self._merged(small)
            entries = [entry for path in large + small for entry in entry_of(path)]
            self.entries += entries
            return entries

    def _merged(self, files: List[str]) -> List[str]:
        self._count += 1
        path = os.path.join(self._out, f"together-{self._count}")
        try:
            with open(path, "wb") as whole:
                for part in files:
                    with open(part, "rb") as file:
                        while chunk := file.read(CHUNK):
                            whole.write(chunk)
        except OSError:  # the disk is full, say
            _remove(path)
            return files
        for part in files:
            _remove(part)
        return [path]

    def _path(self, entry: Entry) -> str:
        return os.path.join(self._out, os.path.basename(entry["path"]))

    def _send(self, entry: Entry, *, once: bool = False) -> None:
        if self._used == len(self._slots):
            return
        slot, self._used = self._used, self._used + 1
        try:
            fetch.send_file(self._slots[slot], self._path(entry), entry["size"], "application/octet-stream", once=once)
        except OSError as error:
            output.say(f"[dokrun] results wait for the artifact: {error}")
        else:
            output.say(protocol.RESULTS.format(self._word, slot, entry["sha256"], entry["size"]))


def entry_of(path: str) -> List[Entry]:
    """Tell what the manifest says of a file of reports; nothing where it is gone."""
    try:
        sha256, size = digests.of_file(path)
    except OSError as error:  # the function has removed it
        output.say(f"[dokrun] a report is lost: {error.strerror or error}")
        return []
    return [{"path": f"{protocol.REPORTS_DIR}/{os.path.basename(path)}", "sha256": sha256, "size": size}]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
