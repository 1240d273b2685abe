"""What all jobs of an engine share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.cost import Price
from dokrun.engine.images import Images
from dokrun.engine.journal import Journal
from dokrun.engine.queue import Queue
from dokrun.engine.spending import Spending
from dokrun.engine.submit import Submitter
from dokrun.engine.watch import Watcher
from dokrun.engine.workers import Workers


@dataclass(frozen=True)
class Parts:
    """An engine's doors to the outside, its threads, and its settings as far as jobs need them."""

    client: Client
    bucket: Bucket | None
    images: Images
    journal: Journal
    watcher: Watcher
    submitter: Submitter
    # Images that are not known to be ready are made so here, one at a time; jobs whose image is ready overtake them.
    builds: Workers
    # One at a time, so that tasks stand in line as they were called; the line is one task wide anyway.
    submissions: Workers
    # On their own, so that no download keeps money flowing.
    cancels: Workers
    others: Workers
    queue: Queue
    prices: Callable[[], dict[str, Price]]
    spending: Spending
    # Whether somebody pays for tasks.
    charges: bool
    # Whether tasks outlive this process.
    outlasts: bool
    # Waits so many seconds, or less where the engine is being closed, and tells True there.
    sleep: Callable[[float], object]
    state_dir: Path
