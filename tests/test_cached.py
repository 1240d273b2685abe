"""Functions of `__main__` behind `functools.cache`: kept by a worker while others change, where nobody can tell."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dokrun.payload.cached import is_cached, stands_alone
from dokrun.payload.known import Pickles
from dokrun.payload.serialize import Serializer

NOTEBOOK = """
    import functools
    import os
    import dokrun as dok

    LOAD = '''
    @functools.cache
    def load():
        return {"uses": 0, "version": VERSION}
    '''
    SCALE = 1

    def use():
        kept = load()
        kept["uses"] += 1
        return kept["version"], kept["uses"], SCALE

    def count():
        kept = load()
        kept["uses"] += 1
        return kept["uses"]

    @functools.cache
    def fibonacci(number):
        return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

    def recursive(number):
        return fibonacci(number), fibonacci.cache_info().hits

    with dok.session(plan="v100-32gb", profile="local") as session:
        exec(LOAD.replace("VERSION", "1"))
        print(session.submit(use).result(), session.submit(use).result())
        SCALE = 2
        print(session.submit(use).result(), session.submit(count).result())
        exec(LOAD.replace("VERSION", "2"))
        print(session.submit(use).result())
        exec(LOAD.replace("VERSION", "2"))
        print(session.submit(use).result())
        print([session.submit(recursive, 30).result()[0] for _ in range(2)])
"""


def test_what_is_cached_stays_when_the_function_that_uses_it_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(NOTEBOOK))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "(1, 1, 1) (1, 2, 1)",
        "(1, 3, 2) 4",
        "(2, 1, 2)",
        "(2, 2, 2)",
        "[832040, 832040]",
    ], done.stderr


def alone(source: str) -> bool:
    """Tell whether `load` stands alone beside `use`, in a `__main__` of that source."""
    names: dict[str, Any] = {"__name__": "__main__", "functools": functools}
    exec(textwrap.dedent(source), names)
    assert is_cached(names["load"])
    return stands_alone(names["load"], names["use"])


USE = "def use():\n    return load()\n"


@pytest.mark.parametrize(
    "source",
    [
        "@functools.cache\ndef load():\n    return 3\n" + USE,
        "import json\nNAME = ('a', 1)\ndef part():\n    return NAME\n"
        "@functools.cache\ndef load(at=1):\n    return json.dumps(part())\n" + USE,
        "class Model:\n    pass\n@functools.lru_cache(maxsize=1)\ndef load():\n    return Model()\n" + USE,
        "@functools.cache\ndef load():\n    return load\n" + USE,
        "STATE = {}\n@functools.cache\ndef load():\n    return 3\ndef use():\n    STATE['a'] = load()\n",
    ],
    ids=["code", "constants", "class", "itself", "others' state"],
)
def test_what_depends_on_code_and_constants_alone_stands_alone(source: str) -> None:
    assert alone(source)


@pytest.mark.parametrize(
    "source",
    [
        "STATE = {}\n@functools.cache\ndef load():\n    return STATE\n" + USE,
        "STATE = {}\n@functools.cache\ndef load():\n    return [STATE for _ in range(3)]\n" + USE,
        "STATE = {}\ndef part():\n    return STATE\n@functools.cache\ndef load():\n    return part()\n" + USE,
        "@functools.cache\ndef load(state={}):\n    return state\n" + USE,
        "@functools.cache\ndef load():\n    global model\n    model = 3\ndef use():\n    load()\n    return model\n",
        (
            "where = 'a'\n@functools.cache\ndef load():\n    return where\n"
            "def use():\n    global where\n    where = 'b'\n    return load()\n"
        ),
        (
            "where = 'a'\n@functools.cache\ndef load():\n    return where\nclass Setter:\n    def set(self):\n"
            "        global where\n        where = 'b'\ndef use():\n    Setter().set()\n    return load()\n"
        ),
        "def make():\n    state = []\n    @functools.cache\n    def load():\n        return state\n    return load\n"
        "load = make()\n" + USE,
        "def make():\n    @functools.cache\n    def load():\n        return 3\n    return load\nload = make()\n" + USE,
    ],
    ids=[
        "state",
        "state in a comprehension",
        "state of another one",
        "state in a default",
        "a variable that it writes",
        "a variable that is written",
        "a variable that a method writes",
        "state in a closure",
        "a name that others have too",
    ],
)
def test_what_might_share_a_variable_with_others_travels_with_them(source: str) -> None:
    assert not alone(source)


class Main:
    """A `__main__` with a function `use`, which is pickled as often as is asked."""

    def __init__(self, source: str) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "functools": functools}
        self.pickles = Pickles()
        self.run(source)

    def run(self, source: str) -> None:
        exec(textwrap.dedent(source), self.names)

    def pickled(self) -> Any:
        return self.pickles.function(Serializer(), self.names["use"], "use")

    def value(self) -> Any:
        return pickle.loads(self.pickled()[0].data)()


def test_a_function_is_pickled_once_as_long_as_all_that_it_refers_to_is_the_same() -> None:
    main = Main("import json\nNAME = 'a'\ndef part():\n    return json.dumps(NAME)\ndef use():\n    return part()\n")
    first = main.pickled()
    assert main.pickled() is first
    serializer = Serializer()
    main.pickles.function(serializer, main.names["use"], "use")
    assert {"__main__", "json"} <= serializer.modules, "what the container must be able to import is told each time"


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("A = 1\ndef use():\n    return A\n", "A = 2"),
        ("def part():\n    return 1\ndef use():\n    return part()\n", "def part():\n    return 2"),
        ("A = 1\ndef part():\n    return A\ndef use():\n    return part()\n", "A = 2"),
        ("def use(a=1):\n    return a\n", "use.__defaults__ = (2,)"),
        ("def use(*, a=1):\n    return a\n", "use.__kwdefaults__['a'] = 2"),
        ("A = [1]\ndef use():\n    return A[0]\n", "A[0] = 2"),
        ("A = [1]\ndef part():\n    return A[0]\ndef use():\n    return part()\n", "A[0] = 2"),
        ("class A:\n    b = 1\ndef use():\n    return A.b\n", "A.b = 2"),
        (
            (
                "def make():\n    a = 1\n    def use():\n        return a\n    def change():\n        nonlocal a\n"
                "        a = 2\n    return use, change\nuse, change = make()\n"
            ),
            "change()",
        ),
        ("def use():\n    return use.a\nuse.a = 1\n", "use.a = 2"),
        ("def use():\n    return 1\n", "use.__code__ = (lambda: 2).__code__"),
    ],
    ids=[
        "a constant",
        "another function",
        "a constant of another function",
        "a default",
        "a default of a keyword",
        "a list",
        "a list of another function",
        "a class of its own",
        "a closure",
        "an attribute",
        "its code",
    ],
)
def test_what_has_changed_is_pickled_again(source: str, change: str) -> None:
    main = Main(source)
    first = main.pickled()
    main.run(change)
    assert main.names["use"]() == 2
    assert main.pickled() is not first
    assert main.value() == 2


def test_a_submodule_that_was_imported_meanwhile_goes_along() -> None:
    main = Main("import xml\ndef use():\n    return xml.sax.handler.__name__\n")
    sys.modules.pop("xml.sax.handler", None)
    main.pickled()
    main.run("import xml.sax.handler")
    assert b"xml.sax.handler" in bytes(main.pickled()[0].data)
