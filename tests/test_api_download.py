"""Artifacts come down whole or not at all, whatever the connection does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from emulated import end_of, request

from dokrun import errors
from dokrun.api import Client
from dokrun.api.transport import Backoff
from dokrun.emulator import Emulator

MIB = 1 << 20
CONTENT = bytes(range(251)) * 21_000  # 5 MiB and a bit, which looks otherwise at every MiB
LENGTH = len(CONTENT)
ID = "9b2f0c4e-52a5-4f39-9a33-0c3a5f4f6f10"


class Piece(httpx.SyncByteStream):
    """So many bytes of a stream; then the connection breaks, loudly or not."""

    def __init__(self, stream: Iterator[bytes], length: int, *, loud: bool) -> None:
        self._stream, self._length, self._loud = stream, length, loud

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                break
        if self._loud:
            raise httpx.ReadError("reset by peer")


class Service(httpx.BaseTransport):
    """Hands out addresses on another host, where each transfer breaks after the bytes that `breaks` tells."""

    def __init__(self, *breaks: int, ranges: bool = True, loud: bool = True, sized: bool = True) -> None:
        self._breaks, self._ranges, self._loud, self._sized = [*breaks], ranges, loud, sized
        self.addresses = 0
        self.cuts = 0
        self.asked: list[httpx.Request] = []

    @property
    def asked_ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.asked]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            self.addresses += 1
            return httpx.Response(200, json={"url": f"https://store.test/file?signature={self.addresses}"})
        self.asked.append(request)
        asked = request.headers.get("Range") if self._ranges else None
        rest = CONTENT[int(asked.removeprefix("bytes=").removesuffix("-")) :] if asked else CONTENT
        headers = {"Content-Length": str(len(rest))} if self._sized else {}
        if asked:
            headers["Content-Range"] = f"bytes {LENGTH - len(rest)}-{LENGTH - 1}/{LENGTH}"
        stream: httpx.SyncByteStream = httpx.ByteStream(rest)
        if self._breaks:
            self.cuts += 1
            stream = Piece(iter([rest]), self._breaks.pop(0), loud=self._loud)
        return httpx.Response(206 if asked else 200, headers=headers, stream=stream)


def client_of(service: httpx.BaseTransport, attempts: int = 3) -> Client:
    backoff = Backoff(attempts=attempts, sleep=lambda _: None)
    return Client("token", "secret", base_url="https://dok.test", transport=service, backoff=backoff)


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    service = Service(MIB, 3 * MIB)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert service.cuts == 2
    assert service.asked_ranges == [None, f"bytes={MIB}-", f"bytes={4 * MIB}-"]


def test_not_a_byte_that_came_is_asked_for_again(tmp_path: Path) -> None:
    service = Service(1000, 5000)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert service.asked_ranges == [None, "bytes=1000-", "bytes=6000-"]


def test_it_begins_again_where_the_server_knows_no_ranges(tmp_path: Path) -> None:
    service = Service(MIB, ranges=False)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert service.cuts == 1
    assert service.asked_ranges == [None, f"bytes={MIB}-"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [1000, 100_000, 10 * MIB])
def test_what_is_streamed_comes_once_whatever_breaks(*, ranges: bool, size: int) -> None:
    service = Service(MIB + 17, 3 * MIB, ranges=ranges)
    pieces = list(client_of(InChunks(service, size)).artifacts.stream(ID))
    assert all(pieces)
    assert b"".join(pieces) == CONTENT
    assert service.cuts == 2


def test_a_stream_that_is_not_taken_to_its_end_ends_its_connection() -> None:
    body = Chunks(CONTENT, 1000)

    def service(request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            return httpx.Response(200, json={"url": "https://store.test/file"})
        return httpx.Response(200, stream=body)

    stream = client_of(httpx.MockTransport(service)).artifacts.stream(ID)
    assert next(stream) == CONTENT[:1000]
    stream.close()
    assert body.closed


def test_where_the_server_begins_again_and_has_less_it_is_another_file() -> None:
    def service(request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            return httpx.Response(200, json={"url": "https://store.test/file"})
        if "Range" in request.headers:
            return httpx.Response(200, stream=httpx.ByteStream(b"less"))
        return httpx.Response(200, stream=Piece(iter([CONTENT]), 1000, loud=True))

    with pytest.raises(errors.InvalidAnswer, match="another part"):
        list(client_of(httpx.MockTransport(service)).artifacts.stream(ID))


def test_a_fresh_address_is_asked_for_when_it_broke(tmp_path: Path) -> None:
    service = Service(MIB)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert [request.url.query for request in service.asked] == [b"signature=1", b"signature=2"]


def test_a_transfer_that_ends_early_without_a_word_is_noticed_and_resumed(tmp_path: Path) -> None:
    service = Service(MIB, loud=False)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert service.cuts == 1
    assert service.asked_ranges == [None, f"bytes={MIB}-"]


def test_a_transfer_of_no_told_length_is_taken_as_it_comes(tmp_path: Path) -> None:
    client_of(Service(sized=False)).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("loud", [True, False])
def test_it_is_given_up_after_its_attempts_without_a_new_byte_and_nothing_stays_behind(
    tmp_path: Path, *, loud: bool
) -> None:
    service = Service(MIB, 0, 0, 0, loud=loud)
    with pytest.raises(errors.NoAnswer, match="GET /file"):
        client_of(service, attempts=3).artifacts.download(ID, tmp_path / "a")
    assert service.asked_ranges == [None, *[f"bytes={MIB}-"] * 3]
    assert service.cuts == 4
    assert list(tmp_path.iterdir()) == []


def test_progress_renews_the_attempts(tmp_path: Path) -> None:
    service = Service(*[MIB] * 5)
    client_of(service, attempts=2).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert service.cuts == 5


@pytest.mark.parametrize("sized", [True, False])
def test_more_bytes_than_allowed_are_refused_and_nothing_stays_behind(tmp_path: Path, *, sized: bool) -> None:
    service = Service(sized=sized)
    with pytest.raises(errors.InvalidAnswer, match=f"more than {LENGTH - 1} bytes"):
        client_of(service).artifacts.download(ID, tmp_path / "a", limit_bytes=LENGTH - 1)
    assert len(service.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_exactly_as_many_bytes_as_allowed_are_taken(tmp_path: Path) -> None:
    client_of(Service()).artifacts.download(ID, tmp_path / "a", limit_bytes=LENGTH)
    assert (tmp_path / "a").stat().st_size == LENGTH


def test_the_limit_counts_over_all_transfers(tmp_path: Path) -> None:
    service = Service(MIB)
    with pytest.raises(errors.InvalidAnswer, match=f"more than {2 * MIB} bytes"):
        client_of(service).artifacts.download(ID, tmp_path / "a", limit_bytes=2 * MIB)
    assert service.cuts == 1


def test_a_failed_download_leaves_the_older_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"older")
    with pytest.raises(errors.InvalidAnswer):
        client_of(Service()).artifacts.download(ID, tmp_path / "a", limit_bytes=1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_the_file_is_the_users_alone(tmp_path: Path) -> None:
    client_of(Service()).artifacts.download(ID, tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_an_address_that_is_refused_is_an_error_that_hides_its_signature(tmp_path: Path) -> None:
    def expired(request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            return httpx.Response(200, json={"url": "https://store.test/file?signature=hush"})
        return httpx.Response(403, text="<Error>AccessDenied</Error>")

    with pytest.raises(errors.Forbidden, match="GET /file: 403 Forbidden") as caught:
        client_of(httpx.MockTransport(expired)).artifacts.download(ID, tmp_path / "a")
    assert "hush" not in repr(vars(caught.value)) + repr(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_download_host_never_sees_the_credentials(tmp_path: Path) -> None:
    service = Service(MIB)
    client_of(service).artifacts.download(ID, tmp_path / "a")
    assert len(service.asked) == 2
    assert [name for request in service.asked for name in ("Authorization", "Cookie") if name in request.headers] == []


def test_a_piece_from_another_place_than_asked_for_is_never_appended(tmp_path: Path) -> None:
    service = Service(MIB)

    def shifted(request: httpx.Request) -> httpx.Response:
        if "Range" not in request.headers:
            return service.handle_request(request)
        headers = {"Content-Range": f"bytes {LENGTH - 9}-{LENGTH - 1}/{LENGTH}", "Content-Length": "9"}
        return httpx.Response(206, headers=headers, stream=httpx.ByteStream(CONTENT[-9:]))

    with pytest.raises(errors.ApiError):
        client_of(httpx.MockTransport(shifted)).artifacts.download(ID, tmp_path / "a")
    assert service.cuts == 1
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_none_is_one_of_our_errors(tmp_path: Path) -> None:
    service = httpx.MockTransport(lambda _: httpx.Response(200, json={"url": "https://store.test:port/file"}))
    with pytest.raises(errors.ApiError):
        client_of(service).artifacts.download(ID, tmp_path / "a")


class Chunks(httpx.SyncByteStream):
    """A body that comes in pieces of this size."""

    def __init__(self, body: bytes, size: int) -> None:
        self._body, self._size = body, size
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), self._size):
            yield self._body[start : start + self._size]


class InChunks(httpx.BaseTransport):
    """Another service, whose bodies come in pieces of a size."""

    def __init__(self, inner: httpx.BaseTransport, size: int = 100_000) -> None:
        self._inner = inner
        self._size = size

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        if request.url.host == "dok.test" or not isinstance(response.stream, httpx.ByteStream):
            return response
        stream = Chunks(b"".join(response.stream), self._size)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)


def progress_of(service: httpx.BaseTransport, path: Path) -> list[tuple[int, int | None]]:
    told: list[tuple[int, int | None]] = []
    client_of(InChunks(service)).artifacts.download(ID, path, on_progress=lambda *now: told.append(now))
    assert path.read_bytes() == CONTENT
    return told


def test_progress_is_told_with_every_mib_and_once_at_the_end(tmp_path: Path) -> None:
    told = progress_of(Service(), tmp_path / "a")
    assert told == [*[(number * 1_100_000, LENGTH) for number in range(1, 5)], (LENGTH, LENGTH)]


def test_progress_that_is_the_end_is_told_once(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    client_of(Service()).artifacts.download(ID, tmp_path / "a", on_progress=lambda *now: told.append(now))
    assert told == [(LENGTH, LENGTH)]  # it came in one piece


def test_progress_of_no_told_length_has_no_total(tmp_path: Path) -> None:
    told = progress_of(Service(sized=False), tmp_path / "a")
    assert [so_far for so_far, _ in told] == [1_100_000, 2_200_000, 3_300_000, 4_400_000, LENGTH]
    assert {total for _, total in told} == {None}


def test_progress_counts_on_where_a_transfer_broke(tmp_path: Path) -> None:
    service = Service(2 * MIB)
    told = progress_of(service, tmp_path / "a")
    assert service.cuts == 1
    expected = [2 * MIB, 2 * MIB + 1_100_000, 2 * MIB + 2_200_000, LENGTH]
    assert told == [(so_far, LENGTH) for so_far in expected]


def test_progress_goes_back_where_the_server_begins_again(tmp_path: Path) -> None:
    service = Service(4 * MIB, ranges=False)
    told = progress_of(service, tmp_path / "a")
    assert service.cuts == 1
    assert [so_far for so_far, _ in told] == [4 * MIB, 1_100_000, 2_200_000, 3_300_000, 4_400_000, LENGTH]


def test_the_end_of_an_empty_download_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []

    def service(request: httpx.Request) -> httpx.Response:
        if request.url.host == "dok.test":
            return httpx.Response(200, json={"url": "https://store.test/file"})
        return httpx.Response(200, headers={"Content-Length": "0"}, stream=httpx.ByteStream(b""))

    client = client_of(httpx.MockTransport(service))
    client.artifacts.download(ID, tmp_path / "a", on_progress=lambda *now: told.append(now))
    assert told == [(0, 0)]


def test_a_listener_that_fails_ends_the_download_and_nothing_stays_behind(tmp_path: Path) -> None:
    def fail(so_far: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client_of(Service()).artifacts.download(ID, tmp_path / "a", on_progress=fail)
    assert list(tmp_path.iterdir()) == []


class Flaky(httpx.BaseTransport):
    """The network, where the first download breaks after so many bytes."""

    def __init__(self, length: int) -> None:
        self._inner, self._length = httpx.HTTPTransport(), length
        self.answers: list[tuple[int, str | None]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        if not request.url.path.startswith("/downloads/"):
            return response
        self.answers.append((response.status_code, response.headers.get("Content-Range")))
        if len(self.answers) > 1:
            return response
        content = response.read()
        piece = Piece(iter([content]), self._length, loud=True)
        return httpx.Response(response.status_code, headers=response.headers, stream=piece)

    def close(self) -> None:
        self._inner.close()


def test_the_emulators_downloads_resume_as_well(dok: Emulator, tmp_path: Path) -> None:
    code = "import os; open(os.environ['SAKURA_ARTIFACT_DIR'] + '/noise', 'wb').write(os.urandom(3 << 20))"
    network = Flaky(2 * MIB)
    backoff = Backoff(sleep=lambda _: None)
    with Client(dok.token, dok.secret, base_url=dok.api_url, transport=network, backoff=backoff) as client:
        task = end_of(client, client.tasks.create(request(code)))
        assert task.artifact is not None
        path = client.artifacts.download(task.artifact.id, tmp_path / "a")
        whole = httpx.get(client.artifacts.download_url(task.artifact.id)).content
    assert path.read_bytes() == whole
    size = task.artifact.size_bytes
    assert network.answers == [(200, None), (206, f"bytes {2 * MIB}-{size - 1}/{size}")]
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208 - names are enough
