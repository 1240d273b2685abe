"""The files that a function leaves: what they are called, and how they come to a folder here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dokrun.errors import DiskError, OptionError


@dataclass(frozen=True)
class ArtifactFile:
    """A file that a function left in `dok.artifact_dir()`: its path there, with `/`, and its size in bytes.

    A link to a file there is one too, with that file's size.

    Examples:
        >>> @dok.remote(plan="v100-32gb")
        ... def save() -> None:
        ...     (dok.artifact_dir() / "weights.bin").write_bytes(bytes(1000))
        >>> [file] = save().files()
        >>> file.name, file.size_bytes
        ('weights.bin', 1000)
    """

    name: str
    size_bytes: int


class Artifact(Protocol):
    """What a call's task left behind, for the engine to provide."""

    @property
    def files(self) -> Sequence[ArtifactFile]:
        """The user's files."""

    def download(self, names: Sequence[str], folder: Path) -> None:
        """Fetch some of them into a folder, which is new. Raises OSError where this machine cannot write them."""


def download(artifact: Artifact, names: Sequence[str], folder: Path) -> list[Path]:
    """Make a folder with some files of an artifact, or none."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OptionError(f"{str(folder)!r} is not an empty folder; name one of its own for these files")
        with made_whole(folder) as aside:
            artifact.download(names, aside)
    except OSError as error:
        raise DiskError(
            f"the files cannot be written to {str(folder)!r} on this machine ({error.strerror or error}); make room "
            "there, or name another folder, and call download() again: DOK keeps them for 72 hours",
            folder=str(folder),
        ) from error
    return [folder / name for name in names]


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, which gets its name when the block ends well, and goes where it does not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Only its owner can enter a folder that mkdtemp made, so nobody can put a link in the way.
    aside = Path(tempfile.mkdtemp(prefix=".dokrun-", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
