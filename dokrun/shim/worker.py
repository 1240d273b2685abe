"""The process that runs the user's functions: unpickles what the supervisor has verified, calls, reports.

It is told what to do in JSON lines on one pipe and answers in JSON lines on another, so that the standard streams stay
the user's:

    ← {"folder": …, "out": …, "environment": {…}}
                                   where the verified payload lies, where reports go, which GPU is this worker's
    ← {"call": 0}                  run the payload's call number 0
    → {"started": true}            the call is unpickled, and the function is called now; else this is left out
    → {"report": "values/…", "value": true}
                                   the report is written, of a value or not, or
    → {"failure": {…}}             it could not be

A closed pipe ends it between two calls; within one the end of a third pipe does, on which nothing is said. It may die
at any moment of what the user's code does; the supervisor says of what. On `protocol.STACKS_SIGNAL`, and on a fatal
signal, it writes its threads' stacks to standard error.

Stdlib and cloudpickle only, Python 3.9 syntax: this file runs in other people's images.
"""

import faulthandler
import importlib
import io
import json
import mmap
import os
import pickle
import sys
import traceback
from typing import Any, Callable, Dict, List, Sequence, Tuple

import cloudpickle

from . import envelope, lifeline, protocol
from .envelope import Segment

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

        def answer(told: Dict[str, Any]) -> None:
            answers.write(json.dumps(told) + "\n")
            answers.flush()

        def tell_start(call_id: str) -> None:
            # To the log too: where the whole container is lost, nothing else says that the function was started.
            told = protocol.STARTED.format(call_id, os.environ.get(protocol.ATTEMPT, "1"))
            try:
                os.write(1, told.encode() + b"\n")
            except OSError:
                pass
            answer({"started": True})

        calls = Calls(start["folder"], start["out"], tell_start)
        for line in commands:
            answer(calls.run(json.loads(line)["call"]))
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


class Calls:
    """The calls of one payload. A function is unpickled once, so that what its globals hold stays warm."""

    def __init__(self, folder: str, out: str, tell_start: Callable[[str], None]) -> None:
        self._tell_start = tell_start
        self._out = out
        self._blobs = os.path.join(folder, "blobs")
        self._header, self._segments = envelope.unpack(map_file(os.path.join(folder, "payload")))
        self._functions: Dict[int, Callable[..., Any]] = {}
        # Here and nowhere else: the task's definition can be read by everybody in the project.
        os.environ.update(self._header.get("secrets", {}))
        os.environ[protocol.CHECKPOINT_DIR] = os.path.join(folder, protocol.CHECKPOINT_FOLDER)
        self._source = os.path.join(folder, "source")
        sys.path.insert(0, self._source)

    def run(self, number: int) -> Dict[str, Any]:
        """Run one call and write its report. Returns the answer for the supervisor."""
        call = self._header["calls"][number]
        os.environ[protocol.CALL_ID] = call["id"]
        header, segments = self._outcome(call)
        try:
            return {"report": self._write({"call": call["id"], **header}, segments), "value": header["kind"] == "value"}
        except OSError as error:
            told = header.get("failure")
            if told is not None:  # what is to be told fits into the answer itself
                return {"failure": told}
            what = "the function ended, but its result"
            if header["kind"] == "exception":
                # The manifest has little room left, and the log has all of it.
                print(header["traceback"], file=sys.stderr)
                what = f"the function raised {header['message'][:LONGEST_MESSAGE]} (the log has its traceback), which"
            message = f"{what} could not be written: {error.strerror}"
            return {"failure": {"reason": protocol.NOT_WRITTEN, "ran": "yes", "message": message}}

    def _outcome(self, call: Dict[str, Any]) -> Tuple[Dict[str, Any], List[Segment]]:
        try:
            function = self._function(call["function"])
            args, kwargs = envelope.load_value(self._buffers(call["arguments"]))
        except BaseException as error:  # noqa: BLE001 - whatever the user's modules raise on import is told, not lost
            message = "the call could not be unpickled in the container: " + describe(error)
            return failure(protocol.UNREADABLE_PAYLOAD, "no", message, traceback=text_of(error)), []
        self._tell_start(call["id"])
        try:
            result = function(*args, **kwargs)
        except SystemExit as error:
            message = f"the function called sys.exit({error.code!r})"
            return failure(protocol.EXITED, "yes", message, exit_code=exit_status(error)), []
        except BaseException as error:  # noqa: BLE001 - the user's exception is the outcome
            return exception_outcome(error)
        try:
            segments = envelope.dump_value(result, dumps)
        except BaseException as error:  # noqa: BLE001 - pickling runs the user's code, which may raise anything
            message = (
                f"the function returned {qualified_name(type(result))}, which cannot be pickled: {describe(error)}"
            )
            return failure(protocol.NOT_SERIALIZABLE, "yes", message, traceback=text_of(error)), []
        return {"kind": "value", "value": list(range(len(segments)))}, segments

    def _function(self, number: int) -> Callable[..., Any]:
        if number not in self._functions:
            where = self._header["functions"][number]
            if "module" in where:
                found: Any = importlib.import_module(where["module"])
                for name in where["name"].split("."):
                    found = getattr(found, name)
                # What `@remote` left in the module knows the function that it was put on.
                self._functions[number] = getattr(found, "__dokrun_function__", found)
            else:
                self._functions[number] = self._at_home(envelope.load_value(self._buffers(where["value"])))
        return self._functions[number]

    def _at_home(self, function: Any) -> Any:
        """Let a function of the client's `__main__` find its files beside its `__file__`, as it does there."""
        names, main = getattr(function, "__globals__", {}), self._header.get("main")
        if main is not None and names.get("__name__") in ("__main__", "__mp_main__") and "__file__" in names:
            names["__file__"] = os.path.join(self._source, main)
        return function

    def _buffers(self, numbers: Sequence[int]) -> List[memoryview]:
        return [self._bytes(self._segments[number]) for number in numbers]

    def _bytes(self, segment: Segment) -> memoryview:
        if segment.data is not None:
            return segment.data
        return map_file(os.path.join(self._blobs, segment.sha256))

    def _write(self, header: Dict[str, Any], segments: Sequence[Segment]) -> str:
        placed = [self._place(segment) for segment in segments]
        name = f"values/{header['call']}"
        write_aside(os.path.join(self._out, name), envelope.pack(header, placed))
        return name

    def _place(self, segment: Segment) -> Segment:
        if segment.size < protocol.BLOB_SIZE or segment.data is None:
            return segment
        path = os.path.join(self._out, "blobs", segment.sha256)
        if not os.path.exists(path):
            write_aside(path, segment.data)
        return segment._replace(data=None)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """A cloudpickler that brings PyTorch's tensors home from the GPU: the client may have none."""

    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        super().__init__(file, **options)
        torch = sys.modules.get("torch")
        # What every tensor is a view of, a parameter's and a model's too.
        self._storage = torch.storage.TypedStorage if torch is not None else None

    def reducer_override(self, value: Any) -> Any:
        if self._storage is not None and isinstance(value, self._storage):
            # Asked for in public ways, a typed storage warns of its own removal.
            bytes_of_it = value._untyped_storage  # noqa: SLF001
            if bytes_of_it.device.type != "cpu":
                at_home = self._storage(wrap_storage=bytes_of_it.cpu(), dtype=value.dtype, _internal=True)
                return at_home.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return super().reducer_override(value)


def dumps(value: Any, **options: Any) -> bytes:
    """Pickle what goes back to the client."""
    file = io.BytesIO()
    _Pickler(file, **options).dump(value)
    return file.getvalue()


def map_file(path: str) -> memoryview:
    """Map a file privately: arrays that lie in it are writable, and what is written stays in this process."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(bytearray())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def write_aside(path: str, data: envelope.Buffer) -> None:
    """Write a file under another name and rename it, so that it is whole wherever it is seen."""
    # The function may have emptied its artifact folder, and ours in it.
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = f"{path}.{os.getpid()}.part"
    try:
        with open(aside, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    except OSError:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def failure(reason: str, ran: str, message: str, **details: Any) -> Dict[str, Any]:
    """Make the header of a report that says why there is no value."""
    return {"kind": "failure", "failure": {"reason": reason, "ran": ran, "message": message, **details}}


def exception_outcome(error: BaseException) -> Tuple[Dict[str, Any], List[Segment]]:
    """Report what the function raised: as text always, and as a pickle where one was seen to work."""
    segments: List[Segment] = []
    # A StopIteration cannot be raised out of an `await`, and the others are meant for the container's own process.
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        try:
            candidate = envelope.dump_value(error, dumps)
            if type(envelope.load_value([s.data for s in candidate if s.data is not None])) is type(error):
                segments = candidate
        except BaseException:  # noqa: BLE001 - pickling runs the user's code; the text is enough
            segments = []
    header = {
        "kind": "exception",
        "exception": list(range(len(segments))),
        "type": qualified_name(type(error)),
        "message": describe(error),
        "traceback": text_of(error),
    }
    return header, segments


def exit_status(error: SystemExit) -> int:
    """Tell the exit status that the interpreter would have made of it."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def qualified_name(kind: type) -> str:
    """Tell a type's name as its user would write it."""
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def describe(error: BaseException) -> str:
    """Tell an exception in one line, even when its own `__str__` raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        text = "(its message cannot be shown)"
    return f"{qualified_name(type(error))}: {text}" if text else qualified_name(type(error))


def text_of(error: BaseException) -> str:
    """Tell the traceback without the shim's own frames, which are first."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        return "".join(traceback.format_tb(trace)) + describe(error)
