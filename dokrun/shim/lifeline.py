"""A worker ends with its supervisor, however that ended: the kernel kills it when a pipe that nobody writes to closes.

In a container nothing outlives the first process; elsewhere a supervisor that is killed would leave its worker running
until the function returns. No thread of the worker's could see to it, since the function may never let go of the GIL.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import fcntl
import os
import signal
import sys


def hold(pipe: int) -> None:
    """Have this process's group killed once the other end of the pipe is closed; now, if it is already.

    Only Linux lets a process choose the signal that tells of a pipe's end; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    try:
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        return  # a sandbox's own kernel that knows none of this; the sandbox's end is the worker's too
    try:
        os.read(pipe, 1)
    except BlockingIOError:
        return  # it is open
    os.killpg(0, signal.SIGKILL)
