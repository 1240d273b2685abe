"""What the client and the container must agree on: names, versions, the shape of the manifest.

The way through the container:

    command      bootstrap, shim's SHA-256, shim | "-", payload | "-", addresses [, calls]
                                                         in base 64 what is carried, "-" for what is fetched; `calls` is
                                                         there where not all are to be run: a bit for each, compressed
    environment  DOKRUN_PAYLOAD_SHA256, …_SIZE           the payload, an envelope, is verified before anything is read
                 DOKRUN_JOB_ID, DOKRUN_ATTEMPT           whose claim is to be taken
                 DOKRUN_CALLS                            how many calls the job has, where it is a map's
                 DOKRUN_RETRIES, DOKRUN_BACKOFF_S        how many more attempts there may be, after what pause
                 DOKRUN_LIMIT_S                          for how many seconds somebody pays at most, if that was said
                 DOKRUN_CHECKPOINT_SHA256, …_SIZE        the files that a former attempt has saved, if there are any
                 DOKRUN_SESSION_SHA256                   of the token that a session's client shows
                 SAKURA_TASK_ID, SAKURA_ARTIFACT_DIR     given by DOK
    addresses    {"shim", "payload", "blobs": {sha256: …}, "claim": {"put", "get"}, "checkpoint": {"put": […], "get"},
                  "results": […], "begun"}
                 presigned; nothing that they lead to is believed without its digest. {"shim", "addresses"}, where the
                 table itself is too long and lies in the bucket
    payload      header: {python, cloudpickle, job, workers, functions, calls, source, main, given, secrets,
                  checkpoint_s, session}; `given` are the numbers of segments that are found by digest, not parts of a
                  value; `session` is there where more calls come over the http port: {host, port, idle_s, billed_s,
                  lease_s, limit_s}, see `session`. What comes over it may also have `ticket` (what its calls'
                  outcomes are told by, in place of `job`), `chosen` (the calls that are to be run), `attempt`, `actor`
                  (the calls are an object's, which lives in one worker), `makes` (that is where it begins to) and
                  `ends` (where it ceases to)
    artifact     .dokrun/outcome.json                     the manifest, written last: aside, then renamed
                 .dokrun/reports/<name>                   envelopes, one for each call that reported

In the header `workers` is how many calls run at the same time, 0 for one on each processor. A *value* is a list of
segment numbers, the pickle first and its buffers after it:

    functions    [{"value": [0], "given": [5]}, {"module": "train", "name": "Trainer.fit"}, …]
    calls        [{"count": 1000, "function": 0, "records": 1, "offsets": 2, "timeout_s": 3600.0}, …]
                 numbered one after another: a segment with all their records, and one that tells where each begins and
                 where the last one ends, as eight bytes each, little-endian
    source       [{"path": "train.py", "segment": 3}, …]
    main         "script.py": where the client's `__main__` would lie among them

A worker's report on one call is an envelope whose header has the call's number, how many seconds it took, and `kind`:
"value", "exception" or "failure". The manifest names every file of reports with its digest, so that whoever trusts the
manifest can trust the rest, and what became of the calls that have no report:

    {"format": 1, "job": …, "attempt": 1, "failure": null | {"reason", "ran", "message"},
     "checkpoint": null | {"slot", "sha256", "size"},
     "spent": {"downloading": seconds, "running": …, "uploading": …, "calls": 1000, "lanes": 8,
               "memory": bytes | null, "gpu_memory": bytes | null},
     "reports": [{"path", "sha256", "size"}, …],
     "calls": [{"calls": [17, 18], "failure": {…}}, …]}

A session's manifest names its calls by their numbers in the session, and has `jobs`: {their job: the number of its
first one}. Number 0 is the session itself.

A failure is `{"reason", "ran", "message", …}`, with `signal` or `exit_code` or `traceback` where there is one.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import functools
import hashlib
import os
import signal
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
ID_DIGITS = 32

PAYLOAD_SHA256 = "DOKRUN_PAYLOAD_SHA256"
PAYLOAD_SIZE = "DOKRUN_PAYLOAD_SIZE"
PAYLOAD_VARIABLES = (PAYLOAD_SHA256, PAYLOAD_SIZE)
CHECKPOINT_SHA256 = "DOKRUN_CHECKPOINT_SHA256"
CHECKPOINT_SIZE = "DOKRUN_CHECKPOINT_SIZE"
CHECKPOINT_VARIABLES = (CHECKPOINT_SHA256, CHECKPOINT_SIZE)
JOB_ID = "DOKRUN_JOB_ID"
ATTEMPT = "DOKRUN_ATTEMPT"
# How many calls the job has, where it has not just one, for whoever attaches.
CALLS = "DOKRUN_CALLS"
# How many more attempts there may be after the first, and how long is waited for the second, for whoever attaches.
RETRIES = "DOKRUN_RETRIES"
BACKOFF = "DOKRUN_BACKOFF_S"
# For how many seconds a container may run, from its start on; what is left of what a call may cost.
LIMIT_S = "DOKRUN_LIMIT_S"
# Of a session: the SHA-256 of the token that its client shows.
SESSION_SHA256 = "DOKRUN_SESSION_SHA256"
CALL_ID = "DOKRUN_CALL_ID"
CHECKPOINT_DIR = "DOKRUN_CHECKPOINT_DIR"
# Where what calls are given lies, under its digests.
GIVEN_DIR = "DOKRUN_GIVEN_DIR"
# Behind its digest, the folder in which a file lies under its own name.
NAMED = "-named"
# The payload's file in the job's folder.
PAYLOAD = "payload"
# Its name beside the payload.
CHECKPOINT_FOLDER = "checkpoint"
TASK_ID = "SAKURA_TASK_ID"
ARTIFACT_DIR = "SAKURA_ARTIFACT_DIR"
RESERVED_PREFIXES = ("DOKRUN_", "SAKURA_")
# So many workers are as many as the container has processors, which nobody else knows.
EACH_PROCESSOR = 0
# CUDA's own.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"

OWN_DIR = ".dokrun"
MANIFEST = OWN_DIR + "/outcome.json"
REPORTS_DIR = OWN_DIR + "/reports"

# Begins the address of a file of this machine, as a rehearsal's payload is.
HERE = "file://"
# What an object of the bucket says of itself where it is compressed: how large it is unpacked; and so does its answer.
UNPACKED = "dokrun-size"
UNPACKED_FIELD = f"x-amz-meta-{UNPACKED}"
# Between a session and its client no body is much larger than this: the service's proxy may refuse it.
PIECE_BYTES = 8 << 20
# A text of more digits is no number of ours.
LONGEST_NUMBER = 15

# A segment of this size or more is an object (or a file) of its own, named by its content.
BLOB_SIZE = 1 << 20

# Where the table of addresses stands in the command; what is not carried there is fetched.
ADDRESSES_ARGUMENT = 4
# And which calls are to be run, where not all are.
CHOSEN_ARGUMENT = ADDRESSES_ARGUMENT + 1
FETCHED = "-"

# The container's exit status where its image has no Python: a shell's for a program that is not there.
NO_PYTHON = 127
# Another task, or the client, has claimed this attempt; nothing was unpickled.
CLAIM_LOST = 77
# The claim could be neither taken nor seen; nothing was unpickled.
CLAIM_FAILED = 78
# The container was told to end before it started anything.
STOPPED_EARLY = 79

# What the supervisor says in the log before anything of the user's runs: a random word, which its lines bear from then
# on. So nobody can have a function print such a line by giving it a text.
WORD = "[dokrun] word {}"
# What a worker says in the log before it begins calls: the first one's number, the last one's, and the attempt. For a
# client that finds no outcome.
STARTED = "[dokrun] started calls {} to {} in attempt {}"
# In front of lines that a call has printed, where there are several calls and the line before was not its own.
CALL = "[dokrun] call {}"
# And when a checkpoint lies in the bucket: in which of its two places, its digest, and its size in bytes.
CHECKPOINT = "[dokrun] {} saved checkpoint {} {} {}"
# And when a file of reports lies in the bucket ahead of the artifact: in which of its places, its digest and its size.
RESULTS = "[dokrun] {} results {} {} {}"
# When calls that were given out together have taken so long, those that were not begun go back.
LONG_PORTION_S = 1.0
# Results wait for being sent no longer than this, or than a part of the time that the calls have run.
RESULTS_LEAST_WAIT_S = 0.2
RESULTS_WAIT = 0.05
# How the lines of the log begin that are the shim's own.
OURS_IN_LOG = "[dokrun] "

# How long unpickling a call, imports mostly, may take where the call's own timeout is no shorter.
LONGEST_IMPORT_S = 300.0

# Makes a worker write its threads' stacks to the log. The last real-time signal but one: programs that use any use the
# first ones.
STACKS_SIGNAL = int(signal.SIGRTMAX) - 1 if hasattr(signal, "SIGRTMAX") else int(signal.SIGUSR2)

# Reasons of a failure, in the manifest and in a worker's report.
UNREADABLE_PAYLOAD = "payload"
NOT_FETCHED = "not-fetched"
TAMPERED = "tampered"
WRONG_VERSION = "version"
UNCLAIMED = "unclaimed"
TIMEOUT = "timeout"
DIED = "died"
OUT_OF_MEMORY = "out-of-memory"
EXITED = "exited"
NOT_SERIALIZABLE = "not-serializable"
NOT_WRITTEN = "not-written"
STOPPED = "stopped"
TOO_DEAR = "too-dear"
NOT_BEGUN = "not-begun"
CANCELLED = "cancelled"
ACTOR_LOST = "actor-lost"
OVER = "over"
WAS_STOPPED = "the container was stopped"
WAS_CANCELLED = "the call was cancelled"
WAS_TOO_DEAR = "the container was stopped before its {:g} s were over, which is as long as max_yen pays for"


def failure(reason: str, ran: str, message: str, **details: Any) -> Dict[str, Any]:
    """Make a failure."""
    return {"reason": reason, "ran": ran, "message": message, **details}


def call_id(job_id: str, number: int) -> str:
    """Tell the id of a job's call, so that whoever knows the job knows its calls."""
    return hashlib.sha256(f"{job_id}/{number}".encode()).hexdigest()[:ID_DIGITS]


class CallInfo(NamedTuple):
    """Which call is being run. `call_id` stays the same across attempts; outside a task, `task_id` is None.

    Examples:
        >>> dok.current()
        CallInfo(call_id='local', attempt=1, task_id=None)
    """

    call_id: str
    attempt: int
    task_id: Optional[str]


def current() -> CallInfo:
    """Tell which call this code is running in.

    Returns:
        The call's id (the same in every attempt, so it serves as an idempotency key for other systems), the attempt,
        counted from 1, and DOK's task id. Outside a task, as in `f.local()`, that is `("local", 1, None)`.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def order() -> str:
        ...     return dok.current().call_id
        >>> future = order()
        >>> future.result() == future.call_id
        True
    """
    call_id = os.environ.get(CALL_ID)
    if call_id is None:
        return CallInfo("local", 1, None)
    return CallInfo(call_id, int(os.environ.get(ATTEMPT, "1")), os.environ.get(TASK_ID))


def artifact_dir() -> "Path":
    """Tell the folder whose files come back: `future.files()` lists them, `future.download()` fetches them.

    In a container DOK gives it, and collects at most 20 GB (https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html).
    Outside of a task, as in `f.local()`, it is a temporary folder that is made once in a process and left to you.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def draw() -> None:
        ...     (dok.artifact_dir() / "plot.svg").write_text("<svg/>")
        >>> future = draw()
        >>> future.files()
        [ArtifactFile(name='plot.svg', size_bytes=6)]
        >>> future.download("plots")
        [PosixPath('plots/plot.svg')]
    """
    from pathlib import Path

    return Path(os.environ[ARTIFACT_DIR] if CALL_ID in os.environ else _artifact_dir_here())


def checkpoint_dir() -> "Path":
    """Tell the folder whose files the next attempt finds again, where the call has `retries` and there is a bucket.

    What is in it is saved about once a minute, and at the end of an attempt that has failed, as far as the container
    lives to do so. Write a file under another name and rename it, so that no half of it is saved. In a session it stays
    in the container, where a call that is tried again finds it. Outside of a task it is a temporary folder that is made
    once in a process and left to you.

    Examples:
        >>> @dok.remote(plan="v100-32gb", retries=dok.Retry(1, on=(OSError,)))
        ... def work() -> str:
        ...     done = dok.checkpoint_dir() / "done"
        ...     if done.exists():
        ...         return done.read_text()
        ...     done.with_suffix(".part").write_text("half of it")
        ...     done.with_suffix(".part").rename(done)
        ...     raise OSError("the disk of the first machine is full")
        >>> work().result()
        'half of it'
    """
    from pathlib import Path

    folder = Path(os.environ[CHECKPOINT_DIR] if CALL_ID in os.environ else _checkpoint_dir_here())
    folder.mkdir(parents=True, exist_ok=True)  # each call of a session has one, and few ask for it
    return folder


@functools.cache
def _checkpoint_dir_here() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="dokrun-checkpoint-")


@functools.cache
def _artifact_dir_here() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="dokrun-artifact-")
