"""What whoever waits is shown: words, lines in a pipe, one line in a real terminal that is gone afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from places import Place, place
from rich.cells import cell_len

import dokrun as dok
from dokrun.display import Display
from dokrun.map import Map, Packing
from dokrun.outcomes import Bell, Outcomes, Result
from dokrun.progress import Far, Pace, duration, together
from dokrun.progress import Place as InLine
from dokrun.screen import fitting, parts_of

__all__ = ["place"]

RUNNING = Far("running", total=100)


# Words.


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3560, "59 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (5e5, "6 days"),
    ],
)
def test_a_duration_is_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("far", "told"),
    [
        (Far("waiting"), "waiting in line"),
        (Far("waiting", place=InLine(0)), "waiting, next in line"),
        (Far("waiting", place=InLine(1, 1500.0)), "waiting, 1 task before it, up to 25 min"),
        (Far("waiting", place=InLine(3)), "waiting, 3 tasks before it"),
        (Far("running", attempt=2), "running, attempt 2"),
        (Far("done"), "its results are fetched"),
    ],
)
def test_a_state_is_told_in_words(far: Far, told: str) -> None:
    assert far.state == told


def test_two_jobs_are_told_as_one_where_the_second_has_its_turn_when_the_first_is_over() -> None:
    first = Far("running", total=10, done=3, failed=1, yen=Decimal("1.5"))
    second = Far("waiting", total=5)
    assert together(first, second) == replace(first, total=15)
    over = replace(first, done=9, billed=True)
    assert together(over, second) == Far("waiting", total=15, done=9, failed=1, yen=Decimal("1.5"))


def test_the_end_tells_what_has_become_of_the_calls_and_what_is_billed() -> None:
    far = Far("done", total=10, done=8, failed=2, yen=Decimal("16.8"), billed=True)
    assert far.end(65) == "done in 1 min: 10 calls, 2 failed, ¥16.80"
    assert replace(far, billed=False).end(5) == "done in 5 s: 10 calls, 2 failed, ¥16.80 so far"
    assert Far("canceled", total=10, done=4, cancelled=6).end(5) == "cancelled after 5 s: 4 of 10 calls"
    assert Far("error", failed=1).end(5) == "failed after 5 s"
    assert Far("done").end(5) == "done in 5 s"


def test_the_pace_does_not_count_what_came_before_the_first_results() -> None:
    pace = Pace()
    for now, told in ((0, 0), (100, 0), (101, 10), (103, 30)):
        pace.note(now, told)
    assert pace.per_second == 10
    assert pace.left(replace(RUNNING, done=30)) == "7 s left"
    for now in range(104, 300):
        pace.note(now, 30)
    assert pace.left(replace(RUNNING, done=30)) == ""


# The line in a terminal, before it is drawn.


def shown(far: Far, width: int, name: str = "train.map") -> str:
    pace = Pace()
    for now, told in ((0, 1), (10, far.told)):
        pace.note(now, told)
    return "  ".join(part.text for part in fitting(parts_of(name, far, pace, 11), width))


def test_a_wide_terminal_shows_everything() -> None:
    far = replace(RUNNING, done=50, failed=1, yen=Decimal("3.2"))
    assert re.fullmatch(r"train.map  -{25}  51 of 100  1 failed  5.0/s  10 s left  ¥3.20  for 11 s", shown(far, 100))


def test_a_narrow_one_shows_what_matters_most_and_never_wraps() -> None:
    far = replace(RUNNING, done=50, failed=1, yen=Decimal("3.2"))
    assert shown(far, 39) == "train.map  51 of 100  1 failed"
    for name in ("f.map", "列車を走らせる関数.map", "a" * 70):
        for width in range(30, 120):
            line = shown(replace(far, status="waiting", place=InLine(3, 999.0)), width, name)
            assert cell_len(line) <= width, line


def test_nothing_of_yen_is_shown_where_nobody_pays() -> None:
    assert "¥" not in shown(replace(RUNNING, done=50), 120)


# Lines in a pipe.


class Watch:
    """A display whose time passes by hand."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.now = 1000.0
        self.far = Far("staging", total=100)
        self.display = Display("f.map", lambda: self.far, now=lambda: self.now, wanted=wanted)
        self.wait = self.display.wait()

    def after(self, seconds: float, **changed: object) -> None:
        self.now += seconds
        self.far = replace(self.far, **changed)  # type: ignore[arg-type]
        self.wait.look()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    return lambda: [line.removeprefix("dokrun: f.map: ") for line in capsys.readouterr().err.splitlines()]


def test_a_short_wait_shows_nothing(lines: Callable[[], list[str]]) -> None:
    watch = Watch()
    assert watch.wait.pause_s == 1.0
    watch.after(0.9)
    watch.display.end()
    assert lines() == []


def test_a_line_comes_when_something_changes_and_with_every_tenth_of_the_calls(lines: Callable[[], list[str]]) -> None:
    watch = Watch()
    watch.after(1)
    watch.after(1)
    watch.after(1, status="waiting", place=InLine(2))
    watch.after(1)
    watch.after(1, place=InLine(1, 60.0))
    watch.after(1, status="running", place=None)
    for done in range(0, 25, 3):
        watch.after(1, done=done)
    assert lines() == [
        "being sent",
        "waiting, 2 tasks before it",
        "waiting, 1 task before it, up to 1 min",
        "running",
        "running, 12 of 100, 29 s left",
        "running, 24 of 100, 25 s left",
    ]


def test_slow_calls_are_told_of_every_half_minute_if_there_are_any(lines: Callable[[], list[str]]) -> None:
    watch = Watch()
    watch.after(1, status="running", total=None)
    for _ in range(60):
        watch.after(1)
    assert lines() == ["running"]
    watch.after(1, done=1)
    for _ in range(40):
        watch.after(1)
    watch.after(1, done=2, failed=1)
    assert lines() == ["running, 1 done", "running, 3 done, 1 failed"]


def test_the_end_is_told_once_and_nothing_after_it(lines: Callable[[], list[str]]) -> None:
    watch = Watch()
    watch.after(1)
    watch.after(4, done=100)
    lines()
    watch.display.end()
    watch.display.end()
    assert lines() == ["done in 5 s: 100 calls"]


@pytest.mark.parametrize("no", ["0", "off", "False"])
def test_whoever_says_no_is_shown_nothing_and_is_not_woken(
    no: str, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Watch(wanted=False)
    monkeypatch.setenv("DOKRUN_PROGRESS", no)
    for watch in (quiet, Watch()):
        assert watch.wait.pause_s is None
        watch.after(100)
        watch.display.end()
    assert lines() == []


def test_a_bar_of_the_users_own_has_the_screen_to_itself(
    lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    bar = types.SimpleNamespace(disable=False)
    tqdm = types.ModuleType("tqdm.std")
    tqdm.tqdm = types.SimpleNamespace(_instances=[bar])  # type: ignore[attr-defined] # as tqdm keeps its bars
    monkeypatch.setitem(sys.modules, "tqdm.std", tqdm)
    watch.after(5)
    assert lines() == []
    bar.disable = True
    watch.after(5)
    assert lines() == ["being sent"]


def test_a_closed_stream_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch = Watch()
    with (tmp_path / "err").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    watch.after(5)
    assert watch.wait.pause_s is None


# A map.


def made(size: int | None, *parts: int) -> tuple[Map[int], list[Outcomes]]:
    """Make a map of jobs of so many calls each, and the jobs that it has begun."""
    bell, begun, left = Bell(), list[Outcomes](), list(parts)

    def begin() -> Outcomes | None:
        if not left:
            return None
        begun.append(Outcomes(f"{len(begun):032x}", left.pop(0), "f", dok.Future("c" * 32, "f")._progress, bell))
        return begun[-1]

    return Map("f", begin, bell, Packing(progress=False), size), begun


def test_a_map_has_a_length_where_the_number_of_items_is_known() -> None:
    known, unknown = made(3, 3)[0], made(None, 3)[0]
    assert len(known) == 3
    with pytest.raises(TypeError, match="does not know"):
        len(unknown)
    assert bool(unknown)
    assert bool(made(0)[0])


def test_a_list_of_a_map_is_made_whether_its_length_is_known_or_not() -> None:
    for size in (3, None):
        results, begun = made(size, 2, 1)
        for job in begun:
            job.settle((number, Result(number)) for number in range(len(job)))
        assert list(results) == [0, 1, 0]


def test_a_map_tells_how_far_all_its_tasks_are_together() -> None:
    results, (first, second) = made(None, 2, 3)
    first.progress.update(status="running")
    first.settle([(0, Result(1)), (1, Result(error=ValueError()))])
    second.settle([(2, Result(5))])
    second.progress.update(status="waiting")
    expected = Far("waiting", total=None, done=2, failed=1)
    assert results._far() == expected
    assert next(results) == 1
    with pytest.raises(ValueError, match=r"^$"):
        next(results)
    first.progress.update(status="done")
    second.settle([(0, Result(3))])
    assert next(results) == 3
    assert results._far() == Far("waiting", total=5, done=3, failed=1)
    results.cancel()
    assert results._far() == Far("waiting", total=5, done=3, failed=1, cancelled=1)


def test_a_map_is_waited_for_in_an_event_loop_with_its_progress() -> None:
    results, (job,) = made(2, 2)

    async def wait() -> list[int]:
        waiting = asyncio.ensure_future(anext_all(results))
        await asyncio.sleep(0)
        job.settle([(0, Result(1)), (1, Result(2))])
        return await waiting

    assert asyncio.run(wait()) == [1, 2]


async def anext_all(results: Map[int]) -> list[int]:
    return [result async for result in results]


def test_the_option_is_checked_where_it_is_written() -> None:
    with pytest.raises(dok.OptionError, match="progress=1 must be True or False"):
        Packing.checked({"progress": 1})


# A real terminal.

DRAW = """
    import os, sys, threading
    from dokrun.display import Display
    from dokrun.progress import Far

    clock = [0.0]
    far = [Far("running", total=1000)]
    display = Display("train.map", lambda: far[0], now=lambda: clock[0])

    def later(wait, **changed):
        clock[0] += 2
        far[0] = Far("running", total=1000, **changed)
        wait.look()
"""


class Terminal:
    """A child process in a terminal of its own."""

    def __init__(self, script: str, columns: int, folder: Path, *arguments: object, **environ: str) -> None:
        path = folder / "in_terminal.py"
        path.write_text(textwrap.dedent(script))
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.child = subprocess.Popen(
            # Opened by the leader of a session that has none, it becomes the one whose Ctrl-C is heard.
            [
                "/bin/sh",
                "-c",
                'exec "$@" <"$0" >"$0" 2>&1',
                os.ttyname(theirs),
                sys.executable,
                path,
                *map(str, arguments),
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm-256color", **environ},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, pattern: str) -> str:
        """Read on until this is there. Tells all since the beginning, without colours."""
        while not re.search(pattern, self.text):
            assert self._read(), f"it ended: {self.text!r}"
        return self.text

    def rest(self) -> str:
        while self._read():
            pass
        assert self.child.wait(60) is not None
        return self.text

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.text += re.sub(r"\x1b\[[0-9;]*m", "", data.decode(errors="replace"))
        return bool(data)


@contextmanager
def terminal(script: str, columns: int, folder: Path, *arguments: object, **environ: str) -> Iterator[Terminal]:
    opened = Terminal(script, columns, folder, *arguments, **environ)
    try:
        yield opened
    finally:
        opened.close()


def screen(text: str) -> list[str]:
    """Tell what stands on the screen when all this was written; it knows what is used here, and no more."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            lines.append("")
        elif piece == "\x1b[2K":
            lines[-1] = ""
        else:
            assert not piece.startswith("\x1b"), piece
            lines[-1] = lines[-1][:column].ljust(column) + piece + lines[-1][column + len(piece) :]
            column += len(piece)
    return lines


def test_the_line_is_gone_when_the_wait_is_over_and_the_cursor_was_never_hidden(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    for _ in range(3):
        with display.wait() as wait:
            later(wait, done=10)
            later(wait, done=20)
        print("a result")
    display.end()
    print("behind it")
    """
    )
    for columns in (80, 40):
        with terminal(script, columns, tmp_path) as opened:
            text = opened.rest()
        assert "20 of 1000" in text
        assert screen(text) == ["a result", "a result", "a result", "behind it", ""]
        assert "\x1b[?" not in text
        assert max(len(line) for line in re.split(r"[\r\n]|\x1b\[2K", text)) < columns


def test_a_short_wait_draws_nothing(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    for _ in range(3):
        with display.wait() as wait:
            clock[0] += 0.3
            wait.look()
    """
    )
    with terminal(script, 80, tmp_path) as opened:
        assert opened.rest() == ""


def test_what_other_threads_print_stands_above_the_line_whole(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    with display.wait() as wait:
        later(wait, done=10)
        thread = threading.Thread(target=lambda: print("from a thread\\nand half a line", end=""))
        thread.start()
        thread.join()
        later(wait, done=20)
        print("to standard error", file=sys.stderr)
    """
    )
    with terminal(script, 80, tmp_path) as opened:
        text = opened.rest()
    assert screen(text) == ["from a thread", "to standard error", "and half a line", ""]


def test_what_goes_to_a_file_goes_there_while_the_line_is_drawn(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    sys.stdout.flush()
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), 1)
    with display.wait() as wait:
        later(wait, done=10)
        print("a row", flush=True)
        later(wait, done=20)
    """
    )
    with terminal(script, 80, tmp_path, tmp_path / "rows") as opened:
        text = opened.rest()
    assert (tmp_path / "rows").read_text() == "a row\n"
    assert "20 of 1000" in text
    assert screen(text) == [""]


def test_an_exception_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    with display.wait() as wait:
        later(wait, done=10)
        raise SystemExit("an error")
    """
    )
    with terminal(script, 80, tmp_path) as opened:
        text = opened.rest()
    assert "10 of 1000" in text
    assert screen(text) == ["an error", ""]


def test_one_line_is_drawn_where_two_wait_and_the_other_one_has_its_turn_then(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    other = Display("other", lambda: far[0], now=lambda: clock[0])
    with other.wait() as waits:
        with display.wait() as wait:
            later(wait, done=10)
            waits.look()
        clock[0] += 2
        waits.look()
    """
    )
    with terminal(script, 80, tmp_path) as opened:
        text = opened.rest()
    assert text.index("train.map") < text.index("\x1b[2K") < text.index("other")


def test_a_display_of_richs_own_is_left_alone(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    from rich.progress import Progress
    with display.wait() as wait:
        later(wait, done=10)
        with Progress() as theirs:
            theirs.add_task("theirs")
            later(wait, done=20)
    """
    )
    with terminal(script, 80, tmp_path) as opened:
        text = opened.rest()
    assert "10 of 1000" in text
    assert "20 of 1000" not in text


def test_a_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    script = (
        DRAW
        + """
    with display.wait() as wait:
        later(wait, done=10)
    """
    )
    with terminal(script, 80, tmp_path, TERM="dumb") as opened:
        assert opened.rest() == "dokrun: train.map: running, 10 of 1000\r\n"


def test_rich_is_not_loaded_before_there_is_something_to_draw(tmp_path: Path) -> None:
    code = "import sys, dokrun; dokrun.Map, dokrun.Future; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


# The whole road.

SWEEP = """
    import os, sys, time
    import dokrun as dok

    @dok.remote(plan="h100-80gb", timeout=120)
    def job(number, gate):
        while number and not os.path.exists(gate):
            time.sleep(0.01)
        return number * 2

    gate = sys.argv[2]
"""


def test_a_map_in_a_pipe_says_how_far_it_is(place: Place) -> None:
    child = place.start(SWEEP + "    print(list(job.map(range(3), [gate] * 3)))\n", DOKRUN_API_URL=place.dok.api_url)
    assert child.stderr is not None
    told = ""
    while "running, 1 of 3" not in told:
        line = child.stderr.readline()
        assert line, told
        told += line
    place.gate.touch()
    output, rest = child.communicate(timeout=60)
    assert output == "[0, 2, 4]\n"
    assert re.search(r"dokrun: job\.map: running, 1 of 3, ¥\d+\.\d\d\n", told)
    assert re.search(r"dokrun: job\.map: done in .*: 3 calls, ¥16\.80", rest)


def test_a_single_call_shows_how_far_it_is_and_ctrl_c_leaves_a_clean_terminal(place: Place) -> None:
    environ = {name: text for name, text in place.environ.items() if name.startswith(("DOKRUN", "XDG"))}
    script = SWEEP + "    job(1, gate).result()\n"
    with terminal(script, 80, place.folder, "-", place.gate, **environ) as opened:
        opened.read_until(r"job  running  ¥16\.80")
        opened.type("\x03")
        lines = screen(opened.rest())
    assert lines[0].removeprefix("^C").startswith("Traceback"), lines
    assert "KeyboardInterrupt" in lines


def test_the_end_of_a_sessions_block_shows_its_meter_while_it_waits(place: Place) -> None:
    environ = {name: text for name, text in place.environ.items() if name.startswith(("DOKRUN", "XDG"))}
    script = f"""{SWEEP}
    with dok.session(plan="v100-32gb", name="desk", timeout="20m"):
        future = job.options(plan=None)(1, gate)
    print(future.result())
"""
    with terminal(script, 110, place.folder, "-", place.gate, **environ) as opened:
        opened.read_until(
            r"desk  running  1 call under way, ¥\d+\.\d\d so far, ¥0\.96 a minute, \d+ min left  for \d+ s"
        )
        place.gate.touch()
        assert screen(opened.rest()) == ["2", ""]
