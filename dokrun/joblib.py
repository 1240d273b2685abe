"""joblib's calls on DOK, and with them scikit-learn's `n_jobs`: importing this module makes the backend known.

    import joblib
    import dokrun.joblib

    with joblib.parallel_config(backend="dokrun", plan="h100-80gb"):
        search.fit(X, y)

joblib knows the backends of others only when they have registered themselves, so the import is needed. The container's
image must have joblib, and whatever the functions need, scikit-learn for one.

All calls of a `Parallel` go into one task, as far as one holds them, each as a call of its own: how long they take says
nothing about how they should share tasks, and a worker takes several short ones at a time anyway. So
`batch_size="auto"` is 1, and `pre_dispatch` is always "all". `n_jobs` is how many run at the same time in the
container; -1, which is meant if nothing is said, is one on each of its processors, each with one thread for its
mathematics. In a session, where no plan is given, they run in its workers, whatever `n_jobs` says. `n_jobs=1` is
joblib's word for no backend at all. What the functions parallelize themselves runs in threads of their container. After
an exception the calls that are left are cancelled, and their task with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.parallel import ParallelBackendBase, register_parallel_backend

from dokrun.executor import Executor
from dokrun.function import SESSION, RemoteFunction
from dokrun.future import Future
from dokrun.options import GivenOptions, Options

# Into how many pieces libraries divide their work for all processors, of which nobody here knows how many there are.
ALL_PROCESSORS = 16


class Backend(ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs joblib's batches as calls of a `dok.Executor`.

    Args:
        nesting_level: joblib's own.
        inner_max_num_threads: how many threads the mathematics of each call may have.
        **options: those of `dok.remote`: plan, image, …

    Raises:
        OptionError: an option is not known or wrong.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level, inner_max_num_threads)
        Options().updated(options)
        self._options = options
        self._executor: Executor | None = None
        # In the order of the calls.
        self._unfinished: dict[Future[Any], None] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tell how many calls run at the same time, as far as anybody knows."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return ALL_PROCESSORS if n_jobs is None or n_jobs < 0 else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **given: Any) -> int:
        """Get ready for the calls of a `Parallel`, whose own options go before the backend's."""
        effective = self.effective_n_jobs(n_jobs)
        self.parallel = parallel
        # What is sent later would be a task of its own.
        parallel.pre_dispatch = "all"
        own = {name: value for name, value in given.items() if name in GivenOptions.__annotations__}
        options = {**self._options, **own}
        threads = self.inner_max_num_threads or (1 if n_jobs < 0 else None)
        if threads is not None:
            options["env"] = {**dict.fromkeys(self.MAX_NUM_THREADS_VARS, str(threads)), **(options.get("env") or {})}
        in_session = options.get("session") or (options.get("plan") is None and SESSION.get())
        self._executor = Executor(None if in_session else "cpus" if n_jobs < 0 else n_jobs, **options)
        return effective

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Send a batch of calls, which joblib has packed."""
        if self._executor is None:
            raise RuntimeError("joblib has not configured this backend")
        future: Future[Any] = self._executor.submit(_RUN, func)
        self._unfinished[future] = None
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Tell what a batch has returned, or raise what it has raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - joblib's own
        """Cancel what has no result yet. The executor takes further calls until it is terminated."""
        for future in reversed(list(self._unfinished)):
            future.cancel()

    def terminate(self) -> None:
        """Take no more calls."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _forget(self, done: Any) -> None:
        self._unfinished.pop(done, None)


def _by_value() -> Callable[[Callable[[], Any]], Any]:
    def joblib(batch: Callable[[], Any]) -> Any:
        return batch()

    return joblib


# The container has no such module as this.
_RUN = RemoteFunction(_by_value(), Options())

register_parallel_backend("dokrun", Backend)
