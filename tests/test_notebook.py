"""What a notebook shows: one live panel for what runs, cards for what it costs, and a line when it is interrupted."""

from __future__ import annotations

import itertools
import re
import threading
import weakref
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebooks import Notebook, environment, panels, text_of
from places import Place, place, wait_for

import dokrun as dok
from dokrun.cards import Told, of_far, of_quote, of_receipt
from dokrun.cost import Phases, Price, Quote, Receipt
from dokrun.display import Display
from dokrun.future import Future
from dokrun.jobstate import Progress
from dokrun.map import Map, Packing
from dokrun.outcomes import Bell, Outcomes
from dokrun.progress import Far, Pace
from dokrun.tail import Following, Tail, plain

__all__ = ["place"]

SETUP = """
    import os, sys, time
    import dokrun as dok

    @dok.remote(plan="h100-80gb", timeout=120)
    def job(number, gate):
        print("at \\x1b[31mwork\\x1b[0m on <b>", number, flush=True)
        while not os.path.exists(gate):
            time.sleep(0.01)
        return number * 2
"""

# Waits until each panel has shown all that it ever will.
SETTLED = """
    from dokrun.panel import _updates
    while _updates._panels:
        time.sleep(0.01)
"""


@pytest.fixture
def notebook(place: Place) -> Iterator[Notebook]:
    # Logs come over websockets, which the relay does not pass on.
    environ = {**place.environ, "DOKRUN_API_URL": place.dok.api_url}
    with Notebook(place.folder, environment(environ)).running() as notebook:
        assert notebook.run(SETUP) == []  # neither the import nor a definition shows anything
        yield notebook


def opened_later(place: Place, notebook: Notebook, when: str) -> threading.Thread:
    """Open the gate as soon as the notebook shows something."""

    def opened() -> None:
        wait_for(lambda: when in text_of(shown(notebook)))
        place.gate.touch()

    thread = threading.Thread(target=opened)
    thread.start()
    return thread


def shown(notebook: Notebook) -> list[dict[str, Any]]:
    """Tell what was shown so far, each change of it."""
    return [
        {"output_type": message["msg_type"], **message["content"]}
        for message in list(notebook.messages)
        if message["msg_type"] in ("display_data", "update_display_data")
    ]


def test_a_wait_shows_one_panel_that_is_kept_up_to_date_and_tells_the_end(notebook: Notebook, place: Place) -> None:
    opening = opened_later(place, notebook, "at work on <b> 21")
    outputs = notebook.run(f"""
        print("before")
        print(job(21, {str(place.gate)!r}).result())
        1 / 0
    """)
    opening.join()
    kinds = [output["output_type"] for output in outputs]
    assert kinds == ["stream", "display_data", "stream", "error"]  # the user's own are as they were
    (panel,) = panels(outputs)
    assert re.fullmatch(r"job: done in \d+ s, ¥\d+\.\d\d( so far)?\n  at work on <b> 21", panel["text/plain"])
    assert "at work on &lt;b&gt; 21" in panel["text/html"]
    assert "<script" not in panel["text/html"]
    changes = shown(notebook)
    assert [change["output_type"] for change in changes[:2]] == ["display_data", "update_display_data"]
    assert len({change["transient"]["display_id"] for change in changes}) == 1
    texts = [change["data"]["text/plain"] for change in changes]
    assert all(before != after for before, after in itertools.pairwise(texts))  # only what has changed
    assert re.search(r"future.cancel\(\) stops it, or in a terminal: dokrun cancel job-[0-9a-f]{12}", "\n".join(texts))


def test_a_future_at_the_end_of_a_cell_is_live_afterwards_and_the_same_panel_elsewhere(
    notebook: Notebook, place: Place
) -> None:
    (first,) = panels(notebook.run(f"future = job(4, {str(place.gate)!r})\nfuture"))
    assert first["text/plain"].startswith("job: ")
    opening = opened_later(place, notebook, "at work on <b> 4")
    again = notebook.run("future.result()")
    opening.join()
    assert [output["output_type"] for output in again][-1] == "execute_result"
    assert text_of(again[-1:]) == "8"
    cells = [cell for cell in notebook.nb.cells if panels(cell.outputs)]
    texts = {panels(cell.outputs)[0]["text/plain"] for cell in cells}
    assert len(texts) == 1  # both cells show the end
    assert texts.pop().startswith("job: done in ")
    outputs = notebook.run("future")
    assert [output["output_type"] for output in outputs] == ["display_data"]


def test_awaiting_and_async_for_work_in_cells_and_a_map_has_one_panel(notebook: Notebook, place: Place) -> None:
    place.gate.touch()
    outputs = notebook.run(f"""
        gate = {str(place.gate)!r}
        print(await job(3, gate), [number async for number in job.map([1, 2], [gate] * 2)])
        results = job.map([5, 6], [gate] * 2)
        print(list(results))
        results
    """)
    told = text_of(outputs)
    assert "6 [2, 4]" in told
    assert "[10, 12]" in told
    assert re.search(r"job.map: done in \d+ s: 2 calls", told)


def test_an_interrupt_leaves_one_line_that_tells_what_goes_on(notebook: Notebook, place: Place) -> None:
    def interrupt() -> None:
        wait_for(lambda: re.search("running.*¥", text_of(shown(notebook))))  # what it costs is heard a little later
        notebook.interrupt()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    outputs = notebook.run(f"future = job(4, {str(place.gate)!r})\nfuture.result()")
    interrupting.join()
    streams = [output["text"] for output in outputs if output["output_type"] == "stream"]
    assert streams == ["dokrun: job goes on (running) and may cost ¥16.80 a minute; future.cancel() stops it\n"]
    assert outputs[-1]["ename"] == "KeyboardInterrupt"
    place.gate.touch()
    assert text_of(notebook.run("future.result()")[-1:]) == "8"  # it did go on


def test_an_interrupted_async_for_goes_on_too(notebook: Notebook, place: Place) -> None:
    def interrupt() -> None:
        wait_for(lambda: "job.map: running" in text_of(shown(notebook)))
        notebook.interrupt()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    outputs = notebook.run(f"results = job.map([4], [{str(place.gate)!r}])\nasync for result in results: print(result)")
    interrupting.join()
    streams = [output["text"] for output in outputs if output["output_type"] == "stream"]
    assert streams == ["dokrun: job.map goes on and may cost ¥16.80 a minute; its cancel() stops it\n"]
    place.gate.touch()
    assert text_of(notebook.run("list(results)")[-1:]) == "[8]"


def test_a_call_goes_on_when_its_kernel_ends(place: Place) -> None:
    with Notebook(place.folder, environment(place.environ)).running() as notebook:
        notebook.run(SETUP)
        outputs = notebook.run(f"future = job(4, {str(place.gate)!r})\nprint(future.handle)")
        handle = text_of(outputs).strip()
        wait_for(lambda: place.tasks()[0].status == "running")
    place.gate.touch()
    place.here()
    assert dok.attach(handle).result(timeout=60) == 8


def test_a_failure_is_told_in_the_panel_and_a_session_shows_its_meter(notebook: Notebook) -> None:
    outputs = notebook.run("""
        @dok.remote(plan="v100-32gb")
        def fail():
            raise ValueError("<wrong>")

        future = fail()
        error = future.exception()
        future
    """)
    (panel,) = panels(outputs)
    assert re.match(r"fail: failed after \d+ s", panel["text/plain"])
    assert "ValueError: &lt;wrong&gt;" in panel["text/html"]
    (meter,) = panels(notebook.run('session = dok.session(plan="v100-32gb", name="desk")\nsession'))
    assert "session.close() ends it" in meter["text/html"]
    notebook.run("double = session.submit(lambda n: 2 * n, 21).result()")

    def tells_the_meter() -> object:
        notebook.run("pass")  # what a kernel shows is heard while a cell runs
        return re.search("desk: running, .*¥0.96 a minute", text_of(shown(notebook)))

    wait_for(tells_the_meter)
    assert "¥0.96" in text_of(notebook.run("session.meter"), "text/html")
    notebook.run("session.close(cancel=True)")


def test_a_notebook_that_is_saved_holds_the_last_state_as_html_and_as_text(notebook: Notebook, place: Place) -> None:
    place.gate.touch()
    notebook.run(f"future = job(1, {str(place.gate)!r})\nfuture.result()\nfuture")
    path = place.folder / "saved.ipynb"
    nbformat.write(notebook.nb, path)  # type: ignore[no-untyped-call]
    nbformat.validate(nbformat.read(path, 4))  # type: ignore[no-untyped-call]
    (panel,) = panels(nbformat.read(path, 4).cells[-1].outputs)  # type: ignore[no-untyped-call]
    assert panel["text/plain"].startswith("job: done in ")


def test_calls_that_share_a_task_have_one_panel_and_no_log_stream_each(notebook: Notebook, place: Place) -> None:
    opening = opened_later(place, notebook, "job: running")
    outputs = notebook.run(f"""
        results = job.map([1, 2, 3], [{str(place.gate)!r}] * 3, workers=3)
        print(sum(future.result() for future in results.futures))
        import threading
        print([thread.name for thread in threading.enumerate() if thread.name == "dokrun-log"])
    """)
    opening.join()
    assert text_of([output for output in outputs if output["output_type"] == "stream"]).split("\n")[:2] == ["12", "[]"]
    notebook.run(SETTLED)
    (panel,) = panels(notebook.nb.cells[-2].outputs)
    assert re.match(r"job: done in \d+ s: 3 calls", panel["text/plain"])


def test_a_panel_whose_thing_ends_in_a_captured_cell_shows_the_end_after_that(notebook: Notebook) -> None:
    notebook.run("""
        from dokrun.cards import Card
        from dokrun.panel import Panel
        over = False
        def look(): return Card("", "over" if over else "under way"), over
        panel = Panel(look)
        panel.show()
    """)
    notebook.run("%%capture told\nover = True\nprint(panel.refresh(now=True))")
    outputs = notebook.run("panel.refresh(now=True)\nprint(told.stdout + panel._shown.text)")
    assert "True\nover\n" in text_of(outputs)


def test_a_session_that_may_begin_anew_says_so_when_its_container_has_ended(notebook: Notebook, place: Place) -> None:
    notebook.run("""
        session = dok.session(plan="v100-32gb", name="desk", reconnect=True, idle_timeout=0.5)
        session.submit(len, "abc").result()
        session._future.result()
    """)
    outputs = notebook.run("session")
    assert re.match(r"desk: done in", panels(outputs)[0]["text/plain"])
    assert "the next call gets another" in text_of(outputs)
    assert "results are fetched" not in text_of(outputs)
    notebook.run(f"""
        def stay():
            while not os.path.exists({str(place.gate)!r}): time.sleep(0.01)
        again = session.submit(stay)
    """)
    notebook.run("while 'session.close() ends it' not in session._display._panel._shown.text: time.sleep(0.01)")
    assert "desk: running" in shown(notebook)[-1]["data"]["text/plain"]
    place.gate.touch()
    notebook.run("session.close(cancel=True)")


# Words, without a kernel.


def test_the_logs_of_all_attempts_are_told_one_after_another_until_there_is_an_outcome() -> None:
    progress = Progress()
    future = Future[int]("c" * 32, "f", progress)

    def logs(task_id: str, _number: int) -> Iterator[str]:
        yield f"first line of {task_id}\n"
        if task_id == "a":
            progress.update(task_id="b")
        else:
            future.settle(1)
            progress.update()
        yield "last\n"

    progress.update(logs=logs, task_id="a")
    assert "".join(future.all_logs()) == "first line of a\nlast\nfirst line of b\nlast\n"


def test_a_log_that_nobody_wants_any_longer_is_read_no_further() -> None:
    went_on, read = threading.Event(), list[str]()

    def log() -> Iterator[str]:
        yield "one"
        went_on.wait(60)
        yield "two"
        yield "three"

    following = Following("f", log, read.append)
    wait_for(lambda: read)
    following.stop()
    went_on.set()
    assert following.ended.wait(60)
    assert read == ["one"]


def test_a_panel_that_shows_the_end_holds_nothing_of_what_it_is_of() -> None:
    class Thing:
        def far(self) -> Far:
            return Far("done", done=1, billed=True)

        def more(self) -> str:
            return "of it"

    thing = Thing()
    gone = weakref.ref(thing)
    display = Display("f", thing.far, more=thing.more, span=lambda: 1.0)
    card, is_all = display._card()
    assert is_all
    assert card.text == "f: done in 1 s\n  of it"
    del thing
    assert gone() is None
    assert display._card() == (card, True)


def test_a_map_that_is_cancelled_before_all_its_tasks_were_begun_is_over() -> None:
    begun = iter(range(5))
    bell = Bell()
    results: Map[int] = Map("f", lambda: Outcomes(f"{next(begun):016x}", 2, "f", Progress(), bell), bell, Packing(), 10)
    assert not results._far().over
    results.cancel()
    assert results._far().over
    assert results._far().cancelled == results._far().total == 4


def test_what_is_untrusted_is_escaped_and_controls_are_taken_out() -> None:
    far = Far("running", total=10, done=3, failed=1, yen=Decimal("3.2"))
    card = of_far(Told("<f>", far, Pace(), 12, ["<script>", "a & b"], "<more>"))
    assert "<script>" not in card.html
    assert "&lt;f&gt;" in card.html
    assert "&lt;more&gt;" in card.html
    assert "width: 40%" in card.html
    assert card.text == "<f>: running, 4 of 10, 1 failed, ¥3.20, for 12 s\n  <script>\n  a & b\n  <more>"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("10%\r20%\r", "20%"),
        ("\x1b]0;title\x07text\x00", "text"),
        ("x" * 400, "x" * 300 + "…"),
        ("日本語\t", "日本語\t"),
    ],
)
def test_a_line_of_a_log_is_shown_as_a_terminal_would_leave_it(line: str, told: str) -> None:
    assert plain(line) == told


def test_a_tail_keeps_the_last_lines_however_they_come() -> None:
    tail = Tail(3)
    for piece in ("a\nb", "b\nc\n", "d", " 1%\rd 2%"):
        tail.add(piece)
    assert tail.lines == ("bb", "c", "d 2%")
    tail.add("\n" + "e\n" * 10)
    assert tail.lines == ("e", "e", "e")


def test_receipts_and_quotes_are_small_cards() -> None:
    price = Price("h100-80gb", Decimal("0.28"), 60)
    receipt = Receipt((20.0,), price, Phases(queued_s=3.0, peak_memory_bytes=3 << 30))
    card = of_receipt(receipt)
    assert card.text.startswith(
        "¥16.80\n  billed: 60 s on h100-80gb\n  ran: 20 s\n  waited in line: 3 s\n  memory: 3.0 GiB"
    )
    assert receipt._repr_mimebundle_() == card.bundle
    quote = Quote("h100-80gb", 100, 1, Decimal("16.8"), None, Decimal(2000), Decimal("16.8"), 0)
    assert "100 calls in 1 task" in of_quote(quote).text
    assert quote._repr_mimebundle_() == of_quote(quote).bundle


@pytest.mark.parametrize("module", ["IPython", "dokrun.panel", "dokrun.notebook", "dokrun.cards"])
def test_outside_of_notebooks_nothing_of_it_is_loaded(place: Place, module: str, tmp_path: Path) -> None:
    child = place.start(f"""
        import sys
        import dokrun as dok
        future = dok.Future("c" * 32, "f")
        future.settle(1)
        future.result(), dok.remote, dok.Map
        print({module!r} in sys.modules)
    """)
    assert child.communicate(timeout=60)[0] == "False\n"
