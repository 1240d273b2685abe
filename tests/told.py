"""What a container has told of its calls, read as the client must: only what the manifest vouches for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dokrun.shim import envelope, protocol

Report = tuple[dict[str, Any], list[envelope.Segment]]


class Told:
    """Reads an artifact folder. A call is found by its number, and is told of once."""

    def __init__(self, artifact: Path) -> None:
        self.artifact = artifact

    @property
    def manifest(self) -> Any:
        return json.loads((self.artifact / protocol.MANIFEST).read_bytes())

    def reports(self) -> dict[int, Report]:
        """Tell every report, by its call's number."""
        found: dict[int, Report] = {}
        for entry in self.manifest["reports"]:
            data = (self.artifact / entry["path"]).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["size"])
            for _, header, segments in envelope.unpack_all(data):
                # What was sent ahead of a slow call comes again with the others; it must be the same.
                former, _ = found.setdefault(header["call"], (header, segments))
                assert former == header, "a call is reported twice"
        return found

    def failures(self) -> dict[int, Any]:
        """Tell what became of the calls that have no report, by their numbers."""
        found: dict[int, Any] = {}
        for entry in self.manifest["calls"]:
            for number in range(*entry["calls"]):
                assert number not in found, "a call has failed twice"
                found[number] = entry["failure"]
        assert not found.keys() & self.reports().keys(), "a call with a report has failed too"
        return found

    def report(self, number: int = 0) -> Report:
        return self.reports()[number]

    def failed(self, number: int = 0) -> Any:
        """Tell what became of a call that has no report."""
        return self.failures()[number]

    def value(self, number: int = 0) -> Any:
        return value_of(self.report(number))

    def values(self) -> dict[int, Any]:
        """Tell the values of all calls that have reported; each must be one."""
        return {number: value_of(report) for number, report in self.reports().items()}


def value_of(report: Report) -> Any:
    header, segments = report
    assert header["kind"] == "value", header
    return envelope.load_value([data for place in header["value"] if (data := segments[place].data) is not None])
