"""What is asked again, how often and after which pause; and what is never asked again."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import httpx
import pytest
from emulated import request

from dokrun import errors
from dokrun.api import Client
from dokrun.api.transport import Backoff

TASK = {"id": "0d8bb1d7-4f5c-4f0e-9b57-1a6b8c3b1a11"}
REQUEST = request()

NOT_SENT = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("busy")]
PERHAPS_RECEIVED = [
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.WriteTimeout("slow"),
    httpx.RemoteProtocolError("no answer"),
]
PASSING = [408, 429, 500, 502, 503, 504]


class CutBody(httpx.SyncByteStream):
    """The beginning of an answer, and then the connection breaks."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"id": "0d8b'
        raise httpx.ReadError("reset")


class Script(httpx.BaseTransport):
    """A network on which these things happen one after another."""

    def __init__(self, *acts: Exception | httpx.Response | int) -> None:
        self._acts = list(acts)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        act = self._acts.pop(0)
        if isinstance(act, Exception):
            raise act
        return httpx.Response(act, json=TASK) if isinstance(act, int) else act


class Player:
    """A client on such a network, and the pauses that it makes."""

    def __init__(self, *acts: Exception | httpx.Response | int, attempts: int = 3, longest_s: float = 8.0) -> None:
        self.script = Script(*acts)
        self.pauses: list[float] = []
        backoff = Backoff(attempts=attempts, first_s=1.0, longest_s=longest_s, sleep=self.pauses.append)
        self.client = Client("token", "secret", base_url="https://dok.test/1.0", transport=self.script, backoff=backoff)

    @property
    def asked(self) -> int:
        return len(self.script.requests)


def busy(retry_after: str, status: int = 503) -> httpx.Response:
    return httpx.Response(status, headers={"Retry-After": retry_after})


@pytest.mark.parametrize("trouble", [*NOT_SENT, *PERHAPS_RECEIVED, *PASSING], ids=repr)
def test_a_get_is_repeated_until_it_is_answered(trouble: Exception | int) -> None:
    player = Player(trouble, trouble, 200)
    assert player.client.tasks.get(TASK["id"]).id == TASK["id"]
    assert (player.asked, len(player.pauses)) == (3, 2)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (httpx.ConnectError("refused"), errors.NotSent),
        (httpx.ReadTimeout("slow"), errors.NoAnswer),
        (429, errors.TooManyRequests),
        (503, errors.ServerError),
    ],
    ids=repr,
)
def test_a_get_is_given_up_after_its_attempts_with_the_last_failure(
    trouble: Exception | int, kind: type[errors.ApiError]
) -> None:
    player = Player(trouble, trouble, trouble, 200)
    with pytest.raises(errors.ApiError) as caught:
        player.client.tasks.get(TASK["id"])
    assert type(caught.value) is kind
    assert (player.asked, len(player.pauses)) == (3, 2)


def test_a_delete_is_repeated() -> None:
    player = Player(httpx.ReadTimeout("slow"), 503, 204)
    player.client.tasks.delete(TASK["id"])
    assert [sent.method for sent in player.script.requests] == ["DELETE"] * 3


@pytest.mark.parametrize("trouble", [*PERHAPS_RECEIVED, *PASSING], ids=repr)
def test_a_post_that_may_have_been_received_is_never_repeated(trouble: Exception | int) -> None:
    player = Player(trouble, 201)
    with pytest.raises(errors.ApiError) as caught:
        player.client.tasks.create(REQUEST)
    assert not isinstance(caught.value, errors.NotSent)
    assert (player.asked, player.pauses) == (1, [])


def test_a_post_whose_answer_is_cut_is_never_repeated() -> None:
    player = Player(httpx.Response(201, stream=CutBody()), 201)
    with pytest.raises(errors.NoAnswer) as caught:
        player.client.tasks.create(REQUEST)
    assert type(caught.value) is errors.NoAnswer
    assert (player.asked, player.pauses) == (1, [])


@pytest.mark.parametrize("trouble", NOT_SENT, ids=repr)
def test_a_post_that_was_not_sent_is_repeated_with_the_same_body(trouble: Exception) -> None:
    player = Player(trouble, trouble, 201)
    player.client.tasks.create(REQUEST)
    first, *others = [sent.content for sent in player.script.requests]
    assert b'"image":"any"' in first
    assert others == [first, first]


@pytest.mark.parametrize("trouble", NOT_SENT, ids=repr)
def test_what_was_never_sent_is_told_as_that(trouble: Exception) -> None:
    player = Player(*[trouble] * 3)
    with pytest.raises(errors.NotSent, match=r"POST /1\.0/tasks/: no answer from DOK"):
        player.client.tasks.create(REQUEST)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 413, 422, 501])
def test_an_answer_that_would_stay_the_same_is_not_asked_for_again(status: int) -> None:
    player = Player(status, 200)
    with pytest.raises(errors.Refused) as caught:
        player.client.tasks.get(TASK["id"])
    assert (caught.value.status, player.asked, player.pauses) == (status, 1, [])


def test_pauses_double_up_to_the_longest_each_shortened_by_half_at_most() -> None:
    player = Player(*[503] * 6, 200, attempts=7, longest_s=10.0)
    player.client.tasks.get(TASK["id"])
    ceilings = [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert len(player.pauses) == len(ceilings)
    assert all(ceiling / 2 <= pause <= ceiling for pause, ceiling in zip(player.pauses, ceilings, strict=True))


def test_two_clients_do_not_pause_in_step() -> None:
    assert len({Backoff().pause_s(1) for _ in range(10)}) > 1


@pytest.mark.parametrize("status", [429, 503])
def test_the_service_says_how_many_seconds_to_wait(status: int) -> None:
    player = Player(busy("7", status), busy("0", status), 200)
    player.client.tasks.get(TASK["id"])
    assert player.pauses == [7.0, 0.0]


def test_the_service_says_until_when_to_wait() -> None:
    soon = email.utils.format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
    player = Player(busy(soon), busy("Wed, 21 Oct 2015 07:28:00 GMT"), 200, longest_s=7200.0)
    player.client.tasks.get(TASK["id"])
    assert 3000 < player.pauses[0] <= 3600
    assert player.pauses[1] == 0.0


@pytest.mark.parametrize("asked", ["9", "1e9", "inf", "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_an_answer_that_asks_for_a_longer_wait_is_handed_on_at_once(asked: str) -> None:
    player = Player(busy(asked, 429), 200, longest_s=8.0)
    with pytest.raises(errors.TooManyRequests):
        player.client.tasks.get(TASK["id"])
    assert (player.asked, player.pauses) == (1, [])


@pytest.mark.parametrize("asked", ["", "soon", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_wait_that_cannot_be_read_is_left_to_the_client(asked: str) -> None:
    player = Player(busy(asked), 200)
    player.client.tasks.get(TASK["id"])
    assert 0.5 <= player.pauses[0] <= 1.0
