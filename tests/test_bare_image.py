"""An image that has Python and nothing else: what the user's modules say of dokrun must work there all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import point_at

from dokrun.emulator import Behaviour, Emulator
from dokrun.emulator.objects import ObjectStore


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """DOK with an image whose Python has no packages at all."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    with Emulator(behaviour=Behaviour(python=str(folder / "bin" / "python"))) as emulator:
        yield emulator


MODULE = """
    from __future__ import annotations
    import dokrun as dok

    @dok.remote(plan="v100-32gb", timeout="10m", env={"A": "1"})
    def helper(number: int) -> int:
        return number + 1

    @dok.remote(plan="v100-32gb")
    def outer(number: int) -> int:
        return helper.local(number) * 10

    class Model:
        @dok.remote(plan="v100-32gb")
        def fit(self, steps: int) -> int:
            return steps * 2

    def annotated(future: dok.Future[int] | None = None) -> None: ...
"""

SCRIPT = """
    import importlib.util
    import dokrun as dok
    from module import Model, helper, outer

    @dok.remote(plan="v100-32gb")
    def where():
        return dok.current().call_id

    @dok.remote(plan="v100-32gb")
    def passed(function, number):
        return function.local(number)

    @dok.remote(plan="v100-32gb")
    def nested():
        told = set()
        for call in (lambda: helper(1), lambda: helper.map([1]), lambda: helper.quote(1), lambda: helper.rehearse(1)):
            try:
                call()
            except dok.OptionError as error:
                told.add(str(error))
        return "; ".join(told)

    @dok.remote(plan="v100-32gb")
    def installed():
        return importlib.util.find_spec("httpx") is not None, dok.__file__

    futures = [outer(1), Model().fit(4), passed(helper, 6), nested()]
    print([future.result(60) for future in futures])
    future = where()
    assert future.result(60) == future.call_id
    has_httpx, path = installed().result(60)
    assert not has_httpx
    assert "shim.pyz" in path, path
"""


def test_modules_that_use_dokrun_work_where_it_is_not_installed(
    bare: Emulator, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, bare, store, tmp_path)
    (tmp_path / "module.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "[20, 8, 7, 'helper() was called inside a DOK task, which has no credentials; use .local()']\n"
    )
