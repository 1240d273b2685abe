"""What this machine writes down of its jobs: whole, in order, before its effect, for its owner alone, no secrets."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
from disks import small_disk
from places import CALL, Place, kill, line, place, wait_for

import dokrun as dok
from dokrun import engine
from dokrun.emulator.faults import Fault
from dokrun.engine.journal import KEPT_S, Journal, Record, Step
from dokrun.errors import ConfigError

__all__ = ["place"]

remote = dok.remote(plan="v100-32gb")


def record(number: int = 0) -> Record:
    return Record(f"{number:032x}", "train", "h100-80gb", 1, "d" * 64, "watch")


def step_names(journal: Journal, number: int = 0) -> list[str]:
    return [step.what for step in journal.find(f"{number:032x}")[0].steps]


@remote
def add(a: int, b: int) -> int:
    return a + b


# Many at once.

WRITE = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from dokrun.engine.journal import Journal, Record, Step

    folder, first = Path(sys.argv[1]), int(sys.argv[3])
    journal = Journal(folder, "shared")

    def one(number):
        job = f"{number:032x}"
        journal.begin(Record(job, "train", "p", 1, "", ""))
        for attempt in range(1, 6):
            journal.add(job, Step("bound", attempt, f"task{attempt}"))
            journal.add("f" * 32, Step("ended", 1, detail=f"{number}/{attempt}"))
        journal.add(job, Step("settled", 5))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(first, first + 8)))
    print("written", flush=True)
"""


def test_many_processes_and_threads_write_at_once_and_nothing_is_lost_or_out_of_order(place: Place) -> None:
    place.starts = place.state
    children = [place.start(WRITE, first) for first in (0, 100, 200)]
    assert [line(child) for child in children] == ["written"] * 3
    journal = Journal(place.state, "shared")
    assert len(journal.find("")) == 24
    for first in (0, 100, 200):
        for number in range(first, first + 8):
            assert step_names(journal, number) == ["intended", *["bound"] * 5, "settled"]
    journal.close()
    with closing(sqlite3.connect(place.state / "shared.sqlite")) as database:
        shared = [number for (number,) in database.execute("SELECT number FROM steps WHERE job = ?", ("f" * 32,))]
    assert sorted(shared) == list(range(1, 24 * 5 + 1)), "one number each, though all wrote about one job"


def test_steps_are_told_in_the_order_in_which_they_were_written_though_the_clock_goes_back(tmp_path: Path) -> None:
    times = iter([3e9, 3e9, 3e9, 2e9, 1e9, 5e9, 4e9, 0.0])
    journal = Journal(tmp_path / "state", "account", now=lambda: next(times))
    journal.begin(record())
    for what in ("bound", "ended", "settled"):
        journal.add(record().id, Step(what, 1))
    assert step_names(journal) == ["intended", "bound", "ended", "settled"]
    journal.close()


def test_cell_journal_du_what_is_written_twice_by_whoever_is_attached_is_told_once(place: Place) -> None:
    place.here()
    future = add(1, 2)
    assert future.result(timeout=60) == 3
    assert [dok.attach(future.handle).result(timeout=60) for _ in range(2)] == [3, 3]
    wait_for(lambda: place.steps().count("settled") == 3)
    journal = Journal(place.state, place.settings().account)
    entry = journal.find("")[0]
    assert (entry.attempt, entry.task_id, entry.settled) == (1, future.task_id, True)
    with pytest.raises(ConfigError, match="UNIQUE constraint"):
        journal.begin(entry.record)
    assert len(journal.find("")) == 1
    journal.close()
    assert place.posts() == 1


# Before its effect.


def test_each_step_is_on_disk_before_its_effect(place: Place) -> None:
    seen: list[tuple[str, list[str]]] = []
    place.relay.heard = lambda method, path: seen.append((f"{method} {path}", place.steps()))
    place.here()
    future = add(1, 2)
    future.add_done_callback(lambda _future: seen.append(("outcome", place.steps())))
    assert future.result(timeout=60) == 3
    wait_for(lambda: seen[-1][0] == "outcome")
    posted = [steps for request, steps in seen if request.startswith("POST")]
    assert posted == [["intended"]]
    watched = [steps for request, steps in seen if request.startswith("GET") and request.endswith("/download/")]
    assert watched == [["intended", "bound"]]
    assert seen[-1][1] == ["intended", "bound", "ended", "settled"]


def test_it_is_on_disk_before_another_task_of_the_same_request_is_made(place: Place) -> None:
    place.dok.faults.add(Fault("status", method="POST", path="/tasks/", status=503))
    place.here()
    assert add(1, 2).result(timeout=60) == 3
    assert [fault.what for fault in place.dok.faults.injected] == ["status"]
    assert place.steps() == ["intended", "bound", "ended", "settled"], "one intent for both requests"


def test_cell_journal_cx_a_call_that_is_cancelled_while_its_intent_is_written_is_never_sent(place: Place) -> None:
    place.here()
    with closing(sqlite3.connect(place.database, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # nobody else can write
        future = add(1, 2)
        wait_for(somebody_writes)
        assert future.cancel()
        database.execute("ROLLBACK")
    wait_for(lambda: "settled" in place.steps())
    assert place.steps()[0] == "intended"
    assert {"settled", "given up"} >= set(place.steps()[1:])
    with pytest.raises(dok.SubmitFailed) as caught:
        dok.attach(f"add-{place.rows()[0]['job'][:8]}").result(timeout=60)
    assert caught.value.ran == "no"
    assert (place.posts(), place.tasks()) == (0, [])


def somebody_writes() -> bool:
    """Tell whether a thread of this process waits to write into a journal."""
    codes = [frame.f_code for frame in sys._current_frames().values()]
    return any((Path(code.co_filename).name, code.co_name) == ("journal.py", "_transaction") for code in codes)


# Whose it is.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_its_owner_can_read_it_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        journal = Journal(tmp_path / "state", "account")
        journal.begin(record())
        journal.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "account.sqlite").stat().st_mode) == 0o600


def test_what_lies_beside_it_while_a_step_is_written_is_its_owners_alone(place: Place) -> None:
    place.stop_at("bound")
    child = place.start(CALL)
    line(child)
    place.stopped()
    kill(child)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.state.iterdir() if path.is_file()}
    assert set(modes.values()) == {0o600}, modes
    place.go_on()


@pytest.mark.parametrize("what", ["a link", "writable by others", "another user's", "a folder"])
def test_a_file_that_is_not_ours_alone_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    path, elsewhere = folder / "account.sqlite", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    if what == "a link":
        path.symlink_to(elsewhere)
    elif what == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"")
        path.chmod(0o666 if what == "writable by others" else 0o600)
    if what == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match=r"account\.sqlite is not a file that you alone can write; move it away"):
        Journal(folder, "account")
    assert elsewhere.read_bytes() == b""


def test_a_file_that_others_could_read_is_theirs_no_more(tmp_path: Path) -> None:
    Journal(tmp_path / "state", "account").close()
    (tmp_path / "state" / "account.sqlite").chmod(0o644)
    Journal(tmp_path / "state", "account").close()
    assert stat.S_IMODE((tmp_path / "state" / "account.sqlite").stat().st_mode) == 0o600


# When it is not good.

GARBAGE = {
    "text": b"this is no database\n" * 100,
    "zeros-at-its-head": bytes(100) + b"x" * 4000,
    "half-a-page": None,
}


@pytest.mark.parametrize("kind", [pytest.param(kind, id=f"cell_journal_to-{kind}") for kind in GARBAGE])
def test_a_database_that_is_broken_is_told_and_nothing_is_sent(place: Place, kind: str) -> None:
    Journal(place.state, place.settings().account).close()
    whole = place.database.read_bytes()
    place.database.write_bytes(GARBAGE[kind] or whole[: len(whole) // 3])
    broken = place.database.read_bytes()
    with pytest.raises(ConfigError, match=r"the journal .*\.sqlite .*move it away"):
        place.here()
    assert place.database.read_bytes() == broken, "it is left for somebody to look at"
    assert place.relay.requests == []


def test_cell_journal_to_a_record_that_was_changed_leads_to_no_task_and_no_result(place: Place) -> None:
    place.here()
    future = add(1, 2)
    assert future.result(timeout=60) == 3
    whole = future.handle
    with closing(sqlite3.connect(place.database)) as database:
        database.execute("UPDATE jobs SET record = json_set(CAST(record AS TEXT), '$.digest', ?)", ("0" * 64,))
        database.commit()
    with pytest.raises(dok.OptionError, match="not the handle that this machine has written down"):
        dok.attach(whole)
    downloads = place.relay.count("GET", "*/downloads/artifacts/*")
    with pytest.raises(dok.Tampered) as caught:
        dok.attach(whole.partition(".")[0]).result(timeout=60)
    assert caught.value.ran == "maybe"
    assert place.relay.count("GET", "*/downloads/artifacts/*") == downloads == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id": 3}', b"\xff"])
def test_cell_journal_to_a_record_that_cannot_be_read_is_told(place: Place, text: bytes) -> None:
    made = place.here()
    assert add(1, 2).result(timeout=60) == 3
    job_id = place.rows()[0]["job"]
    with closing(sqlite3.connect(place.database)) as database:
        database.execute("UPDATE jobs SET record = ?", (text,))
        database.commit()
    with pytest.raises(ConfigError, match=r"is broken: .*; move it away"):
        made.attach(job_id)


def test_cell_journal_df_a_full_disk_is_told_and_nothing_is_sent(place: Place) -> None:
    with small_disk(place.state) as state:
        state.chmod(0o700)
        place.here()
        with pytest.raises(OSError, match="No space left"):
            (state / "filler").write_bytes(bytes(1 << 20))
        future = add(1, 2)
        error = future.exception(timeout=60)
        assert isinstance(error, dok.SubmitFailed)
        assert error.ran == "no"
        assert "full" in str(error)
        assert "make room" in str(error)
        assert (place.posts(), place.tasks()) == (0, [])
        (state / "filler").unlink()
        assert add(1, 2).result(timeout=60) == 3
        engine.reset()


def test_a_job_that_is_on_its_way_ends_well_though_the_journal_is_lost_meanwhile(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.here()
    held = place.relay.hold("POST", "*/tasks/", "after")
    future = add(1, 2)
    held.reached()
    with closing(sqlite3.connect(place.database)) as database:
        database.executescript("DROP TABLE steps;")
    held.release()
    assert future.result(timeout=60) == 3
    assert "goes on, but the journal" in caplog.text
    assert place.posts() == 1


# What is in it.


def test_jobs_of_which_nothing_can_be_left_are_forgotten(tmp_path: Path) -> None:
    now = [1e9]
    first = Journal(tmp_path / "state", "account", now=lambda: now[0])
    first.begin(record(1))
    now[0] += KEPT_S / 2
    first.begin(record(2))
    first.add(record(1).id, Step("settled", 1))
    first.close()
    now[0] += KEPT_S / 2 + 1
    second = Journal(tmp_path / "state", "account", now=lambda: now[0])
    assert [entry.record for entry in second.find("")] == [record(2)]
    second.close()
    with closing(sqlite3.connect(tmp_path / "state" / "account.sqlite")) as database:
        assert database.execute("SELECT DISTINCT job FROM steps").fetchall() == [(record(2).id,)]


def test_nothing_of_a_call_or_of_the_account_is_in_it(place: Place) -> None:
    place.here()
    future = dok.remote(plan="v100-32gb", secrets={"HIDDEN": "canary-secret"}, env={"SEEN": "canary-env"})(_keep)(
        "canary-argument"
    )
    assert future.result(timeout=60) == "canary-argument"
    with pytest.raises(ValueError, match="canary-raised"):
        remote(_raise)("canary-raised").result(timeout=60)
    wait_for(lambda: place.steps().count("settled") == 2)
    kept = b"".join(path.read_bytes() for path in place.state.rglob("*") if path.is_file())
    assert b"intended" in kept
    for hidden in ("canary", place.dok.token, place.dok.secret, "http", "canary-of-the-bucket", "Signature"):
        assert hidden.encode() not in kept, hidden


def _keep(value: str) -> str:
    return value


def _raise(value: str) -> None:
    raise ValueError(value)


def test_accounts_are_kept_apart(place: Place) -> None:
    place.here()
    handle = add(1, 2)
    assert handle.result(timeout=60) == 3
    place.here(DOKRUN_ACCESS_TOKEN="another")
    with pytest.raises(dok.OptionError, match="knows no job"):
        dok.attach(handle.handle[:8])
    assert len(list(place.state.glob("*.sqlite"))) == 2
