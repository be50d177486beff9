"""The factory: from a plugin's name and a configuration to an API. It alone reads the environment."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from withrun.errors import InvalidArgument

if TYPE_CHECKING:
    from withrun.api import BaseMlflowApi

__all__ = ["api_conf_schema", "default_api", "get_api", "list_api_plugins", "unpickled_api"]

GROUP = "withrun.api_providers"
PREFIX = "WITHRUN_CONF_"
DEFAULT = "mlflow"

# withrun's own, found without reading the metadata of every installed package, which takes longer than
# all the rest of `get_api`.
_BUILT_IN = {
    "mlflow": "withrun.providers.mlflow.api:MlflowApi",
    "generic": "withrun.providers.generic:GenericMlflowApi",
}


def get_api(
    plugin: str | None = None,
    cls: type[BaseMlflowApi] | str | None = None,
    conf: Mapping[str, Any] | None = None,
) -> BaseMlflowApi:
    """Make an API instance.

    Args:
        plugin: name of an entry point of the group `withrun.api_providers`; default `mlflow`.
        cls: in place of a plugin, a class or its path (`"package.module:Class"`).
        conf: its configuration. It is merged over environment variables `WITHRUN_CONF_<FIELD>`, in which
            `__` nests (`WITHRUN_CONF_CLIENT_SETTINGS__TOKEN`).

    Raises:
        InvalidArgument: there is no such plugin or class, or the configuration is not valid.
        ServerUnreachable: the server does not answer, and its health is checked.

    Example:
        >>> api = withrun.get_api(conf={"tracking_uri": "http://localhost:5000"})
    """
    if conf is not None and not isinstance(conf, Mapping):
        raise InvalidArgument(f"conf is given as a dict of fields, not as {type(conf).__name__}")
    api_class = _api_class(plugin, cls)
    return api_class.from_conf(_merged(_from_environment(api_class), dict(conf or {})))


def unpickled_api(cls: type[BaseMlflowApi], conf: dict[str, Any]) -> BaseMlflowApi:
    """Make an API of a pickled configuration; its credentials are those of this process's environment."""
    environment = _from_environment(cls)
    return cls.from_conf(_merged(environment, cls.conf_from_pickle(conf, environment)))


def default_api() -> BaseMlflowApi:
    """The API that `get_api()` makes, shared by all contexts of this process that use it at a time."""
    from withrun.api.rebuild import shared

    # All that it is made of: the environment, and the folder that the default store is in.
    variables = sorted(item for item in os.environ.items() if item[0].startswith(PREFIX))
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # the folder was removed: no matter if the store is elsewhere
        here = ""
    return shared(f"default {here} {variables}", get_api)


def list_api_plugins() -> dict[str, str]:
    """The installed plugins: name to the class that it makes, as `package.module:Class`."""
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    return dict(sorted({**installed, **_BUILT_IN}.items()))


def api_conf_schema(
    plugin: str | None = None, cls: type[BaseMlflowApi] | str | None = None
) -> dict[str, Any]:
    """The JSON schema of a plugin's or class's configuration; arguments as for `get_api`."""
    return _api_class(plugin, cls).conf_schema()


def _api_class(plugin: str | None, cls: type[BaseMlflowApi] | str | None) -> type[BaseMlflowApi]:
    from withrun.api import BaseMlflowApi

    if plugin is not None and cls is not None:
        raise InvalidArgument(f"plugin={plugin!r} and cls={cls!r} exclude each other; give one of them")
    found: Any = cls
    if cls is None:
        found = _load(_target(DEFAULT if plugin is None else plugin))
    elif isinstance(cls, str):
        found = _load(cls)
    if not isinstance(found, type) or not issubclass(found, BaseMlflowApi):
        raise InvalidArgument(
            f"{cls or plugin!r} is no subclass of withrun.BaseMlflowApi, but {found!r:.100}"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise InvalidArgument(
            f"{found.__name__}, a subclass of BaseMlflowApi, is abstract: it lacks {missing}"
        )
    return found


def _target(plugin: str) -> str:
    if not isinstance(plugin, str):
        raise InvalidArgument(f"a plugin is named by a string, not {plugin!r:.100}; pass a class as cls=")
    if plugin in _BUILT_IN:
        return _BUILT_IN[plugin]
    installed = list_api_plugins()
    if plugin not in installed:
        near = difflib.get_close_matches(plugin, installed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidArgument(f"no API plugin is named {plugin!r}; {hint}Installed: {', '.join(installed)}")
    return installed[plugin]


def _load(target: str) -> Any:
    module, colon, attribute = target.partition(":")
    if not colon or not module or not attribute or module.startswith("."):
        raise InvalidArgument(f"{target!r} names no class; write it as 'package.module:Class'")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as exc:
        # Only if it is this module, or a package above it, and not one that it imports.
        if exc.name and f"{module}.".startswith(f"{exc.name}."):
            raise InvalidArgument(f"{target!r} can't be loaded: there is no module {exc.name!r}") from exc
        raise
    try:
        return EntryPoint(name=target, value=target, group=GROUP).load()
    except AttributeError as exc:
        raise InvalidArgument(f"{target!r} can't be loaded: module {module!r} has no {attribute!r}") from exc


def _from_environment(api_class: type[BaseMlflowApi]) -> dict[str, Any]:
    """What the environment says of the class's fields; strings that hold JSON objects or lists are parsed."""
    conf: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX):
            continue
        path = variable[len(PREFIX) :].lower().split("__")
        if path[0] not in api_class.model_fields:
            if _is_of_another_plugin(path[0], api_class):
                continue
            near = difflib.get_close_matches(path[0], api_class.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else "unset it"
            raise InvalidArgument(
                f"the environment variable {variable} names no configuration field of "
                f"{api_class.__name__}; {hint}"
            )
        conf = _merged(conf, _nested(path, _parsed(variable, text)))
    return conf


def _is_of_another_plugin(field: str, api_class: type[BaseMlflowApi]) -> bool:
    """Whether the variable is meant for another provider: a program may use several."""
    others = (_load(target) for target in _BUILT_IN.values())
    return any(field in other.model_fields for other in others if other is not api_class)


def _parsed(variable: str, text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        # Not the text itself, which may hold a credential.
        raise InvalidArgument(f"the environment variable {variable} begins like JSON and is none") from None


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    result: dict[str, Any] = value
    return result


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, with `above` winning; dicts are merged field by field."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
