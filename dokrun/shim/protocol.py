"""What the client and the container must agree on: names, versions, the shape of the manifest.

The way through the container:

    command      …, the payload                          an envelope, if it is small; else
    environment  DOKRUN_PAYLOAD_URL, …_SHA256, …_SIZE   an envelope, fetched; verified before anything is read
                 SAKURA_TASK_ID, SAKURA_ARTIFACT_DIR     given by DOK
    payload      header: {python, cloudpickle, job, attempt, workers, functions, calls, source}
    artifact     .dokrun/outcome.json                     the manifest, written last: aside, then renamed
                 .dokrun/values/<call id>                 an envelope for each call that reported
                 .dokrun/blobs/<sha256>                   segments too large to ride in an envelope's body

In the header a *value* is a list of segment numbers, the pickle first and its buffers after it:

    functions    [{"value": [0]}, {"module": "train", "name": "Trainer.fit"}, …]
    calls        [{"id": …, "function": 0, "arguments": [1, 2], "timeout_s": 3600.0}, …]
    source       [{"path": "train.py", "segment": 3}, …]
    main         "script.py": where the client's `__main__` would lie among them

A worker's report on one call is an envelope whose header has `kind`: "value", "exception" or "failure". The manifest
names every report with its SHA-256, so that whoever trusts the manifest can trust the rest:

    {"format": 1, "job": …, "attempt": 1, "failure": null | {"reason", "message"},
     "calls": [{"id", "seconds", "report": {"path", "sha256", "size"} | null, "failure": {…} | null}, …]}

A failure is `{"reason", "ran", "message", …}`, with `signal` or `exit_code` or `traceback` where there is one.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import functools
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, Optional

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1

PAYLOAD_URL = "DOKRUN_PAYLOAD_URL"
PAYLOAD_SHA256 = "DOKRUN_PAYLOAD_SHA256"
PAYLOAD_SIZE = "DOKRUN_PAYLOAD_SIZE"
PAYLOAD_VARIABLES = (PAYLOAD_URL, PAYLOAD_SHA256, PAYLOAD_SIZE)
CALL_ID = "DOKRUN_CALL_ID"
ATTEMPT = "DOKRUN_ATTEMPT"
TASK_ID = "SAKURA_TASK_ID"
ARTIFACT_DIR = "SAKURA_ARTIFACT_DIR"
RESERVED_PREFIXES = ("DOKRUN_", "SAKURA_")
# CUDA's own.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"

OWN_DIR = ".dokrun"
MANIFEST = OWN_DIR + "/outcome.json"
VALUES_DIR = OWN_DIR + "/values"
BLOBS_DIR = OWN_DIR + "/blobs"

# A segment of this size or more is an object (or a file) of its own, named by its content.
BLOB_SIZE = 1 << 20

# The container's exit status where its image has no Python: a shell's for a program that is not there.
NO_PYTHON = 127

# How long unpickling a call, imports mostly, may take where the call's own timeout is no shorter.
LONGEST_IMPORT_S = 300.0

# Makes a worker write its threads' stacks to the log. The last real-time signal but one: programs that use any use the
# first ones.
STACKS_SIGNAL = int(signal.SIGRTMAX) - 1 if hasattr(signal, "SIGRTMAX") else int(signal.SIGUSR2)

# Reasons of a failure, in the manifest and in a worker's report.
UNREADABLE_PAYLOAD = "payload"
WRONG_VERSION = "version"
TIMEOUT = "timeout"
DIED = "died"
OUT_OF_MEMORY = "out-of-memory"
EXITED = "exited"
NOT_SERIALIZABLE = "not-serializable"
NOT_WRITTEN = "not-written"
STOPPED = "stopped"


class CallInfo(NamedTuple):
    """Which call is being run. `call_id` stays the same across attempts; outside a task, `task_id` is None."""

    call_id: str
    attempt: int
    task_id: Optional[str]


def current() -> CallInfo:
    """Tell which call this code is running in.

    Returns:
        The call's id (the same in every attempt, so it serves as an idempotency key for other systems), the attempt,
        counted from 1, and DOK's task id. Outside a task, as in `f.local()`, that is `("local", 1, None)`.
    """
    call_id = os.environ.get(CALL_ID)
    if call_id is None:
        return CallInfo("local", 1, None)
    return CallInfo(call_id, int(os.environ.get(ATTEMPT, "1")), os.environ.get(TASK_ID))


def artifact_dir() -> "Path":
    """Tell the folder whose files come back: `future.files()` lists them, `future.download()` fetches them.

    In a container DOK gives it, and collects at most 20 GB (https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html).
    Outside of a task, as in `f.local()`, it is a temporary folder that is made once in a process and left to you.
    """
    from pathlib import Path

    return Path(os.environ[ARTIFACT_DIR] if CALL_ID in os.environ else _artifact_dir_here())


@functools.cache
def _artifact_dir_here() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="dokrun-artifact-")
