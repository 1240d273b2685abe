"""A program: runs the examples in the docstrings of every public name, and tells which names have none.

It is a process of its own, since what an example defines is its script's: functions of `__main__`, as a user's are.
"""

from __future__ import annotations

import doctest
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import dokrun
import dokrun.api
import dokrun.emulator
from dokrun import errors

# Whose examples are in the pages that `dokrun explain` shows.
_ELSEWHERE = {*errors.__all__, "__version__"}


def public() -> Iterator[tuple[str, Any]]:
    """Yield each public name, and what it stands for."""
    for module in (dokrun, dokrun.api, dokrun.emulator):
        for name in module.__all__:
            if name not in _ELSEWHERE:
                yield f"{module.__name__}.{name}", getattr(module, name)


def main() -> None:
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    known = {name: getattr(module, name) for module in (dokrun.api, dokrun.emulator) for name in module.__all__}
    for name, value in public():
        globs = {"__name__": "__main__", "dok": dokrun, **known, **vars(inspect.getmodule(value))}
        globs["__name__"] = "__main__"
        tests = [test for test in finder.find(value, name, globs=globs) if test.examples]
        if not any(test.name == name for test in tests):
            print(f"{name} has no example", file=sys.stderr)
        for test in tests:
            runner.run(test)
    print(f"{runner.tries} lines of examples, {runner.failures} failed")


if __name__ == "__main__":
    main()
