"""From a call to a job: what can go wrong with the user's values goes wrong here, before anything is sent."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import cloudpickle

from dokrun import keys
from dokrun.cost import Price
from dokrun.engine.packing import Keep, Pack, Segments
from dokrun.engine.target import Target
from dokrun.errors import ConfigError
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.payload import serialize, source
from dokrun.payload.bundle import bundle
from dokrun.payload.known import Known, Pickles
from dokrun.port import Http
from dokrun.retry import Retry
from dokrun.secret import Secret
from dokrun.shim.envelope import Segment

# What the payload's header says of a pack, in about so many bytes.
PACK_BYTES = 512
# How often the container looks whether there is a checkpoint to save.
CHECKPOINT_S = 60.0
# What has started does not run again, unless somebody says so.
_ONCE = Retry(0)


@dataclass(frozen=True)
class Job:
    """The work that one task will do, ready to be staged: the payload's header and its segments.

    A segment without its bytes lies in the bucket already, by its content, and is not sent again for the next job.
    `calls` is how many there are, `lanes` how many of them run at the same time, `timeout_s` the longest that one of
    them may take, in seconds. `price` is known where there is a `max_yen`; it stays what it was when the job was made,
    as the task's definition does. Of a session, `session_sha256` is that of the token which its client shows.
    """

    id: str
    name: str
    plan: str
    options: Options
    header: Mapping[str, Any] = field(repr=False)
    segments: Sequence[Segment]
    calls: int
    lanes: int
    timeout_s: float
    price: Price | None = None
    session_sha256: str = ""

    @property
    def retry(self) -> Retry:
        """How often a call that has started may run again."""
        return self.options.retries or _ONCE

    def paid_s(self, spent: Decimal = Decimal(0)) -> int | None:
        """Tell for how many seconds its `max_yen` pays, when so much of it is spent; None where nothing was said."""
        if self.price is None or self.options.max_yen is None:
            return None
        return self.price.seconds_for(self.options.max_yen - spent)

    def pays(self, spent: Decimal) -> bool:
        """Tell whether its `max_yen` pays for another task, when so much of it is spent."""
        if self.price is None or self.options.max_yen is None:
            return True
        return self.price.least_yen + spent <= self.options.max_yen


class Preparing:
    """A job in the making. Its calls are of one function, or of several, one after another in packs.

    Args:
        target: what is called.
        plan: on which plan.
        options: with which options.
        workers: how many calls shall run at the same time; None for one on each GPU, `EACH_PROCESSOR` for that.
        price: the plan's, where there is a `max_yen`.
        keep: brings a large segment to safety.
        job_id: the job's id, where it is known by now.
        more: what else its header says.
        known: what it has in common with others that were made before.

    Attributes:
        id: the job's.

    Raises:
        NotSerializable: the function cannot be pickled.
    """

    def __init__(
        self,
        target: Target,
        plan: str,
        options: Options,
        *,
        workers: int | None = None,
        price: Price | None = None,
        keep: Keep = lambda it: it,
        job_id: str | None = None,
        more: Mapping[str, Any] | None = None,
        known: Known | None = None,
    ) -> None:
        self.id = job_id or keys.new_id()
        self._plan = plan
        self._options = options
        self._name = options.name or target.name
        self._workers = gpus(plan) if workers is None else workers
        self._price = price
        self._keep = keep
        self._more = more or {}
        self._known = known or Known()
        self._serializer = serialize.Serializer()
        self._segments = Segments(keep)
        self._functions = Functions(self._serializer, self._segments, self._known.pickles)
        # Those before the one that calls are added to, and what they hold.
        self._packs: list[Pack] = []
        self._calls = self._size_bytes = 0
        self._target = target
        self._pack = Pack(self._segments, self._functions.number(target), self._timeout_s(None))

    @property
    def calls(self) -> int:
        """How many calls there are so far."""
        return self._calls + len(self._pack)

    @property
    def size_bytes(self) -> int:
        """How large their arguments are so far, without what is kept elsewhere."""
        return self._size_bytes + self._pack.size_bytes + self._segments.held_bytes

    @property
    def kept(self) -> int:
        """How many objects lie elsewhere that they need."""
        return self._segments.kept

    def turn_to(self, target: Target, timeout_s: float | None) -> None:
        """Let the calls that follow be of another function, or have another timeout; None is the options'.

        Raises:
            NotSerializable: the function cannot be pickled.
        """
        function, timeout_s = self._functions.number(target), self._timeout_s(timeout_s)
        self._target = target
        if (function, timeout_s) == (self._pack.function, self._pack.timeout_s):
            return
        if self._pack:
            self._packs.append(self._pack)
            self._calls += len(self._pack)
            self._size_bytes += self._pack.size_bytes + PACK_BYTES
        self._pack = Pack(self._segments, function, timeout_s)

    def add(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Add a call. Raises NotSerializable, which names the argument, and where inside it."""
        arguments = self._serializer.arguments(self._target.signature, args, kwargs)
        self._pack.add(arguments, self._functions.place_given())

    def _timeout_s(self, timeout_s: float | None) -> float:
        return timeout_s or self._options.timeout_s or DEFAULT_TIMEOUT_S

    def job(self) -> Job:
        """Find the files that the calls need, and make the job.

        Raises:
            OptionError: an `include` matches no file, or `exclude` takes away a function's own module.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: a secret is not set.
        """
        options, packs = self._options, [*self._packs, self._pack]
        found, main = self._known.sources.collect(
            self._serializer.modules, self._functions.origins, include=options.include, exclude=options.exclude
        )
        files = bundle(found.files)
        first = len(self._segments)
        self._segments.extend(
            self._keep(segment) if number in files.objects else segment for number, segment in enumerate(files.segments)
        )
        header = {
            "job": self.id,
            "python": platform.python_version(),
            "cloudpickle": cloudpickle.__version__,
            "workers": self._workers,
            "functions": self._functions.told,
            "calls": [pack.header() for pack in packs],
            "source": files.entries(first),
            "main": main,
            "given": sorted(self._functions.given),
            "secrets": revealed(options.secrets),
            "checkpoint_s": CHECKPOINT_S,
            **self._more,
        }
        lanes, longest_s = max(1, min(self._workers, self.calls)), max(pack.timeout_s for pack in packs)
        return Job(
            self.id, self._name, self._plan, options, header, self._segments, self.calls, lanes, longest_s, self._price
        )


class Functions:
    """The functions of a job's calls, each of them once, and what its values are given beside their pickles.

    Attributes:
        told: what the payload's header says of each.
        origins: where each was written.
        given: the numbers of the segments that lie beside the pickles, of functions and of calls.
    """

    def __init__(self, serializer: serialize.Serializer, segments: Segments, pickles: Pickles) -> None:
        self.told: list[dict[str, Any]] = []
        self.origins: list[source.Origin] = []
        self.given: set[int] = set()
        self._serializer = serializer
        self._segments = segments
        self._pickles = pickles
        # By identity: some cannot be hashed. What is here lives on, so that no other has its id.
        self._numbers: dict[int, tuple[Callable[..., Any], int]] = {}

    def number(self, target: Target) -> int:
        """Tell the number of a function. Raises NotSerializable."""
        known = self._numbers.get(id(target.function))
        if known is not None:
            return known[1]
        self.told.append(self._tell(target))
        self.origins.append(source.origin_of(target.function, target.name))
        self._numbers[id(target.function)] = target.function, len(self.told) - 1
        return len(self.told) - 1

    def _tell(self, target: Target) -> dict[str, Any]:
        where = source.locate(target.function)
        if where is not None:
            self._serializer.modules.add(where.module)
            return {"module": where.module, "name": where.name}
        pickled = self._pickles.function(self._serializer, target.function, target.name)
        value = [self._segments.put(segment, shared=True) for segment in pickled]
        named = getattr(target.function, "__qualname__", "<>")
        return {"value": value, "given": self.place_given(), "name": named}

    def place_given(self) -> list[int]:
        """Add what lies beside the last pickle, which is sent at once and not held. Tells the segments' numbers."""
        numbers = [self._segments.put(segment, shared=True) for segment in self._serializer.take_given()]
        self.given.update(numbers)
        return numbers


def session_job(name: str, plan: str, options: Options, session: Mapping[str, Any]) -> Job:
    """Make the job of a session, whose container has no calls yet and takes them over its http port.

    Args:
        name: what it is called.
        plan: on which plan.
        options: with which options; its `timeout_s` is how long the session may last.
        session: what the container is told of it: see `shim.protocol`; and how many `workers` it has.

    Raises:
        ConfigError: a secret is not set.
    """
    job_id, workers = keys.new_id(), session["workers"] or gpus(plan)
    options = replace(options, http=Http(session["port"]))
    header = {
        "job": job_id,
        "python": platform.python_version(),
        "cloudpickle": cloudpickle.__version__,
        "workers": workers,
        "functions": [],
        "calls": [],
        "source": [],
        "main": source.main_name(),
        "given": [],
        "secrets": revealed(options.secrets),
        "checkpoint_s": CHECKPOINT_S,
        "session": {key: value for key, value in session.items() if key != "workers"},
    }
    timeout_s = options.timeout_s or DEFAULT_TIMEOUT_S
    return Job(job_id, name, plan, options, header, [], 1, workers, timeout_s)


def revealed(secrets: Mapping[str, Secret | None]) -> dict[str, str]:
    """Tell the values of secrets, those of this process's environment among them."""
    values: dict[str, str] = {}
    for name, secret in secrets.items():
        value = os.environ.get(name) if secret is None else secret.reveal()
        if not value:
            raise ConfigError(f"secrets= names {name}, which is not set here; set it, or write secrets={{{name!r}: …}}")
        values[name] = value
    return values


def gpus(plan: str) -> int:
    """Tell how many GPUs a plan's machine has, by its id; one where the id does not say.

    The ids that the service lists are in https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html.
    """
    found = re.search(r"(\d+)gpu", plan)
    return int(found[1]) if found else 1
