"""A map whose first results have gone ahead of its artifact."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import chores
from account import Account
from attempts import main_process
from forged import evil_results, job_of, sized
from places import wait_for

import dokrun as dok
from dokrun import keys
from dokrun.bucket import Bucket


class Ahead:
    """A map whose first results lie in the bucket, while its last call stays until a gate is there."""

    COUNT = 4
    #: What the calls return: results that are long enough for a forgery with a path in it.
    VALUES = tuple((1 << 4096) + number for number in range(COUNT))

    def __init__(self, account: Account, bucket: Bucket) -> None:
        self.account = account
        self.bucket = bucket
        self.gate = account.folder / "gate"
        last = self.COUNT - 1
        calls = [(account.starts, value, self.gate if value == self.VALUES[last] else None) for value in self.VALUES]
        # Its client may go, and it goes on.
        self.results = chores.pass_on.options(detach=True).starmap(calls)
        future = self.results.futures[last]
        wait_for(lambda: chores.started(account.starts) == self.COUNT and bucket.read(self.key(future)) is not None)
        self.task_id, self.handle = str(future.task_id), future.handle

    def key(self, future: dok.Future[Any], slot: int = 0) -> str:
        return keys.results(job_of(future), 1, slot)

    def forge(self, evil: Path, longer: int) -> None:
        """Put other results in place of all that were sent, as long as those or longer."""
        job_id = self.handle.rpartition("-")[2].partition(".")[0]
        sent = [key for key in self.bucket.keys(keys.of_job(job_id)) if "/results/" in key]
        assert sent
        for key in sent:
            there = self.bucket.read(key)
            assert there is not None
            self.bucket.put(key, sized(evil_results(evil), len(there) + longer))

    def attach(self) -> Any:
        """Let another machine go on with it, which has not heard of any result yet."""
        self.account.here("another machine")
        return dok.attach(self.handle)

    def lose(self) -> None:
        """Let the container go, as the kernel does where its memory is used up."""
        os.kill(main_process(self.handle.rpartition("-")[2].partition(".")[0]), signal.SIGKILL)
