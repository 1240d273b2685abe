"""The folder for what outlives a process: nobody else may enter it, and nobody else's is used."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from dokrun.errors import ConfigError


def private(folder: Path) -> Path:
    """Make a folder of mode 0700, whatever the umask is, or take the one that is there if it is safe. Returns it.

    Raises:
        ConfigError: it cannot be made; or it is a link, another user's, or writable by others, who could put files
            of theirs in it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # whatever it is, that is looked at next
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except FileExistsError as error:
        raise ConfigError(f"the state folder {folder} is a file; {_ELSEWHERE}") from error
    except OSError as error:
        raise ConfigError(f"the state folder {folder} cannot be used: {error.strerror}; {_ELSEWHERE}") from error
    problem = _problem(found)
    if problem is not None:
        raise ConfigError(f"the state folder {folder} {problem}; {_ELSEWHERE}")
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)
    return folder


_ELSEWHERE = "set DOKRUN_STATE_DIR to a folder of your own"


def _problem(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return None


def check_file(path: Path) -> None:
    """Refuse a file that is a link, or that others own or can write; one that is not there is fine.

    Raises:
        ConfigError: it is one of these.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path} is not a file that you alone can write; move it away")
