"""A cell that is run again is told, once, that a call just like it is under way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from notebooks import Notebook, environment, text_of
from places import Place, place, wait_for

from dokrun.engine.journal import Record
from dokrun.payload.likeness import likeness

__all__ = ["place"]

SETUP = """
    import dataclasses, os, time
    import dokrun as dok

    @dataclasses.dataclass
    class Config:
        rate: float

    def rest():
        time.sleep(0.01)

    @dok.remote(plan="v100-32gb", timeout=120)
    def train(config, gate):
        while not os.path.exists(gate):
            rest()
        return config.rate * 2
"""
TOLD = re.compile(
    r'dokrun: (\w+) was called just like this at \d\d:\d\d, and its outcome was not told yet: dok.attach\("(.*)"\) '
    r"gets it, and cancel\(\) takes back the one that begins now\n"
)


@pytest.fixture
def opened(place: Place) -> Iterator[Callable[..., Notebook]]:
    """Open notebooks, each a kernel of its own, on the same machine."""
    with ExitStack() as stack:

        def opened(**environ: str) -> Notebook:
            made = Notebook(place.folder, environment({**place.environ, **environ}))
            notebook = stack.enter_context(made.running())
            notebook.run(SETUP)
            notebook.run(f"gate = {str(place.gate)!r}")
            return notebook

        yield opened


def told(outputs: list[dict[str, Any]]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def test_another_kernel_is_told_how_to_get_what_the_first_one_has_begun(
    opened: Callable[..., Notebook], place: Place
) -> None:
    first, second = opened(), opened()
    assert told(first.run("future = train(Config(0.5), gate)\nfuture.handle;")) == ""
    wait_for(lambda: "bound" in place.steps())
    found = TOLD.fullmatch(told(second.run("again = train(Config(0.5), gate)\nagain.cancel();")))
    assert found is not None
    assert found[1] == "train"
    assert told(second.run("other = train(Config(0.25), gate)\nother.cancel();")) == ""
    other = "other = train.options(env={'A': '1'})(Config(0.5), gate)\nother.cancel();"
    assert told(second.run(other)) == ""  # in another environment
    assert told(second.run("list(map(lambda each: each.cancel(), [train.map([Config(0.5)], [gate])]));")) == ""
    place.gate.touch()
    assert text_of(second.run(f'dok.attach("{found[2]}").result()')[-1:]) == "1.0"
    first.run("future.result()")
    assert told(second.run("train(Config(0.5), gate).cancel();")) == ""  # its outcome was told


def test_two_equal_calls_on_purpose_are_told_of_once_and_once_more_by_each_run_of_a_cell(
    opened: Callable[..., Notebook], place: Place
) -> None:
    notebook = opened()
    cell = "futures = [train(Config(1.0), gate) for _ in range(3)]"
    assert len(TOLD.findall(told(notebook.run(cell)))) == 1
    assert len(TOLD.findall(told(notebook.run(cell)))) == 1
    notebook.run("for future in futures: future.cancel()")
    quiet = opened(DOKRUN_HINTS="0")
    assert told(quiet.run(cell)) == ""
    quiet.run("for future in futures: future.cancel()")
    notebook.run("%load_ext dokrun")
    place.gate.touch()
    magic = "%%dok plan=v100-32gb\nx = gate"
    assert told(notebook.run(magic)) == ""
    assert told(notebook.run(magic)) == ""  # the first one's outcome was told


def test_a_record_of_a_version_without_it_is_read() -> None:
    import msgspec

    old = b'{"id":"1","name":"f","plan":"p","calls":1,"digest":"d","watch_tag":"t"}'
    assert msgspec.json.decode(old, type=Record).likeness == ""


# What is alike.

CODE = """
import dataclasses, enum

@dataclasses.dataclass
class Config:
    rate: float

class Kind(enum.Enum):
    SMALL = 1

factor = {factor}

def helper(x): return x * factor if x in {{"a", "b", "c"}} else {constant}
def function(config, kind=None): return helper(config)
"""


@dataclass(frozen=True)
class Made:
    names: dict[str, Any]

    def like(self, *args: str, others: tuple[str, ...] = ()) -> str:
        values = tuple(eval(arg, self.names) for arg in args)
        return likeness(self.names["function"], values, {}, others)


def made(filename: str, factor: int = 2, constant: int = 0) -> Made:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CODE.format(factor=factor, constant=constant), filename, "exec"), names)
    return Made(names)


def test_calls_are_alike_whatever_file_their_code_was_read_from_and_whichever_number_a_class_has() -> None:
    args = "Config(0.5)", "Kind.SMALL"
    first = made("/tmp/1.py").like(*args)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert made("/tmp/2.py").like(*args) == first
    for other in (
        made("/tmp/1.py", factor=3).like(*args),
        made("/tmp/1.py", constant=1).like(*args),
        made("/tmp/1.py").like("Config(0.25)", "Kind.SMALL"),
        made("/tmp/1.py").like(*args, others=("f" * 64,)),
    ):
        assert other not in ("", first)


def test_functions_that_only_take_their_arguments_otherwise_are_not_alike() -> None:
    told = set()
    for parameters in ("a, b", "a, *, b", "a, /, b"):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(f"def function({parameters}): return a", names)
        told.add(Made(names).like())
    assert len(told) == 3


def test_what_cannot_be_pickled_is_like_nothing() -> None:
    assert made("/tmp/1.py").like("(each for each in [])") == ""
