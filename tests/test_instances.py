"""API instances: identity, what they show, pickles, and which of them are shared."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import withrun
from withrun import GenericMlflowApi, MlflowApi
from withrun.errors import InvalidArgument, NoActiveRun, OfflineError

SECRET = "s3cr3tpw"
SERVER = f"http://u:{SECRET}@127.0.0.1:1"
DATABASE = f"postgresql://u:{SECRET}@db.example/runs"


def test_instances_are_keys(tmp_path: Path) -> None:
    """An instance is itself as a key, whatever its class and configuration."""
    apis: list[Any] = [
        MlflowApi(tracking_uri=f"sqlite:///{tmp_path}/a.db"),
        MlflowApi(tracking_uri=f"sqlite:///{tmp_path}/a.db"),
        GenericMlflowApi(cache_dir=tmp_path),
    ]
    assert len({*apis, *apis}) == len(apis)
    assert lru_cache(lambda api: api)(apis[0]) is apis[0]


def test_no_password_is_shown(tmp_path: Path) -> None:
    """Neither text nor dump of an instance, its copies and the errors about it shows its password."""
    api = MlflowApi(tracking_uri=DATABASE, cache_dir=tmp_path)
    for shown in (api, api.in_offline_mode, api.model_copy()):
        for text in (repr(shown), str(shown), str(shown.model_dump()), shown.store_uri):
            assert SECRET not in text
            assert "u:" not in text
    with (
        withrun.session(api),
        pytest.raises(NoActiveRun, match=r"MlflowApi on postgresql://db.example") as caught,
    ):
        withrun.log_param("a", 1)
    assert SECRET not in str(caught.value)


def test_copies_keep_the_password(tmp_path: Path) -> None:
    """A copy connects to the database as its original does."""
    for api in (
        copy := MlflowApi(tracking_uri=DATABASE, cache_dir=tmp_path).model_copy(),
        copy.in_offline_mode,
    ):
        assert api._full_uri == DATABASE


@pytest.mark.parametrize(
    ("uri", "shown"), [(SERVER, "http://127.0.0.1:1"), (DATABASE, "postgresql://db.example/runs")]
)
def test_credentials_of_the_environments_uri_survive_a_pickle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, shown: str
) -> None:
    """Unpickled where the environment names the same store, an API has the credentials of that URI."""
    monkeypatch.setenv("WITHRUN_CONF_TRACKING_URI", uri)
    monkeypatch.setenv("WITHRUN_CONF_HEALTHCHECK", "false")
    monkeypatch.setenv("WITHRUN_CONF_CACHE_DIR", str(tmp_path))
    sent = pickle.dumps(withrun.get_api())
    assert SECRET.encode() not in sent
    again: Any = pickle.loads(sent)
    assert again.store_uri == shown
    password = again.client_settings.password
    assert SECRET in (password.get_secret_value() if password else again._full_uri)
    elsewhere: Any = pickle.loads(pickle.dumps(withrun.get_api(conf={"tracking_uri": "http://127.0.0.1:2"})))
    assert elsewhere.store_uri == "http://127.0.0.1:2"
    assert elsewhere.client_settings.password is None


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"client_settings": {"tokn": SECRET}}, "client_settings.tokn: .*did you mean 'token'"),
        ({"file_transfer": {"progbar": True}}, "did you mean 'prog_bar'"),
        ({"tag_keys": {"zzzzzz": "x"}}, "it has description, parent"),
    ],
)
def test_nested_names_are_corrected(tmp_path: Path, conf: dict[str, Any], words: str) -> None:
    """An unknown field inside a field is refused with the nearest name there, and its value is not shown."""
    with pytest.raises(InvalidArgument, match=words) as caught:
        MlflowApi(tracking_uri=f"sqlite:///{tmp_path}/a.db", **conf)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("call", ["create_exp", "create_model"])
def test_offline_errors_name_a_way_that_works(tmp_path: Path, call: str) -> None:
    """What needs the server does not send its caller to another call that needs it too."""
    with pytest.raises(OfflineError) as caught:
        getattr(GenericMlflowApi(cache_dir=tmp_path), call)("x")
    assert "get_or_create" not in str(caught.value)


def test_contexts_share_the_default_api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threads without a session share one default API; another configuration or folder has its own."""
    monkeypatch.setenv("WITHRUN_CONF_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    start = threading.Barrier(8)

    def used() -> Any:
        start.wait()
        return withrun.set_experiment(experiment_id="0").api

    with ThreadPoolExecutor(8) as pool:
        apis = {future.result() for future in [pool.submit(used) for _ in range(8)]}
    assert len(apis) == 1
    monkeypatch.setenv("WITHRUN_CONF_ALWAYS_PULL_ARTIFACTS", "true")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: withrun.set_experiment(experiment_id="0").api).result()
    assert other not in apis
    other.close()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: withrun.set_experiment(experiment_id="0").api).result() is not other


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_not_locked_out(tmp_path: Path) -> None:
    """A child forked while another thread of its parent held the locks can use and unpickle APIs."""
    from withrun.api import rebuild

    api = MlflowApi(tracking_uri=f"sqlite:///{tmp_path}/a.db", cache_dir=tmp_path)
    sent = pickle.dumps(api)
    with rebuild._lock, api._lock:
        child = os.fork()
        if child == 0:
            ok = rebuild._lock.acquire(timeout=5) and api._lock.acquire(timeout=5)
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pickle.loads(sent).store_uri == api.store_uri


def test_a_folder_with_a_question_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default store lies in the current folder, whatever that is called."""
    here = tmp_path / "a?b%20c d#e"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("WITHRUN_CONF_CACHE_DIR", str(tmp_path / "cache"))
    withrun.get_api().get_or_create_exp("x")
    assert [path.name for path in here.iterdir()] == ["mlflow.db"]
    assert {path.name for path in tmp_path.iterdir()} <= {here.name, "cache"}
