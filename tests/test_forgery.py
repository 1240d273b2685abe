"""Whoever can write the bucket, read the task's definition and create tasks of their own gets nothing opened.

The judge is a file: each forgery holds a pickle that makes it when it is opened, in the container or in the client.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import account as accounts
import chores
import numpy as np
import pytest
from account import Account, Files
from emulated import end_of
from forged import Evil, account, bucket, evil, evil_results, job_of, sized
from places import failure, wait_for
from sites import Site, site
from test_shim import Container, payload

import dokrun as dok
from dokrun import keys
from dokrun.api.models import ContainerRequest, CreateTaskRequest, Task
from dokrun.bucket import Bucket
from dokrun.emulator import Fault
from dokrun.payload import pyz
from dokrun.shim import envelope, protocol
from dokrun.shim.envelope import Segment

__all__ = ["account", "bucket", "evil", "site"]

PATIENCE_S = 60


def test_the_judge_sees_what_is_opened(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "evil")))
    assert (tmp_path / "evil").exists()


def evil_payload(future: dok.Future[Any], evil: Path, size: int) -> bytes:
    """Make what would be this job's payload, with another function in it."""
    function: Any = Evil(evil)
    return sized(payload(function, job=job_of(future)), size)


# --- in the bucket, while the task waits in line


@pytest.fixture
def waiting(account: Account) -> Iterator[Callable[..., dok.Future[Any]]]:
    """Calls a function whose task waits in line until the test ends the task before it."""
    gate = account.folder / "first.gate"
    first = chores.stay(account.folder / "first", gate)
    wait_for(lambda: chores.started(account.folder / "first"))

    def call(function: Callable[..., dok.Future[Any]], *arguments: Any) -> dok.Future[Any]:
        future = function(account.starts, *arguments)
        wait_for(lambda: future.status == "waiting")
        return future

    yield call
    gate.touch()
    assert first.result(timeout=PATIENCE_S) == 42


def go(account: Account) -> None:
    (account.folder / "first.gate").touch()


def test_a_forged_payload_is_not_opened(
    account: Account, waiting: Callable[..., dok.Future[Any]], bucket: Bucket, evil: Path
) -> None:
    future = waiting(chores.size_of, os.urandom(200_000))
    key = keys.payload(job_of(future))
    there = bucket.read(key, 1 << 22)
    assert there is not None, "it did not ride in the command, where nobody but the client writes"
    bucket.put(key, evil_payload(future, evil, len(there)))
    go(account)
    error = failure(future)
    assert isinstance(error, dok.Tampered)
    assert error.ran == "no"
    assert chores.started(account.starts) == 0


def test_a_forged_argument_is_not_opened(
    account: Account, waiting: Callable[..., dok.Future[Any]], bucket: Bucket, evil: Path
) -> None:
    future = waiting(chores.size_of, np.zeros(3 << 20, np.uint8))
    table = json.loads(account.task(future).containers[0].command[protocol.ADDRESSES_ARGUMENT])
    for sha256 in table["blobs"]:
        bucket.put(keys.blob(sha256), sized(pickle.dumps(Evil(evil)), 4 << 20))
    assert table["blobs"]
    go(account)
    error = failure(future)
    assert isinstance(error, dok.Tampered)
    assert error.ran == "no"
    assert chores.started(account.starts) == 0


def test_a_forged_shim_is_not_run(
    account: Account, waiting: Callable[..., dok.Future[Any]], bucket: Bucket, evil: Path
) -> None:
    future = waiting(chores.answer)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("__main__.py", "dokrun_shim/__init__.py", "dokrun_shim/__main__.py"):
            made.writestr(name, f"open({str(evil)!r}, 'w').close()\n")
    packed = pyz.build(with_code=True).packed
    # It stays forged: a size that is right is all that the client looks at before it sends it again.
    bucket.put(keys.blob(packed.sha256), sized(zlib.compress(archive.getvalue()), packed.size))
    go(account)
    error = failure(future)
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "no"
    assert "the shim does not match its digest; nothing was run" in str(error)
    assert chores.started(account.starts) == 0


def test_a_forged_claim_lets_nobody_start_and_its_task_is_not_believed(
    account: Account, waiting: Callable[..., dok.Future[Any]], bucket: Bucket, evil: Path
) -> None:
    future = waiting(chores.answer)
    foreign = impostor(account, account.task(future), evil)
    body = json.dumps({"task": foreign.id, "nonce": "forged"}).encode()
    assert bucket.claim(keys.claim(job_of(future), 1), body) is None
    go(account)
    error = failure(future)
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "maybe"
    assert "the claim of this attempt is another's" in str(error)
    assert error.task_id == future.task_id != foreign.id
    assert chores.started(account.starts) == 0


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"null", b'{"task": 7}', b'{"task": ["x"]}', b"[" * 50_000])
def test_a_claim_that_makes_no_sense_lets_nobody_start(
    account: Account, waiting: Callable[..., dok.Future[Any]], bucket: Bucket, body: bytes
) -> None:
    future = waiting(chores.answer)
    assert bucket.claim(keys.claim(job_of(future), 1), body) is None
    go(account)
    error = failure(future)
    assert isinstance(error, dok.TaskFailed)
    assert error.ran == "maybe"
    assert chores.started(account.starts) == 0


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(lambda url: {"payload": url}, id="leads to another payload"),
        pytest.param(lambda _: [], id="a list"),
        pytest.param(lambda _: {"payload": 7, "blobs": [], "claim": "x"}, id="other types"),
        pytest.param(lambda _: {}, id="nothing in it"),
    ],
)
def test_a_forged_table_of_addresses_leads_to_nothing_that_is_opened(
    tmp_path: Path, site: Site, evil: Path, forged: Callable[[str], Any]
) -> None:
    container = Container(tmp_path, site)
    container.give(payload(lambda: 42))
    good = site.files[next(reversed(site.files))]
    value = envelope.dump_value(Evil(evil), pickle.dumps)
    header, _ = envelope.unpack(good)
    site.files["/evil"] = sized(envelope.pack(header, value * 3), len(good) + 1000)[: len(good)]
    site.files["/table"] = json.dumps(forged(f"{site.url}/evil")).encode()
    container.addresses = {"addresses": f"{site.url}/table?signature=canary"}
    process = container.start()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert site.asked.count("/table") >= 1
    assert container.manifest["calls"] == []
    assert process.returncode != 0 or container.manifest["failure"]["ran"] == "no"
    assert "canary" not in output


# --- a task of their own


def impostor(account: Account, genuine: Task, evil: Path) -> Task:
    """Create a task that bears another's tags, environment and image, and leaves what looks like its outcome."""
    told = genuine.containers[0].environment
    job_id = told[protocol.JOB_ID]
    report = evil_results(evil)
    digest = hashlib.sha256(report).hexdigest()
    manifest = {
        "format": protocol.FORMAT,
        "job": job_id,
        "attempt": 1,
        "failure": None,
        "checkpoint": None,
        "reports": [{"path": f"{protocol.REPORTS_DIR}/0-1", "sha256": digest, "size": len(report)}],
        "calls": [],
    }
    lines = [
        "import os, pathlib",
        "out = pathlib.Path(os.environ['SAKURA_ARTIFACT_DIR'], '.dokrun', 'reports')",
        "out.mkdir(parents=True)",
        f"(out / '0-1').write_bytes({report!r})",
        f"(out.parent / 'outcome.json').write_text({json.dumps(manifest)!r})",
        f"print({protocol.WORD.format('b' * 16)!r})",
        f"print({protocol.STARTED.format(0, 0, 1)!r})",
        f"print({protocol.CHECKPOINT.format('b' * 16, 0, 'a' * 64, 10)!r})",
        f"print({protocol.RESULTS.format('b' * 16, 0, digest, len(report))!r})",
    ]
    container = ContainerRequest(
        image=genuine.containers[0].image,
        command=["-c", "\n".join(lines)],
        entrypoint=["python3"],
        plan=genuine.containers[0].plan,
        environment=dict(told),
    )
    limit_s = genuine.execution_time_limit_sec
    return account.client.tasks.create(CreateTaskRequest(genuine.name, [container], list(genuine.tags), limit_s))


def test_a_foreign_task_with_our_tags_is_neither_believed_nor_cancelled(
    account: Account, waiting: Callable[..., dok.Future[Any]], evil: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = waiting(chores.answer)
    foreign = impostor(account, account.task(future), evil)
    go(account)
    assert future.result(timeout=PATIENCE_S) == 42
    ended = end_of(account.client, foreign)
    assert (ended.status, ended.canceled_at) == ("done", None)
    assert ended.artifact is not None, "it has left its forgery"
    account.here("another machine")
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    assert f"are not its own: {foreign.id}" in caplog.text
    assert chores.started(account.starts) == 1


def test_a_foreign_task_that_is_left_alone_is_not_believed_either(account: Account, evil: Path) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    foreign = impostor(account, account.task(future), evil)
    end_of(account.client, foreign)
    account.client.tasks.delete(str(future.task_id))
    account.here("another machine")
    error = failure(dok.attach(future.handle))
    assert isinstance(error, dok.Tampered)
    assert [task.id for task in account.client.tasks.iterate()] == [foreign.id]


def test_the_log_of_a_foreign_task_says_nothing_of_ours(account: Account, evil: Path, tmp_path: Path) -> None:
    future = chores.stay(account.starts, tmp_path / "gate")
    wait_for(lambda: chores.started(account.starts))
    foreign = impostor(account, account.task(future), evil)
    account.client.tasks.cancel(str(future.task_id))
    error = failure(future)
    end_of(account.client, foreign)
    assert "saved checkpoint" in account.client.tasks.output(foreign.id)
    assert isinstance(error, dok.TaskFailed)
    assert (error.ran, error.status, error.log) == ("yes", "canceled", ())


# --- a checkpoint


def test_a_checkpoint_that_a_function_only_says_to_have_saved_is_not_restored(account: Account, bucket: Bucket) -> None:
    said = protocol.CHECKPOINT.format("b" * 16, 0, hashlib.sha256(b"what it says").hexdigest(), 10)
    future = chores.vanish_once.options(retries=1)(account.starts, said)
    wait_for(lambda: chores.started(account.starts))
    bucket.put(keys.checkpoint(job_of(future), 1, 0), b"0123456789")
    assert future.result(timeout=PATIENCE_S) == 0, "nothing is restored"
    lost = next(task for task in mine(account, future) if task.status == "error")
    assert said in account.client.tasks.output(lost.id)
    told = [set(task.containers[0].environment) for task in mine(account, future)]
    assert len(told) == chores.started(account.starts) == 2
    assert not any(names & set(protocol.CHECKPOINT_VARIABLES) for names in told)


def mine(account: Account, future: dok.Future[Any]) -> list[Task]:
    return list(account.client.tasks.iterate(tag=keys.job_tag(job_of(future))))


# --- what DOK itself would have to hand out wrongly


def evil_report(files: Files, evil: Path, *, call: Any = 0, kind: str = "value") -> None:
    """Put another value in place of the right one, and vouch for it."""
    (name,) = [name for name in files if "/reports/" in name]
    segments = envelope.dump_value(Evil(evil), pickle.dumps)
    header = {"call": call, "kind": kind, kind: [0], "type": "T", "message": "m"}
    files[name] = envelope.pack({**header, "traceback": "t"}, [Segment(*segment) for segment in segments])
    told = accounts.manifest(files)
    told["reports"][0]["sha256"] = hashlib.sha256(files[name]).hexdigest()
    files[accounts.MANIFEST] = json.dumps(told).encode()


def evil_and(evil: Path, **changed: Any) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        evil_report(files, evil)
        told = {**accounts.manifest(files), **changed}
        files[accounts.MANIFEST] = json.dumps({name: value for name, value in told.items() if value != "-"}).encode()

    return change


STOPPED = {"reason": protocol.STOPPED, "ran": "no", "message": "the container was stopped"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda evil: evil_and(evil, job="0" * 32), id="another job's"),
        pytest.param(lambda evil: evil_and(evil, attempt=2), id="another attempt's"),
        pytest.param(lambda evil: evil_and(evil, attempt="1"), id="an attempt that is no number"),
        pytest.param(lambda evil: evil_and(evil, job="-"), id="nobody's"),
        pytest.param(lambda evil: evil_and(evil, failure=STOPPED, job="-"), id="nobody's that failed"),
        pytest.param(lambda evil: evil_and(evil, failure=STOPPED, job="0" * 32), id="another job's that failed"),
        pytest.param(lambda evil: evil_and(evil, failure=STOPPED, attempt=2), id="another attempt's that failed"),
        pytest.param(lambda evil: lambda files: evil_report(files, evil, call=1), id="another call's"),
        pytest.param(lambda evil: lambda files: evil_report(files, evil, call="x"), id="nobody's call"),
        pytest.param(lambda evil: evil_and(evil, calls="x"), id="no calls"),
        pytest.param(lambda evil: evil_and(evil, calls=[{"id": 3}]), id="other calls"),
        pytest.param(lambda evil: evil_and(evil, reports="x"), id="no reports"),
        pytest.param(lambda evil: evil_and(evil, reports=[{"path": 3}]), id="other reports"),
        pytest.param(lambda evil: evil_and(evil, reports=[]), id="a report that is not vouched for"),
    ],
)
def test_a_result_that_is_not_this_calls_is_not_opened(
    account: Account, evil: Path, change: Callable[[Path], Callable[[Files], None]]
) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    account.change(future.task_id, change(evil))
    error = failure(dok.attach(future.handle))
    refused = (dok.Tampered, dok.TaskFailed, dok.ResultUnreadable)
    assert isinstance(error, refused) or "does not name this call" in str(error)
    assert chores.started(account.starts) == 1


def test_a_value_that_was_put_in_place_of_the_right_one_is_not_opened(account: Account, evil: Path) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42

    def change(files: Files) -> None:
        before = files[accounts.MANIFEST]
        evil_report(files, evil)
        files[accounts.MANIFEST] = before

    account.change(future.task_id, change)
    error = failure(dok.attach(future.handle))
    assert isinstance(error, dok.Tampered)
    assert error.ran == "yes", "what was vouched for may have said that it did not run, but the log says that it did"
    assert "was not opened" in str(error)


def test_a_manifest_cannot_lead_to_a_file_outside_of_what_was_fetched(account: Account, tmp_path: Path) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    segments = envelope.dump_value("read from elsewhere", pickle.dumps)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(envelope.pack({"call": 0, "kind": "value", "value": [0]}, segments))

    def change(files: Files) -> None:
        told = accounts.manifest(files)
        told["reports"][0] |= {
            "path": str(elsewhere),
            "sha256": hashlib.sha256(elsewhere.read_bytes()).hexdigest(),
        }
        files[accounts.MANIFEST] = json.dumps(told).encode()

    account.change(future.task_id, change)
    assert isinstance(failure(dok.attach(future.handle)), dok.Tampered)


def test_yesterdays_result_of_another_job_is_not_taken_for_todays(account: Account) -> None:
    yesterday, today = chores.answer(account.starts, "yesterday"), chores.answer(account.starts, "today")
    assert (yesterday.result(timeout=PATIENCE_S), today.result(timeout=PATIENCE_S)) == ("yesterday", "today")
    shutil.copy(account.archive(yesterday.task_id), account.archive(today.task_id))
    error = failure(dok.attach(today.handle))
    assert isinstance(error, dok.Tampered)
    assert "the outcome of another job, or of another attempt; it was not opened" in str(error)


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"null", b"[]", b"7", b"[" * 100_000, b'{"reports": [[]]}', b"\xff\xfe\x00"]
)
def test_a_manifest_that_makes_no_sense_is_no_outcome(account: Account, manifest: bytes) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    account.change(future.task_id, lambda files: files.update({accounts.MANIFEST: manifest}))
    error = failure(dok.attach(future.handle))
    assert isinstance(error, dok.TaskFailed)
    assert "its artifact holds no outcome of dokrun's" in str(error)
    assert error.ran == "yes"


def test_a_manifest_that_speaks_of_very_many_calls_is_read_as_far_as_there_are_any(account: Account) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    told = {"calls": [-(10**15), 10**15], "failure": {**STOPPED, "ran": "yes"}}
    account.change(future.task_id, accounts.with_manifest(reports=[], calls=[told]))
    error = failure(dok.attach(future.handle))
    assert (error.ran, str(error).partition("\n")[0]) == ("yes", "the container was stopped")


def test_a_failure_in_words_that_nobody_knows_is_told_as_it_is(account: Account) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    told = {"reason": "unheard of", "ran": "perhaps", "message": "something new"}
    account.change(future.task_id, accounts.with_manifest(failure=told, reports=[], calls=[]))
    account.faults(Fault("status", "GET", "/tasks/*/download/output/", None, status=404))
    error = failure(dok.attach(future.handle))
    assert error.ran == "maybe"
    assert "something new" in str(error)


def test_the_archives_of_these_tests_are_like_those_of_the_service(account: Account) -> None:
    future = chores.answer(account.starts)
    assert future.result(timeout=PATIENCE_S) == 42
    account.change(future.task_id, lambda files: files.update({"./mine": b"x"}))
    assert dok.attach(future.handle).result(timeout=PATIENCE_S) == 42
    with tarfile.open(account.archive(future.task_id)) as archive:
        assert accounts.MANIFEST in archive.getnames()
