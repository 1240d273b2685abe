"""Take out of Python source what is for readers alone, with every line left where it is: tracebacks stay true.

A docstring becomes an empty one, which may stand wherever it stood, of a line with a comment the code stays, and four
spaces of indentation become one.
The parser says where they are; the tokenizer, which differs from one Python to the next, is not asked.
"""

from __future__ import annotations

import ast
import importlib.util

from dokrun.payload.parsing import parse

# From a line and column to another.
_Range = tuple[tuple[int, int], tuple[int, int]]
_INDENTATION = 4
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def strip(source: bytes) -> bytes:
    """Strip a file, in whatever encoding it declares. Returns UTF-8, which needs no declaration."""
    text = importlib.util.decode_source(source)
    lines = text.split("\n")
    docstrings: list[ast.Constant] = []
    strings: list[_Range] = []
    for node in ast.walk(parse(text)):
        if isinstance(node, (ast.Constant, ast.JoinedStr)):
            strings.append(((node.lineno, node.col_offset), (_last_line(node), node.end_col_offset or 0)))
        elif isinstance(node, _DOCUMENTED) and (docstring := _docstring(node)):
            docstrings.append(docstring)
    for index, line in enumerate(lines):
        if "#" in line:
            lines[index] = _uncommented(line, index + 1, strings)
    for docstring in docstrings:
        _empty(lines, docstring)
    # A string's own lines are what they are.
    within = {number for (first, _), (last, _) in strings for number in range(first + 1, last + 1)}
    for index, line in enumerate(lines):
        code = line.lstrip(" ")
        if index + 1 not in within:
            lines[index] = " " * ((len(line) - len(code)) // _INDENTATION) + code
    return "\n".join(lines).encode()


def _uncommented(line: str, number: int, strings: list[_Range]) -> str:
    """Tell a line without its comment, if it has one."""
    # The parser counts columns in bytes of UTF-8.
    data = line.encode()
    at = data.find(b"#")
    while at >= 0:
        if not any(start <= (number, at) < end for start, end in strings):
            return data[:at].rstrip().decode()
        at = data.find(b"#", at + 1)
    return line


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Constant | None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str()) as found), *_]:
            return found
    return None


def _empty(lines: list[str], docstring: ast.Constant) -> None:
    first, last = docstring.lineno - 1, _last_line(docstring) - 1
    # The parser counts columns in bytes of UTF-8.
    before = lines[first].encode()[: docstring.col_offset].decode()
    after = lines[last].encode()[docstring.end_col_offset :].decode()
    lines[first : last + 1] = [f'{before}""{after}', *[""] * (last - first)]


def _last_line(node: ast.expr) -> int:
    return node.end_lineno or node.lineno
