"""Which of the user's own files go along, and that the container can import them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from dokrun.errors import OptionError
from dokrun.payload import source
from dokrun.payload.source import Origin

FILES = {
    "train.py": "import numpy\nimport helpers.maths\nfrom models import net\ndef run(): return 1\n",
    "helpers/__init__.py": "",
    "helpers/maths.py": "from . import constants\nfrom .constants import PI\nimport train\n",
    "helpers/constants.py": "PI = 3\n",
    "helpers/reached_by_nothing.py": "import unrelated\n",
    "helpers/data/table.csv": "1,2",
    "models/net.py": "def build():\n    import late\n",  # a namespace package: no __init__
    "models/weights.json": "{}",
    "late.py": "import no_such_thing\n",
    "broken.py": "def (",
    "unrelated.py": "import other_unrelated",
    "other_unrelated.py": "",
    "table.csv": "3,4",
}


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, first in line for imports, with modules that refer to each other."""
    write(tmp_path, FILES)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def names(*modules: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
    found = source.collect(modules, [Origin(modules[0])], include=include, exclude=exclude)
    return [file.name for file in found.files]


HELPERS = [
    "helpers/__init__.py",
    "helpers/constants.py",
    "helpers/data/table.csv",
    "helpers/maths.py",
    "helpers/reached_by_nothing.py",
]


@pytest.mark.usefixtures("project")
def test_what_a_module_imports_goes_along_and_packages_go_whole() -> None:
    assert names("train") == [*HELPERS, "late.py", "models/net.py", "models/weights.json", "train.py"]


@pytest.mark.usefixtures("project")
def test_a_lone_module_brings_nothing_of_what_lies_beside_it() -> None:
    assert names("late") == ["late.py"]


def test_a_package_that_holds_the_home_folder_brings_only_what_is_imported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project / "helpers" / "me"))
    assert names("helpers.maths") == [
        *(name for name in HELPERS if name.endswith(("__init__.py", "constants.py", "maths.py"))),
        "late.py",
        "models/net.py",
        "models/weights.json",
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


@pytest.mark.usefixtures("project")
def test_an_installed_package_that_is_imported_is_told_apart() -> None:
    left_out = source.collect(["train"], [Origin("train")]).left_out
    assert [(each.name, each.reason) for each in left_out] == [
        ("numpy", "an installed package, which the image must have")
    ]


def test_packages_of_another_environment_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lib" / "site-packages"
    write(folder, {"theirs/__init__.py": ""})
    monkeypatch.syspath_prepend(folder)
    assert names("theirs") == []


def test_what_no_program_needs_stays_out_of_a_package(project: Path) -> None:
    never = {".git/config": "", "__pycache__/a.pyc": "", ".venv/lib/a.py": "", "old.pyc": "", "env/pyvenv.cfg": ""}
    write(project / "helpers", never)
    assert [name for name in names("helpers.constants") if name.startswith("helpers/")] == HELPERS


def test_gitignore_is_honoured_as_git_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository" / "src"
    write(
        root,
        {
            "../.gitignore": "*.bin\n!\n!keep.bin\n/src/package/only_here.txt\nlogs/\n",
            "package/__init__.py": "",
            "package/a.bin": "",
            "package/keep.bin": "",
            "package/only_here.txt": "",
            "package/deep/only_here.txt": "",
            "package/deep/.gitignore": "!b.bin\nkeep.bin\n",
            "package/deep/b.bin": "",
            "package/deep/keep.bin": "",
            "package/logs/keep.bin": "",
            "package/logs/.gitignore": "!*",
        },
    )
    subprocess.run(["git", "init", "-q", root.parent], check=True)
    monkeypatch.syspath_prepend(root)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
    )
    assert names("package") == sorted(listed.stdout.split())
    assert "package/deep/b.bin" in names("package")
    left_out = source.collect(["package"], [Origin("package")]).left_out
    assert source.LeftOut("package/logs", ".gitignore") in left_out


def test_what_is_imported_by_name_goes_along_though_git_ignores_it(project: Path) -> None:
    write(project, {".gitignore": "*\n"})
    assert names("train") == [
        *(name for name in HELPERS if name.endswith(("__init__.py", "constants.py", "maths.py"))),
        "late.py",
        "models/net.py",
        "train.py",
    ]


def test_include_adds_files_folders_and_patterns_and_wins_over_gitignore(project: Path) -> None:
    write(project, {".gitignore": "*.csv\n", "data/a.csv": "", "data/b/c.txt": "", "data/.git/x": ""})
    assert names("late", include=("table.csv",)) == ["late.py", "table.csv"]
    assert names("late", include=("data",)) == ["data/a.csv", "data/b/c.txt", "late.py"]
    assert names("late", include=("./data/**/*.txt", "*.csv")) == ["data/b/c.txt", "late.py", "table.csv"]


@pytest.mark.usefixtures("project")
def test_what_an_included_module_imports_comes_too() -> None:
    assert names("late", include=("unrelated.py",)) == ["late.py", "other_unrelated.py", "unrelated.py"]


@pytest.mark.usefixtures("project")
def test_exclude_takes_away_even_what_is_imported_or_included() -> None:
    assert names("train", include=("table.csv",), exclude=("*.csv", "helpers/maths.py", "./models/")) == [
        "helpers/__init__.py",
        "helpers/constants.py",
        "helpers/reached_by_nothing.py",
        "train.py",
    ]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("module", "exclude", "file"),
    [
        ("train", "train.py", "train.py"),
        ("helpers.maths", "*.py", "helpers/maths.py"),
        ("models.net", "models/", "models/net.py"),
        ("helpers", "__init__.py", "helpers/__init__.py"),
    ],
)
def test_an_exclude_that_takes_away_what_the_function_is_imported_from_is_refused(
    module: str, exclude: str, file: str
) -> None:
    with pytest.raises(OptionError, match=f"^exclude= takes away {file}, in which run is defined"):
        source.collect([module], [Origin(module, "run", by_name=True)], exclude=[exclude])
    assert file not in [each.name for each in source.collect([module], [Origin(module)], exclude=[exclude]).files]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("include", "hint"),
    [
        ("tables.csv", "did you mean 'table.csv'"),
        ("*.parquet", r"matches no file .* relative to\n"),
        ("../x", "leads out of"),
        ("/etc/hostname", "leads out of"),
        ("helpers/__pycache__", "matches no file"),
    ],
)
def test_an_include_that_matches_nothing_is_refused_with_a_hint(include: str, hint: str) -> None:
    with pytest.raises(OptionError, match=hint):
        names("late", include=(include,))


def test_an_exclude_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(OptionError, match=r"exclude='!' is not a pattern"):
        names("json", exclude=("!",))


def test_a_link_to_a_file_inside_is_that_file_and_other_links_are_not_followed(project: Path) -> None:
    package = project / "helpers"
    (package / "inside.csv").symlink_to(package / "data" / "table.csv")
    (package / "outside.csv").symlink_to(project / "table.csv")
    (package / "folder").symlink_to(package / "data")
    (package / "broken").symlink_to(package / "nothing")
    found = source.collect(["helpers.constants"], [Origin("helpers.constants")])
    assert [file.name for file in found.files] == sorted([*HELPERS, "helpers/inside.csv"])
    assert [each.name for each in found.left_out] == ["helpers/broken", "helpers/folder", "helpers/outside.csv"]


@pytest.mark.parametrize("include", ["link", "link/hostname", "helpers/folder/*.csv"])
def test_include_follows_no_link_to_a_folder(project: Path, include: str) -> None:
    (project / "link").symlink_to("/etc")
    (project / "helpers" / "folder").symlink_to("data")
    with pytest.raises(OptionError, match="matches no file"):
        names("late", include=(include,))


@pytest.mark.parametrize("include", [".git/config", ".venv", "__pycache__/a.txt"])
def test_include_does_not_bring_what_never_goes(project: Path, include: str) -> None:
    write(project, {".git/config": "", ".venv/a.py": "", "__pycache__/a.txt": ""})
    with pytest.raises(OptionError, match="matches no file"):
        names("late", include=(include,))


@pytest.mark.usefixtures("project")
def test_include_is_relative_to_the_folder_that_holds_the_top_level_module() -> None:
    assert names("late", include=("table.csv",)) == ["late.py", "table.csv"]
    assert names("helpers.maths", include=("table.csv",), exclude=("*.py", "models")) == [
        "helpers/data/table.csv",
        "table.csv",
    ]
    assert "table.csv" in names("models.net", include=("table.csv",))


def test_each_file_says_why_it_goes(project: Path) -> None:
    (project / "helpers" / "run.sh").write_text("")
    (project / "helpers" / "run.sh").chmod(0o755)
    found = source.collect(["train"], [Origin("train", "run")], include=["table.csv"])
    files = {file.name: file for file in found.files}
    assert files["train.py"].reason == "module of run"
    assert files["late.py"].reason == "imported by models/net.py"
    assert files["helpers/data/table.csv"].reason == "package imported by train.py"
    assert files["table.csv"].reason == "include='table.csv'"
    assert files["helpers/run.sh"].executable
    assert not files["train.py"].executable


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


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script or a module from a folder, on the local profile."""
    environment = {**os.environ, "DOKRUN_PROFILE": "local", "DOKRUN_STATE_DIR": str(folder / "state")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_script_with_modules_beside_it_runs_from_any_folder(tmp_path: Path) -> None:
    files = {
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
    }
    write(tmp_path, files)
    done = run(tmp_path / "app" / "main.py", folder=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("12", 0), done.stderr


READS = """
    import pathlib, subprocess, sys
    import dokrun as dok
    from package import inner

    @dok.remote(plan="v100-32gb", include=["table.csv"])
    def table():
        return (pathlib.Path(sys.path[0]) / "table.csv").read_text()

    if __name__ == "__main__":
        print(table().result(60), inner.read.options(plan="v100-32gb")().result(60))
"""


def test_data_files_beside_the_code_are_read_in_the_container(tmp_path: Path) -> None:
    write(
        tmp_path / "app",
        {
            "main.py": READS,
            "table.csv": "1,2",
            "package/run.sh": "echo $1 ran",
            "package/large.bin": "x" * (1 << 20),
            "package/inner.py": """
                import pathlib, subprocess
                import dokrun as dok
                folder = pathlib.Path(__file__).parent
                @dok.remote
                def read():
                    said = subprocess.run([folder / "run.sh", "it"], capture_output=True, text=True).stdout
                    return said.strip(), (folder / "large.bin").stat().st_size
            """,
        },
    )
    script = tmp_path / "app" / "package" / "run.sh"
    script.write_text("#!/bin/sh\n" + script.read_text())
    script.chmod(0o755)
    done = run(tmp_path / "app" / "main.py", folder=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("1,2 ('it ran', 1048576)", 0), done.stderr


def test_a_module_run_as_a_program_brings_its_package_and_includes_from_beside_it(tmp_path: Path) -> None:
    program = """
        import importlib, pathlib, sys
        import dokrun as dok

        @dok.remote(plan="v100-32gb", include=["beside.csv"])
        def read():
            names = importlib.import_module("tool.names")
            beside = pathlib.Path(sys.path[0]) / "beside.csv"
            return beside.read_text(), pathlib.Path(names.__file__).with_name("inside.csv").read_text()

        if __name__ == "__main__":
            print(*read().result(60))
    """
    write(
        tmp_path,
        {"tool/go.py": program, "tool/names.py": "", "tool/inside.csv": "in", "beside.csv": "out", "other.py": ""},
    )
    done = run("-m", "tool.go", folder=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("out in", 0), done.stderr


@pytest.mark.parametrize("pattern", [".", "./", "**"])
def test_a_whole_folder_can_be_included(project: Path, pattern: str) -> None:
    (project / "data.csv").write_text("1")
    found = source.collect(["train"], [Origin("train", "run")], include=[pattern])
    assert {"data.csv", "unrelated.py"} <= {file.name for file in found.files}


@pytest.mark.parametrize("way", [["app/main.py"], ["-m", "app.main"]], ids=["script", "package"])
def test_a_main_function_finds_included_files_beside_its_own_as_it_does_here(tmp_path: Path, way: list[str]) -> None:
    included = "data" if way[0] != "-m" else "app/data"
    for name, text in {
        "app/__init__.py": "",
        "app/data/numbers.csv": "1,2",
        "app/main.py": f"""
            from pathlib import Path
            import dokrun as dok

            @dok.remote(plan="v100-32gb", include=["{included}"])
            def read():
                return __file__, (Path(__file__).parent / "data" / "numbers.csv").read_text()

            if __name__ == "__main__":
                where, content = read().result(timeout=60)
                assert where != __file__, where
                print(content)
        """,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    done = run(*way, folder=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("1,2", 0), done.stderr
