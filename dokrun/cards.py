"""How things look in a notebook: small cards of HTML without any script, and the same in words beside them.

Their colours are the page's own, so that they are read on white and on black, and styles stand in the elements: what
shows a saved notebook may allow nothing else, or not even these, and then there are lines of plain text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dokrun.cost import Meter, Quote, Receipt
from dokrun.progress import Far, Pace, duration

# Seen well on both white and black.
_GREY, _AMBER, _BLUE, _GREEN, _RED = "#808080", "#c98500", "#2f81f7", "#2da44e", "#d1242f"
_BOX = "border-left: 4px solid {tone}; padding: 2px 0 2px 10px; margin: 2px 0; line-height: 1.5; max-width: 60em"
_LOG = (
    "margin: 4px 0; padding: 0; border: none; background: transparent; color: inherit; font-size: 90%; "
    "font-family: monospace; line-height: 1.35; white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
)
_TRACK = "width: 20em; max-width: 100%; height: 6px; margin: 4px 0; background-color: rgba(128, 128, 128, 0.3)"
_DIM = "opacity: 0.7; font-size: 90%"


class Card(NamedTuple):
    """What is shown of a thing: as HTML, and in words where that cannot be shown."""

    html: str
    text: str

    @property
    def bundle(self) -> dict[str, str]:
        """The same by the names that notebooks have for it."""
        return {"text/html": self.html, "text/plain": self.text}


class Told(NamedTuple):
    """What is to be said of something that is under way: see `of_far`."""

    name: str
    far: Far
    pace: Pace
    seconds: float
    lines: Sequence[str] = ()
    more: str = ""


def of_far(told: Told) -> Card:
    """Show how far something is, or what it has come to, with its last lines and what else is to be said."""
    far = told.far
    words = _ended(told) if far.over else _under_way(told)
    share = far.told / far.total if far.total and far.total > 1 and far.told and not far.over else None
    parts = [
        f"<div><b>{_safe(told.name)}</b>&ensp;{_safe(' · '.join(words))}</div>",
        _bar(share) if share is not None else "",
        f'<pre style="{_LOG}">{_safe(chr(10).join(told.lines))}</pre>' if told.lines else "",
        f'<div style="{_DIM}">{_safe(told.more)}</div>' if told.more else "",
    ]
    indented = [f"  {line}" for line in (*told.lines, *filter(None, [told.more]))]
    return Card(_box("".join(parts), _tone(far)), "\n".join([f"{told.name}: {', '.join(words)}", *indented]))


def of_receipt(receipt: Receipt) -> Card:
    """Show what a call has cost, and what the time went into."""
    phases = receipt.phases
    tasks = f" in {len(receipt.each_seconds)} tasks" if len(receipt.each_seconds) > 1 else ""
    seconds = {
        "waited in line": phases.queued_s,
        "downloading": phases.downloading_s,
        "running": phases.running_s,
        "uploading": phases.uploading_s,
    }
    sizes = {"memory": phases.peak_memory_bytes, "GPU memory": phases.peak_gpu_memory_bytes}
    parts = [
        ("billed", f"{receipt.billed_seconds:g} s on {receipt.plan}"),
        ("ran", f"{receipt.seconds:g} s{tasks}"),
        *((name, "" if told is None else duration(told)) for name, told in seconds.items()),
        *((name, "" if told is None else _size(told)) for name, told in sizes.items()),
    ]
    return of_parts(f"¥{receipt.yen:,.2f}", parts, receipt.advice or "")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.0f} MiB"


def of_quote(quote: Quote) -> Card:
    """Show what a call or a map will cost."""
    past = f"{quote.past} past task{'s' if quote.past != 1 else ''}"
    about = "never called before" if quote.expected is None else f"¥{quote.expected:,.2f}, as in {past}"
    calls = "" if quote.calls == 1 else f"{quote.calls} calls in {quote.tasks} task{'s' if quote.tasks != 1 else ''}"
    parts = [
        ("calls", calls),
        ("at least", f"¥{quote.least:,.2f}"),
        ("about", about),
        ("at most", f"¥{quote.most:,.2f}"),
        ("a minute", f"¥{quote.yen_per_minute:,.2f}"),
    ]
    return of_parts(f"Quote on {quote.plan}", parts)


def of_meter(meter: Meter) -> Card:
    """Show what a session costs, and how long it may last."""
    yen, per_minute = meter.yen, meter.yen_per_minute
    parts = [
        ("so far", "" if yen is None else f"¥{yen:,.2f}"),
        ("a minute", "" if per_minute is None else f"¥{per_minute:,.2f}"),
        ("left", "" if meter.left_s is None else duration(meter.left_s)),
        ("ends, if nothing is called, in", "" if meter.idle_left_s is None else duration(meter.idle_left_s)),
        ("calls under way", str(meter.calls)),
    ]
    return of_parts("Meter", parts)


def of_parts(title: str, parts: Iterable[tuple[str, str]], note: str = "") -> Card:
    """Show what something is made of: what each part is, and how much."""
    shown = [(name, value) for name, value in parts if value]
    rows = "".join(f'<div><span style="{_DIM}">{_safe(name)}</span>&ensp;{_safe(value)}</div>' for name, value in shown)
    below = f'<div style="{_DIM}">{_safe(note)}</div>' if note else ""
    text = "\n".join([title, *(f"  {name}: {value}" for name, value in shown), *([f"  {note}"] if note else [])])
    return Card(_box(f"<div><b>{_safe(title)}</b></div>{rows}{below}", _GREY), text)


def _under_way(told: Told) -> list[str]:
    far, many = told.far, told.far.total != 1
    words = [
        far.state,
        far.count if many else "",
        far.failures if many else "",
        told.pace.rate if many else "",
        told.pace.left(far) if many else "",
        far.note or far.cost,
        f"for {duration(told.seconds)}",
    ]
    return [word for word in words if word]


def _ended(told: Told) -> list[str]:
    return told.far.end(told.seconds).split(", ")


def _tone(far: Far) -> str:
    if far.over:
        return _RED if far.failed else _GREY if far.cancelled else _GREEN
    return _BLUE if far.status == "running" else _AMBER


def _bar(share: float) -> str:
    filled = f"width: {share:.0%}; height: 6px; background-color: {_BLUE}"
    return f'<div style="{_TRACK}"><div style="{filled}"></div></div>'


def _box(inner: str, tone: str) -> str:
    return f'<div style="{_BOX.format(tone=tone)}">{inner}</div>'


def _safe(text: str) -> str:
    return html.escape(text)
