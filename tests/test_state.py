"""What goes wrong before anything is sent: settings, the state folder, pickling. Nothing ran, and nothing is left."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import JOB, Place, place
from registries import FakeRegistry
from test_images import publish

import dokrun as dok
from dokrun import state
from dokrun.emulator.faults import Fault
from dokrun.errors import ConfigError

__all__ = ["place"]

remote = dok.remote(plan="v100-32gb")


@remote
def identity(value: Any) -> Any:
    return value


def nothing_was_sent(place: Place) -> None:
    assert (place.posts(), place.tasks(), place.started()) == (0, [], 0)


# Settings.


def settled(place: Place, content: bytes, mode: int = 0o600) -> None:
    """Give the account by the file, and call as a user would: the first thing that reads the file."""
    folder = place.folder / "dokrun"
    folder.mkdir()
    (folder / "config.toml").write_bytes(content)
    (folder / "config.toml").chmod(mode)


KEY = b'access_token = "t"\naccess_token_secret = "canary"\n'


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        pytest.param(b"\xff\x00{", 0o600, "is not valid TOML", id="cell_config_mb-no-text"),
        pytest.param(KEY + b"[bucket\nname", 0o600, "is not valid TOML", id="cell_config_mb-cut"),
        pytest.param(KEY + b'[defaults]\nplan = ["a"]', 0o600, "plan", id="cell_config_mb-kind"),
        pytest.param(KEY, 0o640, "holds secrets and can be read by others; run: chmod 600", id="cell_config_to-group"),
        pytest.param(KEY, 0o604, "holds secrets and can be read by others; run: chmod 600", id="cell_config_to-others"),
        pytest.param(KEY + b"colour = 'blue'", 0o600, "unknown key 'colour'", id="cell_config_vm-newer-key"),
        pytest.param(KEY + b"[bucket]\ncolour = 'b'", 0o600, "unknown key 'colour'", id="cell_config_vm-newer-part"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_line_and_nothing_is_sent(
    place: Place, content: bytes, mode: int, told: str
) -> None:
    settled(place, content, mode)
    child = place.start(JOB + "    job(1, starts, gate).result()\n")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("dokrun.errors.ConfigError: ")]
    assert told in line
    assert "canary" not in errors
    nothing_was_sent(place)
    assert place.relay.requests == []


def test_cell_config_ce_a_key_that_is_no_longer_good_is_told_and_makes_no_task(place: Place) -> None:
    place.dok.faults.add(Fault("status", status=401, occurrence=None))
    place.here()
    error = identity(1).exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "no"
    assert "401" in str(error)
    assert place.dok.faults.injected
    place.dok.faults.clear()
    assert (place.tasks(), place.started()) == ([], 0)


def test_cell_config_ce_half_a_key_is_told_before_anything_is_asked(place: Place) -> None:
    with pytest.raises(dok.MissingCredentials, match="its secret is missing"):
        place.here(DOKRUN_ACCESS_TOKEN_SECRET="")
    assert place.relay.requests == []


@pytest.mark.parametrize("ahead_s", [660.0, -660.0], ids=["cell_config_sk-behind", "cell_config_sk-ahead"])
def test_a_clock_that_is_ten_minutes_off_is_told_and_nothing_is_sent(place: Place, ahead_s: float) -> None:
    place.relay.ahead_s = ahead_s
    place.here()
    error = identity(1).exception(timeout=60)
    assert isinstance(error, dok.SubmitFailed)
    assert error.ran == "no"
    assert f"11 minutes {'behind' if ahead_s > 0 else 'ahead of'} DOK's" in str(error)
    nothing_was_sent(place)
    place.relay.ahead_s = 0.0
    place.here()
    assert identity(2).result(timeout=60) == 2


# The state folder.


def link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def dangling(folder: Path) -> None:
    folder.symlink_to(folder.parent / "nowhere")


def for_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def for_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o1777)


def foreign(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


def a_file(folder: Path) -> None:
    folder.touch()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(link, "is a link", id="cell_config_to-link"),
        pytest.param(dangling, "is a link", id="cell_config_to-dangling"),
        pytest.param(for_group, "can be written by others", id="cell_config_to-group-writable"),
        pytest.param(for_others, "can be written by others", id="cell_config_to-world-writable"),
        pytest.param(foreign, "belongs to another user", id="cell_config_to-foreign"),
        pytest.param(a_file, "is no folder", id="cell_config_to-file"),
    ],
)
def test_a_state_folder_that_is_not_ours_alone_is_refused_left_as_it_is_and_nothing_is_sent(
    place: Place, make: Callable[[Path], None], told: str
) -> None:
    make(place.state)
    before = place.state.lstat()
    with pytest.raises(ConfigError, match=rf"the state folder .* ({told}).*; set DOKRUN_STATE_DIR"):
        place.here()
    assert (place.state.lstat().st_mode, place.state.lstat().st_uid) == (before.st_mode, before.st_uid)
    assert place.relay.requests == []


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_state_folder_is_its_owners_alone_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        state.private(tmp_path / "state")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_state_folder_that_others_can_look_into_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    state.private(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


# Pickling.


class Spilling:
    """Writes to a disk when it is pickled, as large tables do; that disk is full."""

    def __reduce__(self) -> Any:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
        raise AssertionError("/dev/full is not full")


class Huge:
    """Is pickled into more memory than any machine has."""

    def __reduce__(self) -> Any:
        return bytearray, (bytes(1 << 60),)


class Interrupted:
    """Somebody presses Ctrl-C while it is pickled."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("nobody is interrupted")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param(Spilling(), "No space left on device", id="cell_pickle_df"),
        pytest.param(Huge(), "there is not enough memory to pickle it", id="cell_pickle_oo"),
    ],
)
def test_an_argument_whose_pickling_fails_is_named_and_nothing_is_sent(place: Place, value: Any, told: str) -> None:
    place.here()
    with pytest.raises(dok.NotSerializable, match=rf"argument value\[0\]: .*{told}"):
        identity([value])
    nothing_was_sent(place)
    assert place.rows() == []
    assert identity(3).result(timeout=60) == 3


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever runs the tests may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_cell_pickle_cx_a_call_that_is_interrupted_while_it_is_pickled_was_never_made(place: Place) -> None:
    place.here()
    with pytest.raises(KeyboardInterrupt):
        identity([Interrupted()])
    nothing_was_sent(place)
    assert place.rows() == []
    assert identity(3).result(timeout=60) == 3


def test_cell_pickle_vm_an_image_whose_python_could_not_open_the_pickle_is_refused_before_it_costs_anything(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(place.folder))
    registry = FakeRegistry()
    publish(registry, "team/app", "1", python="3.7.4")
    place.here()
    error = dok.remote(plan="v100-32gb", image=f"{registry.host}/team/app:1")(len)("abc").exception(timeout=60)
    registry.close()
    assert isinstance(error, dok.VersionMismatch)
    assert error.ran == "no"
    assert "3.7.4" in str(error)
    assert registry.asked
    nothing_was_sent(place)
    assert place.rows() == []
