"""`dokrun doctor` and `dokrun init`: what is needed is tried, nothing of that stays, and what works is written down."""

from __future__ import annotations

import http.server
import os
import pty
import re
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from desk import Done, Shell, dokrun
from places import Place, place
from registries import DIGEST, Answer, FakeRegistry
from storefaults import FaultyStore
from test_cli_files import bucket_of

from dokrun import config, profiles
from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.errors import ConfigError

__all__ = ["dokrun", "place"]

COMMAND = str(Path(sys.executable).with_name("dokrun"))
PATIENCE_S = 60.0
SECRETS = ("canary-of-the-key", "canary-of-the-bucket", "canary-of-the-registry")


# The doctor.


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with closing(FakeRegistry()) as registry:
        yield registry


@pytest.fixture
def well(account: pytest.MonkeyPatch, registry: FakeRegistry, tmp_path: Path) -> pytest.MonkeyPatch:
    """An account with all that there is, on a machine that has no Docker."""
    account.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    account.setenv("DOKRUN_REGISTRY", f"{registry.host}/team")
    account.setenv("DOKRUN_HUB_MIRROR", registry.host)
    account.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    account.setenv("HOME", str(tmp_path))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = Answer(headers={"Docker-Content-Digest": DIGEST})
    registry.answers[f"/v2/library/python/manifests/{version}-slim"] = found
    return account


def states(done: Done) -> dict[str, str]:
    return {row[1]: row[0] for row in (line.split("\t") for line in done.out.splitlines())}


def test_a_doctor_finds_all_well_and_leaves_nothing(
    well: pytest.MonkeyPatch, store: ObjectStore, dokrun: Shell
) -> None:
    with closing(bucket_of(store)) as bucket:
        before = bucket.keys("")
        done = dokrun("doctor")
        assert (done.status, done.err) == (0, ""), done.out
        told = states(done)
        assert {name for name, state in told.items() if state == "ok"} == {
            *("versions", "settings", "state folder", "credentials", "terms of service", "clock", "DOK"),
            *("bucket", "registry", "registry, for DOK", "default image"),
        }
        assert told["Docker"] == "warning", "with a registry somebody means to build"
        assert bucket.keys("") == before
    assert not Path(os.environ["DOKRUN_STATE_DIR"]).exists()
    assert not [secret for secret in SECRETS if secret in done.out]
    assert [check["state"] for check in dokrun("doctor --json").json] == list(told.values())


def test_what_is_wrong_is_told_with_what_to_do_and_is_exit_status_1(
    well: pytest.MonkeyPatch, dok: Emulator, store: ObjectStore, dokrun: Shell, registry: FakeRegistry
) -> None:
    def wrong(**environ: str) -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            done = dokrun("doctor")
            assert done.status == 1, done.out
            rows = [line.split("\t") for line in done.out.splitlines()]
            return {row[1]: row[2] for row in rows if row[0] == "wrong"}

    told = wrong(DOKRUN_ACCESS_TOKEN_SECRET="another")
    assert "dokrun init" in told["credentials"]
    told = wrong(DOKRUN_API_URL="http://127.0.0.1:9/api")
    assert {"credentials", "DOK"} <= set(told)
    told = wrong(DOKRUN_BUCKET="not-there")
    assert list(told) == ["bucket"]
    assert "NoSuchBucket" in told["bucket"]
    told = wrong(DOKRUN_S3_ENDPOINT_URL="http://127.0.0.1:9")
    assert list(told) == ["bucket"]
    told = wrong(DOKRUN_BUDGET_YEN_PER_DAY="much")
    assert "is not a number of yen" in told["settings"]
    well.setenv("DOKRUN_REGISTRY", "127.0.0.1:9/team")
    told = wrong()
    assert list(told) == ["registry"]


def test_a_store_that_lets_a_second_claim_win_is_wrong(
    well: pytest.MonkeyPatch, store: ObjectStore, dokrun: Shell
) -> None:
    class Careless(FaultyStore):
        """Does not know conditional requests, as some stores."""

        def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Any:
            kept = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            return super().forward(method, target, kept, body)

    with Careless(store) as careless, closing(bucket_of(store)) as bucket:
        before = bucket.keys("")
        well.setenv("DOKRUN_S3_ENDPOINT_URL", careless.url)
        done = dokrun("doctor")
        assert (done.status, "two tasks could start the same call" in done.out) == (1, True), done.out
        assert bucket.keys("") == before


def test_terms_that_nobody_has_agreed_to_are_told_and_can_be_agreed_to(well: pytest.MonkeyPatch, dokrun: Shell) -> None:
    with Emulator(behaviour=Behaviour(agreed=False)) as service:
        well.setenv("DOKRUN_API_URL", service.api_url)
        well.setenv("DOKRUN_ACCESS_TOKEN", service.token)
        well.setenv("DOKRUN_ACCESS_TOKEN_SECRET", service.secret)
        done = dokrun("doctor")
        assert (done.status, states(done)["terms of service"]) == (1, "wrong")
        assert "dokrun account agree" in done.out
        assert dokrun("account agree --yes").status == 0
        assert dokrun("doctor").status == 0


class Late(http.server.BaseHTTPRequestHandler):
    """Knows nobody, and is an hour late."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) - 3600)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_clock_that_is_wrong_is_told(well: pytest.MonkeyPatch, dokrun: Shell) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    well.setenv("DOKRUN_API_URL", f"http://127.0.0.1:{server.server_port}")
    done = dokrun("doctor")
    server.shutdown()
    server.server_close()
    assert (done.status, states(done)["clock"]) == (1, "wrong"), done.out
    assert re.search(r"3\d\d\d s ahead of DOK's; nothing is sent like that; set it", done.out)


def test_without_an_account_there_is_little_to_look_at(
    dokrun: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOKRUN_PROFILE", config.LOCAL)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("DOKRUN_STATE_DIR", str(tmp_path / "state"))
    done = dokrun("doctor")
    told = states(done)
    assert (done.status, told["emulator"], told["account"]) == (0, "ok", "not needed"), done.out


# The first settings.


class Terminal:
    """A terminal in which a command asks."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # What asks for a password wants the terminal to be its own.
        takes = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", takes, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=dict(environ),
            start_new_session=True,
        )
        os.close(slave)
        self.seen, self._asked = "", 0

    def answer(self, question: str, words: str) -> None:
        """Wait for a question, and type."""
        # What is typed before it asks with its last letter, a password's prompt throws away.
        self._read(lambda: question in self.seen[self._asked :] and self.seen.endswith(": "))
        self._asked = len(self.seen)
        os.write(self._master, f"{words}\n".encode())

    def end(self) -> int:
        """Wait until the command has ended. Tells its exit status."""
        self._read(lambda: False)
        os.close(self._master)
        return self._child.wait(PATIENCE_S)

    def _read(self, enough: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 1.0)[0]:
                try:
                    piece = os.read(self._master, 4096)
                except OSError:  # its other end is closed
                    return
                self.seen += piece.decode(errors="replace")


def test_init_asks_tries_and_writes_what_only_its_owner_can_read(place: Place, store: ObjectStore) -> None:
    folder = place.folder / "dokrun"
    folder.mkdir()
    path = folder / "config.toml"
    path.write_text("# mine\nbudget_yen_per_day = 3000 # a lot\n[defaults]\nplan = 'v100-32gb'\n")
    environ = {name: value for name, value in place.environ.items() if not name.startswith("DOKRUN_")}
    terminal = Terminal([COMMAND, "init", "--api-url", place.dok.api_url], environ)
    terminal.answer("Access token", place.dok.token)
    terminal.answer("Its secret (not shown)", place.dok.secret)
    terminal.answer("Bucket", store.bucket)
    terminal.answer("Its endpoint", store.url)
    terminal.answer("Its access key id", "anybody")
    terminal.answer("Its secret access key", "canary-of-the-bucket")
    terminal.answer("Registry", "")
    assert terminal.end() == 0, terminal.seen
    assert f"written to {path}" in terminal.seen
    assert re.search(r"ok +bucket", terminal.seen)
    assert not [secret for secret in (place.dok.secret, "canary-of-the-bucket") if secret in terminal.seen]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.startswith("# mine\nbudget_yen_per_day = 3000 # a lot\n")
    settings = config.load(environ=environ, config_dir=folder, home=place.folder)
    assert (settings.access_token, settings.access_token_secret.reveal()) == (place.dok.token, place.dok.secret)
    assert settings.bucket is not None
    assert (settings.bucket.name, settings.bucket.endpoint_url) == (store.bucket, store.url)
    assert (str(settings.budget_yen_per_day), settings.defaults.plan) == ("3000", "v100-32gb")
    assert [name.name for name in folder.iterdir()] == ["config.toml"]


def test_init_writes_nothing_where_something_is_wrong_and_nobody_insists(place: Place) -> None:
    environ = {name: value for name, value in place.environ.items() if not name.startswith("DOKRUN_")}
    terminal = Terminal([COMMAND, "init", "--profile", "work", "--api-url", place.dok.api_url], environ)
    terminal.answer("Access token", place.dok.token)
    terminal.answer("Its secret", "wrong")
    terminal.answer("Bucket", "")
    terminal.answer("Registry", "")
    terminal.answer("Write it down all the same?", "n")
    assert terminal.end() == 130
    assert not (place.folder / "dokrun").exists()
    stopped = Terminal([COMMAND, "init"], environ)
    stopped.answer("Access token", "\x03")
    assert stopped.end() == 130
    assert "Traceback" not in stopped.seen


FORMER = """access_token = 'old' # mine
api_url = 'u'
[bucket]
name = 'b'
region = 'r'
[profiles.work]
access_token = 'w'
"""


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("", "default"),
        ("", "work"),
        (FORMER, "default"),
        ("[profiles.work]\naccess_token = 'w'\n[profiles.work.bucket]\nname = 'b'\n", "work"),
        ("[profiles.home]\naccess_token = 'h' # stays\n", "work"),
        ("[defaults]\nplan = 'v100-32gb'\n", "default"),
    ],
)
def test_a_profile_is_written_and_all_else_stays(tmp_path: Path, before: str, name: str) -> None:
    path = tmp_path / "folder" / "config.toml"
    if before:
        path.parent.mkdir()
        path.write_text(before)
        path.chmod(0o600)
    former = profiles.read(path)
    table = {"access_token": 'a"\\\n日本', "access_token_secret": "s", "bucket": {"name": "mine"}}
    profiles.write(path, name, {**table, "api_url": None, "registry": None})
    wanted = {**former, name: {**former.get(name, {}), **table}}
    wanted[name].pop("api_url", None)
    assert profiles.read(path) == wanted, "nothing of a former address or bucket"
    assert [part for part in re.findall(r"# \w+", before) if part not in path.read_text()] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_none_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("access_token = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        profiles.write(path, "default", {"access_token": "a"})
    assert path.read_text() == "access_token = "
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "elsewhere.toml")
    profiles.write(link, "default", {"access_token": "a"})
    assert (link.is_symlink(), (tmp_path / "elsewhere.toml").exists()) == (True, True)


# Images.


def test_the_images_that_dokrun_has_built_are_listed_page_by_page(
    well: pytest.MonkeyPatch, dokrun: Shell, registry: FakeRegistry
) -> None:
    tags = [f"{number:040x}" for number in range(3)]
    more = {"Link": '</v2/team/dokrun/tags/list>; rel="next"'}
    registry.answers["/v2/team/dokrun/tags/list"] = [
        Answer(body=b'{"tags": ["%s", "latest"]}' % tags[0].encode(), headers=more),
        Answer(body=b'{"tags": ["%s", "%s"]}' % (tags[1].encode(), tags[2].encode())),
    ]
    assert [row[0] for row in dokrun("image ls").rows] == [f"{registry.host}/team/dokrun:{tag}" for tag in tags]
    assert registry.asked[-1].path.endswith("&last=latest")
    registry.answers.clear()
    assert dokrun("image ls --json").json == []
