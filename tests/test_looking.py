"""`dokrun explain` sends nothing, whatever the script does when it is imported."""

from __future__ import annotations

import textwrap

from places import Place, place

__all__ = ["place"]

SCRIPT = """
    import dokrun as dok

    @dok.remote(plan="v100-32gb")
    def add(a, b):
        return a + b

    {}print(add(1, 2).result())
"""


def test_a_script_that_calls_when_it_is_imported_is_told_what_to_write_and_sends_nothing(place: Place) -> None:
    script = place.folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format("")))
    done = place.dokrun("explain", f"{script}:add")
    assert done.returncode == 2
    assert "add() is called when the file is imported" in done.stderr
    assert """put the call below `if __name__ == "__main__":`""" in done.stderr
    assert (place.posts(), place.tasks()) == (0, [])
    script.write_text(textwrap.dedent(SCRIPT.format('if __name__ == "__main__": ')))
    done = place.dokrun("explain", f"{script}:add")
    assert done.returncode == 0, done.stderr
    assert "add goes by value" in done.stdout
