"""What a worker writes about a call: its value, what it raised, or why there is neither.

Stdlib and cloudpickle only, Python 3.9 syntax: this file runs in other people's images.
"""

import io
import traceback
from typing import Any, Dict, List, Tuple

import cloudpickle

from . import envelope, protocol
from .beside import Beside
from .envelope import Segment

Report = Tuple[Dict[str, Any], List[Segment]]
# What runs the cells of notebooks, between the worker and what the user wrote.
CELL = "dokrun.cell"


def value_report(value: Any) -> Report:
    """Report what the function returned."""
    try:
        segments = envelope.dump_value(value, dumps, envelope.unnamed)
    except BaseException as error:  # noqa: BLE001 - pickling runs the user's code, which may raise anything
        message = f"the function returned {qualified_name(type(value))}, which cannot be pickled: {describe(error)}"
        return failure_report(protocol.NOT_SERIALIZABLE, "yes", message, traceback=text_of(error))
    return {"kind": "value", "value": list(range(len(segments)))}, segments


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """A cloudpickler that brings PyTorch's tensors home from the GPU: the client may have none."""

    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        super().__init__(file, **options)
        self._beside = Beside(bring_home=True)

    def reducer_override(self, value: Any) -> Any:
        """Tell how a value is pickled."""
        found = self._beside.reduce(value)
        return super().reducer_override(value) if found is NotImplemented else found


def dumps(value: Any, **options: Any) -> bytes:
    """Pickle what goes back to the client."""
    file = io.BytesIO()
    Pickler(file, **options).dump(value)
    return file.getvalue()


def failure_report(reason: str, ran: str, message: str, **details: Any) -> Report:
    """Report why there is neither a value nor an exception."""
    return {"kind": "failure", "failure": {"reason": reason, "ran": ran, "message": message, **details}}, []


def exception_report(error: BaseException) -> Report:
    """Report what the function raised: as text always, and as a pickle where one was seen to work."""
    segments: List[Segment] = []
    # A StopIteration cannot be raised out of an `await`, and the others are meant for the container's own process.
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        try:
            candidate = envelope.dump_value(error, dumps, envelope.unnamed)
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
    """Tell the traceback without our own frames, which are first."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_globals):
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        return "".join(traceback.format_tb(trace)) + describe(error)


def _is_ours(names: Dict[str, Any]) -> bool:
    return names.get("__package__") == __package__ or names.get("__name__") == CELL
