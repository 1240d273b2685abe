"""The whole road without the service: the same pickles, files and shim, in a child process or container here.

What would fail in a container for want of a file, a module or a picklable value fails here, and costs nothing.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from dokrun import config
from dokrun.api.models import Container, Task
from dokrun.config import Settings
from dokrun.engine.archive import extract_own
from dokrun.engine.images import Images
from dokrun.engine.lines import Lines, users_own
from dokrun.engine.lost import task_failed
from dokrun.engine.prepare import Job, Preparing
from dokrun.engine.registries import credentials_of
from dokrun.engine.reports import Expected, NoOutcome, Outcome, read_outcomes
from dokrun.engine.target import Target
from dokrun.errors import OptionError
from dokrun.image.container import run
from dokrun.image.reference import Reference
from dokrun.options import Options
from dokrun.payload import shim
from dokrun.shim import protocol
from dokrun.shim.digests import digest_of
from dokrun.shim.envelope import pack

# Where the payload lies in a container.
_PAYLOAD = "/opt/dokrun-payload"
# What a container's environment would not have is left out; what this machine's Python cannot run without stays.
_KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
# How long the last output may take to arrive, where a process that the function has left still holds the pipe.
_LAST_WORDS_S = 1.0


def rehearse(
    target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options, *, container: bool
) -> Any:
    """Run a call through the real shim, and return or raise what its future would.

    In a child process, which has this interpreter and its installed packages, an empty folder to begin in, the call's
    own environment, and of the user's files only those that would go along; or in a container of the local Docker
    engine, which has the call's image, built and pushed if need be. What it prints is printed here; what it leaves in
    `dok.artifact_dir()` is removed.

    Raises:
        OptionError: an argument is not what `dok.put` made, but holds it.
        NotSerializable: an argument or the function cannot be pickled.
        SourceTooLarge: the user's files that would go along are too many.
        ImageError: the image cannot be made ready, or no Docker engine answers.
        CallFailed: any of its kinds, as from `future.result()`.
    """
    settings = config.load(options.profile)
    merged = options.over(settings.defaults)
    preparing = Preparing(target, merged.plan or "rehearsal", merged)
    preparing.add(args, kwargs)
    job = preparing.job()
    if any(segment.data is None for segment in job.segments):
        raise OptionError(
            f"{job.name} is given what dok.put made within another value, which a rehearsal cannot fetch; "
            "pass it as an argument of its own"
        )
    with tempfile.TemporaryDirectory(prefix="dokrun-") as name:
        folder = Path(name)
        (folder / "artifact").mkdir()
        exit_code = _run_in_container(job, settings, folder) if container else _run(job, folder)
        outcome = _outcome(job, exit_code, folder / "artifact", settings.state_dir / "results")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _outcome(job: Job, exit_code: int, folder: Path, keep_in: Path) -> Outcome:
    expected, task = Expected(job.id, 1, job.name, [0]), _ended(exit_code)
    try:
        ((_, outcome),) = read_outcomes(expected, task, folder, keep_in)
    except NoOutcome as error:
        return Outcome(error=task_failed(expected, task, str(error), "maybe"))
    return outcome


def _ended(exit_code: int) -> Task:
    """Make the task that a rehearsal would have been."""
    return Task(id="rehearsal", status="error" if exit_code else "done", containers=[Container(exit_code=exit_code)])


def _run_in_container(job: Job, settings: Settings, folder: Path) -> int:
    images = Images(replace(settings, uses_images=True), None)
    image = images.ready(job.options.image).reference
    payload = pack(dict(job.header), job.segments)
    archive, lines = folder / "artifact.tar.gz", Lines()
    exit_code = run(
        image,
        entrypoint=shim.ENTRYPOINT,
        command=shim.command(None, {"payload": f"{protocol.HERE}{_PAYLOAD}"}),
        environment={**job.options.env, **_told(job, payload, "/opt/artifact")},
        given={_PAYLOAD: payload},
        left="/opt/artifact",
        archive=archive,
        progress=lambda piece: print(lines.take(piece), end=""),
        auth=credentials_of(settings, Reference.parse(image).host),
    )
    print(lines.rest(), end="")
    with archive.open("rb") as file:
        extract_own(file, folder / "artifact")
    return exit_code


def _told(job: Job, payload: bytes, artifact_dir: str) -> dict[str, str]:
    return {
        protocol.TASK_ID: "rehearsal",
        protocol.ARTIFACT_DIR: artifact_dir,
        protocol.PAYLOAD_SHA256: digest_of(payload),
        protocol.PAYLOAD_SIZE: str(len(payload)),
        protocol.JOB_ID: job.id,
        protocol.ATTEMPT: "1",
    }


def _run(job: Job, folder: Path) -> int:
    for inner in ("home", "tmp"):
        (folder / inner).mkdir()
    payload = pack(dict(job.header), job.segments)
    path = folder / "payload"
    path.write_bytes(payload)
    environment = {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        # The other HOME would hide what the user has installed with `pip install --user`.
        **({"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {}),
        **job.options.env,
        **_told(job, payload, str(folder / "artifact")),
    }
    command = [sys.executable, "-u", "-c", *shim.command(None, {"payload": f"{protocol.HERE}{path}"})]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
        command,
        cwd=folder / "home",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    # A thread of its own: a process that the function leaves running holds the pipe open for as long as it likes.
    reader = threading.Thread(target=_print, args=(process.stdout,), daemon=True)
    try:
        reader.start()
        return process.wait()
    finally:
        # A Ctrl-C ends the supervisor in its own way, which ends its workers.
        process.terminate()
        process.wait()
        _kill_group(process.pid)
        reader.join(_LAST_WORDS_S)


def _print(output: IO[str]) -> None:
    # Not handed down: a notebook's output is not this process's standard output.
    with output:
        for line in users_own(output):
            print(line, end="")


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nothing is left; macOS says the latter of a group of zombies
        pass
