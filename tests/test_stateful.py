"""Never lost, never twice, never tampered, whatever happens in whatever order: a property that sequences are tried on.

`make soak` tries ten times as many, and others each time. A sequence that fails is printed as a program.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cases import Call, Case, agree
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machine import LATE_S, World, come_true
from scripted import FATES
from troubles import API_FAULTS, CANCELLING, LOSING, SHARED_FAULTS, STORE_FAULTS, TROUBLES

from dokrun.emulator import Fault
from dokrun.engine.attempts import STAGINGS

SOAK = int(os.environ.get("DOKRUN_SOAK", "0"))
SEQUENCES = max(100, SOAK)  # fewer do not meet all that may go wrong
REAL_SEQUENCES = max(10, SOAK // 20)
STEPS = 8
REAL_STEPS = 5
# What a call does, and what is said of it where nothing else goes wrong.
ACTS = {
    "returns": ("value", ""),
    "raises": ("raised", ""),
    "dies": ("WorkerDied", "yes"),
    "vanishes": ("TaskFailed", "yes"),
    "hangs": ("value", ""),
    "tampers": ("Tampered", "yes"),
}
MOST_CALLS = 3
DAYS_S = 86400.0
# Making a client is what takes longest here.
KILLS = 1
# What a call does in its first start, and the next ones.
DOES = st.lists(st.sampled_from(["returns", *ACTS]), min_size=1, max_size=3)
JOBS = st.fixed_dictionaries(
    {
        "calls": st.lists(DOES, min_size=1, max_size=MOST_CALLS),
        "retries": st.integers(0, 2),
        "secret": st.booleans(),
        "ordered": st.booleans(),
    }
)
# What its second call comes to is nowhere but where the second container has sent it ahead.
LOSES_TWO_CONTAINERS = {
    "calls": [["vanishes"], ["returns"], ["vanishes"]],
    "retries": 0,
    "secret": True,
    "ordered": True,
}
HANGS = {"calls": [["hangs"], ["returns"]], "retries": 0, "secret": False, "ordered": True}
ASKED: dict[str, Any] = {"job": JOBS, "troubles": st.lists(st.integers(0, 63), max_size=2, unique=True)}


class Reliability(RuleBasedStateMachine):
    """One sequence. `world` is what all of them share, and `troubles` what goes wrong in them."""

    world: World
    troubles: Sequence[str]
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.cases: list[Case] = []
        self.expired = False
        self.kills = 0

    @property
    def scripted(self) -> Any:
        return self.world.scripted

    # What a user does.

    @initialize(target=jobs, **ASKED)
    def submit_first(self, troubles: list[int], job: dict[str, Any]) -> Case:
        return self._submit(troubles, job)

    @rule(target=jobs, **ASKED)
    def submit(self, troubles: list[int], job: dict[str, Any]) -> Case:
        return self._submit(troubles, job)

    def _submit(self, troubles: list[int], job: dict[str, Any]) -> Case:
        for number in troubles:
            self.something_goes_wrong(number)
        case = Case(self.world, len(self.cases), **job)
        self.cases.append(case)
        return case

    @rule(case=jobs)
    def poll(self, case: Case) -> None:
        if case.living:
            case.await_bound()

    @rule(
        case=jobs,
        number=st.none() | st.integers(0, MOST_CALLS - 1),
        trouble=st.sampled_from(["", *CANCELLING]),
    )
    def cancel(self, case: Case, number: int | None, trouble: str) -> None:
        if trouble:
            self.world.go_wrong(trouble)
        if case.living:
            self.world.happened["cancel"] += case.cancel(number)

    @rule(case=jobs)
    def attach(self, case: Case) -> None:
        self.world.happened["attach"] += case.attach()

    @precondition(lambda self: self.kills < KILLS)
    @rule()
    def kill(self) -> None:
        self.kills += 1
        for case in self.cases:
            case.client_died()
        self.world.kill()

    @precondition(lambda self: self.kills < KILLS)
    @rule(target=jobs, phase=st.sampled_from(["before", "after", "during"]), **ASKED)
    def kill_while_posting(self, phase: Any, troubles: list[int], job: dict[str, Any]) -> Case:
        """The service hangs, and so does the client, which somebody kills then."""
        self.world.heal()
        number = self.world.dok.faults.add(Fault("hang", "POST", "/tasks/", phase=phase))
        case = self._submit([], job)
        come_true(lambda: number in [one.rule for one in self.world.dok.faults.injected], "nothing is posted")
        self.kill()
        for trouble in troubles:
            self.something_goes_wrong(trouble)
        return case

    # What others do.

    @rule(case=jobs)
    def release(self, case: Case) -> None:
        case.release()

    @rule(case=jobs)
    def cancelled_by_somebody(self, case: Case) -> None:
        case.cancel_its_tasks()

    @precondition(lambda self: self.scripted is not None)
    @rule(case=jobs)
    def impersonate(self, case: Case) -> None:
        case.impersonate()

    # What goes wrong.

    @rule(number=st.integers(0, 63))
    def something_goes_wrong(self, number: int) -> None:
        name = self.troubles[number % len(self.troubles)]
        self.world.go_wrong(name)

    @precondition(lambda self: self.scripted is not None)
    @rule(fate=st.sampled_from(FATES))
    def container_goes_wrong(self, fate: str) -> None:
        self.world.troubles.add(fate)
        self.scripted.fates.append(fate)

    @rule()
    def heal(self) -> None:
        self.world.heal()

    @rule(seconds=st.sampled_from([1.0, 30.0, LATE_S, 2 * DAYS_S, 4 * DAYS_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.pass_time(seconds)
        self.expired |= seconds > 3 * DAYS_S
        if seconds > LATE_S:
            self.world.troubles.add("what hangs is ended")

    def meet(self, number: int) -> None:
        """The shortest sequences: one trouble, and jobs that meet it."""
        self.something_goes_wrong(number)
        self.container_goes_wrong("dies after the claim")
        for acts in (["returns"], ["returns", "vanishes", "returns"], ["vanishes"]):
            self._submit([], {"calls": [[act] for act in acts], "retries": 0, "secret": True, "ordered": True})
        self.world.await_trouble()
        self.teardown()

    def meet_all(self) -> None:
        """A sequence in which everybody does something."""
        case = self._submit([], HANGS)
        self.impersonate(case)
        self.attach(case)
        self.cancel(case, 1, "")
        self.kill_while_posting("during", [], HANGS)
        self.teardown()

    def meet_nothing(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Sequences in which nothing goes wrong but what calls do; at the end somebody attaches elsewhere."""
        for job in jobs:
            self._submit([], job).release()
        for case in self.cases:
            case.await_all()
            come_true(case.all_ended, f"a task of job {case.number} runs")
            case.client_died()
        self.world.move()
        self.teardown()

    # What must hold.

    @invariant()
    def nothing_is_wrong(self) -> None:
        for case in self.cases:
            for call in case.calls:
                assert call.starts <= 1 + case.retries, f"call {call.arguments} was started {call.starts} times"
        assert not self.world.evil.exists(), "something that was not verified has been unpickled"

    def teardown(self) -> None:
        clean = False
        try:
            self.finish()
            clean = True
        finally:
            self.world.end_sequence(clean=clean)

    def finish(self) -> None:
        self.world.end_outages()
        self.world.clock.pass_time(LATE_S)
        self.nothing_runs_that_nobody_was_told_of()
        for case in self.cases:
            case.release()
            if not case.living:
                case.attach()
        for case in self.cases:
            case.await_all()
        self.world.heal()
        for case in self.cases:
            come_true(case.all_ended, f"a task of job {case.number} runs")
            come_true(case.impostors_were_left_alone, f"an impostor's task for job {case.number} has not ended well")
        attached = [case for case in self.cases if case.attach()]
        for case in attached:
            case.await_all()
        self.nothing_is_wrong()
        for case in self.cases:
            for call in case.calls:
                self.what_was_said_is_true(case, call)
                self.nothing_is_lost(case, call)

    def nothing_runs_that_nobody_was_told_of(self) -> None:
        """Whoever has heard the end of a job need do nothing, not even let a function that hangs go on."""
        for case in self.cases:
            if case.all_told:
                come_true(case.all_ended, f"job {case.number} is over for its user, and still there are tasks of it")

    def what_was_said_is_true(self, case: Case, call: Call) -> None:
        said, history = list(dict.fromkeys(call.settled)), told_of(call)
        for one in said:
            if one.what in ("value", "raised") or one.ran == "yes":
                assert call.starts, f"one says that it ran, and {history}"
            if one.what in ("value", "raised"):
                number, start = one.value
                assert number == call.arguments[1], f"what another call has come to: {history}"
                assert 1 <= start <= call.starts, f"what no start has come to: {history}"
            if one.ran == "no":
                assert not call.starts, f"one says that it did not run, and {history}"
        if not case.find_handle():
            assert not call.starts, f"what was never sent was started: {history}"
        if not self.expired and LOSING.isdisjoint(self.world.troubles):
            assert len({one.value for one in said if one.what == "value"}) <= 1, f"several values: {history}"
            lasting = [one for one in said if one.lasting]
            assert all(agree(lasting[0], one) for one in lasting[1:]), f"several outcomes: {history}"

    def nothing_is_lost(self, case: Case, call: Call) -> None:
        """What a lost container had not begun is run by another, unless somebody has ended that."""
        if self.scripted is None:
            return
        for one in call.settled:
            # An image without what starts the shim is not tried again.
            tried_again = case.left_alone and "cannot start" not in self.world.troubles
            if (one.what, one.ran) == ("TaskFailed", "no") and tried_again:
                idle = self.scripted.idle[case.job_id]
                assert idle >= STAGINGS or case.canceled, (
                    f"only {idle} containers have started nothing of the job, and {told_of(call)}"
                )
            if one.lasting and case.left_alone and not self.world.troubles:
                assert call.starts, f"nothing kept it from running, and {told_of(call)}"
                # With retries there may be several answers.
                assert case.retries or (one.what, one.ran) in may_say(case, call), f"it did otherwise: {told_of(call)}"


def may_say(case: Case, call: Call) -> set[tuple[str, str]]:
    """Tell what may be said of a call that starts once, where nothing else goes wrong."""
    act = call.acts[0]
    later = [other.acts[0] for other in case.calls[call.arguments[1] :]]
    # What is not sent ahead is lost with a container that a later call takes along.
    lost = act in ("dies", "tampers") and "vanishes" in later
    return {ACTS[act], ACTS["vanishes"]} if lost else {ACTS[act]}


def told_of(call: Call) -> str:
    """Tell what was said of a call, for people."""
    said = "\n".join(map(str, dict.fromkeys(call.settled)))
    return f"call {call.arguments} was started {call.starts} times, and it was told:\n{said}"


def run(world: World, troubles: Sequence[str], sequences: int, steps: int) -> None:
    machine = type("Reliability", (Reliability,), {"world": world, "troubles": troubles})
    # A sequence that fails in the soak is made shorter first; in CI the next engineer shall not wait for that.
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if SOAK else [])]
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not SOAK,
        database=None,
        print_blob=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    if world.scripted is not None:
        # Chance might leave something out.
        machine().meet_all()
        for number in range(len(troubles)):
            machine().meet(number)
        quietly = given(st.lists(JOBS, min_size=1, max_size=2))(lambda jobs: machine().meet_nothing(jobs))
        settings(chosen, max_examples=max(1, sequences // 3))(example([LOSES_TWO_CONTAINERS])(quietly))()
    run_state_machine_as_test(machine, settings=chosen)


@pytest.fixture
def played(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """A world whose containers are played, a few milliseconds each."""
    caplog.set_level(logging.CRITICAL, "dokrun")  # what it warns of would bury the sequence that failed
    with World() as world:
        yield world


@pytest.fixture
def real(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """A world whose containers are processes that run the shim itself."""
    caplog.set_level(logging.CRITICAL, "dokrun")
    with World(real=True) as world:
        yield world


@pytest.mark.timeout(0 if SOAK else 240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections are cut on purpose
# Nor are the random numbers taken by what is drawn: the servers' threads take some.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.parametrize("kind", TROUBLES)
def test_no_sequence_loses_a_call_nor_runs_it_twice_nor_believes_what_was_tampered_with(
    kind: str, played: World
) -> None:
    run(played, TROUBLES[kind], SEQUENCES // len(TROUBLES) - len(TROUBLES[kind]), STEPS)
    expected = {"kill", "hang", "attach", "cancel", "impostor", *TROUBLES[kind]}
    assert expected <= set(played.happened), f"did not happen: {sorted(expected - set(played.happened))}"


@pytest.mark.timeout(0 if SOAK else 240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections are cut on purpose
# Nor are the random numbers taken by what is drawn: the servers' threads take some.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning")
def test_no_sequence_does_so_where_containers_are_real_processes(real: World) -> None:
    run(real, [*API_FAULTS, *STORE_FAULTS, *SHARED_FAULTS], REAL_SEQUENCES, REAL_STEPS)
    assert {"kill", "attach"} <= set(real.happened)
