"""From a handle to the job that it means: what this machine's journal knows, or what the handle itself says."""

from __future__ import annotations

from dokrun import keys
from dokrun.engine.journal import Entry, Journal, Record
from dokrun.errors import OptionError

_WHOLE = 32


def find_entry(journal: Journal, text: str) -> Entry:
    """Tell the job that a handle means.

    Raises:
        OptionError: it is no handle; or only the beginning of one, which this machine does not know, or not just once.
    """
    handle = keys.read_handle(str(text))
    if handle is None:
        shown = str(text)[:80]
        raise OptionError(
            f"{shown!r} is no handle: it takes four digits of a job's id at least, as in train-7f3a; "
            "future.handle tells it, and so does dokrun ls"
        )
    found = [entry for entry in journal.find(handle.job_id) if not handle.name or handle.name == _shown(entry.record)]
    if len(found) > 1:
        known = ", ".join(keys.Handle(entry.record.name, entry.record.id, "").short for entry in found[:5])
        raise OptionError(f"{text!r} is the beginning of several handles: {known}")
    if found:
        if not found[0].record.digest.startswith(handle.digest):
            raise OptionError(f"{text!r} is not the handle that this machine has written down for that job; not used")
        return found[0]
    if len(handle.job_id) < _WHOLE or not handle.digest:
        raise keys.UnknownHandle(
            f"this machine knows no job {text!r} of this account; on another machine give the whole handle, "
            "as future.handle tells it"
        )
    record = Record(handle.job_id, handle.name or "call", "", handle.calls, handle.digest, keys.job_tag(handle.job_id))
    return Entry(record, [])


def _shown(record: Record) -> str:
    return str(keys.Handle(record.name, record.id, "")).rpartition(f"-{record.id}")[0]
