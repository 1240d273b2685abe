"""Some calls that a session was sent together: which they are, and who is told what becomes of them.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import itertools
from typing import Any, Callable, Dict, Iterable, List, Set

from .envelope import Span
from .mail import Event, Mail
from .packs import Packs


class Job:
    """Some calls that have come together.

    Attributes:
        id: the client's.
        packs: its calls.
        blobs: what they are given, by digest.
        mails: where it is told what becomes of them.
        actor: whose calls they are; empty where they are nobody's.
        makes: whether that begins to live with them.
        ends: whether it lives no longer then.
        spans: which of them are to be run.
        left: how many of those have not come to their end.
    """

    def __init__(self, header: Dict[str, Any], packs: Packs, blobs: Iterable[str], mail: Mail) -> None:
        self.id: str = header.get("ticket", header["job"])
        self.packs = packs
        self.blobs = frozenset(blobs)
        self.mails = [mail]
        self.lay_out: Callable[[], object]
        # Those that have come to something.
        self.told: Set[int] = set()
        self.actor: str = header.get("actor", "")
        self.makes: bool = header.get("makes", False)
        self.ends: bool = header.get("ends", False)
        base = packs.base
        chosen = header.get("chosen")
        self.spans = [(base, base + len(packs))] if chosen is None else [(base + n, base + n + 1) for n in chosen]
        self.left = sum(end - first for first, end in self.spans)

    @property
    def span(self) -> Span:
        """The numbers of its calls."""
        return self.packs.base, self.packs.base + len(self.packs)

    def event(self, told: Dict[str, Any], data: bytes = b"") -> Event:
        """Make something that is told of its calls, whose numbers are told with it."""
        return Event({**told, "job": self.id, "base": self.packs.base}, data)

    def tell(self, told: Dict[str, Any], data: bytes = b"") -> None:
        """Have something told of its calls."""
        self.post(self.event(told, data))

    def post(self, event: Event) -> None:
        """Have something told to whoever wants to know of its calls."""
        for mail in list(self.mails):
            mail.post(event)

    @property
    def numbers_left(self) -> List[int]:
        """Its calls that have not come to anything, counted from its first one."""
        numbers = itertools.chain.from_iterable(itertools.starmap(range, self.spans))
        return [number - self.packs.base for number in numbers if number not in self.told]


def is_attempt(ticket: str, job_id: str) -> bool:
    """Tell whether a ticket is a job's own, or that of one of its calls that is tried again."""
    return ticket == job_id or ticket.startswith(f"{job_id}.")
