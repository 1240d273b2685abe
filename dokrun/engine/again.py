"""One line for whoever runs a cell again: a call just like that is under way, and its outcome can be had instead."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple
from datetime import datetime
from typing import Any, NamedTuple

from dokrun import keys
from dokrun.display import in_notebook, is_wanted, running_cell
from dokrun.engine.journal import Entry, Journal
from dokrun.engine.prepare import Job
from dokrun.engine.target import Target
from dokrun.errors import ConfigError
from dokrun.image.spec import Image
from dokrun.payload.likeness import likeness

_log = logging.getLogger("dokrun.engine")

# A task runs for some days at most, and its artifact is kept for three.
_KEPT_S = 7 * 86400.0
_MOST = 256


class Begun(NamedTuple):
    """A call that was begun, and when, in seconds since 1970."""

    name: str
    job_id: str
    at: float


class Again:
    """Tells whoever runs a cell again that a call like that was sent before, and has not told its outcome yet.

    Only notebooks are told: a script that makes the same call twice was written so.

    Args:
        journal: knows what was sent.
        is_there: tells whether a job is this process's own.
        outlasts: whether tasks outlive the process that made them.
    """

    def __init__(self, journal: Journal, is_there: Callable[[str], bool], *, outlasts: bool) -> None:
        self._journal = journal
        self._is_there = is_there
        self._outlasts = outlasts
        self._told: set[tuple[str, str]] = set()
        # The last call of each likeness that this process has begun.
        self._begun: dict[str, Begun] = {}

    def likeness(self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], job: Job) -> str:
        """Tell what is the same for every call like this one; nothing where nobody would be told of them.

        Args:
            target: what is called.
            args: what it is called with.
            kwargs: likewise.
            job: what was made of the call.
        """
        if not (is_wanted("DOKRUN_HINTS") and in_notebook()):
            return ""
        pack, *_ = job.header["calls"]
        pickled = {pack["records"], pack["offsets"], *(f["value"][0] for f in job.header["functions"] if "value" in f)}
        others = [segment.sha256 for number, segment in enumerate(job.segments) if number not in pickled]
        options, image = job.options, job.options.image
        # Of what they are only a digest is kept, and of secrets not even their values.
        where = (
            astuple(image) if isinstance(image, Image) else image,
            sorted(options.env.items()),
            sorted(options.secrets),
            job.timeout_s,
        )
        return likeness(target.function, args, kwargs, [job.name, job.plan, repr(where), *others])

    def called(self, name: str, job_id: str, alike: str) -> None:
        """Tell it of a call that is about to be begun: whoever runs a cell is told once by each run of it."""
        if not alike:
            return
        key, former = (alike, running_cell()), self._begun.pop(alike, None)
        if len(self._begun) == _MOST:
            del self._begun[next(iter(self._begun))]
        self._begun[alike] = Begun(name, job_id, time.time())
        if key in self._told:
            return
        # Of those of this process, the last one may not be written down yet.
        found = former if former is not None and self._is_there(former.job_id) else self._written_down(alike)
        if found is not None:
            self._told.add(key)
            handle = keys.Handle(found.name, found.job_id, "").short
            print(
                f"dokrun: {name} was called just like this at {_when(found.at)}, and its outcome was not told yet: "
                f'dok.attach("{handle}") gets it, and cancel() takes back the one that begins now',
                file=sys.stderr,
            )

    def _written_down(self, alike: str) -> Begun | None:
        try:
            found = next(filter(self._goes_on, self._journal.alike(alike)), None)
        except ConfigError as error:
            _log.debug("cannot see whether there was a call like this before: %s", error)
            return None
        return None if found is None else Begun(found.record.name, found.record.id, found.at)

    def _goes_on(self, entry: Entry) -> bool:
        """Tell whether somebody may get its outcome yet, as far as is known here."""
        if self._is_there(entry.record.id):
            return True
        return self._outlasts and entry.task_id is not None and time.time() - entry.at < _KEPT_S


def _when(at: float) -> str:
    then = datetime.fromtimestamp(at).astimezone()
    today = datetime.now().astimezone().date()
    return f"{then:%H:%M}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"
