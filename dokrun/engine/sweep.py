"""What lies in the bucket and nobody can need any more: found out without a look into it, and removed.

- What a job's containers needed (`jobs/`) goes 72 hours after its last task has ended, as its artifact does; its claims
  and checkpoints, and all of a job of which the service knows no task, when the addresses that lead there are no good.
- What is named by its content (`blobs/`) goes by the time at which it was stored. Whoever needs it stores it again
  when that is a week ago (`Bucket.put_once`), and addresses are good for six days; so what is older than two weeks is
  nobody's but a job's that began when it was no older than a week, and such a job is known until it has ended.
- What `dok.put` has sent stays, as long as nobody asks for it to be removed as well: it may be given to a call years
  later. So does whatever else lies below our prefix, which a newer version may have put there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dokrun import keys
from dokrun.bucket import ADDRESS_LIFETIME, RENEWED_AFTER, Bucket, Stored
from dokrun.engine.listing import Listed
from dokrun.engine.spending import ended_at

# As long as the service keeps an artifact.
KEPT_AFTER_END = timedelta(hours=72)
_A_DAY = timedelta(days=1)
# When no address is good any more.
UNREACHABLE_AFTER = ADDRESS_LIFETIME + _A_DAY
# What is named by its content is needed by no job that began later than this after it was stored.
LEAST_AGE = RENEWED_AFTER + UNREACHABLE_AFTER


@dataclass(frozen=True)
class Lifetime:
    """When a job's first task was made, and when its last one ended; None if one has not."""

    begun: datetime
    ended: datetime | None

    def needs(self, now: datetime) -> bool:
        """Tell whether anything of the job may be needed yet: by a task, the next one, or whoever attaches."""
        return self.ended is None or now - self.ended <= KEPT_AFTER_END


@dataclass(frozen=True)
class Unneeded:
    """An object that nobody needs, and why."""

    stored: Stored
    why: str


def lifetimes(listed: Iterable[Listed], now: datetime) -> dict[str, Lifetime]:
    """Tell of each job when it began and ended, by all tasks of dokrun's."""
    found: dict[str, Lifetime] = {}
    for one in listed:
        begun = one.task.created_at or now
        # Of one that says nothing, it is not known to be long ago.
        ended = (ended_at(one.task) or now) if one.task.ended else None
        former = found.get(one.job_id)
        if former is not None:
            begun = min(begun, former.begun)
            ended = None if ended is None or former.ended is None else max(ended, former.ended)
        found[one.job_id] = Lifetime(begun, ended)
    return found


def unneeded(
    objects: Iterable[Stored], jobs: Mapping[str, Lifetime], now: datetime, older_than: timedelta, *, puts: bool = False
) -> Iterator[Unneeded]:
    """Yield what nobody needs.

    Args:
        objects: what there is of ours; listed before the jobs were, so that none of them is missing.
        jobs: what the service knows of.
        now: the time.
        older_than: how old what is named by its content must be.
        puts: whether that holds for what `dok.put` has sent as well, where no job is open or was a day ago: a call that
            is given it does not send it again, so its age says nothing of who needs it.
    """
    found = list(objects)
    # The longest pause before another attempt is an hour.
    puts = puts and not any(job.ended is None or now - job.ended < _A_DAY for job in jobs.values())
    kept = set() if puts else {keys.parts(one.key)[1] for one in found if keys.parts(one.key)[0] == "put"}
    needed_from = _needed_from(jobs, now)
    for one in found:
        kind, of = keys.parts(one.key)
        age = now - one.modified
        if kind in ("jobs", "claims", "checkpoints"):
            why = _why(jobs.get(of), kind, age, now, older_than)
        elif kind == "blobs":
            old = age > max(older_than, LEAST_AGE) and of not in kept
            why = f"not used for {_days(age)} days or more" if old and one.modified < needed_from else ""
        elif kind == "put" and puts:
            old = age > max(older_than, LEAST_AGE)
            why = f"dok.put sent it {_days(age)} days ago" if old and one.modified < needed_from else ""
        else:
            why = ""
        if why:
            yield Unneeded(one, why)


def _why(job: Lifetime | None, kind: str, age: timedelta, now: datetime, older_than: timedelta) -> str:
    if job is not None and job.needs(now):
        return ""
    if kind == "checkpoints":
        # What a failed call has saved may be all that is left of its work.
        return f"a checkpoint of a job that is over, {_days(age)} days old" if age > max(older_than, LEAST_AGE) else ""
    if job is None or kind == "claims":
        # A late task must find that it may not start, for as long as it could find anything.
        gone = "DOK knows no task of it" if job is None else "its job is over"
        return f"{gone}, and its addresses are no good any more" if age > UNREACHABLE_AFTER else ""
    return "its job ended more than 72 hours ago" if age > KEPT_AFTER_END else ""


def _needed_from(jobs: Mapping[str, Lifetime], now: datetime) -> datetime:
    """Tell since when what is named by its content may be some job's that is not over."""
    begun = [job.begun for job in jobs.values() if job.needs(now)]
    return min(begun, default=now) - RENEWED_AFTER - _A_DAY


def remove(bucket: Bucket, objects: Iterable[Unneeded]) -> Iterator[tuple[Unneeded, bool]]:
    """Remove objects, and tell of each whether it is gone: one that was stored again meanwhile stays.

    Raises:
        StorageError: the bucket refused, or gave no answer.
    """
    with bucket.sweeping() as tell:
        for one in objects:
            tell()
            there = bucket.modified(one.stored.key)
            # A list may tell it to the millisecond, a look at the object itself tells whole seconds.
            again = there is not None and there.replace(microsecond=0) != one.stored.modified.replace(microsecond=0)
            if not again:
                bucket.delete(one.stored.key)
            yield one, not again


def _days(age: timedelta) -> int:
    return age // _A_DAY
