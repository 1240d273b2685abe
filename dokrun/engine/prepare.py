"""From a call to a job: what can go wrong with the user's values goes wrong here, before anything is sent."""

from __future__ import annotations

import inspect
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from dokrun import keys
from dokrun.errors import ConfigError
from dokrun.options import DEFAULT_TIMEOUT_S, Options
from dokrun.payload import serialize, source
from dokrun.payload.bundle import bundle
from dokrun.retry import Retry
from dokrun.secret import Secret
from dokrun.shim import protocol
from dokrun.shim.envelope import Segment

# How often the container looks whether there is a checkpoint to save.
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Call:
    """One invocation of a user's function."""

    function: Callable[..., Any]
    signature: inspect.Signature
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """The work that one task will do, ready to be staged: the payload's header and its segments.

    `objects` are the numbers of those segments that are kept in the bucket by their content, where there is one: they
    are not sent again for the next call.
    """

    id: str
    name: str
    plan: str
    options: Options
    header: Mapping[str, Any] = field(repr=False)
    segments: Sequence[Segment]
    objects: frozenset[int]

    @property
    def retry(self) -> Retry:
        """How often a call that has started may run again."""
        return self.options.retries or Retry(0)

    @property
    def timeout_s(self) -> float:
        """The longest that its calls may take, all together, in seconds."""
        return float(sum(call["timeout_s"] for call in self.header["calls"]))


def prepare(call: Call, plan: str, options: Options) -> Job:
    """Pickle a call and find the files that it needs.

    Small segments are copied, large ones stay where they lie until they are uploaded.

    Raises:
        NotSerializable: names the argument, and where inside it.
        OptionError: an `include` matches no file, or `exclude` takes away the function's own module.
        SourceTooLarge: the user's files that would go along are too many.
        ConfigError: a secret is not set.
    """
    segments: list[Segment] = []

    def add(new: Sequence[Segment]) -> list[int]:
        segments.extend(map(_kept, new))
        return list(range(len(segments) - len(new), len(segments)))

    job_id = keys.new_id()
    serializer = serialize.Serializer()
    arguments = add(serializer.arguments(call.signature, call.args, call.kwargs))
    where = source.locate(call.function)
    if where is None:
        function: dict[str, Any] = {"value": add(serializer.function(call.function, call.name))}
    else:
        function = {"module": where.module, "name": where.name}
        serializer.modules.add(where.module)
    found = source.collect(
        serializer.modules,
        module=source.module_of(call.function),
        name=call.name,
        by_name=where is not None,
        include=options.include,
        exclude=options.exclude,
    )
    files = bundle(found.files)
    first = len(segments)
    segments += files.segments
    header = {
        "job": job_id,
        "python": platform.python_version(),
        "cloudpickle": cloudpickle.__version__,
        "workers": gpus(plan),
        "functions": [function],
        "calls": [
            {
                "id": keys.call_id(job_id, 0),
                "function": 0,
                "arguments": arguments,
                "timeout_s": options.timeout_s or DEFAULT_TIMEOUT_S,
            }
        ],
        "source": files.entries(first),
        "main": source.main_name(),
        "secrets": _revealed(options.secrets),
        "checkpoint_s": CHECKPOINT_S,
    }
    objects = {number for number, segment in enumerate(segments) if segment.size >= protocol.BLOB_SIZE}
    objects |= {first + number for number in files.objects}
    return Job(job_id, options.name or call.name, plan, options, header, segments, frozenset(objects))


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


def _kept(segment: Segment) -> Segment:
    if segment.size >= protocol.BLOB_SIZE or segment.data is None:
        return segment
    return segment._replace(data=memoryview(bytes(segment.data)))
