"""DOK on this machine: the same API, the same states and limits, no account, no GPU and no charge.

    from dokrun.emulator import Emulator

    with Emulator() as dok:
        print(dok.api_url, dok.token, dok.secret)

It knows nothing of dokrun's own jobs: whoever writes against DOK, in any language, can test against it.
"""

from dokrun.emulator.faults import Fault
from dokrun.emulator.server import Emulator
from dokrun.emulator.state import Behaviour

__all__ = ["Behaviour", "Emulator", "Fault"]
