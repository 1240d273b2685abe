"""From a call to a job: what can go wrong with the user's values goes wrong here, before anything is sent."""

from __future__ import annotations

import inspect
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import cloudpickle

from dokrun import keys
from dokrun.cost import Price
from dokrun.engine.packing import Keep, Pack, Segments
from dokrun.errors import ConfigError
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.payload import serialize, source
from dokrun.payload.bundle import bundle
from dokrun.retry import Retry
from dokrun.secret import Secret
from dokrun.shim.envelope import Segment

# How often the container looks whether there is a checkpoint to save.
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Target:
    """What is called: a user's function."""

    function: Callable[..., Any]
    signature: inspect.Signature
    name: str


@dataclass(frozen=True)
class Job:
    """The work that one task will do, ready to be staged: the payload's header and its segments.

    A segment without its bytes lies in the bucket already, by its content, and is not sent again for the next job.
    `calls` is how many there are, `lanes` how many of them run at the same time. `price` is known where there is a
    `max_yen`; it stays what it was when the job was made, as the task's definition does.
    """

    id: str
    name: str
    plan: str
    options: Options
    header: Mapping[str, Any] = field(repr=False)
    segments: Sequence[Segment]
    calls: int
    lanes: int
    price: Price | None = None

    @property
    def retry(self) -> Retry:
        """How often a call that has started may run again."""
        return self.options.retries or Retry(0)

    @property
    def timeout_s(self) -> float:
        """The longest that one call may take, in seconds."""
        return self.options.timeout_s or DEFAULT_TIMEOUT_S

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
    """A job in the making.

    Args:
        target: what is called.
        plan: on which plan.
        options: with which options.
        workers: how many calls shall run at the same time; None for one on each GPU.
        price: the plan's, where there is a `max_yen`.
        keep: brings a large segment to safety.

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
    ) -> None:
        self._target = target
        self._plan = plan
        self._options = options
        self._workers = workers or gpus(plan)
        self._price = price
        self._keep = keep
        self._serializer = serialize.Serializer()
        self._segments = Segments(keep)
        self._pack = Pack(self._segments)
        self._given: set[int] = set()
        self._where = source.locate(target.function)
        if self._where is None:
            pickled = self._serializer.function(target.function, target.name)
            value = [self._segments.put(it, shared=True) for it in pickled]
            self._function: dict[str, Any] = {"value": value, "given": self._place_given()}
        else:
            self._function = {"module": self._where.module, "name": self._where.name}
            self._serializer.modules.add(self._where.module)

    @property
    def calls(self) -> int:
        """How many calls there are so far."""
        return len(self._pack)

    @property
    def size_bytes(self) -> int:
        """How large their arguments are so far, without what is kept elsewhere."""
        return self._pack.size_bytes + self._segments.held_bytes

    @property
    def kept(self) -> int:
        """How many objects lie elsewhere that they need."""
        return self._segments.kept

    def add(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Add a call. Raises NotSerializable, which names the argument, and where inside it."""
        arguments = self._serializer.arguments(self._target.signature, args, kwargs)
        self._pack.add(arguments, self._place_given())

    def _place_given(self) -> list[int]:
        """Add what lies beside the last pickle, which is sent at once and not held. Tells the segments' numbers."""
        numbers = [self._segments.put(segment, shared=True) for segment in self._serializer.take_given()]
        self._given.update(numbers)
        return numbers

    def job(self) -> Job:
        """Find the files that the calls need, and make the job.

        Raises:
            OptionError: an `include` matches no file, or `exclude` takes away the function's own module.
            SourceTooLarge: the user's files that would go along are too many.
            ConfigError: a secret is not set.
        """
        options = self._options
        found = source.collect(
            self._serializer.modules,
            module=source.module_of(self._target.function),
            name=self._target.name,
            by_name=self._where is not None,
            include=options.include,
            exclude=options.exclude,
        )
        files = bundle(found.files)
        first = len(self._segments)
        self._segments.extend(
            self._keep(segment) if number in files.objects else segment for number, segment in enumerate(files.segments)
        )
        job_id = keys.new_id()
        header = {
            "job": job_id,
            "python": platform.python_version(),
            "cloudpickle": cloudpickle.__version__,
            "workers": self._workers,
            "functions": [self._function],
            "calls": [self._pack.header(0, options.timeout_s or DEFAULT_TIMEOUT_S)],
            "source": files.entries(first),
            "main": source.main_name(),
            "given": sorted(self._given),
            "secrets": _revealed(options.secrets),
            "checkpoint_s": CHECKPOINT_S,
        }
        name, lanes = options.name or self._target.name, max(1, min(self._workers, self.calls))
        return Job(job_id, name, self._plan, options, header, self._segments, self.calls, lanes, self._price)


def _revealed(secrets: Mapping[str, Secret | None]) -> dict[str, str]:
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
