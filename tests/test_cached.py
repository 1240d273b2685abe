"""Functions of `__main__` behind `functools.cache`: kept by a worker while others change, where nobody can tell."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dokrun.payload.cached import is_cached, stands_alone

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
