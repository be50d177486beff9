"""A tool of the user's own in rclone's place: found by its dotted path, given plain paths and URLs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from withrun.errors import ArtifactNotFound, InvalidArgument, MissingDependency, TransferError, WithrunError
from withrun.transfer.progress import Bar
from withrun.transfer.urls import name_of, redact

__all__ = ["CustomTool", "load_tool"]

_FUNCTIONS = ("ls", "copyto", "sync")


def load_tool(tool: Any) -> Any:
    """Return the object that has `ls`, `copyto` and `sync`.

    Args:
        tool: that object, or the dotted path of a module, class or object (`package.module.Name`, also
            `package.module:Name`). A class whose functions are not static is instantiated.
    """
    found = _by_path(tool) if isinstance(tool, str) else tool
    missing = [name for name in _FUNCTIONS if not callable(getattr(found, name, None))]
    if missing:
        raise InvalidArgument(
            f"The transfer tool {tool!r} has no {', '.join(missing)}. A tool needs the functions "
            "ls, copyto and sync, with the signatures of rclone_python.rclone."
        )
    if inspect.isclass(found):
        static = (inspect.getattr_static(found, name) for name in _FUNCTIONS)
        if not all(isinstance(function, (staticmethod, classmethod)) for function in static):
            return found()
    return found


def _by_path(path: str) -> Any:
    names = path.replace(":", ".").split(".")
    for count in range(len(names), 0, -1):
        module_name = ".".join(names[:count])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only "there is no such module" leads on to a shorter name; a failing import inside it is told.
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise MissingDependency(
                    f"The transfer tool {path!r} needs {error.name!r}: install it."
                ) from error
            continue
        except ValueError:
            break
        for name in names[count:]:
            if not hasattr(found, name):
                raise InvalidArgument(
                    f"The transfer tool {path!r} was not found: {module_name!r} has no {name!r}."
                )
            found = getattr(found, name)
        return found
    raise InvalidArgument(
        f"The transfer tool {path!r} was not found: no module {names[0]!r} can be imported."
    )


class CustomTool:
    """Calls the user's tool as rclone-python's functions are called, with `extra_args` as `args`."""

    def __init__(self, tool: Any, extra_args: dict[str, list[str]], *, show_progress: bool) -> None:
        self._tool = load_tool(tool)
        self._extra_args = extra_args
        self._show_progress = show_progress

    def entries(self, url: str, *, recursive: bool) -> list[dict[str, Any]]:
        """List, and below each folder again: that needs nothing of the tool but a plain listing."""
        found = self._listed(url)
        if recursive:
            folders = [entry for entry in found if entry.get("IsDir")]
            for folder in folders:
                path = str(folder.get("Path") or folder.get("Name"))
                below = self.entries(f"{url.rstrip('/')}/{path}", recursive=True)
                found += [
                    {**entry, "Path": f"{path}/{entry.get('Path') or entry.get('Name')}"} for entry in below
                ]
        return found

    def is_file(self, url: str) -> bool:
        """Ask the folder above: it says which of the two `url` is."""
        name = name_of(url)
        above = url.rstrip("/")[: -len(name)].rstrip("/")
        itself = [entry for entry in self._listed(above) if entry.get("Name") == name]
        return not (itself and itself[0].get("IsDir"))

    def has_empty_folders(self, url: str) -> bool:
        """A tool that finds nothing is taken to mean that nothing is there."""
        return False

    def check_names(self, url: str, names: Iterable[str]) -> None:
        """Leave the names to the tool."""

    def copyto(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Call the tool's `copyto`."""
        self._call("copyto", source, target, show_progress=self._show_progress)

    def sync(self, source: str, target: str, bar: Bar, sizes: Mapping[str, int]) -> None:
        """Call the tool's `sync`."""
        self._call("sync", source, target, show_progress=self._show_progress)

    def _listed(self, url: str) -> list[dict[str, Any]]:
        found = self._call("ls", url)
        if not isinstance(found, (list, tuple)):
            raise TransferError(
                f"The transfer tool's ls({redact(url)!r}) gave no list but {type(found).__name__}."
            )
        return [dict(entry) for entry in found]

    def _call(self, name: str, *paths: str, **options: Any) -> Any:
        function: Callable[..., Any] = getattr(self._tool, name)
        try:
            # A copy: rclone-python's functions append to the list that they are given.
            return function(*paths, args=list(self._extra_args.get(name, ())), **options)
        except (WithrunError, TypeError):
            raise
        except FileNotFoundError as error:
            raise ArtifactNotFound(f"{name} found nothing at {redact(paths[0])!r}: {error}") from error
        except Exception as error:
            shown = " to ".join(repr(redact(path)) for path in paths)
            raise TransferError(f"The transfer tool's {name} of {shown} failed: {error}") from error
