"""A client for the REST API of DOK, Sakura internet's container GPU service; usable alone.

    from dokrun.api import Client

    with Client(access_token="…", access_token_secret="…") as client:
        for task in client.tasks.iterate(status="running"):
            print(task.id, task.name)

The words are the service's own. Its reference: https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html
"""

import sys

if "httpx" not in sys.modules:
    # Half of the time that httpx takes to load is its own command line's, with click and rich, where they are there.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    import httpx  # noqa: F401

    del sys.modules["httpx._main"]

from dokrun import log
from dokrun.api.client import Client

__all__ = ["Client"]

# Here, where the first warnings may come from, so that `import dokrun` needs no logging.
log.show_warnings()
