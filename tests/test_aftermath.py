"""What a session's manifest says of calls that were sent when it had been read already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dokrun as dok
from dokrun import keys
from dokrun.engine.aftermath import Aftermath
from dokrun.engine.flight import Flight
from dokrun.engine.flights import Flights
from dokrun.engine.prepare import Job
from dokrun.jobstate import Progress
from dokrun.options import Options
from dokrun.outcomes import Outcomes
from dokrun.shim import protocol


def sent(*, found: bool) -> Flight:
    job = Job(keys.new_id(), "work", "", Options(), {}, [], 1, 1, 0.0)
    flight = Flight(job, Outcomes(job.id, 1, job.name, Progress()), {}, set(), found=found)
    flight.sent = True
    return flight


def test_what_a_manifest_does_not_speak_of_has_not_come_to_its_container_though_it_was_sent_late(
    tmp_path: Path,
) -> None:
    manifest = tmp_path / protocol.MANIFEST
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"jobs": {}}))
    nothing: Any = None  # neither asks the service, or reads a file
    flights = Flights(nothing, nothing, lambda *_: False)
    aftermath = Aftermath(nothing, flights)
    aftermath.read(tmp_path, nothing)
    late, found = sent(found=False), sent(found=True)
    aftermath.judge([late, found], None, "has ended", runs_on=False)
    assert (late.sent, late.left) == (False, [0]), "another container may run it"
    error = found.calls.future(0).exception()
    assert isinstance(error, dok.SessionLost)
    assert error.ran == "maybe"
