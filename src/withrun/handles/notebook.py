"""Which execution of which notebook cell the caller runs in."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

__all__ = ["CellExecution", "current_cell"]


class CellExecution(NamedTuple):
    """One execution of a cell; `cell` is the ID that the front end sent, else the cell's text."""

    cell: str
    execution: int

    def ran_before_as(self, other: CellExecution | None) -> bool:
        """Whether `other` is an earlier execution of the same cell."""
        return other is not None and other.cell == self.cell and other.execution != self.execution


def current_cell() -> CellExecution | None:
    """The execution that the caller runs in, or None outside a kernel. Never imports IPython."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    header = getattr(shell, "parent_header", None) or {}
    cell_id = (header.get("metadata") or {}).get("cellId")
    inputs = shell.user_ns.get("In") or [""]
    return CellExecution(cell_id or inputs[-1], shell.execution_count)
