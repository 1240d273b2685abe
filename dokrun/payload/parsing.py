"""Python source, parsed by one thread at a time."""

from __future__ import annotations

import ast
import threading

_TRIES = 10
_parsing = threading.Lock()


def parse(source: str | bytes) -> ast.Module:
    """Parse a file, as `ast.parse` does.

    Python 3.11 keeps the depth of a tree that it builds in one place for all threads, and dies of a SystemError if two
    build one at once (https://github.com/python/cpython/issues/106905). Ours wait for one another; after somebody
    else's it is tried again.

    Raises:
        SyntaxError: it is no Python of this version.
        ValueError: it holds null bytes.
    """
    with _parsing:
        for _ in range(_TRIES):
            try:
                return ast.parse(source)
            except SystemError:
                continue
        return ast.parse(source)
