"""What an archive's members are to each other: which of them are files, and which links lead to which.

Names in, names out: nothing here looks at a disk, so a link leads to another member or nowhere.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dokrun.artifact import ArtifactFile
from dokrun.shim import protocol

_MOST = 1_000_000
# Of all names together.
_MOST_CHARACTERS = 256 << 20
# macOS opens no longer path.
_LONGEST = 1024
# Names on the way from a link to its end, those of further links included; more is a loop.
_MOST_STEPS = 128
# What DOK calls the artifact folder in its containers, so that an absolute link into it is one to another member.
_HOME = "/opt/artifact/"


@dataclass(frozen=True)
class Content:
    """What an archive holds beside dokrun's own files. All names but `root` are those in the artifact folder.

    Attributes:
        root: where in the archive the artifact folder begins: "", or a name that ends with "/".
        files: the regular files, and the links to them, by name.
        links: of each link to a file, which file's content it has.
        folder_links: of each link to a folder, which folder that is.
        passed_over: what cannot be brought here: devices, links that lead out or nowhere, names that no file can have.
    """

    root: str
    files: Sequence[ArtifactFile]
    links: Mapping[str, str]
    folder_links: Mapping[str, str]
    passed_over: Sequence[str]


def safe_name(name: str) -> str | None:
    """Tell a member's name without "./" and the like, or None where it is none below the archive's root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or len(name) >= _LONGEST:
        return None
    return "/".join(parts)


class Members:
    """Takes an archive's members in their order. A name is whose it was first; a million are all that it takes."""

    def __init__(self) -> None:
        # Of each regular file and hard link, who has its content, and the size in bytes.
        self._files: dict[str, tuple[str, int]] = {}
        self._symlinks: dict[str, str] = {}
        self._folders = {""}
        self._passed_over: dict[str, None] = {}
        self._characters = 0

    def add(self, member: tarfile.TarInfo) -> None:
        """Take one member; what can be no file, link or folder here is remembered as passed over."""
        name = safe_name(member.name)
        if name is None or not self._take(name, member):
            self._pass_over(member.name if name is None else name)

    def _take(self, name: str, member: tarfile.TarInfo) -> bool:
        if member.isdir() and name in self._folders:
            return True
        first = self._files.get(safe_name(member.linkname) or "") if member.islnk() else None
        kept = member.isreg() or member.isdir() or first or (member.issym() and len(member.linkname) < _LONGEST)
        if not kept or not self._make_room(name):
            return False
        if member.isdir():
            self._folders.add(name)
        elif member.issym():
            self._symlinks[name] = member.linkname
        else:
            self._files[name] = first or (name, member.size)
        return True

    def _make_room(self, name: str) -> bool:
        """Tell whether a name is free and lies in folders, which are then known."""
        if len(self._files) + len(self._symlinks) + len(self._folders) >= _MOST:
            return False
        folders, folder, characters = [], name, self._characters
        while folder not in self._folders:
            if folder in self._files or folder in self._symlinks:
                return False
            folders.append(folder)
            characters += len(folder)
            folder = folder.rpartition("/")[0]
        if not folders or characters > _MOST_CHARACTERS:
            return False
        self._characters = characters
        self._folders.update(folders[1:])
        return True

    def _pass_over(self, name: str) -> None:
        name = name[:_LONGEST]
        if name not in self._passed_over and self._characters + len(name) <= _MOST_CHARACTERS:
            self._characters += len(name)
            self._passed_over[name] = None

    def content(self, root: str) -> Content:
        """Tell what there is below an artifact folder that begins at `root`, with every link followed to its end."""
        files, links, folder_links = dict[str, int](), dict[str, str](), dict[str, str]()
        for name in [*self._files, *self._symlinks]:
            end = self._follow(name, root)
            source, size = self._files.get(end, (end, 0))
            mine, theirs = _below(root, name), _below(root, source)
            if mine is None:
                continue
            if theirs is not None and end in self._files:
                files[mine] = size
                if mine != theirs:
                    links[mine] = theirs
            elif theirs is not None and end in self._folders and not f"{mine}/".startswith(f"{theirs}/"):
                folder_links[mine] = theirs
            else:
                self._pass_over(name)
        told = [ArtifactFile(name, files[name]) for name in sorted(files)]
        own = f"{root}{protocol.OWN_DIR}/"
        passed_over = [name.removeprefix(root) for name in self._passed_over if not name.startswith(own)]
        return Content(root, told, links, folder_links, passed_over)

    def _follow(self, name: str, root: str) -> str:
        """Go from a name to where it ends, as a file system would; "" where it leads nowhere or out of the archive."""
        here, to_go = name.split("/"), list[str]()
        for _ in range(_MOST_STEPS):
            known = "/".join(here)
            target = self._symlinks.get(known)
            if target is not None:
                if target.startswith(_HOME):
                    here, target = root.split("/")[:-1], target[len(_HOME) :]
                elif target.startswith("/"):
                    return ""
                else:
                    here = here[:-1]
                to_go += reversed(target.split("/"))
            elif not to_go:
                return known
            elif known not in self._folders:
                return ""
            step = to_go.pop()
            if step == ".." and not here:
                return ""
            here = here[:-1] if step == ".." else here if step in ("", ".") else [*here, step]
        return ""


def _below(root: str, name: str) -> str | None:
    """Tell a name's part below the root, None where it lies elsewhere, is the root, or is dokrun's own."""
    part = name[len(root) :]
    own = part == protocol.OWN_DIR or part.startswith(f"{protocol.OWN_DIR}/")
    return part if part and name.startswith(root) and not own else None
