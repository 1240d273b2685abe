"""Notebooks that a real kernel runs: their cells, what is shown below them, and every change of it."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

SECONDS = 90


class Notebook(NotebookClient):
    """Runs cells one after the other, and keeps each message that a cell's output is made of."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._manager = manager = AsyncKernelManager()
        # This very Python, whatever kernels are installed on the machine.
        assert manager.kernel_spec is not None
        manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._environ = {**environ, "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder)}
        self.messages: list[dict[str, Any]] = []
        super().__init__(_made("notebook"), km=manager, timeout=SECONDS, allow_errors=True)
        self.resources = {"metadata": {"path": str(folder)}}

    @contextmanager
    def running(self) -> Iterator[Notebook]:
        self._loop = loop = asyncio.new_event_loop()
        kernel = self.async_setup_kernel(env=self._environ, cleanup_kc=True)
        loop.run_until_complete(kernel.__aenter__())
        try:
            yield self
        finally:
            loop.run_until_complete(kernel.__aexit__(None, None, None))
            loop.close()

    def run(self, source: str) -> list[dict[str, Any]]:
        """Run a cell. Tells its outputs."""
        self.nb.cells.append(_made("code_cell", textwrap.dedent(source).strip()))
        number = len(self.nb.cells) - 1
        cell = self._loop.run_until_complete(self.async_execute_cell(self.nb.cells[number], number))
        return list(cell.outputs)

    def interrupt(self) -> None:
        """Interrupt the cell that runs, from another thread."""

        async def interrupted() -> None:
            await self._manager.interrupt_kernel()

        asyncio.run_coroutine_threadsafe(interrupted(), self._loop).result(SECONDS)

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self.messages.append(msg)
        return super().process_message(msg, cell, cell_index)


def _made(what: str, *given: str) -> Any:
    return getattr(nbformat.v4, f"new_{what}")(*given)  # which has no types


def environment(given: dict[str, str]) -> dict[str, str]:
    """Tell the environment of a kernel: an account's, and what Python itself needs."""
    return {"PYTHONUNBUFFERED": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", **given}


def sources(path: Path) -> list[str]:
    """Tell the cells of a notebook that are code."""
    read = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    return [cell.source for cell in read.cells if cell.cell_type == "code"]


def text_of(outputs: list[dict[str, Any]], kind: str = "text/plain") -> str:
    """Tell all that is shown below a cell, as one text."""
    told = []
    for output in outputs:
        if output["output_type"] == "stream":
            told.append(output["text"])
        elif output["output_type"] == "error":
            told.append("\n".join(output["traceback"]))
        else:
            told.append(output["data"].get(kind, ""))
    return "\n".join(told)


def panels(outputs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Tell the panels below a cell: what they show, by its kind."""
    return [dict(output["data"]) for output in outputs if output["output_type"] == "display_data"]


__all__ = ["SECONDS", "Notebook", "environment", "panels", "sources", "text_of"]
