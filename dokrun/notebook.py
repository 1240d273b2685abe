"""`%load_ext dokrun`: `%%dok` runs a cell elsewhere and brings back what it assigns. The magics' door to IPython."""

from __future__ import annotations

import ast
import builtins
import importlib
import queue
import re
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from dokrun import cell as cells
from dokrun.cell import VALUE, Brought, Cell
from dokrun.errors import NotSerializable, OptionError
from dokrun.function import RemoteFunction
from dokrun.future import Future
from dokrun.options import Options
from dokrun.payload import imports
from dokrun.reading import Read, read
from dokrun.sessions import attach
from dokrun.tail import Following

# What the notebook knows the future of the last cell by that was run so.
_LAST = "_dok"
_LOOK_S = 0.25
# How long the end of a cell waits for what it has printed last: the log's reader may pause as it looks for the task.
_LAST_PRINTED_S = 20.0
_OPTION = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*")
# Where a cell's own code was, in the traceback that its container has written.
_LINE = re.compile(r'File "(<%%dok cell [0-9a-f]{8}>)", line ([1-9][0-9]{0,6}), in <module>')
_OPENING, _CLOSING = "([{", ")]}"
_USAGE = "write it as `%%dok plan=v100-32gb timeout=10m`, with any option of @dok.remote, and the cell below it"


def register(shell: Any) -> None:
    """Make the magics known to a notebook, or to IPython in a terminal."""
    shell.register_magics(DokMagics)


@magics_class
class DokMagics(Magics):
    """`%%dok` and `%dok`."""

    shell: Any

    @cell_magic("dok")  # type: ignore[arg-type]  # its types say what it is put on less well than it does
    def run(self, line: str, cell: str) -> Any:
        """Run the cell as a DOK task, and bring back the names that it assigns.

            %%dok plan=v100-32gb timeout=10m session=s
            model = train(data)

        What it reads of the notebook's names goes along; what it assigns comes back, also by `import`, `def`, `class`,
        `for`, `del`, and as `frame["new"] = …`. Other changes in place stay there. Options are those of `@dok.remote`:
        a value is Python where it can be read so and its names are known, else it is a text. `_dok` is the cell's
        future, for its receipt, its files, its logs, and to cancel it.
        """
        __tracebackhide__ = True
        future = self._send(line, cell)
        self.shell.user_ns[_LAST] = future
        return self._taken(_printing(future), quiet=cell.rstrip().endswith(";"))

    @line_magic("dok")  # type: ignore[arg-type]  # likewise
    def line(self, line: str) -> Any:
        """Take what a cell has come to that runs already: `%dok attach cell-7f3a`; without a handle, the last one."""
        __tracebackhide__ = True
        word, *handles = line.split() or [""]
        try:
            future = self.shell.user_ns.get(_LAST) if not handles else attach(handles[0])
        except OptionError as error:
            raise UsageError(str(error)) from None
        if word != "attach" or len(handles) > 1 or future is None:
            raise UsageError(f"`%dok attach HANDLE` takes what a cell has come to; to run one, {_USAGE}")
        self.shell.user_ns[_LAST] = future
        brought = _printing(future) if isinstance(future, Future) else None
        if not isinstance(brought, Brought):
            raise UsageError(f"{line[len(word) :].strip()} is no cell's; dok.attach(…) makes what it is of")
        return self._taken(brought, quiet=False)

    def _send(self, line: str, source: str) -> Future[Brought]:
        __tracebackhide__ = True
        try:
            remote = RemoteFunction(_caller(), Options().updated(options_of(line, self.shell.user_ns)))
        except OptionError as error:
            raise UsageError(str(error)) from None
        # The first line is the magic's. The same cell is called the same, so that a call of it is known again.
        text = f"%%dok\n{source}"
        filename = f"<%%dok cell {zlib.crc32(text.encode()):08x}>"
        cells.remember(filename, text)
        try:
            found = read(source, filename, 2, self.shell.compile.flags)
        except SyntaxError as error:
            _refuse_magics(self.shell, source)
            raise error.with_traceback(None) from None
        names = {name: self.shell.user_ns[name] for name in found.reads if self._travels(name)}
        names.update(_modules(found, names))
        anchor = types.FunctionType(_nothing.__code__, self.shell.user_ns, "anchor")
        anchor.__module__ = "__main__"
        sent = Cell(
            anchor,
            found.body,
            found.last,
            names=names,
            assigned=found.assigns,
            deleted=found.deletes,
            filename=filename,
            source=text,
        )
        try:
            return remote(sent)
        except OptionError as error:
            raise UsageError(str(error)) from None
        except NotSerializable as error:
            told = re.sub(
                r"argument cell\.names\['?([^\]']+)'?\]", r"the cell reads \1, which cannot travel: \1", str(error)
            )
            raise NotSerializable(told) from None

    def _travels(self, name: str) -> bool:
        """Tell whether a name is the notebook's, and not IPython's own."""
        return name in self.shell.user_ns and not (name in self.shell.user_ns_hidden and _is_shells(name))

    def _taken(self, brought: Brought, *, quiet: bool) -> Any:
        """Take over what a cell has brought. Tells what its last line has come to."""
        values = dict(brought.names)
        value = values.pop(VALUE, None)
        left = dict(brought.left)
        for name, module in brought.modules.items():
            try:
                values[name] = importlib.import_module(module)
            except ImportError:
                left[name] = f"the module {module} is not installed here"
        self.shell.push(values)
        for name in brought.deleted:
            self.shell.user_ns.pop(name, None)
        for name, why in sorted(left.items()):
            what = f"{name} did not come back" if name != VALUE else "the last line's value did not come back"
            print(f"dokrun: {what}: {why}", file=sys.stderr)
        return None if quiet else value


def options_of(line: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options on a magic's line.

    Raises:
        UsageError: they are not written as options are.
        OptionError: one is given twice.
    """
    told: dict[str, Any] = {}
    for name, text in _pairs(line):
        if name in told:
            raise OptionError(f"%%dok has {name}= twice")
        told[name] = _value(text, names)
    return told


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    at = 0
    while line[at:].strip():
        found = _OPTION.match(line, at)
        if found is None:
            raise UsageError(f"{line[at:].strip()!r} is no option; {_USAGE}")
        at = _end_of_value(line, found.end())
        yield found[1], line[found.end() : at]


def _end_of_value(line: str, at: int) -> int:
    """Tell where a value ends: at a space that is neither in quotes nor in brackets, of which shlex knows nothing."""
    depth, quote = 0, ""
    while at < len(line):
        char = line[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace() and depth == 0:
            break
        else:
            depth += (char in _OPENING) - (char in _CLOSING)
        at += 1
    return at


def _value(text: str, names: Mapping[str, Any]) -> Any:
    """Tell what a value means: Python where it can be read so and its names are known, else the text itself."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return text
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not all(name in names or hasattr(builtins, name) for name in used):
        return text
    return eval(text, dict(names))  # noqa: S307 - it is the user's own line


def _printing(future: Future[Any]) -> Any:
    """Wait for a cell, print what it prints, and tell what it has come to."""
    __tracebackhide__ = True
    printed: queue.SimpleQueue[str] = queue.SimpleQueue()
    following = Following(future.name, future.all_logs, printed.put)
    future.show(log=False, variable=_LAST)
    try:
        while not future.done():
            _print(printed, _LOOK_S)
        until = time.monotonic() + _LAST_PRINTED_S
        while not (following.ended.is_set() or future.cancelled()) and time.monotonic() < until:
            _print(printed, _LOOK_S)
        _print(printed, 0)
    except KeyboardInterrupt:
        if not future.done():
            future.interrupted()
        raise
    finally:
        following.stop()
    error = None if future.cancelled() else future.exception()
    future.show_end()
    if error is not None:
        _raise_there(error)
    return future.result()


def _raise_there(error: BaseException) -> NoReturn:
    """Raise what a cell has failed with as if from its line, which the notebook shows, and no frame of ours."""
    __tracebackhide__ = True
    found = _LINE.search(str(error.__cause__))
    if found is not None:
        code = compile("\n" * (int(found[2]) - 1) + "raise error", found[1], "exec", dont_inherit=True)
        exec(code, {"error": error})  # noqa: S102 - the line above
    raise error


def _print(printed: queue.SimpleQueue[str], wait_s: float) -> None:
    try:
        print(printed.get(timeout=wait_s) if wait_s else printed.get_nowait(), end="", flush=True)
        while True:
            print(printed.get_nowait(), end="", flush=True)
    except queue.Empty:
        pass


def _caller() -> Callable[[Cell], Brought]:
    """Make what is called: the notebook's own to those who look where it was written, and sent by value."""
    made = types.FunctionType((lambda cell: cell.run()).__code__, {"__name__": cells.__name__}, "cell")
    made.__qualname__, made.__module__ = "cell", "__main__"
    return made


def _nothing() -> None:
    """Do nothing: what it is defined in is what counts."""


def _is_shells(name: str) -> bool:
    return name in ("In", "Out", "get_ipython", "exit", "quit", "open")


def _modules(found: Read, names: Mapping[str, Any]) -> dict[str, types.ModuleType]:
    """Tell which modules of the user's own the cell imports, so that their files go along."""
    modules: dict[str, types.ModuleType] = {}
    for name in found.imports:
        top = name.partition(".")[0]
        if imports.top_level(top) is None or top in names:
            continue
        try:
            modules[f"__dokrun_{top}__"] = importlib.import_module(name)
        except (Exception, SystemExit):  # noqa: BLE001, S112 - the cell will raise it, where it is run
            continue
    return modules


def _refuse_magics(shell: Any, source: str) -> None:
    """Say that IPython's own words are not for the container. Raises UsageError."""
    if "get_ipython()" not in shell.transform_cell(source):
        return
    for number, text in enumerate(source.splitlines(), 2):
        if "get_ipython()" in shell.transform_cell(text) and "get_ipython()" not in text:
            raise UsageError(
                f"line {number}, `{text.strip()}`, is IPython's, which is not there in the container: put it into a "
                "cell of its own to run it here; there, subprocess.run(…) runs commands, and image= installs packages"
            )
