"""The only place that makes object keys, task names and tags."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from dokrun.errors import OptionError
from dokrun.shim.protocol import ID_DIGITS

# Everything of ours in a bucket lies below this; the number changes if what lies there ever does.
_ROOT = "dokrun/1"

OURS = "dokrun"
_JOB = "dokrun-job-"
# Of a job's id, for people: a million jobs would have two alike with odds of one in six hundred.
_SHORT_DIGITS = 12


def new_id() -> str:
    """Make an id: 128 random bits as 32 hexadecimal digits. Calling twice on purpose makes two calls."""
    return secrets.token_hex(ID_DIGITS // 2)


def blob(sha256: str) -> str:
    """Tell the key of an object that is named by its content."""
    return f"{_ROOT}/blobs/{sha256}"


def put(sha256: str) -> str:
    """Tell the key of what says that somebody has put the object of this content there himself, and wants it kept."""
    return f"{_ROOT}/put/{sha256}"


def probe(word: str) -> str:
    """Tell the key of an object that is there for a moment only, to see whether it can be."""
    return f"{_ROOT}/probe/{word}"


def sweep() -> str:
    """Tell the key of what says that somebody is removing what nobody needs."""
    return f"{_ROOT}/sweep"


def all_ours() -> str:
    """Tell how the keys begin of everything of ours."""
    return f"{_ROOT}/"


def parts(key: str) -> tuple[str, str]:
    """Tell what one of our keys is of: blobs, put, jobs, claims, checkpoints, or sweep; and the digest, or the job."""
    kind, _, rest = key.removeprefix(f"{_ROOT}/").partition("/")
    return kind, rest.partition("/")[0]


def of_job(job_id: str) -> str:
    """Tell how the keys begin of all that nobody needs any more when a job's calls have their outcomes."""
    return f"{_ROOT}/jobs/{job_id}/"


def payload(job_id: str) -> str:
    """Tell the key of a job's payload, which every attempt shares."""
    return f"{_ROOT}/jobs/{job_id}/payload"


def addresses(job_id: str, attempt: int) -> str:
    """Tell the key of an attempt's table of addresses, where it is too long to ride along."""
    return f"{_ROOT}/jobs/{job_id}/{attempt}/addresses"


def claim(job_id: str, attempt: int) -> str:
    """Tell the key that whoever starts an attempt, or gives it up, must write first."""
    return f"{_ROOT}/claims/{job_id}/{attempt}"


def begun(job_id: str, attempt: int) -> str:
    """Tell the key of what says how far an attempt has come with its calls."""
    return f"{_ROOT}/jobs/{job_id}/{attempt}/begun"


def all_results(job_id: str, attempt: int) -> str:
    """Tell how the keys begin of all results of an attempt that go ahead of its artifact."""
    return f"{_ROOT}/jobs/{job_id}/{attempt}/results/"


def results(job_id: str, attempt: int, slot: int) -> str:
    """Tell the key of some results of an attempt that go ahead of its artifact."""
    return f"{all_results(job_id, attempt)}{slot}"


def report(job_id: str, number: int) -> str:
    """Tell the key of what a session's call has come to, where it goes through the bucket."""
    return f"{_ROOT}/jobs/{job_id}/reports/{number}"


def order(job_id: str, ticket: str) -> str:
    """Tell the key of what a session is sent for one job of calls, where it goes through the bucket."""
    return f"{_ROOT}/jobs/{job_id}/orders/{ticket}"


def checkpoint(job_id: str, attempt: int, slot: int) -> str:
    """Tell the key of one of an attempt's checkpoints; they take turns, so that the last whole one stays."""
    return f"{_ROOT}/checkpoints/{job_id}/{attempt}/{slot}"


def task_name(function_name: str, job_id: str) -> str:
    """Tell the name of a job's task, for people: the function's name and the beginning of the job's id."""
    return f"{_readable(function_name)}-{job_id[:6]}"


def _readable(function_name: str) -> str:
    return (re.sub(r"[^A-Za-z0-9_.-]+", "-", function_name).strip("-") or "call")[:40]


def job_tag(job_id: str) -> str:
    """Tell the tag that finds the tasks of one job, every attempt and any late twin among them."""
    return f"{_JOB}{job_id}"


def job_of(tags: Iterable[str]) -> str | None:
    """Tell the job that a task's tags name, None where they name none."""
    found = (tag.removeprefix(_JOB) for tag in tags if tag.startswith(_JOB))
    return next((job_id for job_id in found if re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", job_id)), None)


def batch_tag(batch_id: str) -> str:
    """Tell the tag that finds, in one request, the tasks that a client watches together."""
    return f"dokrun-batch-{batch_id}"


class UnknownHandle(OptionError):
    """A handle, or the beginning of one, that means nothing that is known."""


class Handle(NamedTuple):
    """What a handle says: which job, the beginning of the digest that its task's definition has, how many calls.

    A session has none. Of calls that one has taken, `job_id` and `digest` are the session's, and `call`
    is their own job.
    """

    name: str
    job_id: str
    digest: str
    calls: int = 1
    call: str = ""

    def __str__(self) -> str:
        many = "" if self.calls == 1 else f"x{self.calls}"
        own = f"{self.call}@" if self.call else ""
        return f"{_readable(self.name)}-{own}{self.job_id}.{self.digest[:ID_DIGITS]}{many}"

    @property
    def of_session(self) -> str:
        """What means the session that has taken the call."""
        return str(self._replace(name="", call="", calls=0)).removeprefix("call-")

    @property
    def short(self) -> str:
        """The beginning that will do where the job is known: on this machine, and to the service."""
        # Of a call, it means the session, whose name is another.
        name = "" if self.call else f"{_readable(self.name)}-"
        return name + self.job_id[:_SHORT_DIGITS]


def read_handle(text: str) -> Handle | None:
    """Read a whole handle, or the beginning of one, as far as it goes: `train-7f3a`, `7f3a`, or all of it.

    Returns:
        None where the text cannot be the beginning of any. What it does not tell is empty.
    """
    found = _HANDLE.fullmatch(text.strip())
    if found is None:
        return None
    digest, call = found["digest"] or "", found["call"] or ""
    return Handle(found["name"] or "", found["job"], digest, int(found["calls"] or 1), call)


def shortened(text: str) -> str:
    """Tell the beginning of a handle that will do on this machine, and for the service."""
    handle = read_handle(text)
    return text if handle is None else handle.short


_HANDLE = re.compile(
    rf"(?:(?P<name>[A-Za-z0-9_.-]{{1,40}})-)?(?:(?P<call>[0-9a-f]{{{ID_DIGITS}}})@)?(?P<job>[0-9a-f]{{4,{ID_DIGITS}}})"
    rf"(?:\.(?P<digest>[0-9a-f]{{{ID_DIGITS}}})(?:x(?P<calls>0|[1-9][0-9]{{0,6}}))?)?"
)
