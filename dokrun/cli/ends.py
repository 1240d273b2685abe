"""How a command ends: what its exit status says, and what it writes when something is wrong."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

from dokrun import errors


class Status(IntEnum):
    """The exit statuses."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CALL_FAILED = 4
    NOT_YET = 5
    INTERRUPTED = 130
    # As of a process that SIGPIPE has ended.
    CLOSED = 141


EXPLAINED = """Exit status: 0 done, 1 DOK, a store, a registry or dokrun failed, 2 wrong usage or settings (nothing was
sent), 3 there is no such thing, 4 the call itself failed, 5 it has not ended yet, 130 interrupted."""

_NOTHING_SENT = (errors.OptionError, errors.ConfigError, errors.NotSerializable, errors.SourceTooLarge)
# Of these nobody can say that it was the function's fault.
_NOT_THE_CALLS = (errors.SubmitFailed, errors.ResultNotFetched)


class NotYet(errors.DokrunError):
    """What was asked for will be there, or may be, and is not yet."""


def status_of(error: BaseException) -> Status:
    """Tell what exit status an error has."""
    # It takes milliseconds, which no command needs that goes well.
    from dokrun.keys import UnknownHandle

    if isinstance(error, (UnknownHandle, errors.NotFound)):
        return Status.NOT_FOUND
    if isinstance(error, NotYet):
        return Status.NOT_YET
    if isinstance(error, _NOTHING_SENT):
        return Status.USAGE
    if isinstance(error, errors.CallFailed) and not isinstance(error, _NOT_THE_CALLS):
        return Status.CALL_FAILED
    return Status.FAILED


def tell(error: errors.DokrunError) -> None:
    """Write what is wrong to standard error."""
    say("\n  ".join([str(error), *getattr(error, "__notes__", ())]))


def say(line: str) -> None:
    """Write a line of dokrun's own to standard error, where nobody takes it for a result."""
    if sys.stderr is not None:
        print(f"dokrun: {line}", file=sys.stderr, flush=True)


def let_go_of_output() -> None:
    """Write what is left of the output; where nobody reads it any more, leave it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # Python would try once more at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
