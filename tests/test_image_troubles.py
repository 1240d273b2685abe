"""What goes wrong while an image is looked up, built and pushed: over HTTP, and on the whole road to a task.

The registry is one that answers as it is told, and the container engine one that builds nothing; both are asked by the
real clients.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk
from fake_engine import FakeEngine
from places import PATIENCE_S, Place, kill, line, place, wait_for
from registries import CREDENTIALS, DIGEST, MANIFEST, SECRET, Answer, FakeRegistry, sha256
from test_images import HERE, publish

import dokrun as dok
from dokrun.config import RegistrySettings, Settings
from dokrun.engine.images import Images
from dokrun.errors import BuildFailed, ImageError, RegistryError
from dokrun.image import build
from dokrun.image.registry import Registry
from dokrun.image.spec import Image

__all__ = ["place"]

LOOK = "/v2/team/app/manifests/1"
IMAGE = Image.debian_slim().env(A="1")
# What the engine's answers may lack, here, in seconds.
BRIEF = build.Limits(silence_s=0.3)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with closing(FakeRegistry()) as fake:
        yield fake


@pytest.fixture(autouse=True)
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Docker's configuration of whoever runs the tests out of them."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture
def docker(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """An engine whose registry has the official image."""
    publish(fake, "library/python", f"{HERE}-slim")
    with closing(FakeEngine(fake)) as docker:
        monkeypatch.setenv("DOCKER_HOST", docker.host)
        yield docker


# --- a look


@pytest.mark.parametrize(
    ("trouble", "body"),
    [
        pytest.param("reset", MANIFEST, id="cell_image_rf-reset"),
        pytest.param("silence", MANIFEST, id="cell_image_t0-look"),
        pytest.param("stall", MANIFEST, id="cell_image_t1-look"),
        pytest.param("drip", MANIFEST, id="cell_image_sb-look"),
        pytest.param("cut", MANIFEST, id="cell_image_mb-cut"),
        pytest.param("garbage", MANIFEST, id="cell_image_mb-not-http"),
        pytest.param("", b"<html>log in to this network</html>", id="cell_image_mb-another-page"),
    ],
)
def test_a_look_whose_answer_is_spoilt_is_made_again(trouble: str, body: bytes, fake: FakeRegistry) -> None:
    fake.answers[LOOK] = [Answer(), Answer(body=body, trouble=trouble), Answer(body=MANIFEST)]
    pauses: list[float] = []
    with closing(Registry(lambda _: None, request_s=0.5, sleep=pauses.append)) as registry:
        assert registry.digest(fake.reference()) == DIGEST
    assert fake.troubles == [trouble] * bool(trouble)
    assert [asked.method for asked in fake.asked] == ["HEAD", "GET", "GET"]
    assert pauses == [0.25]


def test_cell_image_rf_a_registry_that_is_away_for_a_moment_is_asked_again(fake: FakeRegistry) -> None:
    fake.close()
    pauses: list[float] = []
    back: list[FakeRegistry] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            back.append(FakeRegistry(int(fake.host.rpartition(":")[2])))
            back[0].holds_image()

    with closing(Registry(lambda _: None, sleep=sleep)) as registry:
        assert registry.digest(fake.reference()) == DIGEST
    assert len(pauses) == 2
    assert len(back[0].asked) == 1
    back[0].close()


@pytest.mark.parametrize("trouble", ["silence", "stall", "drip"])
def test_cell_image_tl_a_look_whose_answer_never_ends_is_given_up(trouble: str, fake: FakeRegistry) -> None:
    answer = Answer(body=MANIFEST, trouble=trouble)
    fake.answers[LOOK] = lambda asked: Answer() if asked.method == "HEAD" else answer
    with (
        closing(Registry(lambda _: None, request_s=0.2, limit_s=0.5, sleep=lambda _: None)) as registry,
        pytest.raises(RegistryError, match="gave no answer"),
    ):
        registry.digest(fake.reference())
    assert set(fake.troubles) == {trouble}
    assert len(fake.troubles) <= 4


def test_cell_image_ce_credentials_that_are_not_taken_any_more_fail_at_once(fake: FakeRegistry) -> None:
    fake.answers[LOOK] = Answer(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
    with (
        closing(Registry(lambda _: CREDENTIALS)) as registry,
        pytest.raises(RegistryError, match=rf"HTTP status 401.*docker login {fake.host}") as caught,
    ):
        registry.digest(fake.reference())
    assert [asked.authorization is None for asked in fake.asked] == [True, False]
    assert SECRET not in str(caught.value)


# --- a build and a push


def pushed(fake: FakeRegistry, **options: Any) -> tuple[str, str]:
    """Build and push; tell the digest, and the registry's own of the same name."""
    base = build.Base(f"{fake.host}/library/python@{DIGEST}")
    digest = build.build_and_push(IMAGE, {IMAGE.base or "": base}, f"{fake.host}/team/dokrun:1", **options)
    with closing(Registry(lambda _: None)) as registry:
        return digest, registry.digest(fake.reference("team/dokrun:1")) or ""


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("refused dial tcp 127.0.0.1:1: connect: connection refused", id="cell_image_rf-push"),
        pytest.param("refused received unexpected HTTP status: 503 Service Unavailable", id="cell_image_5x-push-503"),
        pytest.param("refused toomanyrequests: wait", id="cell_image_5x-push-429"),
        pytest.param("silence", id="cell_image_t0-push"),
        pytest.param("lost", id="cell_image_t1-push-cell_image_du"),
        pytest.param("cut", id="cell_image_mb-push"),
        pytest.param("reset", id="cell_image_mb-push-reset"),
        pytest.param("stall", id="cell_image_sb-push"),
    ],
)
def test_a_push_that_fails_is_made_again_and_its_digest_is_the_same(
    trouble: str, fake: FakeRegistry, docker: FakeEngine
) -> None:
    docker.troubles["push"] = [trouble]
    pauses: list[float] = []
    lines: list[str] = []
    digest, found = pushed(fake, limits=BRIEF, sleep=pauses.append, progress=lines.append)
    assert digest == found
    assert docker.happened == [trouble]
    assert (len(docker.dockerfiles), len(docker.pushes), pauses) == (1, 2, [1.0])
    assert any(line.endswith("; trying again") for line in lines)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("cut", id="cell_image_mb-build"),
        pytest.param("reset", id="cell_image_mb-build-reset"),
    ],
)
def test_a_build_whose_engine_is_lost_is_made_again(trouble: str, fake: FakeRegistry, docker: FakeEngine) -> None:
    docker.troubles["build"] = [trouble]
    pauses: list[float] = []
    digest, found = pushed(fake, sleep=pauses.append)
    assert digest == found
    assert docker.happened == [trouble]
    assert (len(docker.dockerfiles), len(docker.pushes), pauses) == (1, 1, [1.0])


@pytest.mark.parametrize(
    ("trouble", "pushes"),
    [
        pytest.param("refused unauthorized: authentication required", 1, id="cell_image_ce-push"),
        pytest.param("refused denied: requested access to the resource is denied", 1, id="cell_image_ce-push-denied"),
        pytest.param("refused no basic auth credentials", 1, id="cell_image_ce-push-none"),
        pytest.param("refused write /var/lib/registry: no space left on device", 3, id="cell_image_df-push"),
    ],
)
def test_a_push_that_is_refused_for_good_fails_with_what_to_do(
    trouble: str, pushes: int, fake: FakeRegistry, docker: FakeEngine
) -> None:
    docker.troubles["push"] = [trouble] * 9
    with pytest.raises(RegistryError, match=rf"could not push.*{trouble[8:]}.*docker login {fake.host}"):
        pushed(fake, sleep=lambda _: None)
    assert (len(docker.pushes), len(docker.happened)) == (pushes, pushes)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        pytest.param("drip", "it takes too long", id="cell_image_tl-build-drip"),
        pytest.param("silence", "broke off", id="cell_image_tl-build-silence"),
        pytest.param("refused write /layer: no space left on device", "no space left", id="cell_image_df-build"),
    ],
)
def test_a_build_that_cannot_end_fails_and_nothing_is_pushed(
    trouble: str, said: str, fake: FakeRegistry, docker: FakeEngine
) -> None:
    docker.troubles["build"] = [trouble] * 9
    with pytest.raises(BuildFailed, match=said):
        pushed(fake, limits=build.Limits(silence_s=0.3, longest_s=0.3))
    assert (docker.happened, docker.pushes) == ([trouble], [])


def test_cell_image_tl_a_push_that_never_ends_is_not_begun_again(fake: FakeRegistry, docker: FakeEngine) -> None:
    docker.troubles["push"] = ["drip"] * 9
    with pytest.raises(RegistryError, match="it takes too long"):
        pushed(fake, limits=build.Limits(longest_s=0.5))
    assert docker.happened == ["drip"]


def test_cell_image_df_a_full_disk_here_is_told_and_nothing_is_built(
    fake: FakeRegistry, docker: FakeEngine, disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    script = (
        "import sys; from dokrun.image.build import build_and_push; from dokrun.image.spec import Image\n"
        "image = Image.from_registry('python').copy(sys.argv[1], '/large')\n"
        "try: build_and_push(image, {}, sys.argv[2])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    def told() -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "large"), f"{fake.host}/team/dokrun:1"]
        environ = {**os.environ, "TMPDIR": str(disk)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout

    assert told().startswith("ImageError the image was not built, since this machine cannot write")
    assert "No space left on device; make room" in told()
    assert docker.dockerfiles == []


def test_cell_image_df_a_folder_for_temporary_files_that_is_gone_is_told(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ImageError, match=r"cannot write what it is built from: No such file.*TMPDIR"):
        pushed(fake)
    assert docker.dockerfiles == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is full after 256 KiB."""
    with small_disk(tmp_path / "disk", "256k") as disk:
        yield disk


# --- on the road to a task


def remote(image: Image | str) -> Callable[..., dok.Future[int]]:
    @dok.remote(plan="v100-32gb", timeout=60, image=image)
    def job(starts: str) -> int:
        with open(starts, "a") as file:  # noqa: PTH123 - it is sent as it stands
            file.write("started\n")
        return 42

    return job


def registries_of(fake: FakeRegistry) -> dict[str, str]:
    return {"DOKRUN_REGISTRY": f"{fake.host}/team", "DOKRUN_HUB_MIRROR": fake.host}


def had(place: Place) -> tuple[int, int, int]:
    """Tell how often a task was asked for, how many there are, and how often the function was started."""
    return place.posts(), len(place.tasks()), place.started()


def failure(future: dok.Future[Any]) -> BaseException:
    error = future.exception(timeout=PATIENCE_S)
    assert error is not None
    return error


def test_a_call_whose_image_met_passing_troubles_starts_once(
    place: Place, fake: FakeRegistry, docker: FakeEngine
) -> None:
    found = fake.answers[f"/v2/library/python/manifests/{HERE}-slim"]
    assert isinstance(found, Answer)
    fake.answers[f"/v2/library/python/manifests/{HERE}-slim"] = [Answer(503), Answer(trouble="reset"), found]
    docker.troubles["push"] = ["refused unexpected EOF"]
    place.here(None, **registries_of(fake))
    assert remote(IMAGE)(str(place.starts)).result(timeout=PATIENCE_S) == 42
    assert (fake.troubles, docker.happened) == (["reset"], ["refused unexpected EOF"])
    assert had(place) == (1, 1, 1)
    [task] = place.tasks()
    assert task.containers[0].image.startswith(f"{fake.host}/team/dokrun@sha256:")


@contextmanager
def spoilt(fake: FakeRegistry, docker: FakeEngine, trouble: str) -> Iterator[None]:
    """Let an image that has to be built never be had, and see that it was tried."""
    if trouble == "expired":
        fake.answers[f"/v2/library/python/manifests/{HERE}-slim"] = Answer(401)
    elif trouble == "python":
        publish(fake, "library/python", f"{HERE}-slim", python="3.7.4")
    elif trouble == "away":
        fake.close()
    else:
        docker.troubles["build"] = [trouble]
    yield
    assert (docker.pushes, docker.dockerfiles) == ([], [])
    if trouble.startswith("refused"):
        assert docker.happened == [trouble]
    elif trouble != "away":
        assert fake.asked


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        pytest.param("expired", (dok.SubmitFailed, "HTTP status 401"), id="cell_image_ce-call"),
        pytest.param("refused no space left on device", (dok.SubmitFailed, "no space left"), id="cell_image_df-call"),
        pytest.param("away", (dok.SubmitFailed, "gave no answer"), id="cell_image_rf-call-for-good"),
        pytest.param(
            "python", (dok.VersionMismatch, f"3.7.4.*Python {HERE}.*image=dok.Image."), id="cell_image_vm-call"
        ),
    ],
)
def test_a_call_whose_image_cannot_be_had_fails_before_anything_is_submitted(
    trouble: str, told: tuple[type[dok.CallFailed], str], place: Place, fake: FakeRegistry, docker: FakeEngine
) -> None:
    kind, said = told
    place.here(None, **registries_of(fake))
    with spoilt(fake, docker, trouble):
        error = failure(remote(IMAGE)(str(place.starts)))
    assert isinstance(error, kind)
    with pytest.raises(kind, match=said):
        raise error
    assert (error.ran, error.handle, error.still_runs) == ("no", "", False)
    assert had(place) == (0, 0, 0)


class Gate:
    """Where somebody stops until a test lets them go on."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def stop(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


def stop_at(step: str, fake: FakeRegistry, docker: FakeEngine) -> Gate:
    """Stop whoever is the next to look up a base, to build, to push, or to hear that it has pushed."""
    gate = Gate()

    def first() -> None:
        if not gate.reached.is_set():
            gate.stop()

    if step == "look":
        path = f"/v2/library/python/manifests/{HERE}-slim"
        found = fake.answers[path]
        assert isinstance(found, Answer)

        def held(_asked: object) -> Answer:
            first()
            return found

        fake.answers[path] = held
    else:
        docker.heard = lambda what: first() if what == step else None
    return gate


STEPS = ["look", "build", "push", "pushed"]


@pytest.mark.parametrize("step", [pytest.param(step, id=f"cell_image_cx-{step}") for step in STEPS])
def test_a_call_that_is_cancelled_while_its_image_is_made_is_never_submitted(
    step: str, place: Place, fake: FakeRegistry, docker: FakeEngine
) -> None:
    place.here(None, **registries_of(fake))
    gate = stop_at(step, fake, docker)
    job = remote(IMAGE)
    future = job(str(place.starts))
    assert gate.reached.wait(PATIENCE_S)
    assert future.status == "image"
    assert future.cancel()
    gate.opened.set()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=PATIENCE_S)
    # Whoever calls next comes behind it in each line.
    assert job(str(place.starts)).result(timeout=PATIENCE_S) == 42
    assert had(place) == (1, 1, 1)
    assert future.task_id is None


CALL = f"""
    import sys
    import dokrun as dok

    @dok.remote(plan="v100-32gb", timeout=60, image=dok.Image.debian_slim("{HERE}").env(A="1"))
    def job(starts):
        with open(starts, "a") as file:
            file.write("started\\n")
        return 42

    print("called", flush=True)
    future = job(sys.argv[1])
    print(future.handle, flush=True)
    print(future.result(), flush=True)
"""


def environ_of(fake: FakeRegistry, docker: FakeEngine) -> dict[str, str]:
    return {**registries_of(fake), "DOCKER_HOST": docker.host, "DOCKER_CONFIG": os.environ["DOCKER_CONFIG"]}


@pytest.mark.parametrize(
    ("step", "builds"),
    [pytest.param(step, 0 if step == "pushed" else 1, id=f"cell_image_k9-{step}") for step in STEPS],
)
def test_a_client_that_is_killed_while_its_image_is_made_has_submitted_nothing_and_the_next_goes_on(
    step: str, builds: int, place: Place, fake: FakeRegistry, docker: FakeEngine
) -> None:
    gate = stop_at(step, fake, docker)
    child = place.start(CALL, **environ_of(fake, docker))
    assert line(child) == "called"
    assert gate.reached.wait(PATIENCE_S)
    kill(child)
    if step == "push":
        # The engine gives up what nobody waits for.
        docker.troubles["push"] = ["cut"]
    gate.opened.set()
    wait_for(lambda: docker.happened or step != "push")
    assert (had(place), place.steps()) == ((0, 0, 0), [])
    before = len(docker.dockerfiles)
    second = place.start(CALL, **environ_of(fake, docker))
    assert [line(second) for _ in range(3)][::2] == ["called", "42"]
    assert len(docker.dockerfiles) - before == builds
    assert had(place) == (1, 1, 1)


def test_cell_image_du_two_clients_that_make_one_image_at_once_name_the_same_digest(
    place: Place, fake: FakeRegistry, docker: FakeEngine
) -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def together(what: str) -> None:
        if what == "push":
            both.wait()

    docker.heard = together
    children = [place.start(CALL, **environ_of(fake, docker)) for _ in range(2)]
    assert [[line(child) for _ in range(3)][2] for child in children] == ["42", "42"]
    assert (len(docker.dockerfiles), len(docker.pushes), len(set(docker.pushes))) == (2, 2, 1)
    assert len({task.containers[0].image for task in place.tasks()}) == 1
    assert had(place) == (2, 2, 2)


# --- what nobody should believe


def images_of(fake: FakeRegistry, folder: Path) -> Images:
    settings = Settings(
        "test",
        state_dir=folder / "state",
        registry=RegistrySettings(f"{fake.host}/team"),
        hub_mirror=fake.host,
    )
    return Images(settings, None, sleep=lambda _: None)


def test_cell_image_to_a_base_whose_name_moves_on_is_built_upon_as_it_was_looked_up(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    path = f"/v2/library/python/manifests/{HERE}-slim"
    first = fake.answers[path]
    assert isinstance(first, Answer)
    publish(fake, "library/python", f"{HERE}-slim", python="3.7.4")
    moved = fake.answers[path]
    assert isinstance(moved, Answer)
    fake.answers[path] = lambda _: first if len(fake.asked) == 1 else moved
    ready = images_of(fake, tmp_path).ready(IMAGE)
    assert docker.dockerfiles[0].startswith(f"FROM {fake.host}/library/python@{sha256(first.body)}\n")
    assert ready.python == f"{HERE}.1"


def test_cell_image_to_a_built_image_whose_name_moves_on_is_named_by_the_digest_that_was_found(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    name = images_of(fake, tmp_path).ready(IMAGE).reference
    [tag] = docker.pushes
    publish(fake, "team/dokrun", tag.rpartition(":")[2], python="3.7.4")
    images = images_of(fake, tmp_path)
    moved = images.ready(IMAGE)
    assert moved.reference != name
    publish(fake, "team/dokrun", tag.rpartition(":")[2], python="3.7.5")
    assert images.ready(IMAGE) is moved


def test_cell_image_to_a_python_that_a_forged_manifest_tells_is_not_believed(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    digest = publish(fake, "library/python", f"{HERE}-slim", python="3.7.4")
    forged = publish(fake, "library/python", "other", python=f"{HERE}.9")
    fake.answers[f"/v2/library/python/manifests/{digest}"] = fake.answers["/v2/library/python/manifests/other"]
    ready = images_of(fake, tmp_path).ready(IMAGE)
    assert ready.python is None
    assert docker.dockerfiles[0].startswith(f"FROM {fake.host}/library/python@{digest}\n")
    assert forged not in (tmp_path / "state" / "images.json").read_text()
    assert "3." not in (tmp_path / "state" / "images.json").read_text().partition("pythons")[2]


def test_cell_image_to_an_engine_that_tells_no_digest_is_not_believed(fake: FakeRegistry, docker: FakeEngine) -> None:
    docker.says = {"aux": {"Digest": "latest"}}
    with pytest.raises(RegistryError, match="did not tell the digest"):
        pushed(fake, sleep=lambda _: None)
    assert docker.pushes


@pytest.mark.parametrize("how", [pytest.param(how, id=f"cell_image_to-{how}") for how in ("link", "writable", "owner")])
def test_what_others_may_have_written_of_images_is_looked_up_again(
    how: str, fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    images_of(fake, tmp_path).ready(IMAGE)
    kept = tmp_path / "state" / "images.json"
    true = fake.answers[f"/v2/library/python/manifests/{HERE}-slim"]
    assert isinstance(true, Answer)
    content = kept.read_text()
    kept.write_text(content.replace(sha256(true.body), f"sha256:{'6' * 64}"))
    if how == "link":
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    elif how == "writable":
        kept.chmod(0o620)
    elif os.geteuid() == 0:
        os.chown(kept, 12345, -1)
    else:
        pytest.skip("only root can give a file away")
    fake.asked.clear()
    ready = images_of(fake, tmp_path).ready(IMAGE)
    assert fake.asked[0].path == f"/v2/library/python/manifests/{HERE}-slim"
    assert len(docker.dockerfiles) == 1, "it is found by the true digest"
    assert ready.reference.startswith(f"{fake.host}/team/dokrun@sha256:")
    assert "6" * 64 not in kept.read_text()


def test_cell_image_df_an_image_is_made_though_its_log_cannot_be_written(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    # Each line is written when it is said, so that this is where the kernel says that the disk is full.
    with open("/dev/full", "w", buffering=1) as full, redirect_stderr(full):  # noqa: PTH123 - a device
        ready = images_of(fake, tmp_path).ready(IMAGE)
        with pytest.raises(OSError, match="No space left"):
            print("full", file=full)
        with suppress(OSError):
            full.close()
    assert "@sha256:" in ready.reference
    assert len(docker.pushes) == 1


def test_a_state_folder_that_is_none_costs_only_another_look(
    fake: FakeRegistry, docker: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file")
    assert "@sha256:" in images_of(fake, tmp_path).ready(IMAGE).reference
