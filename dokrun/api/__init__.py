"""A client for the REST API of DOK, Sakura internet's container GPU service; usable alone.

    from dokrun.api import Client

    with Client(access_token="…", access_token_secret="…") as client:
        for task in client.tasks.iterate(status="running"):
            print(task.id, task.name)

The words are the service's own. Its reference: https://manual.sakura.ad.jp/koukaryoku-dok-api/spec.html
"""

from dokrun import log
from dokrun.api.client import Client

__all__ = ["Client"]

# Here, where the first warnings may come from, so that `import dokrun` needs no logging.
log.show_warnings()
