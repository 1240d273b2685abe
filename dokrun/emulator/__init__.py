"""DOK on this machine: the same API, the same states and limits, no account, no GPU and no charge.

    from dokrun.emulator import Emulator

    with Emulator() as dok:
        print(dok.api_url, dok.token, dok.secret)

It knows nothing of dokrun's own jobs: whoever writes against DOK, in any language, can test against it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dokrun.emulator.faults import Fault as Fault
    from dokrun.emulator.server import Emulator as Emulator
    from dokrun.emulator.state import Behaviour as Behaviour

# Loaded when first used: whoever starts it in another process has no use for them in its own.
_HOME_OF = {
    "Behaviour": "dokrun.emulator.state",
    "Emulator": "dokrun.emulator.server",
    "Fault": "dokrun.emulator.faults",
}

__all__ = ["Behaviour", "Emulator", "Fault"]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value
