"""CPython's own tests of executors; see `test_cpython_executor.py`."""
