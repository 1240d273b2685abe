"""Which of the user's own files go along, and that the container can import them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dokrun.payload import source


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, first in line for imports, with modules that refer to each other."""
    files = {
        "train.py": "import numpy\nimport helpers.maths\nfrom models import net\ndef run(): return 1\n",
        "helpers/__init__.py": "",
        "helpers/maths.py": "from . import constants\nfrom .constants import PI\nimport train\n",
        "helpers/constants.py": "PI = 3\n",
        "helpers/unused.py": "",
        "models/net.py": "def build():\n    import late\n",  # a namespace package: no __init__
        "late.py": "import no_such_thing\n",
        "broken.py": "def (",
        "unrelated.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def names(*modules: str) -> list[str]:
    return [file.name for file in source.collect(modules)]


@pytest.mark.usefixtures("project")
def test_what_a_module_imports_goes_along_however_it_is_imported() -> None:
    assert names("train") == [
        "helpers/__init__.py",
        "helpers/constants.py",
        "helpers/maths.py",
        "late.py",
        "models/net.py",
        "train.py",
    ]


@pytest.mark.usefixtures("project")
def test_nothing_is_run_to_find_them() -> None:
    names("train", "broken")
    assert "helpers" not in sys.modules
    assert "late" not in sys.modules


@pytest.mark.usefixtures("project")
def test_a_file_that_cannot_be_parsed_goes_along_as_it_is() -> None:
    assert names("broken") == ["broken.py"]


@pytest.mark.parametrize("module", ["json", "numpy", "dokrun.function", "sys", "no_such_module", ""])
def test_the_standard_library_installed_packages_and_dokrun_stay_out(module: str) -> None:
    assert names(module) == []


SCRIPT = """
    import dokrun as dok
    from shapes import Square, area
    import package.deep.module as deep

    class Local:
        def __init__(self, value): self.value = value

    @dok.remote(plan="v100-32gb")
    def work(square):
        import lazily
        return Local(area(square) + deep.ONE + lazily.TWO)

    if __name__ == "__main__":
        result = work(Square(3)).result(timeout=60)
        assert type(result) is Local, type(result)
        print(result.value)
"""


def test_a_script_with_modules_beside_it_runs_from_any_folder(tmp_path: Path) -> None:
    for name, text in {
        "app/main.py": SCRIPT,
        "app/shapes.py": """
            import dataclasses
            import dokrun as dok
            @dataclasses.dataclass
            class Square:
                side: int
            def area(square): return square.side ** 2
        """,
        "app/package/__init__.py": "from .deep import module",
        "app/package/deep/__init__.py": "",
        "app/package/deep/module.py": "ONE = 1",
        "app/lazily.py": "TWO = 2",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "DOKRUN_PROFILE": "local", "DOKRUN_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "app" / "main.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("12", 0), done.stderr
