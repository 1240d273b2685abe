"""Start the shim: `python shim.pyz PAYLOAD ADDRESSES` is the supervisor; it starts `python shim.pyz worker …` itself.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import sys
from typing import List


def main(arguments: List[str]) -> int:
    """Run the supervisor, or the worker when the first argument says so. Returns the exit status."""
    if arguments[:1] == ["worker"]:
        from . import worker

        return worker.main(*map(int, arguments[1:]))
    from .process import Worker

    first = Worker()  # its interpreter starts while this one compiles the rest, and fetches the payload
    from . import supervisor

    return supervisor.main(first, *arguments[:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
