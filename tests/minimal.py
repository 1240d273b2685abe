"""A second DOK, made from the contract and public facts alone: an independent judge of how tasks are submitted.

Tasks run only when the test says so. Answers hold nulls, unforeseen fields and an order of tags as the contract allows.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import secrets
import socket
import struct
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

PATIENCE_S = 10.0
BASE = "/cloud/zone/is1a/api/managed-container/1.0"
STATUSES = ("waiting", "running", "error", "done", "aborted", "canceled")
KINDS = re.compile(
    "(reset|hang|status (408|429|500|503)) (before|after) commit|(cut body|slow body|not JSON) after commit"
    "|twice|late|echo differs|list stale|list lies"
)

Json = dict[str, Any]
Answer = tuple[int, Json]

# Yen per second, and the seconds that are billed at least.
_COSTS = {"v100-32gb": ("0.016", 1), "h100-80gb": ("0.28", 60), "h100-8gpu-80gb": ("0.83", 60)}
PLANS: list[Json] = [
    {"id": plan, "name": plan.upper(), "minimum_execution_seconds": least_s, "gpu": "a GPU"}
    for plan, (_, least_s) in _COSTS.items()
]
PRICES: list[Json] = [{"plan": plan, "price": price, "currency": "JPY"} for plan, (price, _) in _COSTS.items()]


class Request(NamedTuple):
    """What came; `route` is the path with `{id}` in place of a task's identity."""

    method: str
    route: str
    id: str
    query: dict[str, str]
    body: bytes


@dataclass
class _Fault:
    method: str
    route: str
    kind: str
    due: range
    seen: int = 0


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class MinimalDok:
    """DOK's tasks, plans and prices in memory, on a port of the loopback from the beginning on; to be closed.

    `tasks` are in the order of their creation, `foreign` are the ids of those among them that "list lies" made,
    `artifacts` are the test's to fill, `requests` is all that came and `injected` are the faults that
    happened, each as method, route and kind, both in their order.
    """

    def __init__(self) -> None:
        self.token, self.secret = "minimal", secrets.token_hex()
        self.tasks: dict[str, Json] = {}
        self.foreign: list[str] = []
        self.artifacts: list[Json] = []
        self.requests: list[Request] = []
        self.injected: list[tuple[str, str, str]] = []
        self._faults: list[_Fault] = []
        self._late: list[Json] = []
        self._changed = threading.Condition()
        self._port = 0
        self.open()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{BASE}"

    def open(self) -> None:
        """Listen; after a `close` where it was before."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), type("Handler", (_Handler,), {"dok": self}))
        self._port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Refuse connections from now on; the tasks stay."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # --- what the test says

    def inject(self, method: str, route: str, kind: str, *, nth: int = 1, times: int = 1) -> None:
        """Let a fault happen at the nth such request from now on, and at the following ones, `times` in all.

        Anywhere: "reset", "hang" (until the client goes) or "status" 408, 429, 500, 503, each "before commit" or "after
        commit"; "cut body after commit", "slow body after commit" (its half, then no more), "not JSON after commit".
        When a task is created: "twice" makes two, "late" answers 504 and makes it at `commit_late`, "echo differs"
        answers with another definition. In a list of tasks: "list stale" lacks the newest, "list lies", if asked by
        tag, has an older one, somebody else's, of this tag.
        """
        assert KINDS.fullmatch(kind), f"there is no fault {kind!r}"
        with self._changed:
            self._faults.append(_Fault(method, route, kind, range(nth, nth + times)))

    def clear(self) -> None:
        """Forget the faults, and all tasks."""
        with self._changed:
            for kept in (self._faults, self._late, self.injected, self.foreign, self.artifacts):
                kept.clear()
            self.tasks.clear()

    def start(self, task_id: str) -> None:
        """Let a waiting task run."""
        with self._changed:
            task, now = self.tasks[task_id], _now()
            assert task["status"] == "waiting", f"it is {task['status']}"
            task.update(status="running", updated_at=now)
            task["containers"][0]["start_at"] = now

    def end(self, task_id: str, status: str = "done", exit_code: int | None = 0) -> None:
        """Let a task end, whether it ran or not."""
        with self._changed:
            task, now = self.tasks[task_id], _now()
            assert task["status"] in STATUSES[:2], f"it is {task['status']}"
            task.update(status=status, updated_at=now)
            container = task["containers"][0]
            if container["start_at"] is not None:
                ran = datetime.fromisoformat(now) - datetime.fromisoformat(container["start_at"])
                seconds = int(ran.total_seconds())
                container.update(end_at=now, stop_at=now, exit_code=exit_code, execution_seconds=seconds)

    def commit_late(self) -> list[str]:
        """Create the tasks whose creation was "late", and tell their ids."""
        with self._changed:
            late, self._late = self._late, []
            return [self._commit(definition)["id"] for definition in late]

    def wait_for(self, kind: str) -> None:
        """Wait until a fault of this kind has happened: who hangs is not told."""
        with self._changed:
            happened = self._changed.wait_for(lambda: any(one[2] == kind for one in self.injected), PATIENCE_S)
            assert happened, f"no {kind!r} has happened"

    # --- what the connections say

    def receive(self, request: Request) -> list[str]:
        """Take note of a request, and tell the faults that are due with it."""
        with self._changed:
            self.requests.append(request)
            there = [fault for fault in self._faults if (fault.method, fault.route) == request[:2]]
            for fault in there:
                fault.seen += 1
            return [fault.kind for fault in there if fault.seen in fault.due]

    def happened(self, request: Request, kind: str) -> None:
        """Take note of a fault."""
        with self._changed:
            self.injected.append((request.method, request.route, kind))
            self._changed.notify_all()

    def answer(self, request: Request, due: list[str]) -> Answer:
        """Do what a request asks for."""
        with self._changed:
            try:
                return self._do(request, due)
            except _Refusal as refusal:
                return problem(refusal.status, str(refusal))

    def _do(self, request: Request, due: list[str]) -> Answer:
        query, task = request.query, self.tasks.get(request.id)
        match request[:2]:
            case ("POST", "/tasks/"):
                return 201, self._create(request, due)
            case ("GET", "/tasks/"):
                rows = self._listed(request, due)
            case ("GET", "/tasks/{id}/") if task is not None:
                return 200, self._shown(task)
            case ("POST", "/tasks/{id}/cancel/") if task is not None:
                return 200, self._cancel(task)
            case ("GET", "/artifacts/"):
                rows = [one for one in self.artifacts if query.get("task") in (None, one["task"])]
            case ("GET", "/plans/"):
                rows = PLANS
            case ("GET", "/unit_prices/"):
                for name, most in (("year", 9999), ("month", 12), ("day", 31)):
                    _number(query, name, 1, most)
                rows = PRICES
            case _:
                raise _Refusal(404, "Not found")
        return 200, self._page(request, rows)

    # --- tasks

    def _commit(self, definition: Json) -> Json:
        task = _made(definition)
        self.tasks[task["id"]] = task
        return task

    def _shown(self, task: Json) -> Json:
        """Copy a task, its tags in another order than they were sent in."""
        artifact = next((one for one in self.artifacts if one["task"] == task["id"]), None)
        return copy.deepcopy({**task, "tags": task["tags"][::-1], "artifact": artifact})

    def _create(self, request: Request, due: list[str]) -> Json:
        definition = _checked(request.body)
        if "late" in due:
            self.happened(request, "late")
            self._late.append(definition)
            raise _Refusal(504, "The gateway has waited too long")
        shown = self._shown(self._commit(definition))
        if "twice" in due:
            self.happened(request, "twice")
            shown = self._shown(self._commit(definition))
        if "echo differs" in due:
            self.happened(request, "echo differs")
            shown["containers"][0]["command"].append("--more")
        return shown

    def _listed(self, request: Request, due: list[str]) -> list[Json]:
        tag = request.query.get("tag")
        wanted = request.query.get("status", ",".join(STATUSES)).split(",")
        if not set(wanted) <= set(STATUSES):
            raise _Refusal(400, "status is none that a task can have")
        if "list lies" in due and tag is not None:
            self.happened(request, "list lies")
            self._add_foreign(tag)
        tasks = [*self.tasks.values()][::-1]
        if "list stale" in due and tasks:
            self.happened(request, "list stale")
            del tasks[0]
        found = [task for task in tasks if task["status"] in wanted and (tag is None or tag in task["tags"])]
        return [self._shown(task) for task in found]

    def _add_foreign(self, tag: str) -> None:
        """Add somebody else's task of this tag: the oldest, so that who keeps the oldest of several keeps it."""
        if not any(tag in self.tasks[task_id]["tags"] for task_id in self.foreign):
            container = {"image": "somebody/elses", "command": ["mine"], "entrypoint": [], "plan": "v100-32gb"}
            task = _made({"name": "somebody else's", "tags": [tag], "containers": [container]})
            task["created_at"] = task["updated_at"] = "2026-11-01T09:00:00+09:00"
            self.foreign.append(task["id"])
            self.tasks = {task["id"]: task, **self.tasks}

    def _cancel(self, task: Json) -> Json:
        if task["status"] not in STATUSES[:2]:
            raise _Refusal(403, "The task has ended already")
        self.end(task["id"], "canceled", None)
        task["canceled_at"] = task["updated_at"]
        return self._shown(task)

    def _page(self, request: Request, rows: list[Json]) -> Json:
        number, size = _number(request.query, "page", 1, 10**8), _number(request.query, "page_size", 100, 100)
        pages = max(1, -(-len(rows) // size))

        def url(page: int) -> str | None:
            query = urlencode({**request.query, "page": page, "page_size": size})
            return f"{self.api_url}{request.route}?{query}" if 1 <= page <= pages else None

        meta: Json = {"page": number, "page_size": size, "total_pages": pages, "count": len(rows), "took_ms": 3}
        meta.update(next=url(number + 1), previous=url(number - 1))
        return {"meta": meta, "results": rows[(number - 1) * size : number * size], "warnings": []}


# --- what is answered


def _now() -> str:
    return datetime.now(timezone(timedelta(hours=9))).isoformat()


def _made(definition: Json) -> Json:
    """Make a task of a definition, with null for all that there is not yet."""
    sent, now = definition["containers"][0], _now()
    nothing = dict.fromkeys(("exit_code", "execution_seconds", "start_at", "end_at", "stop_at"))
    container = {"index": 0, "node": "rack-7", **nothing, **{name: sent.get(name) for name in _CONTAINER}}
    container["environment"] = sent.get("environment", {})
    container["ssh"] = sent.get("ssh") and {**sent["ssh"], "host_name": None}
    return {
        **dict.fromkeys(("canceled_at", "http_uri", "error_message", "artifact")),
        "project": "a project",
        "id": str(uuid.uuid4()),
        "status": "waiting",
        "created_at": now,
        "updated_at": now,
        "name": definition["name"],
        "tags": definition["tags"],
        "containers": [container],
        "execution_time_limit_sec": definition.get("execution_time_limit_sec", 1_728_000),
    }


def problem(status: int, message: str) -> Answer:
    """Make an answer that is an error."""
    phrase = HTTPStatus(status).phrase
    words = {"error_code": phrase.lower().replace(" ", "_"), "error_msg": message, "hint": "a hint"}
    return status, {"is_fatal": True, "serial": secrets.token_hex(8), "status": f"{status} {phrase}", **words}


# --- what may be sent

_Rules = dict[str, Callable[[Any], bool]]


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _integer(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _environment(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _texts([*value.values()])
        and sum(len(name) + len(text) for name, text in value.items()) < 8192
        and not any(name.startswith("SAKURA_") for name in value)
    )


def _http(value: object) -> bool:
    return isinstance(value, dict) and _integer(value.get("port"), 1, 65535) and isinstance(value.get("path"), str)


def _ssh(value: object) -> bool:
    shells = ("/bin/sh", "/bin/bash", "/bin/zsh")
    return isinstance(value, dict) and value.get("shell") in shells and type(value.get("port", 22)) is int


_CONTAINER: _Rules = {
    "image": lambda value: isinstance(value, str) and value != "",
    "command": _texts,
    "entrypoint": _texts,
    "plan": lambda value: isinstance(value, str) and value in _COSTS,
    "registry": lambda value: value is None or isinstance(value, str),
    "environment": _environment,
    "http": lambda value: value is None or _http(value),
    "ssh": lambda value: value is None or _ssh(value),
}
_TASK: _Rules = {
    "name": lambda value: isinstance(value, str) and value != "",
    "tags": _texts,
    "containers": lambda value: isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict),
    "execution_time_limit_sec": lambda value: value is None or _integer(value, 600, 10**12),
}


def _checked(body: bytes) -> Json:
    """Read the definition of a task, or refuse it."""
    try:
        task = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal(400, "This is not JSON") from None
    if not isinstance(task, dict):
        raise _Refusal(400, "This is no task")
    _check(task, _TASK, {"name", "tags", "containers"})
    container = task["containers"][0]
    if not container.keys() <= _CONTAINER.keys():
        raise _Refusal(400, "Unknown key in container")
    _check(container, _CONTAINER, {"image", "command", "entrypoint", "plan"})
    return task


def _check(value: Json, rules: _Rules, required: set[str]) -> None:
    wrong = [name for name, rule in rules.items() if name in value and not rule(value[name])]
    if wrong or not required <= value.keys():
        raise _Refusal(400, f"Wrong or lacking: {', '.join([*wrong, *sorted(required - value.keys())])}")


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise _Refusal(400, f"{name} is a number from 1 to {most}")
    return int(text)


# --- the connections, of which each carries one request


class _Handler(BaseHTTPRequestHandler):
    dok: MinimalDok

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request of this service, such as a method that it has nowhere."""
        self._write(*problem(405 if code == 501 else code, message or explain or ""))

    def do_GET(self) -> None:
        request = self._read()
        key = base64.b64encode(f"{self.dok.token}:{self.dok.secret}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {key}":
            self._write(*problem(401, "Authentication credentials not provided"))
            return
        due = self.dok.receive(request)
        with contextlib.suppress(ConnectionError):  # the client has gone
            if (fault := _first(due, "before commit")) is not None:
                self._fail(request, fault, 0, {})
            else:
                status, answer = self.dok.answer(request, due)
                if (fault := _first(due, "after commit")) is not None:
                    self._fail(request, fault, status, answer)
                else:
                    self._write(status, answer)

    do_POST = do_GET  # noqa: N815 - the name is the base class's

    def _read(self) -> Request:
        url = urlsplit(self.path)
        path = url.path.removeprefix(BASE)
        found = re.fullmatch(r"(/tasks/)([0-9a-f-]{36})(/.*)", path)
        route, task_id = (f"{found[1]}{{id}}{found[3]}", found[2]) if found else (path, "")
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return Request(self.command, route, task_id, query, body)

    def _fail(self, request: Request, kind: str, status: int, answer: Json) -> None:
        self.dok.happened(request, kind)
        match kind.split():
            case ["status", number, *_]:
                self._write(*problem(int(number), "A fault was injected"))
            case ["not", *_]:
                self._write(status, "<html><body>It worked</body></html>")
            case ["cut", *_]:
                self._write(status, answer, cut=True)
            case ["slow", *_]:
                self._write(status, answer, cut=True)
                self.connection.recv(1)
            case ["reset", *_]:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case ["hang", *_]:
                self.connection.recv(1)

    def _write(self, status: int, answer: Json | str, *, cut: bool = False) -> None:
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)


def _first(due: list[str], when: str) -> str | None:
    return next((kind for kind in due if kind.endswith(when)), None)
