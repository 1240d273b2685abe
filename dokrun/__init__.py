"""dokrun: a cloud GPU that feels like a function call, on 高火力 DOK.

    import dokrun as dok

    @dok.remote(plan="h100-80gb")
    def train(cfg: Config) -> Metrics: ...

    metrics = train(cfg).result()

All but the errors is loaded when it is first used, so that `import dokrun` costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from dokrun import errors
from dokrun.errors import *  # noqa: F403 - its __all__ is the list, and there is only one

__version__ = "0.1.0"

if os.environ.get("DOKRUN_LOG"):
    from dokrun.log import show as _show

    _show(os.environ["DOKRUN_LOG"])

if TYPE_CHECKING:
    from dokrun.actor import Actor as Actor
    from dokrun.artifact import ArtifactFile as ArtifactFile
    from dokrun.cost import Phases as Phases
    from dokrun.cost import Price as Price
    from dokrun.cost import Quote as Quote
    from dokrun.cost import Receipt as Receipt
    from dokrun.executor import Executor as Executor
    from dokrun.function import RemoteFunction as RemoteFunction
    from dokrun.function import prices as prices
    from dokrun.function import put as put
    from dokrun.function import remote as remote
    from dokrun.future import Future as Future
    from dokrun.given import File as File
    from dokrun.image.spec import Image as Image
    from dokrun.map import Map as Map
    from dokrun.port import Http as Http
    from dokrun.retry import Retry as Retry
    from dokrun.sessions import Session as Session
    from dokrun.sessions import Tunnel as Tunnel
    from dokrun.sessions import attach as attach
    from dokrun.sessions import session as session
    from dokrun.shim.protocol import CallInfo as CallInfo
    from dokrun.shim.protocol import artifact_dir as artifact_dir
    from dokrun.shim.protocol import checkpoint_dir as checkpoint_dir
    from dokrun.shim.protocol import current as current

_HOMES = {
    "dokrun.actor": ("Actor",),
    "dokrun.artifact": ("ArtifactFile",),
    "dokrun.cost": ("Phases", "Price", "Quote", "Receipt"),
    "dokrun.executor": ("Executor",),
    "dokrun.function": ("RemoteFunction", "prices", "put", "remote"),
    "dokrun.future": ("Future",),
    "dokrun.given": ("File",),
    "dokrun.image.spec": ("Image",),
    "dokrun.map": ("Map",),
    "dokrun.port": ("Http",),
    "dokrun.retry": ("Retry",),
    "dokrun.sessions": ("Session", "Tunnel", "attach", "session"),
    "dokrun.shim.protocol": ("CallInfo", "artifact_dir", "checkpoint_dir", "current"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*errors.__all__, *_HOME_OF, "__version__"]  # noqa: PLE0604 - all of them are texts


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def load_ipython_extension(shell: Any) -> None:
    """Make the magics known, where a notebook says `%load_ext dokrun`."""
    from dokrun.notebook import register

    register(shell)


def __dir__() -> list[str]:
    return __all__
