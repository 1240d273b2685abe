"""Run a program once in a container of the local Docker engine, and bring back what it left.

The container's first process does nothing but wait for the end of its standard input, which this process holds. However
this process ends, even by a kill -9, the input ends with it, then the container, and the engine removes it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dokrun.errors import ImageError
from dokrun.image.build import Transcript, engine, failures, pull, told
from dokrun.image.credentials import Credentials

_WAIT = ("/bin/sh", "-c", "read -r _")
_TO_REHEARSE = (
    "rehearse.in_container(…) runs the call in a container there, and rehearse(…), which runs it in a process here, "
    "needs none"
)
_LOST = "look whether Docker runs (`docker info` tells), and call again"


def run(
    image: str,
    *,
    entrypoint: Sequence[str],
    command: Sequence[str],
    environment: Mapping[str, str],
    given: Mapping[str, bytes],
    left: str,
    archive: Path,
    progress: Callable[[str], None],
    auth: Credentials | None = None,
) -> int:
    """Run an image, pulled if need be; the container is gone afterwards.

    Files go in and out as archives, not as mounted folders: so it makes no difference who the image's user is, nor
    whether the engine runs on this machine.

    Args:
        image: its name.
        entrypoint: the program.
        command: its arguments.
        environment: its variables.
        given: files that lie there when it starts, by their absolute paths.
        left: a folder that anybody may write in.
        archive: where the content of that folder is written afterwards, as a tar.gz.
        progress: is given what the program writes, as it comes.
        auth: for the pull; without it, what Docker's own configuration has for that host.

    Returns:
        Its exit status.

    Raises:
        ImageError: no Docker engine answers, the image cannot be had or started, or the engine is lost on the way.
    """
    transcript = Transcript(lambda _line: None, [auth.password] if auth and auth.password else [])
    with engine(_TO_REHEARSE) as api:
        with _told_as(f"the Docker engine cannot make a container of {image}", transcript):
            _have(api, image, auth, transcript)
            container = api.create_container(
                image,
                entrypoint=list(_WAIT),
                command=[],
                stdin_open=True,
                host_config=api.create_host_config(auto_remove=True),
            )
        with _removed(api, container):
            with _told_as(f"{image} cannot be started by the Docker engine", transcript):
                # Before it starts, so that there is no moment at which nobody holds its input.
                held = api.attach_socket(container, params={"stdin": 1, "stream": 1})
                api.put_archive(container, "/", _archive(given, left))
                api.start(container)
            with _closed(held), _told_as(f"{image} was lost while it ran", transcript, _LOST):
                status = _execute(api, container, [*entrypoint, *command], environment, progress)
                content, _ = api.get_archive(container, left)
                with gzip.open(archive, "wb", compresslevel=1) as file:
                    file.writelines(content)
        return status


def _execute(
    api: Any, container: Any, command: list[str], environment: Mapping[str, str], progress: Callable[[str], None]
) -> int:
    from docker.utils.socket import frames_iter  # type: ignore[import-untyped]

    program = api.exec_create(container, command, environment=dict(environment))
    # The SDK's own iterator would leave the connection open.
    output = api.exec_start(program, socket=True)
    with _closed(output):
        for _, data in frames_iter(output, tty=False):
            progress(data.decode(errors="replace"))
    status = api.exec_inspect(program)["ExitCode"]
    if status is None:
        raise ConnectionError
    return int(status)


@contextlib.contextmanager
def _told_as(what: str, transcript: Transcript, advice: str = "") -> Iterator[None]:
    try:
        yield
    except failures() as error:
        message = f"{what}: {transcript.clean(told(error))}"
        raise ImageError(f"{message}; {advice}" if advice else message) from None


@contextlib.contextmanager
def _closed(held: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # The SDK keeps the answer, whose connection it is, only here.
        getattr(held, "_response", held).close()


@contextlib.contextmanager
def _removed(api: Any, container: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # Of an engine that is lost, the first error tells.
        with contextlib.suppress(*failures()):
            api.remove_container(container, force=True)


def _have(api: Any, image: str, auth: Credentials | None, transcript: Transcript) -> None:
    import docker  # type: ignore[import-untyped]

    try:
        api.inspect_image(image)
    except docker.errors.ImageNotFound:
        pull(api, image, auth, transcript)


def _archive(given: Mapping[str, bytes], left: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        folder = tarfile.TarInfo(left.strip("/"))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        archive.addfile(folder)
        for path, content in given.items():
            file = tarfile.TarInfo(path.strip("/"))
            file.size, file.mode = len(content), 0o444
            archive.addfile(file, io.BytesIO(content))
    return made.getvalue()
