"""What a Dockerfile of the user's own builds on: the images that its FROM and `COPY --from=` name, and which builder.

It is read as Docker reads it: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dokrun.errors import ImageError
from dokrun.image.spec import REFERENCE

_GAP = r"(?:[ \t]|\\[ \t]*\r?\n)+"
_FLAGS = rf"(?:--\S+{_GAP})*?"
_FROM = re.compile(rf"\s*FROM{_GAP}{_FLAGS}(?P<name>[^\s-]\S*)(?:{_GAP}AS{_GAP}(?P<stage>\S+))?\s*", re.IGNORECASE)
_COPY = re.compile(rf"\s*COPY{_GAP}{_FLAGS}--from=(?P<name>\S+)\s", re.IGNORECASE)
_ARG = re.compile(rf"\s*ARG{_GAP}(?P<arguments>.*)", re.IGNORECASE | re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(?P<name>\w+)|\{(?P<braced>\w+)(?::(?P<sign>[-+])(?P<other>[^}]*))?\})")
# The engine's own builder knows these flags alone.
_BUILDKIT = re.compile(
    rf"\s*(?P<word>RUN|COPY|ADD){_GAP}{_FLAGS}(?P<flag>(?<!\S)--(?!(?:from|chown)=)[a-z][a-z-]*)", re.IGNORECASE
)
_HERE = re.compile(
    r"(?<!\S)\d*<<-?(?P<quote>['\"]?)(?P<word>[A-Za-z_]\w*)(?P=quote)(?=\W).*?\n[ \t]*(?P=word)[ \t]*\r?$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Named:
    """An image that a Dockerfile names without a digest, its arguments filled in, and where in the text that stands."""

    name: str
    start: int
    end: int


def check(text: str, path: str) -> None:
    """Refuse a Dockerfile that the engine's own builder, the only one that its API offers, cannot read.

    Raises:
        ImageError: it uses what only BuildKit has; says what, and what to do.
    """
    for start, instruction in _instructions(text):
        word = instruction.split(maxsplit=1)[0].upper()
        here = _HERE.search(text, start) if word in ("RUN", "COPY", "ADD") else None
        if flag := _BUILDKIT.match(instruction):
            used = f"{word} {flag['flag']}"
        elif here is not None and here.start() < start + len(instruction):
            used = f"a here-document, <<{here['word']}"
        else:
            continue
        raise ImageError(
            f"the Dockerfile {path} uses {used}, which only BuildKit reads, and dokrun builds with the engine's own "
            "builder; build it with `docker build --platform=linux/amd64 -t HOST/NAME:TAG`, `docker push` it, and "
            'write dok.Image.from_registry("HOST/NAME:TAG")'
        )


def named(text: str, build_args: Mapping[str, str]) -> list[Named]:
    """List the images that a Dockerfile takes from registries, in its order; those with a digest are left out."""
    found = []
    arguments: dict[str, str] = {}
    stages = {"scratch"}
    in_head = True
    for start, instruction in _instructions(text):
        if in_head and (argument := _ARG.match(instruction)):
            arguments |= _told(argument["arguments"], build_args, arguments)
        elif taken := _FROM.fullmatch(instruction) or _COPY.match(instruction):
            is_base = "stage" in taken.re.groupindex
            name = _filled(taken["name"], arguments) if is_base else taken["name"]
            reference = REFERENCE.fullmatch(name)
            if reference and not reference["digest"] and name.lower() not in stages and not name.isdigit():
                found.append(Named(name, start + taken.start("name"), start + taken.end("name")))
            if is_base:
                in_head = False
                stages.add((taken["stage"] or "scratch").lower())
    return found


def pinned(text: str, build_args: Mapping[str, str], pins: Mapping[str, str]) -> str:
    """Put other names in place of the images that a Dockerfile takes from registries."""
    for one in reversed(named(text, build_args)):
        text = text[: one.start] + pins.get(one.name, text[one.start : one.end]) + text[one.end :]
    return text


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """Yield each instruction with all of its lines, and where it starts."""
    start, continues = 0, False
    for line in re.finditer(r"[^\n]*(?:\n|$)", text):
        said = line[0].strip()
        if said and not said.startswith("#"):
            continues = said.endswith("\\")
            if not continues:
                yield start, text[start : line.end()]
        if not continues:
            start = line.end()


def _told(arguments: str, build_args: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Read an ARG: what is told for the build comes before what the Dockerfile says."""
    try:
        words = shlex.split(arguments.replace("\\\n", " "))
    except ValueError:  # the engine says better what is wrong with it
        return {}
    pairs = [word.partition("=") for word in words]
    return {name: build_args.get(name, _filled(value, before)) for name, _, value in pairs}


def _filled(text: str, arguments: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        told = arguments.get(found["name"] or found["braced"], "")
        if found["sign"] == "+":
            return found["other"] if told else ""
        return told or found["other"] or ""

    return _VARIABLE.sub(value, text)
