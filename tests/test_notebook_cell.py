"""`%%dok`: what a cell reads goes along, what it assigns comes back, and what is wrong with it is said kindly."""

from __future__ import annotations

import pickle
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from notebooks import Notebook, environment, text_of
from places import Place, open_place, place, wait_for

from dokrun.cell import VALUE, Brought
from dokrun.reading import read

__all__ = ["place"]


@pytest.fixture
def notebook(place: Place) -> Iterator[Notebook]:
    environ = {**place.environ, "DOKRUN_API_URL": place.dok.api_url}
    (place.folder / "mine.py").write_text("NUMBER = 7\n")
    with Notebook(place.folder, environment(environ)).running() as notebook:
        assert notebook.run("%load_ext dokrun") == []
        yield notebook


def streams(outputs: list[dict[str, Any]], name: str = "stdout") -> str:
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream" and output["name"] == name)


def test_a_cell_reads_the_notebooks_names_and_what_it_assigns_comes_back(notebook: Notebook) -> None:
    notebook.run("""
        import dataclasses, enum, threading

        class Kind(enum.Enum):
            SMALL = 1

        @dataclasses.dataclass
        class Base:
            size: int

        class Thing(Base):
            kind = Kind.SMALL
            def grown(self): return Thing(self.size + step)

        step, unused, gone, table = 2, threading.Lock(), 1, {"old": 1}
        best, each, later_set = 3, 4, 5
        thing = Thing(1)
        def total(): return step * factor
    """)
    outputs = notebook.run("""
        %%dok plan=v100-32gb timeout=5m tags=["a b", 'c']
        import os.path, mine
        from math import tau as turn
        print("working in", __name__)
        factor = 10
        grown = thing.grown()
        first = total()
        def later(): return factor + step
        class Kept(Thing): pass
        kept = Kept(3)
        step += 1
        for number in range(3): pass
        with open(os.devnull) as file: pass
        if (half := 0.5) < 1: table["new"] = mine.NUMBER
        async def wait(): return "awaited"
        awaited = await wait()
        del gone
        if step > 100: best = step
        for each in []: pass
        def set_later():
            global later_set
            later_set = 0
        first
    """)
    assert streams(outputs) == "working in __main__\n"
    assert text_of(outputs[-1:]) == "20"
    (error,) = [line for line in streams(outputs, "stderr").splitlines() if "file" in line]
    assert re.match("dokrun: file did not come back: [Cc]annot pickle", error)
    outputs = notebook.run("""
        factor = 100
        print(grown, isinstance(grown, Thing), grown.kind is Kind.SMALL, first, step, number, half, table, awaited)
        print(later(), isinstance(kept, Kept), isinstance(kept, Thing), os.path.sep, mine.NUMBER, round(turn, 2))
        print("gone" in globals(), "unused" in globals(), "file" in globals())
        print(best, each, later_set)
    """)
    assert streams(outputs).splitlines() == [
        "Thing(size=3) True True 20 3 2 0.5 {'old': 1, 'new': 7} awaited",
        "103 True True / 7 6.28",
        "False True False",
        "3 4 5",
    ]


def test_an_exception_has_the_cells_line_and_none_of_our_frames(notebook: Notebook) -> None:
    outputs = notebook.run("%%dok plan=v100-32gb\nnumber = 0\ndef divide(): return 1 / number\ndivide()")
    told = re.sub(r"\x1b\[[0-9;]*m", "", text_of(outputs))
    assert re.search(r'File "<%%dok cell [0-9a-f]{8}>", line 3, in divide\n    def divide\(\): return 1 / number', told)
    assert "ZeroDivisionError: division by zero" in told
    assert re.search(r"----> 3 def divide|--> 4 divide\(\)|4 divide\(\)", told)
    assert "notebook.py" not in told
    assert "cell.py" not in told
    assert outputs[-1]["ename"] == "ZeroDivisionError"
    outputs = notebook.run("%%dok plan=v100-32gb\nx = 1\nx = = 2")
    told = re.sub(r"\x1b\[[0-9;]*m", "", text_of(outputs))
    assert re.search(r"cell [0-9a-f]{8}>:3\n +x = = 2", told)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%dok plen=v100-32gb\n1", "@remote has no option 'plen'; did you mean 'plan'?"),
        ("%%dok plan=v100-32gb fast\n1", "'fast' is no option; write it as `%%dok plan="),
        ("%%dok plan=a plan=b\n1", "%%dok has plan= twice"),
        ("%%dok plan=v100-32gb\nx = 1\n!ls", "line 3, `!ls`, is IPython's"),
        ("%%dok plan=v100-32gb\n%time 1", "line 2, `%time 1`, is IPython's"),
        ("%%dok plan=v100-32gb\nprint(lock)", "the cell reads lock, which cannot travel: lock: cannot pickle"),
        ("%dok detach", "`%dok attach HANDLE` takes"),
        ("%dok attach nothing", "'nothing' is no handle"),
        ("%%dok\n1", "cell has no plan; write plan=… with one of"),
        ("%%dok plan=v100\n1", "cell asks for the plan 'v100', which DOK does not have; did you mean 'v100-32gb'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(wrong: tuple[Notebook, Place], cell: str, told: str) -> None:
    notebook, place = wrong
    seen = text_of(notebook.run(cell))
    assert told in seen
    assert "engine.py" not in seen
    assert place.tasks() == []


@pytest.fixture(scope="module")
def wrong(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Notebook, Place]]:
    with (
        open_place(store, tmp_path_factory.mktemp("wrong")) as one,
        Notebook(one.folder, environment(one.environ)).running() as notebook,
    ):
        notebook.run("%load_ext dokrun\nimport threading\nlock = threading.Lock()")
        yield notebook, one


def test_a_session_runs_cells_too_and_their_outcomes_are_got_by_their_handles(notebook: Notebook) -> None:
    notebook.run("import dokrun as dok\ns = dok.session(plan='v100-32gb')\nlarge = list(range(1000))")
    for number in (1, 2):  # the second one begins anew
        outputs = notebook.run(f"%%dok session=s\nlarge.append(0)\nsize = len(large) + {number}\nsize;")
        assert [output["output_type"] for output in outputs] == ["display_data"]
        assert streams(notebook.run("print(size, len(large))")) == f"{1001 + number} 1000\n"
    notebook.run("s.close(cancel=True)")
    notebook.run("%%dok plan=v100-32gb name=alone\nword = 'brought'")
    outputs = notebook.run("""
        word = None
        from dokrun import engine
        handle = next(iter(engine.get(None).desk.listed())).handle
        get_ipython().run_line_magic("dok", "attach " + handle)
        print(word)
    """)
    assert "brought\n" in streams(outputs)


def test_what_is_tried_again_prints_the_log_of_each_attempt(notebook: Notebook) -> None:
    notebook.run("import dokrun as dok\nattempts = dok.Retry(1, on=ValueError)")
    outputs = notebook.run("""
        %%dok plan=v100-32gb retries=attempts
        attempt = dok.current().attempt
        print("attempt", attempt, flush=True)
        if attempt == 1: raise ValueError("not yet")
    """)
    assert streams(outputs) == "attempt 1\nattempt 2\n"
    assert streams(notebook.run("print(attempt)")) == "2\n"


def test_what_was_interrupted_goes_on_and_is_got_later(notebook: Notebook, place: Place) -> None:
    def interrupt() -> None:
        wait_for(lambda: any("begun" in message["content"].get("text", "") for message in list(notebook.messages)))
        notebook.interrupt()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    outputs = notebook.run(f"""
        %%dok plan=v100-32gb
        import os, time
        print("begun", flush=True)
        while not os.path.exists({str(place.gate)!r}): time.sleep(0.01)
        found = "brought later"
    """)
    interrupting.join()
    told = "dokrun: cell goes on (running) and may cost ¥0.96 a minute; _dok.cancel() stops it"
    assert streams(outputs, "stderr").strip() == told
    place.gate.touch()
    notebook.run("%dok attach")
    assert streams(notebook.run("print(found, _dok.receipt.plan)")) == "brought later v100-32gb\n"


# Reading a cell, without a kernel.


@pytest.mark.parametrize(
    ("source", "reads", "assigns"),
    [
        ("x = 1\nprint(x)", {"print"}, {"x"}),
        ("x += 1", {"x"}, {"x"}),
        ("a.b[0].c = 1", {"a"}, {"a"}),
        ("def f(p, *, q=default): return p + q + outer", {"default", "outer"}, {"f"}),
        ("class A(Base):\n  y = inner\n  def m(self): return deep", {"Base", "inner", "deep"}, {"A"}),
        ("z = [i for i in items if (last := i)]", {"items"}, {"z", "last"}),
        ("if c: v = 1\nv", {"c", "v"}, {"v"}),
        ("try: pass\nexcept E as e: pass", {"E", "e"}, {"e"}),
        ("def f():\n  global g\n  g = 1", set(), {"f", "g"}),
        ("from __future__ import annotations\nx: Unknown = 1", set(), {"annotations", "x"}),
        ("match m:\n  case {'k': w, **rest}: pass", {"m"}, {"w", "rest"}),
        ("lambda: hidden", {"hidden"}, set()),
        ("del d", {"d"}, {"d"}),
        ("", set(), set()),
    ],
)
def test_a_cells_names_are_told_without_running_it(source: str, reads: set[str], assigns: set[str]) -> None:
    found = read(source, "<cell>")
    assert (set(found.reads), set(found.assigns)) == (reads, assigns)


@pytest.mark.parametrize(
    ("source", "deletes"),
    [
        ("if c: v = 1", set()),
        ("x = 1\ndel x, y", {"x", "y"}),
        ("def f():\n  global g\n  g = 1\n  del h", set()),
        ("def f():\n  global g\n  del g", {"g"}),
    ],
)
def test_only_what_a_cell_may_delete_is_told_so(source: str, deletes: set[str]) -> None:
    assert set(read(source, "<cell>").deletes) == deletes


def test_what_a_cell_brings_shares_what_it_shared_and_leaves_out_what_cannot_be_pickled() -> None:
    shared = [1]
    home: dict[str, Any] = {"__name__": "__main__", "many": bytes(1000)}
    exec("def function(): return many", home)
    names = {
        "a": [shared],
        "b": shared,
        "lock": threading.Lock(),
        "system": sys,
        "function": home["function"],
        VALUE: 5,
    }
    sent = pickle.dumps(Brought(names, home))
    assert len(sent) < 1500  # without what the function refers to
    brought = pickle.loads(sent)
    assert brought.names["a"][0] is brought.names["b"]
    assert brought.names[VALUE] == 5
    assert brought.modules == {"system": "sys"}
    assert list(brought.left) == ["lock"]
    assert brought.names["function"].__globals__ is vars(sys.modules["__main__"])
    assert repr(brought) == "<what a cell has brought: a, b, function, system>"
