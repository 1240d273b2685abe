"""What an environment is, said once: a base and the steps that are added to it. Nothing is built or fetched here.

Standard library and `dokrun.errors` only: modules that say what their image is are imported in containers too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dokrun.errors import ImageError, OptionError

if TYPE_CHECKING:
    from pathlib import Path

# Where the files of `.copy()` and `file=` lie in the build's context, each in a folder of its own.
COPY_FOLDER = ".dokrun-copy"

# The name of an image: https://github.com/distribution/reference/blob/main/reference.go
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PORT = r"(?:[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# A registry's host; what stands before a name's first slash is one if it has a dot or a port, or is `localhost`.
HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::{_PORT})?"
NAMED_HOST = rf"(?:localhost|(?=[^/]*[.:]){HOST})"
REPOSITORY = rf"{_PART}(?:/{_PART})*"
REFERENCE = re.compile(
    rf"(?:(?P<host>{NAMED_HOST})/|(?![^/]*[.:\[][^/]*/|localhost/))(?P<repository>{REPOSITORY})"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_PYTHON = re.compile(r"3\.\d+(\.\d+)?")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:=~*/_-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]*@")
# What a shell's line cannot carry through a Dockerfile unchanged: line ends, flags, lists, here-documents.
_NOT_A_LINE = re.compile(r"^\s*(\[|--|$)|[\n\r]|<<|\\\s*$")
# Set in every container that runs a call, where the client's files are not.
_CALL_ID = "DOKRUN_CALL_ID"


@dataclass(frozen=True)
class Copied:
    """A file or folder of this machine that a step needs, and its path in the build's context."""

    local: str
    name: str
    is_requirements: bool = False


@dataclass(frozen=True, repr=False)
class Step:
    """Lines of the Dockerfile, and what they copy."""

    text: str
    copied: Copied | None = None


@dataclass(frozen=True, repr=False)
class Recipe:
    """A Dockerfile of the user's own: its path, the folder it is built in, and its build arguments."""

    path: str
    context: str
    build_args: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, repr=False)
class Image:
    """What a container has: a base, and steps on top of it. Immutable: each method makes a new image.

    >>> image = Image.debian_slim("3.11").apt_install("ffmpeg").pip_install("torch==2.8.*")
    >>> print(image.dockerfile)
    FROM docker.io/library/python:3.11-slim
    RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ffmpeg \
&& rm -rf /var/lib/apt/lists/*
    RUN python3 -m pip install --no-cache-dir 'torch==2.8.*'
    <BLANKLINE>

    `base` is the base's reference, None where a Dockerfile says it. What an image holds can be read by all who may
    pull it: no secret belongs into a step.
    """

    base: str | None
    recipe: Recipe | None = None
    steps: tuple[Step, ...] = ()

    @classmethod
    def debian_slim(cls, python: str | None = None) -> Image:
        """Make the official slim image of a Python version: "3.11", say; without one, of this interpreter's own.

        Raises:
            OptionError: that is no version of Python 3.
        """
        given: object = f"{sys.version_info.major}.{sys.version_info.minor}" if python is None else python
        if not isinstance(given, str) or not _PYTHON.fullmatch(given):
            raise OptionError(f'debian_slim({given!r}): that is no version of Python; write it as text, like "3.11"')
        return cls(f"docker.io/library/python:{given}-slim")

    @classmethod
    def from_registry(cls, ref: str) -> Image:
        """Make an image of one in a registry, "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime", say.

        Raises:
            OptionError: that is no image's name.
        """
        reference = _line("from_registry", ref)
        if not REFERENCE.fullmatch(reference):
            # It may be an address, with a user's password in it.
            shown = "…" if "@" in reference else repr(reference)
            raise OptionError(
                f"from_registry({shown}): no image can have that name; write it as NAME:TAG or HOST/NAME:TAG, the name "
                "in small letters"
            )
        return cls(reference)

    @classmethod
    def from_dockerfile(
        cls,
        path: str | os.PathLike[str],
        *,
        context: str | os.PathLike[str] | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> Image:
        """Make an image of a Dockerfile.

        It is built by the engine's own builder, without BuildKit: no `RUN --mount=…`, no here-documents (`<<EOF`). For
        those, build it with `docker build`, push it, and use `from_registry`. What its FROM and `COPY --from=` name is
        looked up in its registry and pinned, so that the image is built anew when that changes; what its steps download
        counts by their text alone.

        Args:
            path: the Dockerfile.
            context: the folder that its COPY and ADD read from, less what `.dockerignore` there names; without it, the
                Dockerfile's own folder.
            build_args: values of its ARG lines. They are no place for secrets: the image's history shows them.

        Raises:
            OptionError: there is no such file or folder, or the build arguments are no texts.
        """
        file = _existing("from_dockerfile", path, folder=False)
        folder = file.parent if context is None else _existing("from_dockerfile", context, folder=True)
        return cls(None, Recipe(str(file), str(folder), tuple(sorted(_names("build_args", build_args or {}).items()))))

    def pip_install(
        self, *requirements: str, file: str | os.PathLike[str] | None = None, index_url: str | None = None
    ) -> Image:
        """Add Python packages, by pip, which the image must have.

        Args:
            requirements: as pip takes them: "torch==2.8.*", "polars>=1".
            file: a requirements file of this machine, whose content then counts.
            index_url: where pip looks, in place of its default.

        Raises:
            OptionError: nothing is given, an option of pip is among the requirements, or an address has a password.
        """
        if not requirements and file is None:
            raise OptionError('pip_install() needs what to install: pip_install("polars"), or file="requirements.txt"')
        image, words = self, ["python3", "-m", "pip", "install", "--no-cache-dir"]
        if index_url is not None:
            words += ["--index-url", _without_password("pip_install", _line("pip_install", index_url), also_user=True)]
        if file is not None:
            local = _existing("pip_install", file, folder=False)
            inside = f"/tmp/dokrun-requirements-{self._copies}.txt"  # noqa: S108  # a path in the image, not here
            image = self._copy(
                Copied(str(local), f"{COPY_FOLDER}/{self._copies}/requirements.txt", is_requirements=True), inside
            )
            words += ["-r", inside]
        for requirement in requirements:
            words.append(_without_password("pip_install", _line("pip_install", requirement)))
            if words[-1].startswith("-"):
                raise OptionError(
                    "pip_install(): a requirement begins with «-», so pip takes it for an option; use file= or "
                    'index_url=, or .run("python3 -m pip install …")'
                )
        return _with(image, f"RUN {shlex.join(words)}")

    def apt_install(self, *packages: str) -> Image:
        """Add Debian packages.

        Raises:
            OptionError: nothing is given, or that is no package's name.
        """
        if not packages:
            raise OptionError('apt_install() needs what to install: apt_install("ffmpeg")')
        for package in packages:
            if not _PACKAGE.fullmatch(_line("apt_install", package)):
                raise OptionError(f"apt_install({package!r}): that is no package's name; write each as its own text")
        install = f"apt-get install -y --no-install-recommends {shlex.join(packages)}"
        return _with(
            self, f"RUN apt-get update && DEBIAN_FRONTEND=noninteractive {install} && rm -rf /var/lib/apt/lists/*"
        )

    def run(self, *commands: str) -> Image:
        """Add shell commands, each a step of its own.

        Raises:
            OptionError: nothing is given, or a command is empty.
        """
        if not commands:
            raise OptionError('run() needs a command: run("make install")')
        image = self
        for command in commands:
            text = _text("run", command)
            line = json.dumps(["/bin/sh", "-c", text]) if _NOT_A_LINE.search(text) else text.strip()
            image = _with(image, f"RUN {line}")
        return image

    def env(self, variables: Mapping[str, str] | None = None, /, **names: str) -> Image:
        """Add environment variables: `env({"A": "1"})` or `env(A="1")`.

        Raises:
            OptionError: nothing is given, or a name or value is none that an image can hold.
        """
        both = {**_names("env", {} if variables is None else variables), **_names("env", names)}
        if not both:
            raise OptionError('env() needs variables: env(HF_HOME="/cache")')
        return _with(self, "\n".join(f'ENV {name}="{_escaped(value, quoted=True)}"' for name, value in both.items()))

    def workdir(self, path: str) -> Image:
        """Set the folder that later steps, and the container, begin in; it is made if need be.

        Raises:
            OptionError: the path is empty.
        """
        return _with(self, f"WORKDIR {_escaped(_line('workdir', path))}")

    def copy(self, local: str | os.PathLike[str], remote: str) -> Image:
        """Add a file or folder of this machine. Modes and symbolic links stay as they are.

        Args:
            local: a file, or a folder, whose content it is that is copied, less what a `.dockerignore` in it names.
            remote: the path in the image; one that ends with `/` is the folder that a file is put in.

        Raises:
            OptionError: there is nothing at `local`, or `remote` is empty.
        """
        source, target = _existing("copy", local, folder=None), _line("copy", remote)
        if target.endswith("/") and not source.is_dir():
            target += source.name
        return self._copy(Copied(str(source), f"{COPY_FOLDER}/{self._copies}/content"), target)

    @property
    def is_plain(self) -> bool:
        """Tell whether there is nothing to build, so that the base is used as it is."""
        return self.recipe is None and not self.steps

    @property
    def dockerfile(self) -> str:
        """The Dockerfile that this stands for.

        Raises:
            ImageError: the Dockerfile it begins with cannot be read.
        """
        beginning = f"FROM {self.base}" if self.recipe is None else _read(self.recipe.path).rstrip("\n")
        return "\n".join([beginning, *(step.text for step in self.steps)]) + "\n"

    def __repr__(self) -> str:
        start = f"Dockerfile {self.recipe.path}" if self.recipe else self.base
        return f"<Image: {start}, {len(self.steps)} steps>"

    @property
    def _copies(self) -> int:
        return sum(step.copied is not None for step in self.steps)

    def _copy(self, copied: Copied, target: str) -> Image:
        # Docker reads variables, and a shell's quotes, even in the list's form.
        return _with(self, f"COPY {json.dumps([copied.name, _escaped(target)], ensure_ascii=False)}", copied)


def _with(image: Image, text: str, copied: Copied | None = None) -> Image:
    return replace(image, steps=(*image.steps, Step(text, copied)))


def _text(method: str, value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        raise OptionError(f"{method}() takes texts, not a {type(value).__name__}; write {method}(*…)")
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise OptionError(f"{method}() takes texts that are not empty")
    return value


def _line(method: str, value: object) -> str:
    text = _text(method, value)
    if "\n" in text or "\r" in text:
        raise OptionError(f"{method}(): a text goes over more than one line; write each as its own argument")
    return text.strip()


def _without_password(method: str, text: str, *, also_user: bool = False) -> str:
    if _PASSWORD.search(text) or (also_user and "@" in text.partition("://")[2].partition("/")[0]):
        raise OptionError(
            f"{method}(): an address has a password in it, which all who may pull the image could read; "
            "install from a place that needs none"
        )
    return text


def _names(method: str, variables: object) -> dict[str, str]:
    if not isinstance(variables, Mapping):
        raise OptionError(f'{method} must map names to texts: {{"NAME": "value"}}')
    checked: dict[str, str] = {}
    for name, value in variables.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(f"{method}: {name!r} is no variable's name; letters, digits and _ make one")
        if not isinstance(value, str):
            raise OptionError(f'{method}: {name} must be a string, such as {name}="1"')
        if any(mark in value for mark in "\n\r\0"):
            raise OptionError(f"{method}: the value of {name} must be on one line")
        checked[name] = value
    return checked


def _escaped(text: str, *, quoted: bool = False) -> str:
    """Make a text that Docker's own reading of quotes and variables gives back as it was."""
    return re.sub(r"""([\\"$])""" if quoted else r"""([\\"'$])""", r"\\\1", text)


def _existing(method: str, path: Any, *, folder: bool | None) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise OptionError(f"{method}() takes the path of what is here, not {type(path).__name__}")
    from pathlib import Path

    full = Path(path).expanduser().absolute()
    if _CALL_ID in os.environ:
        return full
    if not full.exists() or (folder is not None and full.is_dir() != folder):
        kind = {True: "folder", False: "file", None: "file or folder"}[folder]
        raise OptionError(f"{method}(): there is no {kind} {full}; a relative path begins at {Path.cwd()}")
    return full


def _read(path: str) -> str:
    from pathlib import Path

    try:
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ImageError(f"the Dockerfile {path} cannot be read: {reason}; look at from_dockerfile(…)") from None
