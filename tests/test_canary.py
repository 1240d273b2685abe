"""A recognisable word in every secret place, real calls at the level DEBUG, and the word nowhere to be found."""

from __future__ import annotations

import base64
import gzip
import itertools
import os
import pickle
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from conftest import point_at
from heard import Heard
from registries import Answer, Asked, FakeRegistry

import dokrun as dok
from dokrun import config, engine
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.emulator import Emulator
from dokrun.emulator.faults import Fault
from dokrun.emulator.objects import ObjectStore

KEY, S3, REGISTRY = "canary-key-7f3a", "canary-s3-91bc", "canary-registry-5d20"
SECRETS = (
    *(KEY, S3, REGISTRY),
    base64.b64encode(f"canary-token:{KEY}".encode()).decode(),
    base64.b64encode(f"ann:{REGISTRY}".encode()).decode(),
)
# What belongs into the payload, and into no log and no error.
ARGUMENT, ENVIRONMENT = "canary-argument-c04e", "canary-environment-e8d6"
SIGNATURE = re.compile(r"X-Amz-Signature=([0-9a-f]{64})")

remote = dok.remote(plan="v100-32gb", env={"API_KEY": ENVIRONMENT})


@remote
def measure(data: bytes, word: str) -> int:
    (dok.artifact_dir() / "environment").write_text(repr(dict(os.environ)))
    return len(data) + len(word)


@remote
def refuse(_data: bytes, _word: str) -> None:
    raise KeyError("no such thing")


class World:
    """An emulator, a store and a registry whose secrets are those words, and an account that has them all."""

    def __init__(self, dok: Emulator, store: ObjectStore, registry: FakeRegistry, told: pytest.MonkeyPatch) -> None:
        self.dok = dok
        self.store = store
        self.registry = registry
        self.told = told

    def call(self, function: Any = measure) -> BaseException | None:
        """Make a call that is too large for a command, and tell how it failed, if it did."""
        try:
            error: BaseException | None = function(os.urandom(2 << 20), ARGUMENT).exception(timeout=60)
        except dok.DokrunError as refused:
            error = refused
        return error


def guarded(answer: Answer) -> Callable[[Asked], Answer]:
    """Make a registry's answer to those who know the password."""
    challenge = Answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
    return lambda asked: answer if (asked.authorization or "").endswith(SECRETS[-1]) else challenge


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    registry = FakeRegistry()
    registry.holds_image()
    registry.answers = {
        path: guarded(answer) for path, answer in registry.answers.items() if isinstance(answer, Answer)
    }
    with Emulator(token="canary-token", secret=KEY, data=tmp_path / "emulator") as emulator:
        point_at(monkeypatch, emulator, store, tmp_path)
        for name, value in {
            "DOKRUN_S3_SECRET_ACCESS_KEY": S3,
            "DOKRUN_REGISTRY": f"{registry.host}/team",
            "DOKRUN_REGISTRY_USERNAME": "ann",
            "DOKRUN_REGISTRY_PASSWORD": REGISTRY,
            "DOCKER_CONFIG": str(tmp_path / "docker"),
            "DOCKER_HOST": "tcp://127.0.0.1:1",
        }.items():
            monkeypatch.setenv(name, value)
        yield World(emulator, store, registry, monkeypatch)
        engine.reset()
    registry.close()


# --- what may go wrong


def goes_well(world: World) -> None:
    assert world.call() is None


def raises(world: World) -> BaseException | None:
    return world.call(refuse)


def has_a_wrong_bucket(world: World) -> BaseException | None:
    world.told.setenv("DOKRUN_BUCKET", "no-such-bucket")
    return world.call()


def has_a_store_that_does_not_answer(world: World) -> BaseException | None:
    world.told.setenv("DOKRUN_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    return world.call()


def has_a_wrong_key(world: World) -> BaseException | None:
    world.told.setenv("DOKRUN_ACCESS_TOKEN", "another-token")
    return world.call()


def cannot_be_sent(world: World) -> BaseException | None:
    world.told.setenv("DOKRUN_API_URL", f"http://ann:{KEY}@127.0.0.1:{free_port()}/api")
    return world.call()


def is_refused(world: World) -> BaseException | None:
    world.dok.faults.add(Fault("status", method="POST", path="/tasks/", status=403))
    return world.call()


def has_an_image_that_cannot_be_built(world: World) -> BaseException | None:
    image = dok.Image.from_registry(f"{world.registry.host}/team/app:1").run("true")
    error = world.call(measure.options(image=image))
    assert any((asked.authorization or "").endswith(SECRETS[-1]) for asked in world.registry.asked)
    return error


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


WAYS: list[tuple[Callable[[World], BaseException | None], type[BaseException] | None]] = [
    (goes_well, None),
    (raises, KeyError),
    (has_a_wrong_bucket, dok.SubmitFailed),
    (has_a_store_that_does_not_answer, dok.SubmitFailed),
    (has_a_wrong_key, dok.SubmitFailed),
    (cannot_be_sent, dok.SubmitFailed),
    (is_refused, dok.SubmitFailed),
    (has_an_image_that_cannot_be_built, dok.CallFailed),
]


# --- where it may show


def words_of(error: BaseException) -> str:
    """Tell an error with its causes as whoever logs or keeps it may show it, but without local variables."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    words = [repr((one, one.args, vars(one))) + pickle.dumps(one).decode(errors="replace") for one in chain]
    return "".join([*words, *traceback.format_exception(error)])


def with_locals(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def files_below(folder: Path) -> str:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode(errors="replace")


def at_the_emulator(world: World, folder: Path) -> str:
    """Tell all tasks as they were created, their logs and their artifacts."""
    told = []
    with Client(world.dok.token, world.dok.secret, base_url=world.dok.api_url) as client:
        for task in client.tasks.iterate():
            told += [msgspec.json.encode(task).decode(), client.tasks.output(task.id)]
            if task.artifact is not None:
                path = client.artifacts.download(task.artifact.id, folder / task.artifact.id)
                told.append(gzip.decompress(path.read_bytes()).decode(errors="replace"))
    return "\n".join(told)


def found(words: tuple[str, ...], places: dict[str, str]) -> list[tuple[str, str]]:
    """Tell which of the words are where."""
    return [(word, name) for word, (name, text) in itertools.product(words, places.items()) if word in text]


@pytest.mark.parametrize(("happen", "kind"), WAYS, ids=lambda it: getattr(it, "__name__", ""))
def test_no_secret_is_to_be_found_anywhere_when_a_call(
    happen: Callable[[World], BaseException | None],
    kind: type[BaseException] | None,
    world: World,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Heard() as heard:
        error = happen(world)
        engine.reset()
    assert (error is None) if kind is None else isinstance(error, kind), error
    assert heard.messages("botocore")
    tasks = at_the_emulator(world, tmp_path)
    outside = {
        "logs": heard.shown(),
        "error": "" if error is None else words_of(error),
        "printed": "".join(capfd.readouterr()),
    }
    inside = {
        "state": files_below(tmp_path / "state"),
        "emulator": files_below(tmp_path / "emulator"),
        "tasks": tasks,
    }
    signatures = tuple(SIGNATURE.findall(tasks))
    assert bool(signatures) == (kind in (None, KeyError))
    assert found(SECRETS, {**outside, **inside}) == []
    # Whoever builds an image has the registry's password in the hand.
    assert found(SECRETS, {"locals": "" if error is None else with_locals(error)}) == []
    assert found((ARGUMENT, ENVIRONMENT, "signature=", *signatures), outside) == []


def test_settings_and_doors_show_no_secret_and_are_not_pickled(world: World) -> None:
    settings = config.load()
    assert settings.bucket is not None
    assert settings.registry is not None
    client = Client(settings.access_token, settings.access_token_secret, base_url=settings.api_url)
    bucket = Bucket(settings.bucket)
    shown = [repr((part, vars(part))) for part in (settings, settings.bucket, settings.registry, client, bucket)]
    assert found(SECRETS, {"shown": "".join(shown)}) == []
    for part in (settings, settings.bucket, settings.registry):
        with pytest.raises(TypeError, match="a secret is not pickled"):
            pickle.dumps(part)
    client.close()
    bucket.close()


def test_an_address_that_is_made_shows_its_signature_in_no_log(world: World) -> None:
    with Heard() as heard:
        bucket = Bucket(config.load().bucket or config.BucketSettings(""))
        signature = httpx.URL(bucket.address("k")).params["X-Amz-Signature"]
        bucket.close()
    assert heard.messages("botocore")
    assert found((signature, *SECRETS), {"logs": heard.shown()}) == []
