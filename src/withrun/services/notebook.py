"""What IPython tells of the caller, where it runs: the notebook and the cell. Never imports IPython."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CellExecution", "current_cell", "is_interactive", "notebook_name"]


class CellExecution(NamedTuple):
    """One execution of a cell.

    Attributes:
        cell: the ID that the front end sent, else the cell's text: a front end that sends none (a console,
            the classic notebook) leaves no other way to tell that a cell is run again, and there two cells of
            equal text count as one.
        execution: its number in the kernel.
    """

    cell: str
    execution: int

    def is_rerun_of(self, other: CellExecution | None) -> bool:
        """Whether `other` is another execution of the same cell."""
        return other is not None and other.cell == self.cell and other.execution != self.execution


def is_interactive() -> bool:
    """Whether a person types at this interpreter, so that an exception does not end the program."""
    return hasattr(sys, "ps1") or _shell() is not None


def current_cell() -> CellExecution | None:
    """The execution that the caller runs in, or None outside a kernel."""
    shell = _kernel_shell()
    if shell is None:
        return None
    header = getattr(shell, "parent_header", None) or {}
    cell_id = (header.get("metadata") or {}).get("cellId")
    inputs = shell.user_ns.get("In") or [""]
    return CellExecution(cell_id or inputs[-1], shell.execution_count)


def notebook_name() -> str | None:
    """File name of the notebook that this kernel serves, as far as the front end told it."""
    shell = _kernel_shell()
    if shell is None:
        return None
    path = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return Path(path).name if path else None


def _kernel_shell() -> Any:
    shell = _shell()
    return shell if hasattr(shell, "kernel") else None


def _shell() -> Any:
    """The running IPython shell; None without one, also where IPython is merely imported."""
    ipython = sys.modules.get("IPython")
    # It may be half imported: by another thread, or by an import that goes on just now.
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
