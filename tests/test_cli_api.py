"""Every operation of DOK's API can be had from the command line, and takes the beginning of an id."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
import schemathesis
from contracts import CONTRACT
from desk import Shell, dokrun
from emulated import STAYS, Lines, end_of, lines, request

from dokrun.api import Client
from dokrun.emulator import Emulator, Fault

__all__ = ["dokrun", "lines"]

LEAVES = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/a', 'w')"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGeyb me@here"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    """An account of one test's own, told by the environment."""
    with Emulator() as service:
        for name, value in {
            "DOKRUN_ACCESS_TOKEN": service.token,
            "DOKRUN_ACCESS_TOKEN_SECRET": service.secret,
            "DOKRUN_API_URL": service.api_url,
            "DOKRUN_STATE_DIR": str(tmp_path / "state"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }.items():
            monkeypatch.setenv(name, value)
        yield service


@pytest.fixture
def client(service: Emulator) -> Iterator[Client]:
    with Client(service.token, service.secret, base_url=service.api_url) as client:
        yield client


def test_tasks_are_created_of_words_or_a_file_and_seen_until_they_are_deleted(
    service: Emulator, client: Client, dokrun: Shell, tmp_path: Path
) -> None:
    options = "--name [red]x --image any --plan v100-32gb --entrypoint python3 --tag mine -e TOKEN=hidden -e A=b"
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/a', 'w'); print('said')"
    made = dokrun(f"tasks create {options} -- -c", code)
    (task,) = client.tasks.iterate()
    assert (made.out, made.status) == (f"{task.id}\n", 0), made.err
    assert (task.name, task.tags, task.execution_time_limit_sec) == ("[red]x", ["mine"], 3600)
    end_of(client, task)
    short = task.id[:6]
    told = dokrun(f"tasks show --json {short}").json
    assert (told["name"], told["status"], told["exit_code"]) == ("[red]x", "done", 0)
    assert told["environment"] == ["TOKEN=…", "A=b"], "a secret is not shown"
    assert [row[:4] for row in dokrun("tasks list --status done --tag mine").rows] == [
        [task.id, "[red]x", "done", "v100-32gb"]
    ]
    assert dokrun("tasks list --status running").out == ""
    assert dokrun(f"tasks logs {short}").out == "said\n"
    assert dokrun(f"tasks logs -f {short}").out == "said\n"
    assert dokrun(f"tasks logs-url {short} --filename a.txt").out.startswith("http://127.0.0.1")
    assert dokrun(f"tasks cancel {short}").out == f"task {task.id}: it had ended before\n"
    (artifact,) = client.artifacts.iterate()
    assert [row[0] for row in dokrun(f"artifacts list --task {short}").rows] == [artifact.id]
    assert dokrun(f"artifacts show --json {artifact.id[:5]}").json["task"] == task.id
    assert dokrun(f"artifacts download-url {artifact.id[:5]}").out.startswith("http://127.0.0.1")
    assert dokrun(f"artifacts download {artifact.id[:5]} -o", tmp_path / "a.tar.gz").status == 0
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert any(name.endswith("a") for name in archive.getnames())
    assert dokrun(f"artifacts download {artifact.id[:5]} -o", tmp_path / "a.tar.gz").status == 2, "it is there"
    assert dokrun(f"tasks notify {short} --off").status == 0
    definition = tmp_path / "task.json"
    container = {"image": "any", "command": ["-c", "input()"], "entrypoint": ["python3"], "plan": "v100-32gb"}
    definition.write_text(json.dumps({"name": "of a file", "containers": [container], "tags": ["file"]}))
    again = dokrun("tasks create --json --file", definition).json
    assert (again["name"], again["tags"], again["time_limit_s"]) == ("of a file", ["file"], 3600)
    assert dokrun(f"tasks cancel {again['id']}").status == 0
    end_of(client, client.tasks.get(again["id"]))
    assert dokrun(f"tasks delete {again['id']}").status == 0
    again = dokrun("tasks create --json --name other --tag too --time-limit 2h --file", definition).json
    assert (again["name"], again["tags"], again["time_limit_s"]) == ("other", ["file", "too"], 7200)
    assert dokrun(f"tasks cancel {again['id']}").status == 0
    end_of(client, client.tasks.get(again["id"]))
    assert dokrun(f"tasks delete {again['id'][:8]} {short}").status == 0
    assert list(client.tasks.iterate()) == []


def test_what_is_done_to_tasks_and_what_they_leave_is_told_to_programs_by_whole_ids(
    client: Client, dokrun: Shell, lines: Lines, tmp_path: Path
) -> None:
    ended = end_of(client, client.tasks.create(request(LEAVES)))
    line = lines(STAYS)
    runs = client.tasks.create(request(line.code))
    assert line.hear() == "R"
    (artifact,) = client.artifacts.iterate()
    path = tmp_path / "a.tar.gz"
    for command, told in {
        f"tasks logs-url {ended.id[:9]}": {"id": ended.id, "url": ANY},
        f"tasks logs-stream {runs.id[:9]}": {"id": runs.id, "url": ANY, "token": ANY},
        f"tasks notify {runs.id[:9]} --off": {"id": runs.id, "enabled": False, "endpoints": None, "told": "set"},
        f"artifacts download-url {artifact.id[:9]}": {"id": artifact.id, "url": ANY},
        f"artifacts download {artifact.id[:9]} -o {path}": {"id": artifact.id, "path": str(path), "bytes": ANY},
        f"tasks cancel {runs.id[:9]} {ended.id[:9]}": [
            {"id": runs.id, "told": "cancelled"},
            {"id": ended.id, "told": "it had ended before"},
        ],
        f"tasks delete {ended.id[:9]}": [{"id": ended.id, "told": "deleted", "why": None}],
    }.items():
        assert dokrun(f"{command} --json").json == told, command
    assert path.stat().st_size > 0


def test_of_several_things_what_was_done_is_told_also_where_the_next_one_cannot_be_done(
    service: Emulator, client: Client, dokrun: Shell, lines: Lines
) -> None:
    line = lines(STAYS)
    runs, waits, last = (client.tasks.create(request(line.code)).id for _ in range(3))
    assert line.hear() == "R"
    assert [row[0] for row in dokrun(f"tasks logs-stream {runs}").rows] == ["id", "url", "token"]
    service.faults.add(Fault("status", path=f"/tasks/{waits}/cancel/", status=404))
    stopped = dokrun(f"tasks cancel --json {last} {waits} {runs}")
    assert (stopped.status, json.loads(stopped.out)) == (3, [{"id": last, "told": "cancelled"}]), stopped.err
    refused = dokrun(f"tasks delete --json {runs} {last}")
    assert (refused.status, json.loads(refused.out)) == (
        1,
        [{"id": runs, "told": "not deleted", "why": ANY}, {"id": last, "told": "deleted", "why": None}],
    )
    assert json.loads(refused.out)[0]["why"] in refused.err
    assert [task.id for task in client.tasks.iterate()] == [waits, runs]


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not one object"),
        ('{"name": "x", "containers": [], "tags": [], "imag": 1}', "a task has no 'imag'"),
        ('{"name": 1, "containers": [], "tags": []}', "Expected `str`, got `int` - at `$.name`"),
    ],
)
def test_a_definition_that_is_none_is_not_sent(
    client: Client, dokrun: Shell, tmp_path: Path, definition: str, said: str
) -> None:
    (tmp_path / "task.json").write_text(definition)
    done = dokrun("tasks create --file", tmp_path / "task.json")
    assert (done.status, said in done.err) == (2, True), done.err
    for options, missing in (
        ("--name x", "--image and --plan"),
        ("--name x --image any --plan v100-32gb --time-limit 5m", "less than the ten minutes"),
        ("--name x --image any --plan v100-32gb --ssh fish", "DOK has no shell 'fish'"),
        ("--name x --image any --plan v100-32gb -e NO_SUCH_VARIABLE", "no such variable here"),
        ("--name x --image any --plan v100-32gb --http-path /app", "add --http PORT"),
    ):
        wrong = dokrun(f"tasks create {options}")
        assert (wrong.status, missing in wrong.err) == (2, True), wrong.err
    assert list(client.tasks.iterate()) == []


def test_keys_registries_and_notifications_are_kept_changed_and_forgotten(
    service: Emulator, client: Client, dokrun: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "id.pub").write_text(KEY + "\n")
    key = dokrun("ssh-key add --json", tmp_path / "id.pub").json
    assert (key["name"], key["active"], key["key"]) == ("me@here", True, KEY)
    short = key["id"][:4]
    assert dokrun(f"ssh-key update {short} --inactive --json").json["active"] is False
    assert dokrun(f"ssh-key show {short} --json").json["name"] == "me@here"
    assert [row[0] for row in dokrun("ssh-key list").rows] == ["me@here"]
    assert dokrun(f"ssh-key delete --json {short}").json["told"] == "deleted"
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "is a private key" in dokrun("ssh-key add", tmp_path / "id").err
    (tmp_path / "password").write_text("hunter2\n")
    with (tmp_path / "password").open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        assert dokrun("registry add r.example --username ann --password-stdin").status == 0
    (registry,) = client.registries.iterate()
    with (tmp_path / "password").open() as typed:
        monkeypatch.setattr("sys.stdin", typed)
        updated = dokrun(f"registry update {registry.id[:4]} --username bob --password-stdin --json").json
    assert (updated["username"], dokrun(f"registry show {registry.id[:4]} --json").json["host"]) == ("bob", "r.example")
    assert dokrun(f"registry delete --json {registry.id[:4]}").json == {"id": registry.id, "told": "deleted"}
    endpoint = dokrun("notify endpoint add http://127.0.0.1:9/hook --json").json
    number = str(endpoint["id"])
    assert "secret" not in endpoint
    assert "secret" in dokrun(f"notify endpoint show {number} --secret --json").json
    moved = dokrun(f"notify endpoint update {number} --address http://127.0.0.1:9/other --json").json
    assert moved["address"].endswith("/other")
    dokrun(f"notify endpoint update {number} --type webhook --address http://127.0.0.1:9/hook")
    assert [row[0] for row in dokrun("notify endpoint list").rows] == [number]
    setting = dokrun(f"notify setting add --endpoint {number} --json").json
    assert (setting["event"], setting["enabled"], setting["endpoints"]) == ("task_completed", True, [endpoint["id"]])
    short = setting["id"][:5]
    assert dokrun(f"notify setting update {short} --off --json").json["enabled"] is False
    whole = dokrun(f"notify setting update {short} --on --event task_completed --endpoint {number} --json").json
    assert whole["enabled"] is True
    assert dokrun(f"notify setting show {short} --json").json["id"] == setting["id"]
    assert len(dokrun("notify setting list").rows) == 1
    assert dokrun("notify test http://127.0.0.1:9/hook").status == 1, "nobody listens there"
    assert dokrun(f"notify setting delete --json {short}").json["told"] == "deleted"
    assert dokrun(f"notify endpoint delete {number}").status == 0
    for command in ("ssh-key list", "registry list", "notify setting list", "notify endpoint list"):
        assert json.loads(dokrun(f"{command} --json").out) == []


def test_the_account_its_plans_prices_and_bills_are_told(service: Emulator, client: Client, dokrun: Shell) -> None:
    settings = {row["setting"]: row["value"] for row in dokrun("config show --json").json}
    assert (settings["api_url"], settings["bucket.name"]) == (service.api_url, None)
    assert ["bucket.name", "not set", ""] in dokrun("config show").rows
    assert dokrun("account show --json").json["agreed_at"] is not None
    assert dokrun("account agree --yes").out == "agreed\n"
    assert dokrun("account agree --yes --version 2 --json").json == {"version": "2", "told": "agreed"}
    assert ["h100-80gb", "NVIDIA H100 80GB", "60"] in dokrun("plans").rows
    assert ["h100-80gb", "0.28", "1008", "60 s", "16.80"] in dokrun("prices").rows
    assert dokrun("prices --day 2026-11-01 --json").json[0]["yen_per_second"]
    end_of(client, client.tasks.create(request("pass")))
    (bill,) = dokrun("bills --json").json
    assert bill["plan"] == "v100-32gb"
    until, plan, *_ = dokrun("bills").rows[0]
    assert plan == bill["plan"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", until)


def test_the_beginning_of_an_id_means_one_thing_or_is_refused(service: Emulator, client: Client, dokrun: Shell) -> None:
    tasks = [client.tasks.create(request("pass")) for _ in range(17)]
    firsts = [task.id[0] for task in tasks]
    twice = next(first for first in firsts if firsts.count(first) > 1)
    several = dokrun("tasks show", twice)
    assert (several.status, "is the beginning of several: " in several.err) == (2, True)
    for text in ("zz", "", "00000000-0000-4000-8000-000000000000"):
        assert dokrun("tasks show", text).status == 3, text
    assert dokrun("tasks show", tasks[3].id[:14]).status == 0


def test_no_operation_of_the_contract_is_left_out(service: Emulator, dokrun: Shell) -> None:
    # Where a command is missing, so is what it would call.
    commands = {
        "/auth/": {"get": "account show"},
        "/auth/agree/": {"post": "account agree"},
        "/registries/": {"get": "registry list", "post": "registry add"},
        "/registries/{id}/": {"get": "registry show", "put": "registry update", "delete": "registry delete"},
        "/tasks/": {"get": "tasks list", "post": "tasks create"},
        "/tasks/{id}/": {"get": "tasks show", "delete": "tasks delete"},
        "/tasks/{id}/cancel/": {"post": "tasks cancel"},
        "/tasks/{id}/download/{target}/": {"get": "tasks logs-url"},
        "/tasks/{id}/containers/{index}/stream/": {"post": "tasks logs-stream"},
        "/tasks/{id}/notification-preference/": {"put": "tasks notify"},
        "/artifacts/": {"get": "artifacts list"},
        "/artifacts/{id}/": {"get": "artifacts show"},
        "/artifacts/{id}/download/": {"get": "artifacts download-url"},
        "/plans/": {"get": "plans"},
        "/unit_prices/": {"get": "prices"},
        "/billing_infos/": {"get": "bills"},
        "/ssh/keys/": {"get": "ssh-key list", "post": "ssh-key add"},
        "/ssh/keys/{id}/": {"get": "ssh-key show", "put": "ssh-key update", "delete": "ssh-key delete"},
        "/notification/endpoints/": {"get": "notify endpoint list", "post": "notify endpoint add"},
        "/notification/endpoints/{id}/": {
            "get": "notify endpoint show",
            "put": "notify endpoint update",
            "patch": "notify endpoint update",
            "delete": "notify endpoint delete",
        },
        "/notification/settings/": {"get": "notify setting list", "post": "notify setting add"},
        "/notification/settings/test-webhook/": {"post": "notify test"},
        "/notification/settings/{id}/": {
            "get": "notify setting show",
            "put": "notify setting update",
            "patch": "notify setting update",
            "delete": "notify setting delete",
        },
    }
    paths = schemathesis.openapi.from_path(CONTRACT).raw_schema["paths"]
    methods = ("get", "post", "put", "patch", "delete")
    wanted = {path: sorted(set(methods) & set(operations)) for path, operations in paths.items()}
    assert {path: sorted(found) for path, found in commands.items()} == wanted
    for found in commands.values():
        for command in found.values():
            assert dokrun(f"{command} --help").status == 0, command
