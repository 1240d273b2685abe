"""How far a job is, for whoever looks: kept by the engine, read by futures, maps and what shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from dokrun.artifact import Artifact
from dokrun.cost import Price, Receipt, utc_now
from dokrun.progress import Far, Place


class Progress:
    """How far a job is: what all of its calls share, kept up to date by the engine.

    Attributes:
        status: "preparing", "image" while one is looked up or built, "staging", then DOK's own words: waiting, running,
            error, done, aborted, canceled; "retrying" between two attempts; "looking" until one is found that was
            attached to.
        attempt: which attempt is under way, counted from 1.
        task_id: DOK's id of its task, None until DOK has taken it.
        receipt: what all attempts cost so far; None until a task has ended.
        artifact: what it left behind.
        over: whether nothing more is to come.
        costs: what it does while its task runs, as in "cost ¥16.80 a minute"; empty where nobody pays.
        outlasts: whether its tasks outlive this process.
        price: what its plan costs; None where nobody pays, or it is not known yet.
        running_since: when the container under way has started, as the service tells it; None while none runs.
        line: tells where a waiting task stands in the project's line; it asks the service if it is called with True,
            and else tells what was last heard, which it sees to in the background.
        cancel: called with a future that was cancelled.
        awaited: called when somebody waits for a call, where it would else be sent later.
        logs: yields what a task's log has of a call, by its number.
        serves: whether its tasks have an http port; None while that is not known.
        address: the public address of the running task's http port, once the service tells it.
        answered: the address at which somebody answered.
        knock: begins to ask whether somebody does.
        session: how far the container is that the calls go to, where that is a session's.
    """

    def __init__(self) -> None:
        self.status = "preparing"
        self.attempt = 1
        self.task_id: str | None = None
        self.receipt: Receipt | None = None
        self.artifact: Artifact | None = None
        self.cancel: Callable[[], None] | None = None
        self.awaited: Callable[[], None] | None = None
        self.logs: Callable[[str, int], Iterator[str]] | None = None
        self.handle: str | None = None
        self.over = False
        self.costs = ""
        self.outlasts = True
        self.price: Price | None = None
        self.running_since: datetime | None = None
        self.line: Callable[[str, bool], Place | None] | None = None
        self.serves: bool | None = None
        self.address: str | None = None
        self.answered: str | None = None
        self.knock: Callable[[], None] | None = None
        self.session: Progress | None = None
        self._changed = threading.Condition()

    def place(self, *, ask: bool = False) -> Place | None:
        """Tell where its task stands in the project's line; None where it does not stand there, or nobody knows."""
        if self.line is None or self.task_id is None or self.status != "waiting":
            return None
        return self.line(self.task_id, ask)

    @property
    def http_uri(self) -> str | None:
        """Where somebody answers now; None where nobody does, or nobody has asked."""
        return self.address if self.address == self.answered else None

    @property
    def costs_on(self) -> str:
        """What its task does as long as it runs, which may be its session's: as `costs`."""
        return self.costs if self.session is None else self.session.costs

    @property
    def yen(self) -> Decimal | None:
        """What it costs so far: the tasks that have ended, and the one that runs."""
        with self._changed:
            receipt, price, since = self.receipt, self.price, self.running_since
        if price is None:
            return None
        ended = Decimal(0) if receipt is None else receipt.yen
        running_s = None if since is None else (utc_now() - since).total_seconds()
        return ended if running_s is None else ended + price.yen(max(0.0, running_s))

    @property
    def far(self) -> Far:
        """How far it is, as far as its one call or its many go together."""
        if self.session is not None:
            return replace(self.session.far, attempt=self.attempt, billed=False)
        billed = self.receipt is not None and self.running_since is None
        return Far(self.status, attempt=self.attempt, place=self.place(), yen=self.yen, billed=billed)

    def update(self, **changed: Any) -> None:
        """Change some attributes, and wake whoever waits for one."""
        with self._changed:
            vars(self).update(changed)
            self._changed.notify_all()

    def hurry(self) -> None:
        """Say that somebody waits."""
        awaited = self.awaited
        if awaited is not None:
            awaited()

    def wait_for(self, name: str, ended: Callable[[], bool]) -> Any:
        """Wait until an attribute is known, or nothing more is to come. Tells what it is."""
        self.hurry()
        with self._changed:
            self.wait_until(lambda: getattr(self, name) is not None or ended())
            return getattr(self, name)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until something holds of it."""
        with self._changed:
            self._changed.wait_for(reached)
