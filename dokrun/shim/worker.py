"""The process that runs the user's functions: unpickles what the supervisor has verified, calls, reports.

It is told what to do in JSON lines on one pipe and answers in JSON lines on another, so that the standard streams stay
the user's:

    ← {"folder": …, "cell": …, "output": …, "environment": {…}, "hashed": true}
                                   where the verified payload lies, where this worker tells where it is (see `cell`),
                                   where what is printed goes (see `output`; left out for one call alone), which GPU is
                                   its own, whether the digests of large reports are wanted
    ← {"parts": [{"payload": …, "base": 0, "calls": [7, 12]}, …], "into": …}
                                   run calls from number 7 to 11 of a payload whose first one has the number `base`,
                                   then those of the next one that follow, and write their reports into a file
    → {"end": 12, "good": true}    those before number 12 are done, and all of them have brought a value; or
    → {"end": 9, "good": false, "failure": {…}}
                                   the report of number 9 could not be written; the others after it have not been begun

    either with "gpu_memory", where PyTorch tells how many bytes of its GPUs' it has held at most, and with "digests":
    of large reports, by their calls' numbers, the SHA-256 of each `protocol.PIECE_BYTES`

A closed pipe ends it between two calls; within one the end of a third pipe does, on which nothing is said. It may die
at any moment of what the user's code does; the supervisor says of what. On `protocol.STACKS_SIGNAL`, and on a fatal
signal, it writes its threads' stacks to standard error.

Stdlib and cloudpickle only, Python 3.9 syntax: this file runs in other people's images.
"""

import faulthandler
import importlib
import json
import mmap
import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import envelope, lifeline, output, protocol
from .appending import Appending
from .cell import Cell
from .envelope import Segment
from .packs import Packs, place_of
from .report import Report, describe, exception_report, exit_status, failure_report, text_of, value_report

# Where actors live.
ACTORS = "dokrun.living"
# How many payloads are open at the same time, and how many functions are kept.
OPENED = 8
FUNCTIONS = 256

# What a function is: the digests of its pickle, or its module and name.
Key = Tuple[str, ...]
# How much of an exception's own message is told where the disk is full, in characters.
LONGEST_MESSAGE = 300


def main(commands_fd: int, answers_fd: int, lifeline_fd: int) -> int:
    """Run calls until the supervisor closes the pipe. Returns the exit status."""
    # The supervisor kills the group; a session of its own would hide it from who ends the container's whole session.
    os.setpgid(0, 0)
    lifeline.hold(lifeline_fd)
    # In C, so that even a function which never lets go of the GIL tells where it is.
    faulthandler.enable()
    faulthandler.register(protocol.STACKS_SIGNAL, all_threads=True)
    _volunteer()
    for fd in (commands_fd, answers_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003 - programs that the user starts have no business with them
    _put_image_first()
    with open(commands_fd, encoding="utf-8") as commands, open(answers_fd, "w", encoding="utf-8") as answers:
        start = json.loads(commands.readline() or "null")
        if start is None:
            return 0
        os.environ.update(start["environment"])
        if "output" in start:
            output.enter(start["output"])
        payloads = Payloads(start["folder"], Cell(start["cell"]), marked="output" in start, hashed=start["hashed"])
        for line in commands:
            told = json.loads(line)
            answers.write(json.dumps({**payloads.run(told["parts"], told["into"]), **_gpu_memory()}) + "\n")
            answers.flush()
    return 0


def _volunteer() -> None:
    """Be the one that the kernel kills when memory runs out: the supervisor has to live to tell of it."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")
    except OSError:
        pass


def _put_image_first() -> None:
    """Let the image's own packages win over anything that `shim.pyz` carries, but for cloudpickle, imported above."""
    archive = sys.path.pop(0)
    sys.path.append(archive)


class Payloads:
    """Opens payloads, of which a job has one and a session many. Functions are unpickled once.

    So what their globals hold stays warm from call to call, and from one payload to the next.
    """

    def __init__(self, folder: str, cell: Cell, *, marked: bool = False, hashed: bool = False) -> None:
        self.folder = folder
        self.cell = cell
        self.marked = marked
        self.hashed = hashed
        self.blobs = os.path.join(folder, "blobs")
        self.source = os.path.join(folder, "source")
        # With what they are: the digests of their pickles, or their names. The one that was called last is the last.
        self._functions: Dict[Key, Tuple[Key, Callable[..., Any]]] = {}
        self._opened: Dict[str, Calls] = {}
        # The file that was opened last: payloads that have come together lie in one.
        self._mapped = "", memoryview(b"")
        self._former: Dict[str, Optional[str]] = {}
        self.attempt = os.environ.get(protocol.ATTEMPT)
        os.environ[protocol.GIVEN_DIR] = self.blobs
        sys.path.insert(0, self.source)

    def function(self, name: str, key: Key, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Tell a function, made once, unless its client has another one of that name now, or many others."""
        place = key if "<" in name else (name,)
        known = self._functions.pop(place, None)
        if known is None or known[0] != key:
            known = None  # what the former one holds may be large
            known = key, make()
        self._functions[place] = known
        if len(self._functions) > FUNCTIONS:
            del self._functions[next(iter(self._functions))]
        return known[1]

    def environ(self, told: Dict[str, str]) -> None:
        """Set variables of the environment, in place of those that were set so before."""
        for name, value in self._former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._former = {name: os.environ.get(name) for name in told}
        os.environ.update(told)

    def run(self, parts: List[Dict[str, Any]], into: str) -> Dict[str, Any]:
        """Run some calls and write their reports. Returns the answer for the supervisor."""
        good, file, begun = True, Appending(into, hashed=self.hashed), time.monotonic()
        digests: Dict[int, List[str]] = {}
        for part in parts:
            first, end = part["calls"]
            answer = self.calls(part["payload"], part["base"]).run(first, end, file, begun, digests)
            good &= answer["good"]
            if answer["end"] < end or "failure" in answer or _is_long_since(begun):
                break
        file.close()
        return {**answer, "good": good, **({"digests": digests} if digests else {})}

    def payload(self, name: str) -> memoryview:
        """Map a payload."""
        file, place = place_of(name)
        if self._mapped[0] != file:
            self._mapped = file, map_file(os.path.join(self.folder, file))
        return self._mapped[1][place]

    def calls(self, name: str, base: int) -> "Calls":
        """Tell the calls of a payload, opened once, unless many others were opened since."""
        if name not in self._opened:
            if len(self._opened) == OPENED:
                self._opened.pop(next(iter(self._opened)))
            self._opened[name] = Calls(self, name, base)
        return self._opened[name]


class Calls:
    """The calls of one payload."""

    def __init__(self, payloads: Payloads, name: str, base: int) -> None:
        self._payloads = payloads
        self._cell = payloads.cell
        self._header, self._segments = envelope.unpack(payloads.payload(name))
        self._job = self._header["job"]
        self._packs = Packs(self._header["calls"], base=base)
        attempt = self._header.get("attempt", payloads.attempt)
        saved = os.path.join(payloads.folder, protocol.CHECKPOINT_FOLDER)
        # Of a session's jobs each has a folder of its own there.
        self._environment = {protocol.CHECKPOINT_DIR: saved if name == protocol.PAYLOAD else f"{saved}/{self._job}"}
        if attempt is not None:
            self._environment[protocol.ATTEMPT] = str(attempt)
        # The end of the calls that the log does not tell yet.
        self._unannounced = 0
        # Here and nowhere else: the task's definition can be read by everybody in the project.
        self._secrets: Dict[str, str] = self._header.get("secrets", {})

    def run(self, first: int, end: int, file: Appending, begun: float, digests: Dict[int, List[str]]) -> Dict[str, Any]:
        """Run some calls and write their reports, as long as it has not been begun too long ago.

        Tells up to which call, and how, see the top; and the digests of what is large.
        """
        good, self._unannounced = True, end
        self._payloads.environ(self._secrets)
        for number in range(first, end):
            os.environ[protocol.CALL_ID] = protocol.call_id(self._job, number - self._packs.base)
            os.environ.update(self._environment)
            self._cell.begin(number)
            if self._payloads.marked:
                output.begin(number)
            self._cell.wait()
            started = time.monotonic()
            header, segments = self._report(number)
            header.update(call=number, seconds=round(time.monotonic() - started, 6))
            good &= header["kind"] == "value"
            self._cell.wait()
            try:
                told = file.write(envelope.pieces(header, segments))
                if told:
                    digests[number] = told
            except OSError as error:
                return {"end": number, "good": False, "failure": _not_written(header, error)}
            finally:
                self._cell.end(number)
            if _is_long_since(begun):
                end = number + 1  # the others are for whoever is free
                break
        return {"end": end, "good": good}

    def _report(self, number: int) -> Report:
        try:
            pack, _ = self._packs.find(number)
            function, record = self._function(pack["function"]), self._packs.record(number, self._segments)
            args, kwargs = envelope.load_value([record.pickled, *self._buffers(record.buffers)])
        except BaseException as error:  # noqa: BLE001 - whatever the user's modules raise on import is told, not lost
            message = "the call could not be unpickled in the container: " + describe(error)
            return failure_report(protocol.UNREADABLE_PAYLOAD, "no", message, traceback=text_of(error))
        if self._unannounced:
            _announce(number, self._unannounced)
            self._unannounced = 0
        actor = self._header.get("actor")
        if actor is not None and not self._header["makes"] and actor not in importlib.import_module(ACTORS).OBJECTS:
            message = "there is no such actor in its worker: it could not be made, was ended, or its process has ended"
            return failure_report(protocol.ACTOR_LOST, "no", message)
        self._cell.run(number)
        try:
            result = function(*args, **kwargs)
        except SystemExit as error:
            message = f"the function called sys.exit({error.code!r})"
            return failure_report(protocol.EXITED, "yes", message, exit_code=exit_status(error))
        except BaseException as error:  # noqa: BLE001 - the user's exception is the outcome
            return exception_report(error)
        return value_report(result)

    def _function(self, number: int) -> Callable[..., Any]:
        where = self._header["functions"][number]
        if "module" in where:
            name = where["module"], where["name"]
            return self._payloads.function("<>", name, lambda: _imported(*name))
        key = tuple(self._segments[part].sha256 for part in where["value"])
        return self._payloads.function(where["name"], key, lambda: self._unpickled(where["value"]))

    def _unpickled(self, numbers: Sequence[int]) -> Callable[..., Any]:
        function: Callable[..., Any] = self._at_home(envelope.load_value(self._buffers(numbers)))
        return function

    def _at_home(self, function: Any) -> Any:
        """Let a function of the client's `__main__` find its files beside its `__file__`, as it does there."""
        names, main = getattr(function, "__globals__", {}), self._header.get("main")
        if main is not None and names.get("__name__") in ("__main__", "__mp_main__") and "__file__" in names:
            names["__file__"] = os.path.join(self._payloads.source, main)
        return function

    def _buffers(self, numbers: Sequence[int]) -> List[memoryview]:
        return [self._bytes(self._segments[number]) for number in numbers]

    def _bytes(self, segment: Segment) -> memoryview:
        if segment.data is not None:
            return segment.data
        return map_file(os.path.join(self._payloads.blobs, segment.sha256))


def _is_long_since(begun: float) -> bool:
    return time.monotonic() - begun > protocol.LONG_PORTION_S


def _imported(module: str, path: str) -> Callable[..., Any]:
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    # What `@remote` left in the module knows the function that it was put on.
    function: Callable[..., Any] = getattr(found, "__dokrun_function__", found)
    return function


def _announce(first: int, end: int) -> None:
    """Write it to the log too: where the whole container is lost, nothing else says that these were begun."""
    told = protocol.STARTED.format(first, end - 1, os.environ.get(protocol.ATTEMPT, "1"))
    try:
        os.write(1, told.encode() + b"\n")
    except OSError:
        pass


def _gpu_memory() -> Dict[str, int]:
    """Tell the most memory of its GPUs that PyTorch has held, in bytes, if the functions have used any."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return {}
        return {"gpu_memory": sum(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))}
    except Exception:  # noqa: BLE001 - it is for the receipt; whatever calls itself torch may not have it
        return {}


def _not_written(header: Dict[str, Any], error: OSError) -> Dict[str, Any]:
    """Tell of a report that could not be written, as far as it is worth telling in the answer itself."""
    if header["kind"] == "failure":
        return dict(header["failure"])
    what = "the function ended, but its result"
    if header["kind"] == "exception":
        # The manifest has little room left, and the log has all of it.
        print(header["traceback"], file=sys.stderr)
        what = f"the function raised {header['message'][:LONGEST_MESSAGE]} (the log has its traceback), which"
    message = f"{what} could not be written: {error.strerror}"
    return {"reason": protocol.NOT_WRITTEN, "ran": "yes", "message": message}


def map_file(path: str) -> memoryview:
    """Map a file privately: arrays that lie in it are writable, and what is written stays in this process."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(bytearray())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
