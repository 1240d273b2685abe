"""The only place that makes object keys, task names and tags."""

from __future__ import annotations

import re
import secrets

# Everything of ours in a bucket lies below this; the number changes if what lies there ever does.
_ROOT = "dokrun/1"

OURS = "dokrun"


def new_id() -> str:
    """Make an id: 128 random bits as 32 hexadecimal digits. Calling twice on purpose makes two calls."""
    return secrets.token_hex(16)


def blob(sha256: str) -> str:
    """Tell the key of an object that is named by its content."""
    return f"{_ROOT}/blobs/{sha256}"


def payload(job_id: str, attempt: int) -> str:
    """Tell the key of a job's payload."""
    return f"{_ROOT}/jobs/{job_id}/{attempt}/payload"


def task_name(function_name: str, job_id: str) -> str:
    """Tell the name of a job's task, for people: the function's name and the beginning of the job's id."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", function_name).strip("-") or "call"
    return f"{readable[:40]}-{job_id[:6]}"


def job_tag(job_id: str) -> str:
    """Tell the tag that finds the tasks of one job, every attempt and any late twin among them."""
    return f"dokrun-job-{job_id}"


def batch_tag(batch_id: str) -> str:
    """Tell the tag that finds, in one request, the tasks that a client watches together."""
    return f"dokrun-batch-{batch_id}"
