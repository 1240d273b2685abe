"""CPython's own tests of executors, those that any executor can pass, as they are (`tests/cpython`)."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Mapping

import pytest
from cpython.as_completed import AsCompletedTests
from cpython.executor import ExecutorTest
from cpython.shutdown import ExecutorShutdownTest
from cpython.wait import WaitTests

import dokrun as dok

# What CPython's tests ask beyond what `concurrent.futures` promises, and dokrun does otherwise.
OTHERWISE: Mapping[str, str] = {
    "test_free_reference": "the results of a task come together, and are kept for as long as any of its futures is",
    "test_cancel_futures": "of calls that were just submitted none has begun, so all are cancelled, not just some",
    # Not in `tests/cpython`, for they are scripts with the standard library's executors:
    "test_interpreter_shutdown": "at the end of a script what has no result is cancelled, and said to be; none waits",
    "test_hang_gh83386": "the same, after `shutdown(wait=False)`",
    "test_submit_after_interpreter_shutdown": "dokrun has no exit of its own to wait for, and so none to be after",
}
# Likewise: ThreadPoolExecutorTest, ProcessPoolExecutorTest and the like, which look at an executor's own threads,
# processes, initializers and queues; and test_future.py, which is about the standard library's Future itself.


class WithExecutor(unittest.TestCase):
    worker_count = 5
    executor_type = staticmethod(functools.partial(dok.Executor, plan="v100-32gb"))

    @pytest.fixture(autouse=True)
    def opened(self, account: pytest.MonkeyPatch) -> None:
        """Let there be an account for it."""

    def setUp(self) -> None:
        if self._testMethodName in OTHERWISE:
            self.skipTest(OTHERWISE[self._testMethodName])
        self.executor = self.executor_type(max_workers=self.worker_count)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)


class TestExecutor(ExecutorTest, WithExecutor):
    """submit and map."""


class TestShutdown(ExecutorShutdownTest, WithExecutor):
    """shutdown."""


class TestWait(WaitTests, WithExecutor):
    """concurrent.futures.wait."""


class TestAsCompleted(AsCompletedTests, WithExecutor):
    """concurrent.futures.as_completed."""
