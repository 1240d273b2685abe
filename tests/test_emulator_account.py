"""What the emulator does beside running tasks: logs, bills, notifications, terms, expiry, restarts."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from clocks import ManualClock
from emulated import end_of, request, send
from waiting import wait_for
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dokrun import errors
from dokrun.api import Client
from dokrun.emulator import Behaviour, Emulator


def client_of(emulator: Emulator) -> Client:
    return Client(emulator.token, emulator.secret, base_url=emulator.api_url)


# --- logs


def stream_of(dok: Emulator, task_id: str) -> httpx.Response:
    return send(dok, "POST", f"/tasks/{task_id}/containers/0/stream/")


def running(client: Client, task_id: str) -> None:
    wait_for(lambda: client.tasks.get(task_id).status == "running")


def listen(address: dict[str, str]) -> Iterator[str]:
    with connect(address["url"], additional_headers={"Authorization": f"Bearer {address['token']}"}) as socket:
        yield from map(str, socket)


def test_a_log_is_streamed_from_its_beginning_while_the_task_runs_and_ends_with_it(
    dok: Emulator, client: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f"import sys; print('früh', flush=True); open({str(gate)!r}).read(); print('late', file=sys.stderr)"
    task = client.tasks.create(request(code))
    running(client, task.id)
    messages: queue.Queue[str | None] = queue.Queue()

    def follow() -> None:
        for text in listen(stream_of(dok, task.id).json()):
            messages.put(text)
        messages.put(None)

    threading.Thread(target=follow, daemon=True).start()
    assert messages.get(timeout=30) == "früh\n"
    gate.write_text("go")
    assert messages.get(timeout=30) == "late\n"
    assert messages.get(timeout=30) is None
    end_of(client, task)
    output = send(dok, "GET", f"/tasks/{task.id}/download/output/?filename=mine.txt").json()["url"]
    fetched = httpx.get(output)
    assert fetched.text == "früh\nlate\n"
    assert "mine.txt" in fetched.headers["Content-Disposition"]


def test_a_stream_wants_its_own_token(dok: Emulator, client: Client) -> None:
    task = client.tasks.create(request("import time; time.sleep(600)"))
    running(client, task.id)
    address = stream_of(dok, task.id).json()
    for forged in ("", address["token"][:-1] + "x", dok.secret):
        with pytest.raises(InvalidStatus):
            list(listen({**address, "token": forged}))
    client.tasks.cancel(task.id)


def test_a_task_that_does_not_run_has_no_stream_and_one_that_has_not_ended_no_output(
    dok: Emulator, client: Client
) -> None:
    first = client.tasks.create(request("import time; time.sleep(600)"))
    running(client, first.id)
    second = client.tasks.create(request())
    assert stream_of(dok, second.id).status_code == 403
    assert send(dok, "GET", f"/tasks/{first.id}/download/output/").status_code == 404
    client.tasks.cancel(first.id)
    end_of(client, second)
    assert stream_of(dok, second.id).status_code == 403
    assert send(dok, "POST", f"/tasks/{second.id}/containers/1/stream/").status_code == 404


# --- money


def test_a_bill_sums_what_is_billed_with_each_plans_minimum() -> None:
    with Emulator() as dok, client_of(dok) as client:
        for plan in ("v100-32gb", "h100-80gb", "h100-80gb"):
            end_of(client, client.tasks.create(request(plan=plan)))
        (bill,) = send(dok, "GET", "/billing_infos/").json()["results"]
        told = {detail["plan"]: (detail["usage"], detail["amount"]) for detail in bill["details"]}
        prices = {unit.plan: unit.price for unit in client.prices.list().results}
    assert told["h100-80gb"] == (120, round(prices["h100-80gb"] * 120))
    assert 1 <= told["v100-32gb"][0] < 60
    assert prices["v100-32gb"] == Decimal("0.016")


def test_a_bill_of_another_day_is_empty(dok: Emulator, client: Client) -> None:
    end_of(client, client.tasks.create(request()))
    assert send(dok, "GET", "/billing_infos/?year=2001&month=2&day=3").json()["results"][0]["details"] == []
    assert send(dok, "GET", "/billing_infos/?month=2&day=31").status_code == 400


# --- notifications


class Webhook:
    """A web server that keeps what it is told."""

    def __init__(self, status: int = 200) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.messages.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"heard")

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.close()


def subscribe(dok: Emulator, webhook: Webhook) -> int:
    endpoint = send(
        dok, "POST", "/notification/endpoints/", json={"endpoint_type": "webhook", "address": webhook.url}
    ).json()
    send(
        dok,
        "POST",
        "/notification/settings/",
        json={"event_type": "task_completed", "is_enabled": True, "endpoint_ids": [endpoint["id"]]},
    )
    return int(endpoint["id"])


def test_a_webhook_is_told_of_a_tasks_end(webhook: Webhook) -> None:
    with Emulator() as dok, client_of(dok) as client:
        subscribe(dok, webhook)
        task = client.tasks.create(request())
        message = webhook.messages.get(timeout=30)
    assert (message["event_type"], message["task"]["id"], message["task"]["status"]) == (
        "task_completed",
        task.id,
        "done",
    )


def test_a_task_may_tell_nobody(webhook: Webhook) -> None:
    with Emulator() as dok, client_of(dok) as client:
        subscribe(dok, webhook)
        silent = client.tasks.create(request("import time; time.sleep(600)"))
        preference = {"is_enabled": False, "endpoint_ids": None}
        assert send(dok, "PUT", f"/tasks/{silent.id}/notification-preference/", json=preference).json() == {"ok": True}
        client.tasks.cancel(silent.id)
        loud = client.tasks.create(request())
        assert webhook.messages.get(timeout=30)["task"]["id"] == loud.id


def test_a_test_message_tells_what_the_webhook_answered_and_never_leaves_this_machine(
    dok: Emulator, webhook: Webhook
) -> None:
    answer = send(dok, "POST", "/notification/settings/test-webhook/", json={"url": webhook.url}).json()
    assert answer == {"ok": True, "webhook_status_code": 200, "response_body": "heard"}
    elsewhere = send(dok, "POST", "/notification/settings/test-webhook/", json={"url": "https://example.com/"}).json()
    assert elsewhere["ok"] is False
    assert "loopback" in elsewhere["response_body"]


# --- terms, expiry, size


def test_before_the_terms_are_agreed_to_nothing_else_works() -> None:
    with Emulator(behaviour=Behaviour(agreed=False)) as dok, client_of(dok) as client:
        account = client.auth.get().account
        assert account is not None
        assert account.tos_agreed_at is None
        with pytest.raises(errors.Forbidden, match="terms of service"):
            client.tasks.list()
        client.auth.agree()
        client.tasks.list()


def test_an_artifact_is_gone_after_72_hours_and_its_record_says_so() -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as dok, client_of(dok) as client:
        artifact = end_of(client, client.tasks.create(request())).artifact
        assert artifact is not None
        clock.pass_time(72 * 3600 - 1)
        client.artifacts.download_url(artifact.id)
        clock.pass_time(1)
        with pytest.raises(errors.NotFound, match="expired"):
            client.artifacts.download_url(artifact.id)
        assert client.artifacts.get(artifact.id).deleted_at is not None


def test_an_artifact_that_is_too_large_ends_its_task_with_an_error() -> None:
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/a', 'wb').write(bytes(2000))"
    with Emulator(behaviour=Behaviour(largest_artifact_bytes=1999)) as dok, client_of(dok) as client:
        task = end_of(client, client.tasks.create(request(code)))
    assert task.status == "error"
    assert "1999 are allowed" in str(task.error_message)


# --- restarts


def test_after_a_restart_nothing_listed_is_lost_and_what_ran_is_aborted(tmp_path: Path) -> None:
    registry = {"hostname": "r.example", "username": "u", "password": "p"}
    with Emulator(data=tmp_path / "data") as dok, client_of(dok) as client:
        key = (dok.token, dok.secret)
        done = end_of(client, client.tasks.create(request("print('kept')")))
        ran = client.tasks.create(request("import time; time.sleep(600)"))
        running(client, ran.id)
        waited = client.tasks.create(request())
        send(dok, "POST", "/registries/", json=registry)
    with Emulator(data=tmp_path / "data") as dok, client_of(dok) as client:
        assert (dok.token, dok.secret) == key, "who points at it need not be told anew"
        assert client.tasks.get(done.id) == done
        assert client.tasks.get(ran.id).status == "aborted"
        assert end_of(client, waited).status == "done"
        assert [task.id for task in client.tasks.iterate()] == [waited.id, ran.id, done.id]
        assert done.artifact is not None
        client.artifacts.download(done.artifact.id, tmp_path / "artifact")
        output = send(dok, "GET", f"/tasks/{done.id}/download/output/").json()["url"]
        assert httpx.get(output).text == "kept\n"
        assert send(dok, "GET", "/registries/").json()["results"][0]["hostname"] == "r.example"
        client.tasks.delete(done.id)
    with Emulator(data=tmp_path / "data") as dok, client_of(dok) as client:
        assert [task.id for task in client.tasks.iterate()] == [waited.id, ran.id]


def test_what_is_kept_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    with Emulator(data=tmp_path / "data"):
        modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes
    assert set(modes.values()) == {0}
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_a_key_that_looks_real_is_refused() -> None:
    with pytest.raises(ValueError, match="looks like that of a real API key"):
        Emulator(token="12345678-9abc-def0-1234-56789abcdef0")


# --- the command


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_command_prints_what_points_a_client_at_it(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [str(Path(sys.executable).with_name("dokrun")), "emulator", f"--data={tmp_path / 'data'}", "--slots=2"]
    with (
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as ends,
    ):
        ends.callback(process.kill)
        assert process.stdout is not None
        first = process.stdout.readline()
        if options:
            told = json.loads(first)
        else:
            assert first.startswith("# An emulator of DOK listens")
            lines = [process.stdout.readline().strip().partition("=") for _ in range(3)]
            told = {name.removeprefix("export DOKRUN_").lower(): value for name, _, value in lines}
        assert told["api_url"].endswith("/cloud/zone/is1a/api/managed-container/1.0")
        with Client(told["access_token"], told["access_token_secret"], base_url=told["api_url"]) as client:
            assert client.tasks.list().meta.count == 0
        process.send_signal(signal.SIGTERM)
        rest, problems = process.communicate(timeout=30)
    assert (rest, problems, process.returncode) == ("" if options else "# ended\n", "", 0)
