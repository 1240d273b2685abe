"""Nothing stays behind even when the emulator's own process is killed: a small helper process sees to it.

A task's processes are a session, whatever process groups they form. On its standard input the helper is told which
sessions run: `+123` when one has started, `-123` when it is gone, `.` when the emulator ends well. The end of the input
comes even with a kill -9 of the writer; if no `.` came before it, the helper kills the sessions that are left and
removes the folder. Where tasks are containers it is told their engine and label instead, and removes those that are
left. Stdlib only: it runs as `python reaper.py FOLDER [ENGINE LABEL]`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# What an interpreter and the docker command may not find their parts without.
_NEEDED = (
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
)


class Reaper:
    """The emulator's side: starts the helper and tells it what runs."""

    def __init__(self, folder: Path, *engine_and_label: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", "-S", __file__, str(folder), *engine_and_label],
            # Whole before it starts: what another thread does to the environment meanwhile would break the exec («Bad
            # address»). And the user's secrets are no business of the helper's.
            env={name: value for name in _NEEDED if (value := os.environ.get(name))},
            stdin=subprocess.PIPE,
            # A Ctrl-C in the terminal must not reach it: it is needed just then.
            start_new_session=True,
        )

    def started(self, session: int) -> None:
        """Note a session that runs."""
        self._tell(f"+{session}")

    def ended(self, session: int) -> None:
        """Note that a session is gone, before its number can be another's."""
        self._tell(f"-{session}")

    def close(self) -> None:
        """End the helper; there is nothing left for it to do."""
        self._process.communicate(b".\n")

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # somebody has killed the helper; tasks can do without it
            pass


def kill_session(session: int) -> None:
    """Kill every process of a session, and those that they start meanwhile."""
    while True:
        members = [pid for pid in _processes() if _is_in(pid, session)]
        if not members:
            return
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _processes() -> list[int]:
    if Path("/proc/self").exists():
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names are all we need
    listed = subprocess.run(["/bin/ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if not line.split()[1].startswith("Z")]


def _is_in(pid: int, session: int) -> bool:
    """Tell whether a process belongs to a session and can still be killed, which a zombie cannot."""
    try:
        if os.getsid(pid) != session:
            return False
        # The state is the letter behind the command's name, which is in parentheses and may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except PermissionError:
        return False


def remove_containers(engine: str, label: str) -> None:
    """Remove the containers that have a label, by a `unix://` socket or the docker command."""
    for _ in range(3):
        # One that was just being made when the emulator was killed comes late.
        if engine.startswith("unix://"):
            _remove_by_socket(engine.removeprefix("unix://"), label)
        elif docker := shutil.which("docker"):
            listed = subprocess.run(  # noqa: S603 - what the user's own engine is asked with
                [docker, "ps", "-aq", "--filter", f"label={label}"], capture_output=True, text=True, check=False
            ).stdout
            subprocess.run([docker, "rm", "-fv", *listed.split()], capture_output=True, check=False)  # noqa: S603
        time.sleep(0.5)


def _remove_by_socket(path: str, label: str) -> None:
    # Only where there are containers: the helper is to start fast.
    from http.client import HTTPConnection
    from urllib.parse import quote

    def ask(method: str, target: str) -> bytes:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(path)
        connection.request(method, target)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    wanted = quote(json.dumps({"label": [label]}))
    for container in json.loads(ask("GET", f"/containers/json?all=1&filters={wanted}")):
        ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")


def main(folder: str, *engine_and_label: str) -> None:
    """Be the helper: follow standard input to its end, then clean up."""
    sessions: set[int] = set()
    for line in sys.stdin:
        if line.startswith("."):
            return
        if line.startswith("+"):
            sessions.add(int(line[1:]))
        else:
            sessions.discard(int(line[1:]))
    try:
        for session in sessions:
            kill_session(session)
        if engine_and_label:
            remove_containers(*engine_and_label)
    except OSError:
        pass  # the engine has gone, with all of its containers
    finally:
        # Even where what the engine answers makes no sense.
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
