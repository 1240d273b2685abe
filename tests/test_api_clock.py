"""This machine's clock is compared with the service's, and every read of an answer has an end."""

from __future__ import annotations

import email.utils
import gzip
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from emulated import end_of, request

from dokrun import errors
from dokrun.api import Client
from dokrun.api.clock import Clock
from dokrun.api.transport import Backoff
from dokrun.emulator import Emulator
from dokrun.emulator.faults import Fault

NOW = 1_795_600_000.0
TASK = {"id": "0d8bb1d7-4f5c-4f0e-9b57-1a6b8c3b1a11"}


class Service(httpx.BaseTransport):
    """A service whose clock is so many seconds behind ours, one after another; an answer takes `way_s`."""

    def __init__(self, *behind_s: float, way_s: float = 0.0, status: int = 200) -> None:
        self._behind_s = [*behind_s]
        self._way_s = way_s
        self._status = status
        self._now = NOW
        self.asked: list[str] = []

    def now(self) -> float:
        return self._now

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        self._now += self._way_s
        behind_s = self._behind_s.pop(0) if len(self._behind_s) > 1 else self._behind_s[0]
        date = email.utils.formatdate(NOW + self._way_s / 2 - behind_s, usegmt=True)
        return httpx.Response(self._status, headers={"Date": date}, json=TASK)


def client_of(service: Service) -> Client:
    return Client("t", "s", base_url="https://dok.test", transport=service, clock=Clock(now=service.now))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("behind_s", "words"),
    [(62, "61 seconds ahead of"), (-62, "62 seconds behind"), (320, "5 minutes ahead of"), (-320, "5 minutes behind")],
)
def test_a_clock_that_is_a_minute_off_is_told_once_with_what_to_do(
    behind_s: float, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(Service(behind_s))
    for _ in range(3):
        client.tasks.get("1")
    client.tasks.create(request())
    (warning,) = warnings_in(caplog)
    assert f"this machine's clock is {words} DOK's: set it" in warning
    assert "15" in warning


@pytest.mark.parametrize("behind_s", [0, 59, -59])
def test_a_clock_that_is_less_than_a_minute_off_is_good(behind_s: float, caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(Service(behind_s))
    client.check_clock()
    client.tasks.create(request())
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("behind_s", [80, -80])
def test_what_the_way_may_have_taken_is_no_difference(behind_s: float, caplog: pytest.LogCaptureFixture) -> None:
    client_of(Service(behind_s, way_s=50)).tasks.get("1")
    assert warnings_in(caplog) == []
    client_of(Service(behind_s, way_s=30)).tasks.get("1")
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize(("behind_s", "words"), [(721, "12 minutes ahead of"), (-721, "12 minutes behind")])
def test_with_a_clock_that_is_ten_minutes_off_no_task_is_created(behind_s: float, words: str) -> None:
    service = Service(behind_s)
    client = client_of(service)
    client.tasks.get("1")
    with pytest.raises(errors.ConfigError, match=f"this machine's clock is {words} DOK's") as caught:
        client.tasks.create(request())
    assert "No task was created" in str(caught.value)
    assert service.asked == ["GET /tasks/1/"]


def test_with_such_a_clock_a_task_can_still_be_looked_at_cancelled_and_deleted() -> None:
    service = Service(4000)
    client = client_of(service)
    client.tasks.get("1")
    client.tasks.cancel("1")
    client.tasks.delete("1")
    assert service.asked == ["GET /tasks/1/", "POST /tasks/1/cancel/", "DELETE /tasks/1/"]


def test_the_answer_to_a_task_that_was_created_is_never_thrown_away(caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(Service(4000))
    assert client.tasks.create(request()).id == TASK["id"]
    assert len(warnings_in(caplog)) == 1
    with pytest.raises(errors.ConfigError):
        client.tasks.create(request())


def test_a_clock_that_has_been_set_is_good_again() -> None:
    service = Service(4000, 0)
    client = client_of(service)
    client.tasks.get("1")
    with pytest.raises(errors.ConfigError):
        client.check_clock()
    client.tasks.get("1")
    client.check_clock()
    client.tasks.create(request())


@pytest.mark.parametrize("status", [200, 401])
def test_the_clock_can_be_checked_before_anything_is_sent_and_is_asked_for_once(status: int) -> None:
    service = Service(-4000, status=status)
    client = client_of(service)
    for _ in range(2):
        with pytest.raises(errors.ConfigError, match="67 minutes behind"):
            client.check_clock()
    assert service.asked == ["GET /auth/"]


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Mon, 99 Foo 2026 10:00:00 GMT", "Fri, 31 Dec 99999 0:0:0 GMT"]
)
def test_an_answer_without_a_date_that_can_be_read_says_nothing(date: str | None) -> None:
    headers = {} if date is None else {"Date": date}
    service = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, json=TASK))
    client = Client("t", "s", base_url="https://dok.test", transport=service)
    client.check_clock()
    assert client.tasks.create(request()).id == TASK["id"]


def test_the_emulator_is_asked_like_the_service(dok: Emulator) -> None:
    ahead = Clock(now=lambda: time.time() + 900)
    with (
        Client(dok.token, dok.secret, base_url=dok.api_url, clock=ahead) as client,
        pytest.raises(errors.ConfigError, match="15 minutes ahead"),
    ):
        client.check_clock()
    with Client(dok.token, dok.secret, base_url=dok.api_url) as client:
        client.check_clock()


# --- every read has an end


def hasty(dok: Emulator, step_s: float = 20.0) -> Client:
    """Make a client on whose clock so many seconds pass between two looks."""
    seconds = itertools.count(step=step_s)
    backoff = Backoff(attempts=2, sleep=lambda _: None)
    clock = Clock(steady=lambda: next(seconds))
    return Client(dok.token, dok.secret, base_url=dok.api_url, backoff=backoff, clock=clock)


@pytest.fixture
def dripping(dok: Emulator) -> Iterator[Callable[[str], None]]:
    """Let every answer below a path come byte by byte."""
    yield lambda path: _ignore(dok.faults.add(Fault("drip", path=path, occurrence=None, phase="body", every_s=0.001)))
    dok.faults.clear()


def _ignore(_rule: int) -> None:
    """Forget the rule's number."""


def dripped(dok: Emulator) -> list[str]:
    return [injected.path.split("/")[1] for injected in dok.faults.injected if injected.what == "drip"]


def test_an_answer_that_drips_is_given_up(dok: Emulator, dripping: Callable[[str], None]) -> None:
    dripping("/plans/")
    with hasty(dok) as client, pytest.raises(errors.NoAnswer, match="more than 120 s"):
        client.plans.list()
    assert dripped(dok) == ["plans"] * 2


def test_a_refusal_that_drips_is_given_up(dok: Emulator, dripping: Callable[[str], None]) -> None:
    dripping("/tasks/*")
    with hasty(dok) as client, pytest.raises(errors.NoAnswer, match="more than 120 s"):
        client.tasks.get("no-such-task")
    assert dripped(dok) == ["tasks"] * 2


def test_a_download_that_drips_is_given_up_and_nothing_stays_behind(
    dok: Emulator, client: Client, dripping: Callable[[str], None], tmp_path: Path
) -> None:
    task = end_of(client, client.tasks.create(request()))
    assert task.artifact is not None
    dripping("/downloads/*")
    with hasty(dok) as hurried, pytest.raises(errors.NoAnswer, match="less than 10 kB a second"):
        hurried.artifacts.download(task.artifact.id, tmp_path / "a")
    assert dripped(dok) == ["downloads"]
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_drips_is_given_up(dok: Emulator, client: Client, dripping: Callable[[str], None]) -> None:
    task = end_of(client, client.tasks.create(request("print('x' * 1000)")))
    dripping("/downloads/*")
    with hasty(dok) as hurried, pytest.raises(errors.NoAnswer, match="less than 10 kB a second"):
        hurried.tasks.output(task.id)
    assert dripped(dok) == ["downloads"] * 2


def test_what_comes_slowly_but_comes_is_waited_for(dok: Emulator, client: Client, tmp_path: Path) -> None:
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/noise', 'wb').write(os.urandom(8 << 20))"
    task = end_of(client, client.tasks.create(request(code)))
    assert task.artifact is not None
    with hasty(dok, step_s=1.0) as slow:  # 64 KiB a second at most, for more than two minutes
        slow.artifacts.download(task.artifact.id, tmp_path / "a")
    assert (tmp_path / "a").stat().st_size == task.artifact.size_bytes


def test_an_answer_that_unpacks_to_too_much_is_given_up() -> None:
    packed = gzip.compress(bytes(65 << 20))
    assert len(packed) < 1 << 20
    headers = {"Content-Encoding": "gzip"}
    service = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(packed)))
    client = Client("t", "s", base_url="https://dok.test", transport=service, backoff=Backoff(attempts=1))
    with pytest.raises(errors.NoAnswer, match="more than 67108864 bytes"):
        client.tasks.get("1")


def test_a_packed_answer_is_read() -> None:
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"id": "1"}')
    service = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(body)))
    assert Client("t", "s", base_url="https://dok.test", transport=service).tasks.get("1").id == "1"
