"""DOK's REST API by hand: make a task, follow its log, fetch what it left, and clear up. No function is sent.

    python examples/raw_api.py

It does what one does with curl, or with a client for another language, and is where to begin in moving such a script to
Python. The task counts the words in «The Zen of Python», which every Python ships, so any image with Python will do.
With DOKRUN_ACCESS_TOKEN and DOKRUN_ACCESS_TOKEN_SECRET in the environment it runs on DOK and costs less than a yen;
without them on an emulator within this process. (`pip install 'dokrun[local]'` brings what it needs.)
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dokrun.api import Client
from dokrun.api.models import ContainerRequest, CreateTaskRequest
from dokrun.config import DEFAULT_API_URL
from dokrun.errors import Forbidden

COUNT = """
import codecs, collections, contextlib, io, json, os, re
with contextlib.redirect_stdout(io.StringIO()):
    import this
text = codecs.decode(this.s, "rot13")
words = collections.Counter(re.findall("[a-z']+", text.lower()))
print("read", sum(words.values()), "words", flush=True)
with open(os.path.join(os.environ["SAKURA_ARTIFACT_DIR"], "words.json"), "w") as file:
    json.dump(words, file)
"""
WAIT = "import time; time.sleep(600)"


def definition(name: str, program: str) -> CreateTaskRequest:
    """Say what a task is: one container on one plan, with a time limit."""
    container = ContainerRequest(
        image="python:3.11-slim", entrypoint=["python3"], command=["-c", program], plan="v100-32gb"
    )
    return CreateTaskRequest(name=name, containers=[container], tags=["example"], execution_time_limit_sec=600)


def count_words(client: Client) -> None:
    """Run a task to its end, and read the file that it left."""
    task = client.tasks.create(definition("count-words", COUNT))
    print(f"task {task.id}: {task.status}")
    for piece in client.tasks.logs(task.id):  # until it has ended
        print(piece, end="")
    task = client.tasks.get(task.id)
    seconds = sum(container.execution_seconds or 0 for container in task.containers)
    print(f"task {task.id}: {task.status} after {seconds} s, exit status {task.containers[0].exit_code}")
    if task.artifact is None:
        raise SystemExit("it left nothing")
    with tempfile.TemporaryDirectory() as folder:
        path = client.artifacts.download(task.artifact.id, Path(folder, "artifact.tar.gz"))
        with tarfile.open(path) as archive:
            file = next(archive.extractfile(member) for member in archive if member.name.endswith("words.json"))
            words = json.loads(file.read() if file else "{}")
    print("the commonest:", ", ".join(sorted(words, key=lambda word: (-words[word], word))[:5]))
    client.tasks.delete(task.id)


def change_your_mind(client: Client) -> None:
    """Make a task, see it in the list, and cancel it: it may wait or run."""
    task = client.tasks.create(definition("too-long", WAIT))
    listed = [each.id for each in client.tasks.iterate(tag="example")]
    print(f"{len(listed)} task with the tag, {'this one' if task.id in listed else 'another'}")
    with contextlib.suppress(Forbidden):  # it has ended by itself
        client.tasks.cancel(task.id)
    while not task.ended:
        time.sleep(1)
        task = client.tasks.get(task.id)
    print(f"task {task.id}: {task.status}")
    client.tasks.delete(task.id)


@contextlib.contextmanager
def connected() -> Iterator[Client]:
    """Tell a client of DOK, or of an emulator where there is no API key."""
    token, secret = os.environ.get("DOKRUN_ACCESS_TOKEN"), os.environ.get("DOKRUN_ACCESS_TOKEN_SECRET")
    if token and secret:
        with Client(token, secret, base_url=os.environ.get("DOKRUN_API_URL", DEFAULT_API_URL)) as client:
            yield client
        return
    from dokrun.emulator import Emulator

    with Emulator() as service, Client(service.token, service.secret, base_url=service.api_url) as client:
        yield client


def main() -> None:
    """Look around, run one task and stop another."""
    with connected() as client:
        account = client.auth.get().account
        print("terms agreed to:", "yes" if account is not None and account.tos_agreed_at else "no")
        print("plans:", ", ".join(plan.id for plan in client.plans.iterate()))
        count_words(client)
        change_your_mind(client)


if __name__ == "__main__":
    main()
