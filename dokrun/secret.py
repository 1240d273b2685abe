"""A string that is never shown."""

from __future__ import annotations

from typing import Any

HIDDEN = "…"


class Secret:
    """A string that is never shown: not in a repr, a log, a traceback or a pickle. `reveal` tells it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Tell the value, at the door where it is needed."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"Secret('{HIDDEN}')"

    def __format__(self, _how: str) -> str:
        return repr(self)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memory: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")

    # Python 3.11 and later have one of their own, which tells what is in the slots.
    __getstate__ = __reduce__
