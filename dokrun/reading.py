"""What a notebook's cell is made of: its code, the names that it reads, those that it assigns. Nothing of it is run."""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import operator
import types
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

# What of Python's own tells that a name is read, or that it is assigned or deleted, in a module's code.
_READS = frozenset(
    {"LOAD_NAME", "LOAD_GLOBAL", "DELETE_NAME", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_CLASSDEREF"}
)
_DELETES_HERE, _DELETES_ANYWHERE = frozenset({"DELETE_NAME", "DELETE_GLOBAL"}), frozenset({"DELETE_GLOBAL"})
_ASSIGNS_ANYWHERE = frozenset({"STORE_GLOBAL"}) | _DELETES_ANYWHERE
_ASSIGNS_HERE = frozenset({"STORE_NAME"}) | _ASSIGNS_ANYWHERE | _DELETES_HERE
_FUTURES: int = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_NOT_RUN_HERE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class Read:
    """A cell that was read.

    Attributes:
        body: its code, without its last line where that is an expression.
        last: that one's; None where there is none.
        reads: the names that it may find as they were before it, in itself and in the functions that it defines.
        assigns: the names that it may assign or delete; where it changes a part of something, that thing's.
        deletes: those of them that it may delete.
        imports: the modules that it imports.
    """

    body: types.CodeType
    last: types.CodeType | None
    reads: frozenset[str]
    assigns: frozenset[str]
    deletes: frozenset[str]
    imports: frozenset[str]


def read(source: str, filename: str, line: int = 1, flags: int = 0) -> Read:
    """Read a cell, whose first line has this number.

    Args:
        source: its text.
        filename: what it is called in tracebacks.
        line: the number of its first line.
        flags: the compiler's, as of what the notebook has imported from `__future__`.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse("\n" * (line - 1) + source, filename)
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    whole = _compiled(tree.body, filename, flags)
    # What a cell imports from `__future__` holds for each of its lines.
    flags |= whole.co_flags & _FUTURES
    statements = list(tree.body)
    last = statements.pop() if statements and isinstance(statements[-1], ast.Expr) else None
    value = None
    if isinstance(last, ast.Expr):
        value = compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True)
    return Read(
        body=_compiled(statements, filename, flags),
        last=value,
        reads=frozenset(_read_by(tree.body, filename, flags)),
        assigns=frozenset(_own(whole, _ASSIGNS_HERE, _ASSIGNS_ANYWHERE)) | frozenset(_changed_in(tree.body)),
        deletes=frozenset(_own(whole, _DELETES_HERE, _DELETES_ANYWHERE)),
        imports=frozenset(_imported_by(tree)),
    )


def _compiled(statements: list[ast.stmt], filename: str, flags: int) -> types.CodeType:
    code = compile(ast.Module(statements, []), filename, "exec", flags, dont_inherit=True)
    assert isinstance(code, types.CodeType)  # noqa: S101 - that is what the flags ask for
    return code


def _read_by(statements: list[ast.stmt], filename: str, flags: int) -> Iterator[str]:
    """Yield what is read, but for what a line before it has assigned in any case."""
    assigned: set[str] = set()
    for statement in statements:
        code = _compiled([statement], filename, flags)
        yield from (name for name in _names(code, _READS, _READS) if name not in assigned and not _is_special(name))
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, *_NOT_RUN_HERE)):
            assigned |= set(_names(code, frozenset({"STORE_NAME"}), frozenset()))


def _own(code: types.CodeType, here: AbstractSet[str], within: AbstractSet[str]) -> Iterator[str]:
    return (name for name in _names(code, here, within) if not _is_special(name))


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _names(code: types.CodeType, here: AbstractSet[str], within: AbstractSet[str]) -> Iterator[str]:
    """Yield the names that some instructions are about: of a module's code, and of what is defined in it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in here:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant, within, within)


def _changed_in(statements: Collection[ast.AST]) -> Iterator[str]:
    """Yield the names of what gets another item or attribute: `frame["new"] = …`, `model.rate *= 2`."""
    for node in statements:
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            inner: ast.AST = node
            while isinstance(inner, (ast.Subscript, ast.Attribute)):
                inner = inner.value
            if isinstance(inner, ast.Name):
                yield inner.id
        if not isinstance(node, _NOT_RUN_HERE):
            yield from _changed_in(list(ast.iter_child_nodes(node)))


def _imported_by(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
