"""What registries say of images: the real one, one that answers as told, and hosts that exist nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from containers import slim_image
from registries import BASIC, CONFIG, CREDENTIALS, DIGEST, MANIFEST, SECRET, Answer, Asked, FakeRegistry, sha256

from dokrun.errors import ImageError, RegistryError
from dokrun.image.reference import Reference
from dokrun.image.registry import Registry

INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def registry(pauses: list[float]) -> Iterator[Registry]:
    registry = Registry(lambda _: CREDENTIALS, sleep=pauses.append)
    yield registry
    registry.close()


def elsewhere(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Registry:
    """A registry of hosts that exist nowhere."""
    return Registry(lambda _: CREDENTIALS, httpx.MockTransport(answer), sleep=lambda _: None, **options)


# --- names


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("python", "docker.io/library/python:latest", "https://registry-1.docker.io/v2/library/python"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim", "https://registry-1.docker.io/v2/library/python"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c", "https://registry-1.docker.io/v2/a/b"),
        ("pytorch/pytorch:2.8", "docker.io/pytorch/pytorch:2.8", "https://registry-1.docker.io/v2/pytorch/pytorch"),
        ("localhost/a:1", "localhost/a:1", "http://localhost/v2/a"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "http://127.0.0.1:5000/v2/a/b"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1", "http://[::1]:5000/v2/a"),
        ("127.0.0.1.example.com/a:1", "127.0.0.1.example.com/a:1", "https://127.0.0.1.example.com/v2/a"),
        ("ghcr.io/a/b@" + DIGEST, "ghcr.io/a/b@" + DIGEST, "https://ghcr.io/v2/a/b"),
        ("ghcr.io/a/b:1@" + DIGEST, "ghcr.io/a/b:1@" + DIGEST, "https://ghcr.io/v2/a/b"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, name: str, url: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.base_url) == (name, url)
    assert Reference.parse(name) == reference


@pytest.mark.parametrize("text", ["", "Python", "a b", "host.io/", "a:b:c", "a@sha256:12", "a/../b", "a:x/b", "héllo"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="is not the name of an image"):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["https://ann:hunter2@ghcr.io/a:1", "ann:hunter2@ghcr.io/a:1"])
def test_a_password_in_an_address_is_not_shown(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        Reference.parse(text)
    assert "hunter2" not in str(caught.value)


# --- the real registry


def test_a_real_registry_tells_digest_and_python(registry: Registry) -> None:
    reference = Reference.parse(slim_image())
    digest = registry.digest(reference)
    assert digest is not None
    pinned = Reference.parse(reference.pinned(digest))
    assert registry.digest(pinned) == digest
    assert (registry.python_version(reference) or "").startswith("3.11.")
    assert registry.python_version(pinned) == registry.python_version(reference)


def test_what_a_real_registry_does_not_have_is_none(registry: Registry) -> None:
    reference = Reference.parse(slim_image().replace("3.11-slim", "none-such"))
    assert registry.digest(reference) is None
    assert registry.python_version(reference) is None


# --- requests


def test_a_digest_takes_one_request(fake: FakeRegistry, registry: Registry) -> None:
    fake.holds_image()
    assert registry.digest(fake.reference()) == DIGEST
    assert [(asked.method, asked.authorization) for asked in fake.asked] == [("HEAD", None)]


@pytest.mark.parametrize("told", [{}, {"Docker-Content-Digest": "sha256:short"}])
def test_a_digest_that_is_not_told_is_computed(told: dict[str, str], fake: FakeRegistry, registry: Registry) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(body=MANIFEST, headers=told)
    assert registry.digest(fake.reference()) == DIGEST
    assert [asked.method for asked in fake.asked] == ["HEAD", "GET"]


def test_cell_image_to_another_digest_than_the_one_asked_for_is_refused(fake: FakeRegistry, registry: Registry) -> None:
    other = sha256(b"other")
    fake.answers[f"/v2/team/app/manifests/{other}"] = Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})
    with pytest.raises(RegistryError, match="another digest"):
        registry.digest(fake.reference(f"team/app@{other}"))
    with pytest.raises(RegistryError, match="does not match its digest"):
        registry.python_version(fake.reference(f"team/app@{other}"))


def test_of_many_platforms_the_one_of_doks_machines_counts(fake: FakeRegistry, registry: Registry) -> None:
    fake.holds_image()
    wanted = {"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}
    others = [{"digest": sha256(b"x"), "platform": {"os": "linux", "architecture": "arm64"}}]
    for manifests, python in (([*others, wanted], "3.11.9"), (others, None)):
        index = json.dumps({"mediaType": INDEX, "manifests": manifests}).encode()
        fake.answers["/v2/team/app/manifests/many"] = Answer(body=index)
        fake.answers[f"/v2/team/app/manifests/{DIGEST}"] = Answer(body=MANIFEST)
        if python is not None:
            assert registry.python_version(fake.reference("team/app:many")) == python
    with pytest.raises(ImageError, match="no variant for linux/amd64"):
        registry.python_version(fake.reference("team/app:many"))


def test_an_image_that_does_not_say_its_python_has_none(fake: FakeRegistry, registry: Registry) -> None:
    config = b'{"config": {"Env": null}}'
    manifest = json.dumps({"config": {"digest": sha256(config)}}).encode()
    fake.answers["/v2/team/app/manifests/1"] = Answer(body=manifest)
    fake.answers[f"/v2/team/app/blobs/{sha256(config)}"] = Answer(body=config)
    assert registry.python_version(fake.reference()) == ""


def test_cell_image_to_a_configuration_that_does_not_match_its_digest_is_not_believed(
    fake: FakeRegistry, registry: Registry
) -> None:
    fake.holds_image()
    forged = CONFIG.replace(b"3.11.9", b"3.12.9")
    fake.answers[f"/v2/team/app/blobs/{sha256(CONFIG)}"] = Answer(body=forged)
    with pytest.raises(RegistryError, match="does not match its digest"):
        registry.python_version(fake.reference())


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"config": {"digest": "../../secret"}}', b"[" * 200_000])
def test_a_manifest_that_cannot_be_read_is_an_error_of_the_registry(
    body: bytes, fake: FakeRegistry, registry: Registry
) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(body=body)
    with pytest.raises(RegistryError) as caught:
        registry.python_version(fake.reference())
    assert caught.value.host == fake.host


# --- credentials


def guarded(fake: FakeRegistry, *, realm: str = "/token", lifetime: int = 1000) -> None:
    """Have the registry want a token, each of which is good for some requests."""
    left: dict[str, int] = {}

    def token(_: Asked) -> Answer:
        name = f"token-{len(left)}"
        left[name] = lifetime
        return Answer(body=json.dumps({"token": name}).encode())

    def manifest(asked: Asked) -> Answer:
        name = (asked.authorization or "").removeprefix("Bearer ")
        if left.get(name, 0) < 1:
            challenge = f'Bearer realm="http://{fake.host}{realm}",service="reg",scope="repository:team/app:pull"'
            return Answer(401, headers={"WWW-Authenticate": challenge})
        left[name] -= 1
        return Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})

    fake.answers["/token"] = token
    fake.answers["/v2/team/app/manifests/1"] = manifest


def test_a_token_is_fetched_with_the_credentials_and_kept(fake: FakeRegistry, registry: Registry) -> None:
    guarded(fake)
    assert registry.digest(fake.reference()) == DIGEST
    assert registry.digest(fake.reference()) == DIGEST
    assert [(asked.path, asked.authorization) for asked in fake.asked] == [
        ("/v2/team/app/manifests/1", None),
        ("/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull", BASIC),
        ("/v2/team/app/manifests/1", "Bearer token-0"),
        ("/v2/team/app/manifests/1", "Bearer token-0"),
    ]


def test_cell_image_ce_a_token_that_has_expired_is_fetched_anew(fake: FakeRegistry, registry: Registry) -> None:
    guarded(fake, lifetime=1)
    assert [registry.digest(fake.reference()) for _ in range(3)] == [DIGEST] * 3
    assert [asked.authorization for asked in fake.asked if asked.path.startswith("/v2")][-1] == "Bearer token-2"


def test_a_public_image_needs_a_token_and_no_credentials(fake: FakeRegistry) -> None:
    guarded(fake)
    registry = Registry(lambda _: None)
    assert registry.digest(fake.reference()) == DIGEST
    registry.close()
    assert fake.asked[1].authorization is None


def test_basic_credentials_are_sent_where_they_are_asked_for(fake: FakeRegistry, registry: Registry) -> None:
    def manifest(asked: Asked) -> Answer:
        if asked.authorization != BASIC:
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="reg"'})
        return Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})

    fake.answers["/v2/team/app/manifests/1"] = manifest
    assert registry.digest(fake.reference()) == DIGEST
    assert registry.digest(fake.reference()) == DIGEST
    assert [asked.authorization for asked in fake.asked] == [None, BASIC, BASIC]


@pytest.mark.parametrize("status", [pytest.param(status, id=f"cell_image_ce-{status}") for status in (401, 403)])
def test_a_refusal_says_what_to_do_and_no_secret(status: int, fake: FakeRegistry, registry: Registry) -> None:
    headers = {"WWW-Authenticate": 'Basic realm="reg"'} if status == 401 else {}
    fake.answers["/v2/team/app/manifests/1"] = Answer(status, headers=headers)
    with pytest.raises(RegistryError, match=f"HTTP status {status}.*DOKRUN_REGISTRY_USERNAME.*docker login") as caught:
        registry.digest(fake.reference())
    assert caught.value.host == fake.host
    assert SECRET not in str(caught.value)
    assert len(fake.asked) <= 2


def test_credentials_do_not_go_to_a_token_service_without_tls() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="http://tokens.example/t",service="s"'})

    with pytest.raises(RegistryError, match="not reached over https"):
        elsewhere(answer).digest(Reference.parse("r.example/a:1"))
    assert [request.url.host for request in asked] == ["r.example"]


def test_docker_hubs_token_service_gets_the_credentials_and_the_storage_does_not() -> None:
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        host = request.url.host
        seen[f"{host} {request.url.path.rpartition('/')[0]}"] = request.headers.get("Authorization")
        if host == "auth.docker.io":
            return httpx.Response(200, json={"access_token": "good"})
        if host == "storage.example":
            return httpx.Response(200, content=CONFIG)
        if request.headers.get("Authorization") != "Bearer good":
            challenge = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        if "/blobs/" in request.url.path:
            return httpx.Response(307, headers={"Location": "https://storage.example/data/blob?signature=s3cret"})
        return httpx.Response(200, content=MANIFEST)

    assert elsewhere(answer).python_version(Reference.parse("ann/app:1")) == "3.11.9"
    assert seen == {
        "registry-1.docker.io /v2/ann/app/manifests": "Bearer good",
        "auth.docker.io ": BASIC,
        "registry-1.docker.io /v2/ann/app/blobs": "Bearer good",
        "storage.example /data": None,
    }


# --- redirects, limits, failures


def test_a_redirect_is_followed_without_credentials(fake: FakeRegistry, registry: Registry) -> None:
    def blob(asked: Asked) -> Answer:
        if asked.authorization is None:
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="reg"'})
        return Answer(307, headers={"Location": "/storage/blob?signature=1"})

    fake.holds_image()
    fake.answers[f"/v2/team/app/blobs/{sha256(CONFIG)}"] = blob
    fake.answers["/storage/blob"] = Answer(body=CONFIG)
    assert registry.python_version(fake.reference()) == "3.11.9"
    assert [asked.authorization for asked in fake.asked[-2:]] == [BASIC, None]


@pytest.mark.parametrize("location", ["http://storage.example/", "ftp://storage.example/", "file:///etc/hosts"])
def test_a_redirect_to_where_nothing_is_safe_is_not_followed(location: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": location})

    with pytest.raises(RegistryError):
        elsewhere(answer).digest(Reference.parse("r.example/a:1"))
    assert asked == ["r.example"]


def test_redirects_in_a_circle_end(fake: FakeRegistry, registry: Registry) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(302, headers={"Location": "/v2/team/app/manifests/1"})
    with pytest.raises(RegistryError, match="redirects more than 5 times"):
        registry.digest(fake.reference())
    assert len(fake.asked) == 6


def test_a_body_without_end_is_not_read_to_it(fake: FakeRegistry, registry: Registry) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(body=bytes((8 << 20) + 1))
    with pytest.raises(RegistryError, match="more than 8 MiB"):
        registry.python_version(fake.reference())


class Dribble(httpx.SyncByteStream):
    """A byte every twenty seconds, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(100):
            self.now += 20.0
            yield b" "


def test_cell_image_tl_a_byte_now_and_then_does_not_beat_the_deadline() -> None:
    body = Dribble()
    registry = elsewhere(lambda _: httpx.Response(200, stream=body), clock=lambda: body.now)
    with pytest.raises(RegistryError, match="its answer does not end"):
        registry.python_version(Reference.parse("r.example/a:1"))
    assert body.now == 60.0


@pytest.mark.parametrize("status", [pytest.param(status, id=f"cell_image_5x-{status}") for status in (429, 500, 503)])
def test_what_passes_is_tried_again(status: int, fake: FakeRegistry, registry: Registry, pauses: list[float]) -> None:
    good = Answer(body=MANIFEST, headers={"Docker-Content-Digest": DIGEST})
    fake.answers["/v2/team/app/manifests/1"] = [Answer(status), Answer(status), Answer(status), good]
    assert registry.digest(fake.reference()) == DIGEST
    assert pauses == [0.25, 0.5, 1.0]


def test_cell_image_5x_what_does_not_pass_is_an_error_after_four_tries(fake: FakeRegistry, registry: Registry) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(503)
    with pytest.raises(RegistryError, match=r"HTTP status 503.*try again"):
        registry.digest(fake.reference())
    assert len(fake.asked) == 4


def test_cell_image_rf_a_registry_that_is_not_there_is_asked_four_times(
    pauses: list[float], registry: Registry
) -> None:
    gone = FakeRegistry()
    gone.close()
    with pytest.raises(RegistryError, match="gave no answer") as caught:
        registry.digest(gone.reference())
    assert caught.value.host == gone.host
    assert caught.value.__context__ is None, "httpx's error carries the request, with what authorizes it"
    assert len(pauses) == 3


def test_cell_image_tl_no_pause_goes_beyond_the_deadline(fake: FakeRegistry, pauses: list[float]) -> None:
    fake.answers["/v2/team/app/manifests/1"] = Answer(503)
    registry = Registry(lambda _: None, limit_s=0.6, sleep=pauses.append, clock=lambda: sum(pauses))
    with pytest.raises(RegistryError, match="HTTP status 503"):
        registry.digest(fake.reference())
    registry.close()
    assert pauses == [0.25]
