"""An error of a call tells what failed, whether it ran, what still costs money, and what to do; wherever it is sent."""

from __future__ import annotations

import copy
import pickle
import sys
import traceback
from collections.abc import Iterator

import pytest

import dokrun as dok
from dokrun import errors, keys
from dokrun.engine.reports import described
from dokrun.engine.submit import not_submitted

HANDLE = f"train-{'a' * 32}.{'b' * 32}"
SHORT = "train-aaaaaaaaaaaa"


def kinds(of: type[errors.CallFailed] = errors.CallFailed) -> Iterator[type[errors.CallFailed]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def made(kind: type[errors.CallFailed], ran: errors.Ran = "maybe") -> errors.CallFailed:
    error = kind("train did not work out", ran=ran)
    error.locate(call_id="c" * 32, attempt=2, task_id="task-1", handle=HANDLE)
    error.log = ("epoch 1", "epoch 2")
    return error


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_of_a_call_says_what_a_user_asks(kind: type[errors.CallFailed]) -> None:
    first, second, *log, advice, page = str(made(kind)).splitlines()
    assert first == "train did not work out"
    assert second == ("  nobody knows whether the function ran (attempt 2, task task-1); nothing of it runs any more")
    assert log == ["  | epoch 1", "  | epoch 2"]
    # `dok.attach` may be written on another machine, which knows no job by its beginning.
    wanted = repr(HANDLE) if "dok.attach" in advice else f"dokrun logs {SHORT} shows its log"
    assert wanted in advice or issubclass(kind, errors.SubmitFailed)
    assert page == f"  dokrun explain {kind.__name__} tells more"
    assert made(kind).phase in {"submit", "start", "run", "download", "unpickle"}


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_every_error_of_a_call_arrives_with_all_that_it_says(kind: type[errors.CallFailed], send: object) -> None:
    assert callable(send)
    error = made(kind, "yes")
    error.still_runs = True
    sent = send(error)
    assert type(sent) is kind
    assert vars(sent) == vars(error)
    assert str(sent) == str(error)


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        ("no", "the function did not run"),
        ("maybe", "nobody knows whether the function ran"),
        ("yes", "the function ran"),
    ],
)
def test_whether_it_ran_is_said_in_words(ran: errors.Ran, said: str) -> None:
    assert f"  {said} (" in str(made(dok.TaskFailed, ran))


def test_what_may_still_cost_money_is_said_with_the_command_that_ends_it() -> None:
    error = made(dok.SubmitFailed)
    error.still_runs = True
    assert "its task may still run, and cost money" in str(error)
    assert f"  dokrun cancel {SHORT} stops it" in str(error).splitlines()


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_where_tasks_end_with_the_process_nobody_is_sent_to_the_command_line(kind: type[errors.CallFailed]) -> None:
    error = kind("train did not work out", ran="maybe")
    error.locate(call_id="", attempt=1, task_id="task-1", handle=HANDLE, outlasts=False)
    assert ("  future.logs() tells its log" in str(error)) == (f"dokrun logs {SHORT} shows its log" in str(made(kind)))
    assert "dokrun logs" not in str(error)
    error.still_runs = True
    assert "  future.cancel() stops it" in str(error).splitlines()


def test_where_there_may_be_no_task_the_error_says_how_to_see_whether_there_is() -> None:
    error = dok.SubmitFailed("nobody knows whether train was submitted", ran="maybe", still_runs=True)
    error.locate(call_id="", attempt=1, task_id="", handle=HANDLE)
    look = "  dokrun ls --running shows whether it does, and"
    assert str(error).splitlines()[-2] == f"{look} dokrun cancel {SHORT} stops it"


def test_a_handle_is_shortened_alike_wherever_that_is_done() -> None:
    for name, calls in (("train", 1), ("a.b-c", 1), ("train", 1000)):
        handle = keys.Handle(name, "a1" * 16, "b2" * 32, calls)
        error = dok.TaskFailed("it did not work out", ran="yes")
        error.locate(call_id="", attempt=1, task_id="", handle=str(handle))
        assert keys.shortened(str(handle)) == handle.short == f"{name}-a1a1a1a1a1a1"
        assert f"  dokrun logs {handle.short} shows its log" in str(error).splitlines()
        assert keys.read_handle(handle.short) == keys.Handle(name, "a1" * 6, "")
        assert keys.read_handle(str(handle)) == keys.Handle(name, "a1" * 16, "b2" * 16, calls)


def test_an_error_before_there_is_a_task_names_none() -> None:
    error = dok.SubmitFailed("train was not submitted: there is no bucket", ran="no")
    assert str(error).splitlines() == [
        "train was not submitted: there is no bucket",
        "  the function did not run (attempt 1); nothing of it runs any more",
        "  call the function again",
        "  dokrun explain SubmitFailed tells more",
    ]


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_names_its_page_once_wherever_it_is_sent(name: str) -> None:
    kind = getattr(errors, name)
    error = (
        kind("it did not work out", ran="no") if issubclass(kind, errors.CallFailed) else kind("it did not work out")
    )
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        told = "".join([str(one), *one.__notes__])
        assert told.count(f"dokrun explain {name} tells more") == told.count("dokrun explain") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tracebacks show notes since Python 3.11")
def test_a_traceback_shows_the_page_and_further_notes_of_an_error() -> None:
    class Own(errors.ConfigError):
        """A kind of somebody else's."""

    error = pickle.loads(pickle.dumps(errors.ConfigError("no bucket")))
    error.add_note("seen in the morning")
    shown = [
        "dokrun.errors.ConfigError: no bucket\n",
        "dokrun explain ConfigError tells more\n",
        "seen in the morning\n",
    ]
    assert traceback.format_exception_only(error) == shown
    assert Own("no bucket").__notes__ == ["dokrun explain ConfigError tells more"]


def test_an_error_that_quotes_another_keeps_to_one_advice() -> None:
    refused = errors.TaskFailed("the actor's task is gone", ran="no")
    assert described(refused) == "TaskFailed: the actor's task is gone"
    assert str(not_submitted("train", refused)).count("dokrun explain") == 1


def test_what_failed_before_the_function_started_failed_at_the_start() -> None:
    assert made(dok.WorkerDied, "no").phase == "start"
    assert made(dok.WorkerDied, "yes").phase == "run"
    assert made(dok.ResultUnreadable, "yes").phase == "unpickle"
