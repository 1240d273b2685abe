"""Run a program once in a container of the local Docker engine, and bring back what it left."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dokrun.errors import ImageError
from dokrun.image.build import Auth, Transcript, engine, failures, pull, told


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
    auth: Auth | None = None,
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
        ImageError: no Docker engine answers, or the image cannot be had or started.
    """
    transcript = Transcript(lambda _line: None, [auth[1]] if auth and auth[1] else [])
    with engine() as api:
        with _told_as(f"the Docker engine cannot make a container of {image}", transcript):
            _have(api, image, auth, transcript)
            container = api.create_container(
                image, command=list(command), entrypoint=list(entrypoint), environment=dict(environment)
            )
        with _told_as(f"{image} cannot be run by the Docker engine", transcript), _removed(api, container):
            api.put_archive(container, "/", _archive(given, left))
            api.start(container)
            for output in api.logs(container, stream=True, follow=True):
                progress(output.decode(errors="replace"))
            status = int(api.wait(container)["StatusCode"])
            content, _ = api.get_archive(container, left)
            with gzip.open(archive, "wb", compresslevel=1) as file:
                file.writelines(content)
        return status


@contextlib.contextmanager
def _told_as(what: str, transcript: Transcript) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        raise ImageError(f"{what}: {transcript.clean(told(error))}") from None


@contextlib.contextmanager
def _removed(api: Any, container: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # Of an engine that is lost, the first error tells.
        with contextlib.suppress(*failures()):
            api.remove_container(container, force=True)


def _have(api: Any, image: str, auth: Auth | None, transcript: Transcript) -> None:
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
