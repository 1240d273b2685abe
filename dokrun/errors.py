"""Every exception that dokrun raises on purpose.

    DokrunError
    ├── ConfigError                 a setting is missing or wrong; nothing was sent
    │   └── MissingCredentials
    ├── OptionError                 an option or a call signature is wrong (also a TypeError)
    ├── NotSerializable             an argument or a function cannot be pickled; nothing was sent
    ├── SourceTooLarge              the user's files are more than what goes along; nothing was sent
    ├── StorageError                the bucket refused, or gave no answer
    ├── DiskError                   this machine could not write the files that a call left: has folder
    ├── ImageError                  an image cannot be found, built or used
    │   ├── BuildFailed             a step of it failed: has step, log
    │   └── RegistryError           a registry refused, or gave no answer: has host
    ├── ApiError                    DOK's API: has method, path
    │   ├── NoAnswer                no answer came: it may or may not have been received
    │   │   └── NotSent             the request cannot have been received
    │   ├── InvalidAnswer           an answer came that does not keep the contract
    │   └── Refused                 an answer that is an error: has status, error_code, error_msg
    │       ├── BadRequest          400, 413, 422
    │       ├── Unauthorized        401
    │       ├── Forbidden           403
    │       ├── NotFound            404
    │       ├── TooManyRequests     429
    │       └── ServerError         500 and above
    └── CallFailed                  a call has no value: has ran, call_id, task_id
        ├── SubmitFailed            DOK did not take the task (ran = "no")
        │   └── BudgetExceeded      the day's budget does not allow it: has spent, budget (ran = "no")
        ├── TaskFailed              the task ended without an outcome: has status
        │   └── SessionLost         the session ended before the call had an outcome
        ├── ShimFailed              the container could not read what was sent (ran = "no")
        ├── VersionMismatch         pickled by another version than the one that shall read it
        ├── CallTimeout             the call took longer than its `timeout`
        ├── ActorLost               the process in which an actor lived has ended (ran = "no")
        ├── TooExpensive            it was ended before it cost more than its `max_yen`: has spent
        ├── WorkerDied              the function's process died: has signal, exit_code
        │   └── OutOfMemory         killed since the container's memory was used up
        ├── ResultNotSerializable   the function returned what cannot be pickled (ran = "yes")
        ├── ResultNotWritten        the container's disk could not take the result (ran = "yes")
        ├── ResultNotFetched        DOK has the result, and this machine could not take it
        ├── ResultUnreadable        the result came and could not be opened; the file is kept
        ├── Tampered                bytes do not match the digest that DOK vouches for
        └── RemoteError             the function raised what cannot be unpickled here (ran = "yes")

What the function itself raised is raised as itself, with its remote traceback as the cause.
Errors carry their details as attributes and survive pickling. Each has a page, `dokrun/pages/en/NAME.md`, which
`dokrun explain NAME` shows: a call's error says so in its text, the others in a note below their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ActorLost",
    "ApiError",
    "BadRequest",
    "BudgetExceeded",
    "BuildFailed",
    "CallFailed",
    "CallTimeout",
    "ConfigError",
    "DiskError",
    "DokrunError",
    "Forbidden",
    "ImageError",
    "InvalidAnswer",
    "MissingCredentials",
    "NoAnswer",
    "NotFound",
    "NotSent",
    "NotSerializable",
    "OptionError",
    "OutOfMemory",
    "Refused",
    "RegistryError",
    "RemoteError",
    "ResultNotFetched",
    "ResultNotSerializable",
    "ResultNotWritten",
    "ResultUnreadable",
    "ServerError",
    "SessionLost",
    "ShimFailed",
    "SourceTooLarge",
    "StorageError",
    "SubmitFailed",
    "Tampered",
    "TaskFailed",
    "TooExpensive",
    "TooManyRequests",
    "Unauthorized",
    "VersionMismatch",
    "WorkerDied",
]

Ran = Literal["no", "maybe", "yes"]


def _restore(error_type: type[DokrunError], arguments: tuple[Any, ...], details: dict[str, Any]) -> DokrunError:
    error = error_type.__new__(error_type, *arguments)
    error.__dict__.update(details)
    error.__notes__ = list(error.__notes__)  # a copy's own
    return error


class DokrunError(Exception):
    """Whatever dokrun raises on purpose; `except dokrun.DokrunError` catches all of it."""

    __notes__: list[str]
    # Whether the text itself names its page.
    _tells_page: ClassVar[bool] = False

    def __new__(cls, *args: Any, **details: Any) -> Self:
        """Make it, with the note that names its page."""
        error = super().__new__(cls, *args, **details)
        error.__notes__ = [] if cls._tells_page else [_page(cls)]
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own way calls the class with `args` alone, which keyword-only details do not survive.
        return _restore, (type(self), self.args, self.__dict__)


class ConfigError(DokrunError):
    """A setting is missing or wrong. Nothing was sent."""


class MissingCredentials(ConfigError):
    """No API key for DOK was found."""


class OptionError(DokrunError, TypeError):
    """An option or the arguments of a call are wrong. Raised where they are written; nothing was sent."""


class NotSerializable(DokrunError, TypeError):
    """An argument or a function cannot be pickled. Nothing was sent."""


class SourceTooLarge(DokrunError):
    """The files that would go along are more than dokrun sends with a call. Nothing was sent."""


class StorageError(DokrunError):
    """The object store refused a request or gave no answer."""


class DiskError(DokrunError):
    """This machine could not write the files that a call left, below `folder`. DOK still has them."""

    def __init__(self, message: str, *, folder: str = "") -> None:
        super().__init__(message)
        self.folder = folder


class ImageError(DokrunError):
    """An image cannot be found, built or used."""


class BuildFailed(ImageError):
    """A step of an image failed. `step` is the Dockerfile's line and `log` the end of what the build wrote."""

    def __init__(self, message: str, *, step: str = "", log: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.log = log


class RegistryError(ImageError):
    """A registry refused a request or gave no answer. `host` says which."""

    def __init__(self, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class ApiError(DokrunError):
    """A request to DOK's API failed. `method` and `path` say which; the query is never kept."""

    def __init__(self, message: str, *, method: str = "", path: str = "") -> None:
        super().__init__(message)
        self.method = method
        self.path = path


class NoAnswer(ApiError):
    """No complete answer came: the service may or may not have received the request."""


class NotSent(NoAnswer):
    """The connection could not be opened, so the service cannot have received the request."""


class InvalidAnswer(ApiError):
    """The service answered with something that does not keep its own contract."""


class Refused(ApiError):
    """The service answered with an error.

    `status` is the HTTP status; `error_code` and `error_msg` are the service's own words, empty where it gave none;
    `serial` is what the service's support asks for.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        path: str = "",
        status: int = 0,
        error_code: str = "",
        error_msg: str = "",
        serial: str = "",
    ) -> None:
        super().__init__(message, method=method, path=path)
        self.status = status
        self.error_code = error_code
        self.error_msg = error_msg
        self.serial = serial


class BadRequest(Refused):
    """400, 413 or 422: the service does not accept what was sent."""


class Unauthorized(Refused):
    """401: the API key is missing, wrong, or lacks the permission for DOK."""


class Forbidden(Refused):
    """403: not allowed, or not in this state (a task that has ended cannot be cancelled)."""


class NotFound(Refused):
    """404: there is no such thing, or it is not yours."""


class TooManyRequests(Refused):
    """429: asked too often."""


class ServerError(Refused):
    """500 and above: the service failed. A request that changes something may have had its effect."""


class CallFailed(DokrunError):
    """A call ended without a value.

    Attributes:
        ran: whether the user's function was started: "no", "maybe" or "yes".
        call_id: the call's id, the same in every attempt.
        attempt: which attempt failed, counted from 1.
        task_id: DOK's id of its task; empty where there was none.
        phase: what failed: submit, start, run, download or unpickle.
        handle: what `dok.attach` takes; empty where nothing was submitted.
        still_runs: whether a task may still run.
        costs: what it does then, as in "cost ¥16.80 a minute"; empty where nobody pays.
        outlasts: whether its task outlives the process that called.
        log: the last lines of the task's log, where they could be had.
    """

    phase = "run"
    advice = "{log}"
    _tells_page = True

    def __init__(
        self, message: str, *, ran: Ran, call_id: str = "", task_id: str = "", still_runs: bool = False
    ) -> None:
        super().__init__(message)
        self.ran = ran
        self.call_id = call_id
        self.task_id = task_id
        self.still_runs = still_runs
        self.costs = "cost money"
        self.attempt = 1
        self.handle = ""
        self.outlasts = True
        self.log: tuple[str, ...] = ()
        if ran == "no" and self.phase == "run":
            self.phase = "start"

    def locate(
        self,
        *,
        call_id: str,
        attempt: int,
        task_id: str,
        handle: str,
        costs: str = "cost money",
        outlasts: bool = True,
    ) -> None:
        """Say which call and attempt this is about, as far as that is not said yet, and what of its task."""
        self.costs = costs
        self.outlasts = outlasts
        self.call_id = self.call_id or call_id
        self.task_id = self.task_id or task_id
        self.handle = self.handle or handle
        self.attempt = attempt

    def __str__(self) -> str:
        """Tell what failed, whether the function ran, what still runs, the log's end, what to do, and where more is."""
        ran = {
            "no": "the function did not run",
            "maybe": "nobody knows whether the function ran",
            "yes": "the function ran",
        }
        where = [f"attempt {self.attempt}", *([f"task {self.task_id}"] if self.task_id else [])]
        costs = f", and {self.costs}" if self.costs else ""
        runs = f"its task may still run{costs}" if self.still_runs else "nothing of it runs any more"
        lines = [self.args[0], f"  {ran[self.ran]} ({', '.join(where)}); {runs}"]
        lines += [f"  | {line}" for line in self.log]
        if self.handle or not (self.still_runs or "{" in self.advice):
            lines.append(f"  {self._what_to_do()}")
        return "\n".join([*lines, f"  {_page(type(self))}"])

    def _what_to_do(self) -> str:
        short = _shortened(self.handle)
        # The command line sees no task that ends with this process.
        log = f"dokrun logs {short} shows its log" if self.outlasts else "future.logs() tells its log"
        if not self.still_runs:
            return self.advice.format(handle=self.handle, log=log)
        if not self.outlasts:
            return "future.cancel() stops it"
        stop = f"dokrun cancel {short} stops it"
        # Where there may be no task at all, there may be nothing to stop.
        return stop if self.task_id else f"dokrun ls --running shows whether it does, and {stop}"


class SubmitFailed(CallFailed):
    """The job could not be staged, or DOK did not take the task."""

    phase = "submit"
    advice = "call the function again"


class BudgetExceeded(SubmitFailed):
    """Nothing was sent: with the least that its task costs, the day would cost more than `budget_yen_per_day`.

    `spent` is what the project's tasks of the day cost so far, in yen, `budget` what they may.
    """

    advice = "raise budget_yen_per_day in config.toml, or DOKRUN_BUDGET_YEN_PER_DAY, or wait for midnight in Japan"

    def __init__(
        self,
        message: str,
        *,
        ran: Ran = "no",
        call_id: str = "",
        task_id: str = "",
        spent: Decimal = Decimal(0),
        budget: Decimal = Decimal(0),
    ) -> None:
        super().__init__(message, ran=ran, call_id=call_id, task_id=task_id)
        self.spent = spent
        self.budget = budget


class TaskFailed(CallFailed):
    """The task ended without an outcome. `status` is DOK's word: error, aborted, canceled or done."""

    def __init__(self, message: str, *, ran: Ran, call_id: str = "", task_id: str = "", status: str = "") -> None:
        super().__init__(message, ran=ran, call_id=call_id, task_id=task_id)
        self.status = status


class ShimFailed(CallFailed):
    """The container could not fetch, verify or read what was sent, so the function was not started."""

    phase = "start"


class VersionMismatch(CallFailed):
    """Client and container have versions of Python, cloudpickle or dokrun that cannot read each other's pickles."""

    phase = "start"


class CallTimeout(CallFailed):
    """The call took longer than its `timeout`; its process was killed."""


class SessionLost(TaskFailed):
    """The session that the call was sent to has ended, or its container was lost; `ran` says what that means for it."""

    advice = "{log}; make another session, with reconnect=True if it shall do so by itself"


class ActorLost(CallFailed):
    """The process in which the actor's object lived has ended, and the object with it; make another actor."""

    advice = "{log}; make another dok.Actor"


class TooExpensive(CallFailed):
    """The container was ended before it cost more than the call's `max_yen`.

    `spent` is what all its tasks cost, in yen; None where the service does not tell.
    """

    advice = "{log}, and where it was; give it more with max_yen=, or less to do"

    def __init__(
        self, message: str, *, ran: Ran, call_id: str = "", task_id: str = "", spent: Decimal | None = None
    ) -> None:
        super().__init__(message, ran=ran, call_id=call_id, task_id=task_id)
        self.spent = spent

    def account(self, spent: Decimal) -> None:
        """Say what it cost."""
        if self.spent is None:
            self.spent = spent
            self.args = (f"{self.args[0]}; it has cost ¥{spent:.2f}",)


class WorkerDied(CallFailed):
    """The process that ran the function died. Exactly one of `signal` (a number) and `exit_code` is set."""

    def __init__(
        self,
        message: str,
        *,
        ran: Ran,
        call_id: str = "",
        task_id: str = "",
        signal: int | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message, ran=ran, call_id=call_id, task_id=task_id)
        self.signal = signal
        self.exit_code = exit_code


class OutOfMemory(WorkerDied):
    """The function's process was killed since the container's memory was used up; the kernel's own counter says so."""


class ResultNotSerializable(CallFailed):
    """The function returned something that cannot be pickled."""


class ResultNotWritten(CallFailed):
    """The function ended, but the container's disk could not take its result."""


class ResultNotFetched(CallFailed):
    """The task has ended and DOK keeps its result for 72 hours, but this machine could not take it."""

    phase = "download"
    advice = "dok.attach({handle!r}) fetches it, for 72 hours"


class ResultUnreadable(CallFailed):
    """The result arrived and is verified, but cannot be opened here. The message names the file that keeps it."""

    phase = "unpickle"
    advice = "mend what cannot be imported here, and call dok.attach({handle!r}) again"


class Tampered(CallFailed):
    """Bytes that came back do not match their digest. They were not unpickled."""

    phase = "download"


class RemoteError(CallFailed):
    """The function raised an exception that cannot be unpickled here.

    `type_name` is the exception's type and `remote_traceback` its text, as the container printed it.
    """

    def __init__(
        self,
        message: str,
        *,
        ran: Ran = "yes",
        call_id: str = "",
        task_id: str = "",
        type_name: str = "",
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message, ran=ran, call_id=call_id, task_id=task_id)
        self.type_name = type_name
        self.remote_traceback = remote_traceback


def _page(kind: type[DokrunError]) -> str:
    """Tell the command that shows an error's page; of somebody else's class, that of ours which it is a kind of."""
    name = next(one.__name__ for one in kind.__mro__ if one.__module__ == __name__)
    return f"dokrun explain {name} tells more"


def _shortened(handle: str) -> str:
    """Tell as much of a handle as the command line needs, as `keys.shortened` does, which stands above this file."""
    job, dot, _ = handle.rpartition(".")
    return job.rpartition("@")[2][:-20] if dot else handle


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Tell the nearest known name as «; did you mean …?», or else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""
