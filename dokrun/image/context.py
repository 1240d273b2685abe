"""What an image is built from: the files that go along, the archive that the engine gets, and the digest over it all.

Neither depends on anything but names, modes, links and contents: no times, no owners, no absolute paths.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dokrun.errors import ImageError
from dokrun.image import dockerfile
from dokrun.image.spec import Image, Recipe

PLATFORM = "linux/amd64"
# In the archive's root, under a name that no folder has a file of.
DOCKERFILE = ".dokrun.Dockerfile"

# What says that a disk can take no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IGNORE = ".dockerignore"
# Python's zip files, and so its wheels, know no time before 1980.
_TIME = 315_619_200


@dataclass(frozen=True)
class _Entry:
    """A member of the archive: a link, a file's bytes or its path, or else a folder."""

    name: str
    mode: int
    link: str | None = None
    data: bytes | None = None
    path: Path | None = None


def bases(image: Image) -> list[str]:
    """List the images in registries that an image is built on, by the names that are written.

    Raises:
        ImageError: its Dockerfile cannot be read, here or by the engine's own builder.
    """
    if image.recipe is None:
        return [image.base or ""]
    text = image.dockerfile
    dockerfile.check(text, image.recipe.path)
    return list(dict.fromkeys(one.name for one in dockerfile.named(text, dict(image.recipe.build_args))))


def fingerprint(image: Image, digests: Mapping[str, str]) -> str:
    """Tell the digest, 64 hexadecimal digits, of all that decides what an image holds.

    What a step fetches from elsewhere counts by the words that fetch it.

    Args:
        image: what is to be built.
        digests: of each of its bases, `sha256:…`, which then counts in place of the base's name.

    Raises:
        ImageError: a file cannot be read, or a link leads out of its folder.
    """
    whole = hashlib.sha256()

    def add(*fields: str | bytes) -> None:
        for text in fields:
            data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            whole.update(b"%d:" % len(data) + data)

    with _reading():
        add("dokrun image 1", PLATFORM, _dockerfile(image, digests))
        for name, value in image.recipe.build_args if image.recipe else ():
            add("argument", name, value)
        for entry in _entries(image):
            if entry.link is not None:
                add("link", entry.name, entry.link)
            elif entry.data is not None or entry.path is not None:
                add("file", entry.name, f"{entry.mode:o}", _digest(entry))
            else:
                add("folder", entry.name, f"{entry.mode:o}")
    return whole.hexdigest()


def write_context(image: Image, pins: Mapping[str, str], file: IO[bytes]) -> None:
    """Write the archive that the engine builds from; its Dockerfile is the member `DOCKERFILE`.

    Args:
        image: what is to be built.
        pins: what its bases are named instead, `name@sha256:…`; without it, as they are written.
        file: where the archive goes.

    Raises:
        ImageError: a file cannot be read, or a link leads out of its folder.
    """
    text = _dockerfile(image, pins).encode()
    with _reading(), tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in (_Entry(DOCKERFILE, 0o644, data=text), *_entries(image)):
            member = tarfile.TarInfo(entry.name)
            member.mode, member.mtime = entry.mode, _TIME
            if entry.link is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.link
                archive.addfile(member)
            elif entry.data is not None or entry.path is not None:
                with _opened(entry) as content:
                    member.size = content.seek(0, os.SEEK_END)
                    content.seek(0)
                    archive.addfile(member, content)
            else:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)


def _dockerfile(image: Image, names: Mapping[str, str]) -> str:
    if image.recipe is None:
        return replace(image, base=names.get(image.base or "", image.base)).dockerfile
    return dockerfile.pinned(image.dockerfile, dict(image.recipe.build_args), names)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        what = error.filename or "a file that the image copies"
        raise ImageError(
            f"{what} cannot be read: {error.strerror or error}; the image was not built. Take it away, or name it in "
            f"{_IGNORE}"
        ) from None


def _opened(entry: _Entry) -> IO[bytes]:
    return io.BytesIO(entry.data or b"") if entry.path is None else entry.path.open("rb")


def _digest(entry: _Entry) -> bytes:
    content = hashlib.sha256()
    with _opened(entry) as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.digest()


def _entries(image: Image) -> list[_Entry]:
    found = {entry.name: entry for entry in (_context(image.recipe) if image.recipe else ())}
    for copied in (step.copied for step in image.steps if step.copied):
        root = Path(copied.local).resolve()
        if root.is_dir():
            # Docker makes the folder anew, so that its own mode says nothing.
            found[copied.name] = _Entry(copied.name, 0o755)
            found |= {entry.name: entry for entry in _tree(root, _kept(root, root / _IGNORE), copied.name)}
        else:
            mode = 0o644 if copied.is_requirements else stat.S_IMODE(root.stat().st_mode)
            found[copied.name] = _Entry(copied.name, mode, path=root)
    return [found[name] for name in sorted(found)]


def _context(recipe: Recipe) -> Iterator[_Entry]:
    """Yield what a Dockerfile's folder holds, with our own Dockerfile hidden from its `COPY . .`."""
    root = Path(recipe.context).resolve()
    own = Path(f"{recipe.path}{_IGNORE}")
    kept = _kept(root, own if own.is_file() else root / _IGNORE)
    yield from _tree(root, kept)
    # Of all that this file names, the engine itself takes away only the Dockerfile and this file.
    hidden, said = f"\n{DOCKERFILE}\n", b""
    if _IGNORE in kept:
        said = (root / _IGNORE).read_bytes()
    else:
        hidden += f"{_IGNORE}\n"
    yield _Entry(_IGNORE, 0o644, data=said + hidden.encode())


def _tree(root: Path, names: set[str], prefix: str = "") -> Iterator[_Entry]:
    for name in names:
        path, inside = root / name, posixpath.join(prefix, name)
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            link = path.readlink().as_posix()
            if posixpath.normpath(posixpath.join(posixpath.dirname(inside), link.lstrip("/"))).startswith(".."):
                raise ImageError(
                    f"{path} is a link that leads out of what the image is built from; name it in {_IGNORE}, or copy "
                    "what it leads to"
                )
            yield _Entry(inside, 0o777, link=link)
        elif stat.S_ISREG(status.st_mode):
            yield _Entry(inside, mode, path=path)
        elif stat.S_ISDIR(status.st_mode):
            yield _Entry(inside, mode)


def _kept(root: Path, ignore_file: Path) -> set[str]:
    """List the names in a folder that `.dockerignore` leaves, and the folders that these lie in."""
    rules = _rules(ignore_file)
    may_return = any(not ignored for _, ignored in rules)
    kept: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as found:
            for entry in found:
                name = posixpath.join(folder, entry.name)
                ignored = _is_ignored(name, rules)
                if not ignored:
                    kept.update(_with_parents(name))
                if entry.is_dir(follow_symlinks=False) and (may_return or not ignored):
                    pending.append(name)
    return kept


def _with_parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = posixpath.dirname(name)


def _is_ignored(name: str, rules: list[tuple[re.Pattern[str], bool]]) -> bool:
    """Tell what the last rule says that fits the name or a folder that it lies in."""
    for pattern, ignored in reversed(rules):
        if any(pattern.fullmatch(part) for part in _with_parents(name)):
            return ignored
    return False


def _rules(file: Path) -> list[tuple[re.Pattern[str], bool]]:
    if not file.is_file():
        return []
    rules = []
    for line in file.read_text("utf-8-sig", "surrogateescape").splitlines():
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        ignored = not text.startswith("!")
        pattern = posixpath.normpath(text.removeprefix("!").strip()).lstrip("/")
        if pattern != ".":
            rules.append((_expression(pattern, file), ignored))
    return rules


def _expression(pattern: str, file: Path) -> re.Pattern[str]:
    """Translate a pattern as Docker reads it (https://docs.docker.com/build/concepts/context/#dockerignore-files)."""
    parts = re.findall(r"\*\*/?|\*|\?|\[[^\]]+\]|\\?.", pattern, re.DOTALL)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    try:
        return re.compile(
            "".join(
                known.get(part) or (part if len(part) > 1 and part[0] == "[" else re.escape(part[-1])) for part in parts
            ),
            re.DOTALL,
        )
    except re.error:
        raise ImageError(f"{file} has a pattern that cannot be read: {pattern!r}; mend it") from None
