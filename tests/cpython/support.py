# From `create_future` on: Lib/test/test_concurrent_futures/util.py of CPython 3.13.0, a part of it.
# Copyright (c) 2001-2024 Python Software Foundation; All Rights Reserved. See LICENSE in this folder.
"""What the tests need of CPython's own `test.support`, which many Pythons are installed without."""

import gc
from concurrent.futures._base import (
    PENDING, RUNNING, CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, Future)

SHORT_TIMEOUT = 30.0
Py_GIL_DISABLED = False


def gc_collect():
    gc.collect()


def cpython_only(test):
    return test


def requires_resource(_resource):
    return cpython_only


def create_future(state=PENDING, exception=None, result=None):
    f = Future()
    f._state = state
    f._exception = exception
    f._result = result
    return f


PENDING_FUTURE = create_future(state=PENDING)
RUNNING_FUTURE = create_future(state=RUNNING)
CANCELLED_FUTURE = create_future(state=CANCELLED)
CANCELLED_AND_NOTIFIED_FUTURE = create_future(state=CANCELLED_AND_NOTIFIED)
EXCEPTION_FUTURE = create_future(state=FINISHED, exception=OSError())
SUCCESSFUL_FUTURE = create_future(state=FINISHED, result=42)
