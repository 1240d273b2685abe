"""What a proxy changes of the heads that it passes on: what is between two neighbours only stays there.

Names keep the letters that they were written in, and their order.
"""

from __future__ import annotations

import h11
from h11._headers import Headers  # for its type alone; h11 has no public name for it

# Beside what `Connection` names (RFC 9110, section 7.6.1).
_OF_THE_WAY = frozenset({b"connection", b"keep-alive", b"proxy-connection"})


def inwards(head: h11.Request) -> h11.Request:
    """Make the head of a request that a container gets."""
    headers = _passing(head.headers)
    if not any(name == b"host" for name, _ in head.headers):
        headers.append((b"Host", b"127.0.0.1"))  # which HTTP/1.0 does not ask for, and 1.1 does
    return h11.Request(method=head.method, target=head.target, headers=headers)


def outwards(event: h11.Event) -> h11.Event:
    """Make a part of an answer as whoever is outside gets it."""
    if not isinstance(event, h11.Response):
        return event
    return h11.Response(status_code=event.status_code, headers=_passing(event.headers), reason=event.reason)


def announced(head: h11.Request) -> int:
    """Tell how many bytes of body a request says that it has; 0 where it does not say."""
    return int(next((value for name, value in head.headers if name == b"content-length"), 0))


def length(head: h11.Request) -> int:
    """Tell how long a request's head was, near enough."""
    return len(head.method + head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers)


def _passing(headers: Headers) -> list[tuple[bytes, bytes]]:
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    leaving = (_OF_THE_WAY | named) - {b"upgrade"}
    passing = [(name, value) for name, value in headers.raw_items() if name.lower() not in leaving]
    return [*passing, (b"Connection", b"Upgrade")] if b"upgrade" in named else passing
