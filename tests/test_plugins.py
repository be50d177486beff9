"""The factory: plugins, classes, configuration and the environment, which it alone reads."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import withrun
from withrun import BaseMlflowApi, GenericMlflowApi, MlflowApi
from withrun.errors import InvalidArgument


class Customised(GenericMlflowApi):
    """A class of a user's own."""

    colour: str = "blue"


def test_plugins_are_listed() -> None:
    """Both plugins are found, by entry points too."""
    from importlib.metadata import entry_points

    listed = withrun.list_api_plugins()
    assert (
        listed.items()
        >= {
            "mlflow": "withrun.providers.mlflow.api:MlflowApi",
            "generic": "withrun.providers.generic:GenericMlflowApi",
        }.items()
    )
    assert {p.name for p in entry_points(group="withrun.api_providers")} <= set(listed)


def test_ways_to_name_a_class(tmp_path: Path) -> None:
    """A plugin's name, a class and a class's path all make an instance; the default plugin is `mlflow`."""
    conf = {"cache_dir": tmp_path}
    assert type(withrun.get_api("generic", conf=conf)) is GenericMlflowApi
    assert type(withrun.get_api(cls=Customised, conf=conf)) is Customised
    path = "withrun.providers.generic:GenericMlflowApi"
    assert type(withrun.get_api(cls=path, conf=conf)) is GenericMlflowApi
    assert type(withrun.get_api(conf={"tracking_uri": f"sqlite:///{tmp_path}/x.db"})) is MlflowApi


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"plugin": "mlfow"}, "did you mean 'mlflow'"),
        ({"plugin": "nothing-like-it"}, "Installed: generic, mlflow"),
        ({"plugin": ""}, "no API plugin"),
        ({"plugin": 3}, "cls="),
        ({"plugin": "mlflow", "cls": MlflowApi}, "exclude"),
        ({"cls": "no_colon"}, "package.module:Class"),
        ({"cls": "no.such.module:Class"}, "no module 'no'"),
        ({"cls": "withrun.providers.generic:Nothing"}, "has no 'Nothing'"),
        ({"cls": ".relative:Class"}, "package.module:Class"),
        ({"cls": "withrun.providers.generic.no:Class"}, "no module 'withrun.providers.generic.no'"),
        ({"cls": "pathlib:Path"}, "BaseMlflowApi"),
        ({"cls": dict}, "BaseMlflowApi"),
        ({"cls": BaseMlflowApi}, "BaseMlflowApi"),
        ({"conf": [1]}, "dict"),
        ({"conf": {1: 2}}, "strings"),
        ({"conf": {"tracking_url": "x"}}, "tracking_uri"),
    ],
)
def test_refused(arguments: dict[str, Any], words: str) -> None:
    """What names no plugin, class or field is refused with the nearest name or the way to write it."""
    with pytest.raises(InvalidArgument, match=words):
        withrun.get_api(**arguments)


def test_an_error_inside_a_plugin_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What goes wrong in the body of a plugin's module is not mistaken for a class that it lacks."""
    (tmp_path / "plugin_with_a_fault.py").write_text("import os\nos.no_such_thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AttributeError, match="no_such_thing"):
        withrun.get_api(cls="plugin_with_a_fault:Api")


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`WITHRUN_CONF_<FIELD>` configures what the factory makes, `__` nests, and `conf` wins over it."""
    monkeypatch.setenv("WITHRUN_CONF_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("WITHRUN_CONF_HEALTHCHECK", "false")
    monkeypatch.setenv("WITHRUN_CONF_CLIENT_SETTINGS__TIMEOUT", "7")
    monkeypatch.setenv("WITHRUN_CONF_FILE_TRANSFER", json.dumps({"prog_bar": False}))
    api: Any = withrun.get_api(conf={"client_settings": {"retries": 1}, "cache_dir": tmp_path})
    assert api.store_uri == "http://127.0.0.1:1"
    assert (api.client_settings.timeout, api.client_settings.retries) == (7, 1)
    assert api.file_transfer.prog_bar is False
    other: Any = withrun.get_api(conf={"tracking_uri": "http://127.0.0.1:2"})
    assert other.store_uri == "http://127.0.0.1:2"


def test_only_the_factory_reads_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A class called by itself, and an instance once made, see nothing of the environment."""
    monkeypatch.setenv("WITHRUN_CONF_ALWAYS_PULL_ARTIFACTS", "true")
    assert GenericMlflowApi(cache_dir=tmp_path).always_pull_artifacts is False
    made = withrun.get_api("generic", conf={"cache_dir": tmp_path})
    monkeypatch.delenv("WITHRUN_CONF_ALWAYS_PULL_ARTIFACTS")
    assert made.always_pull_artifacts is made.model_copy().always_pull_artifacts is True


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("WITHRUN_CONF_CACHE_DRI", "x", "WITHRUN_CONF_CACHE_DIR"),
        ("WITHRUN_CONF_CLIENT_SETTINGS", '{"password": "sec-ret"', "JSON"),
    ],
)
def test_bad_environment(monkeypatch: pytest.MonkeyPatch, name: str, text: str, words: str) -> None:
    """A variable that names no field, or breaks off, is refused by name, its value not shown."""
    monkeypatch.setenv(name, text)
    with pytest.raises(InvalidArgument, match=words) as caught:
        withrun.get_api(conf={"tracking_uri": "sqlite:///x.db"})
    assert name in str(caught.value)
    assert "sec-ret" not in str(caught.value)


def test_variables_of_other_plugins_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that is meant for another plugin does not disturb."""
    monkeypatch.setenv("WITHRUN_CONF_TRACKING_URI", "http://127.0.0.1:1")
    assert withrun.get_api("generic", conf={"cache_dir": tmp_path}).offline_mode


@pytest.mark.parametrize("how", [{}, {"plugin": "generic"}, {"cls": Customised}])
def test_schema(how: dict[str, Any]) -> None:
    """The JSON schema of a configuration has all of its fields, and is JSON."""
    schema = json.loads(json.dumps(withrun.api_conf_schema(**how)))
    expected = {"cache_dir", "offline_mode", "file_transfer", "entity_serializer"}
    assert schema["properties"].keys() >= expected
    assert ("tracking_uri" in schema["properties"]) == (how == {})


def test_unpickling_goes_through_the_factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials come back from the environment of the process that unpickles."""
    conf = {"tracking_uri": "http://127.0.0.1:1", "healthcheck": False, "cache_dir": tmp_path}
    sent = pickle.dumps(withrun.get_api(conf={**conf, "client_settings": {"token": "sec-ret"}}))
    assert b"sec-ret" not in sent
    monkeypatch.setenv("WITHRUN_CONF_CLIENT_SETTINGS__TOKEN", "from-here")
    assert pickle.loads(sent).client_settings.token.get_secret_value() == "from-here"


def test_the_store_of_a_default_api_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An API on the default store of a folder, its copies and pickles stay there when the program moves."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    api = withrun.get_api()
    sent = pickle.dumps(api)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert api.in_offline_mode.store_uri == pickle.loads(sent).store_uri == api.store_uri
    assert str(tmp_path) in api.store_uri
    assert "elsewhere" not in api.store_uri
