"""Start the shim: `python shim.pyz PAYLOAD ADDRESSES [CALLS]` is the supervisor, which starts its workers itself.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import sys
from typing import List, Optional

from .process import Spawned, Worker


def main(arguments: List[str], spawned: Optional[Spawned] = None) -> int:
    """Run the supervisor, with a worker that was started already, or one of its own. Returns the exit status."""
    first = Worker(spawned)  # it loads its part of the shim while this process loads the rest, and fetches the payload
    from . import supervisor

    return supervisor.main(first, *arguments[:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
