"""joblib's backend: what is parallel there, scikit-learn's `n_jobs` too, becomes calls of one task."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chores
import joblib
import pytest
from account import Account, account
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from places import wait_for
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

import dokrun as dok
import dokrun.joblib
from dokrun.shim import drain, protocol

__all__ = ["account"]

PLAN = "v100-32gb"


@pytest.fixture
def backend(account: Account) -> Iterator[Account]:
    with joblib.parallel_config(backend="dokrun", plan=PLAN):
        yield account


def tasks(account: Account) -> int:
    return len(list(account.client.tasks.iterate()))


@pytest.mark.parametrize("n_jobs", [None, -1, 3])
def test_the_calls_of_one_parallel_are_one_task_and_its_results_are_in_order(
    backend: Account, n_jobs: int | None
) -> None:
    assert Parallel(n_jobs=n_jobs)(delayed(math.sqrt)(i**2) for i in range(50)) == list(range(50))
    (task,) = backend.client.tasks.iterate()
    assert task.name.startswith("joblib-")


@pytest.mark.parametrize("n_jobs", [None, -1, 2])
def test_in_a_sessions_block_the_calls_go_to_the_session(account: Account, n_jobs: int | None) -> None:
    account.here()
    with dok.session(plan=PLAN), joblib.parallel_config(backend="dokrun"):
        assert Parallel(n_jobs=n_jobs)(delayed(math.sqrt)(i**2) for i in range(20)) == list(range(20))
    (task,) = account.client.tasks.iterate()
    assert task.name.startswith("session-")


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_come_as_a_generator(backend: Account, return_as: str) -> None:
    del backend  # it is there, and calls go through it
    coming = Parallel(return_as=return_as)(delayed(math.sqrt)(i**2) for i in range(9))
    told = list(coming)
    assert (told if return_as == "generator" else sorted(told)) == list(range(9))


def test_batches_of_a_size_that_was_said_are_calls(backend: Account) -> None:
    ids = Parallel(n_jobs=2, batch_size=5)(delayed(lambda: dok.current().call_id)() for _ in range(10))
    assert len(set(ids)) == 2
    assert tasks(backend) == 1


def test_options_may_be_said_to_parallel_itself(account: Account) -> None:
    parallel = Parallel(n_jobs=2, backend="dokrun", plan=PLAN, env={"SAID": "yes"})
    assert parallel(delayed(os.getenv)("SAID") for _ in range(2)) == ["yes"] * 2
    assert tasks(account) == 1


def test_what_is_parallel_in_a_call_runs_in_threads_there(backend: Account) -> None:
    def inner() -> tuple[str, str]:
        return os.environ[protocol.TASK_ID], type(get_active_backend()[0]).__name__

    def outer() -> list[tuple[str, str]]:
        return [inner(), *Parallel(n_jobs=2)(delayed(inner)() for _ in range(2))]

    told = [each for several in Parallel()(delayed(outer)() for _ in range(2)) for each in several]
    (task,) = backend.client.tasks.iterate()
    assert told == [(task.id, "ThreadingBackend"), *[(task.id, "SequentialBackend")] * 2] * 2


@pytest.mark.parametrize(
    ("n_jobs", "inner", "threads"), [(-1, None, "1"), (2, None, None), (2, 3, "3")], ids=["all", "some", "said"]
)
def test_each_processors_call_has_one_thread_for_its_mathematics(
    account: Account, n_jobs: int, inner: int | None, threads: str | None
) -> None:
    with joblib.parallel_config(backend="dokrun", plan=PLAN, inner_max_num_threads=inner):
        assert Parallel(n_jobs=n_jobs)([delayed(os.getenv)("OMP_NUM_THREADS")] * 2) == [threads] * 2
    assert tasks(account) == 1


def test_as_many_calls_run_at_once_as_the_container_has_processors() -> None:
    assert drain.count_lanes({"workers": protocol.EACH_PROCESSOR}, [(0, 10_000)]) == len(os.sched_getaffinity(0))


def test_one_job_is_no_backend_at_all(backend: Account) -> None:
    assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(os.getpid)() for _ in range(2))
    assert tasks(backend) == 0


def test_an_exception_is_raised_as_itself_and_ends_the_task(backend: Account) -> None:
    def act(starts: Path, gate: Path, number: int) -> None:
        if number == 0:
            raise KeyError(number)
        chores.stay.local(starts, gate)

    with pytest.raises(KeyError):
        Parallel(n_jobs=2)(delayed(act)(backend.starts, backend.folder / "never", number) for number in range(4))
    (task,) = backend.client.tasks.iterate()
    wait_for(lambda: backend.client.tasks.get(task.id).status == "canceled")


def test_a_generator_that_is_left_ends_the_task(backend: Account) -> None:
    stay = delayed(chores.stay.local)
    calls: list[Any] = [delayed(math.sqrt)(4), *[stay(backend.starts, backend.folder / "never")] * 3]
    coming = Parallel(n_jobs=2, return_as="generator")(calls)
    assert next(coming) == 2
    with pytest.warns(UserWarning, match="not used|still being processed"):
        coming.close()
    (task,) = backend.client.tasks.iterate()
    wait_for(lambda: backend.client.tasks.get(task.id).status == "canceled")


def test_one_parallel_takes_calls_again_and_again(backend: Account) -> None:
    with Parallel(n_jobs=2) as parallel:
        for _ in range(2):
            assert parallel(delayed(math.sqrt)(i**2) for i in range(3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="math domain error"):
            parallel(delayed(math.sqrt)(i) for i in (1, -1))
        assert parallel(delayed(math.sqrt)(i**2) for i in range(3)) == [0, 1, 2]
    assert tasks(backend) == 4


@pytest.mark.parametrize(
    "configure", [lambda: joblib.parallel_config(backend="dokrun", pln=PLAN), lambda: dokrun.joblib.Backend(plan=3)]
)
def test_options_that_are_wrong_are_refused_where_they_are_written(configure: Callable[[], object]) -> None:
    with pytest.raises(dok.OptionError, match="plan"):
        configure()


def test_scikit_learn_scores_and_searches_there_as_it_does_here(backend: Account) -> None:
    features, labels = load_iris(return_X_y=True)
    here = cross_val_score(SVC(), features, labels, n_jobs=1)
    assert tasks(backend) == 0
    assert list(cross_val_score(SVC(), features, labels, n_jobs=-1)) == list(here)
    assert tasks(backend) == 1
    search = GridSearchCV(SVC(), {"C": [0.01, 1.0]}, cv=3, n_jobs=2).fit(features, labels)
    assert search.best_params_ == {"C": 1.0}
    assert tasks(backend) == 2
