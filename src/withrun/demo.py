"""`withrun demo`: the main job on real data, from an empty folder to a registered model.

Written as a user of withrun would write it: nothing here reaches below the public names.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import withrun
from withrun.errors import InvalidArgument, MissingDependency, WithrunError
from withrun.providers.mlflow.store_location import sqlite_uri

if TYPE_CHECKING:
    from rich.console import Console

    from withrun import BaseMlflowApi, ModelVersionApi, RunApi

__all__ = ["demonstrate"]

EXPERIMENT = "digits"
MODEL = "digits-classifier"
EPOCHS = 20
SEARCH: tuple[dict[str, Any], ...] = tuple(
    {
        "model": {"kind": "mlp", "hidden": [width], "alpha": 1e-4},
        "optimizer": {"name": "adam", "learning_rate": rate, "batch_size": 64},
    }
    for width in (16, 64)
    for rate in (0.0003, 0.002, 0.01)
)
"""The six points of the hyper-parameter search, logged as nested params as they stand."""

_drawing = threading.Lock()
"""matplotlib shares caches between figures and is not made for threads."""


class Digits(NamedTuple):
    """scikit-learn's 1,797 images of handwritten digits: models are chosen by `valid`, judged by `test`."""

    train: tuple[Any, Any]
    valid: tuple[Any, Any]
    test: tuple[Any, Any]


class Trained(NamedTuple):
    """One child run and what it trained."""

    run: RunApi
    model: Any
    accuracy: float


def demonstrate(folder: Path) -> None:
    """Train, track, register, load back and show; the store is `folder/mlflow.db`.

    Raises:
        MissingDependency: the extra `demo` is not installed.
        WithrunError: the model that was loaded back does not score as the one that was registered.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    digits = _load_digits()
    database = _prepare(folder) / "mlflow.db"
    console.print(f"Opening the store {database} …", soft_wrap=True)
    with withrun.get_api(conf={"tracking_uri": sqlite_uri(database)}) as api:
        parent, version = _search(api, digits, console)
        _show(api, parent, version, console)
    mlflow = "mlflow" if _is_ours(shutil.which("mlflow")) else f"{shlex.quote(sys.executable)} -m mlflow"
    console.print("\nLook at the runs in MLflow's own UI:")
    console.print(
        f"  cd {shlex.quote(str(folder))} && {mlflow} ui --backend-store-uri sqlite:///mlflow.db",
        soft_wrap=True,
    )


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidArgument(
            f"the folder {folder} can't be made ({exc.strerror}); name another one with --dir"
        ) from exc
    return folder.resolve()


def _load_digits() -> Digits:
    try:
        import joblib  # noqa: F401 - needed below; better missed now than after the training
        import matplotlib.figure  # noqa: F401
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as exc:
        raise MissingDependency(
            f"`withrun demo` needs scikit-learn and matplotlib, and {exc.name!r} can't be imported: "
            "install them with `pip install 'withrun[demo]'`"
        ) from exc
    images, labels = load_digits(return_X_y=True)
    images = images / 16  # grey levels are 0 to 16
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    x_train, x_valid, y_train, y_valid = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return Digits((x_train, y_train), (x_valid, y_valid), (x_test, y_test))


# --- the search ---


def _search(api: BaseMlflowApi, digits: Digits, console: Console) -> tuple[RunApi, ModelVersionApi]:
    """Run the whole search in a parent run; returns it and the version of its best model."""
    from sklearn.metrics import accuracy_score

    x_test, y_test = digits.test
    exp = api.get_or_create_exp(EXPERIMENT)
    with api.start_run(exp, name="search") as parent:
        parent.log_params({"search": {"points": len(SEARCH), "epochs": EPOCHS}})
        parent.log_params({"data": {part: len(y) for part, (_, y) in digits._asdict().items()}})

        best = max(_train_all(digits, console), key=lambda trained: trained.accuracy)
        accuracy = float(accuracy_score(y_test, best.model.predict(x_test)))
        parent.set_tag("best_run", best.run.id).log_metric("test_accuracy", accuracy)
        version = best.run.log_model_version(
            MODEL,
            lambda path: _dump(best.model, path),
            path_in_run="version/model.joblib",
            tags={"test_accuracy": accuracy},
        )
        _check(api, version, digits, accuracy)
        console.print(
            f"\nBest: {best.run.name}, accuracy {accuracy:.4f} on images that were not used to choose it."
            f"\nRegistered as version {version.version} of model {MODEL!r}, "
            "loaded back from the registry and scored again: the same accuracy.",
            soft_wrap=True,
        )
    return parent, version


def _check(api: BaseMlflowApi, version: ModelVersionApi, digits: Digits, accuracy: float) -> None:
    """Load the version from the registry and score it on the same images."""
    import joblib
    from sklearn.metrics import accuracy_score

    x_test, y_test = digits.test
    loaded = api.load_model_artifact((MODEL, version.version), joblib.load)
    again = float(accuracy_score(y_test, loaded.predict(x_test)))
    if again != accuracy:
        raise WithrunError(
            f"version {version.version} of model {MODEL!r} scored {accuracy} when it was registered, and "
            f"{again} loaded back from the registry: what was stored is not what was trained"
        )


def _train_all(digits: Digits, console: Console) -> list[Trained]:
    """Train all points of the search side by side, each in a child of the active run."""
    stop = threading.Event()

    def train(point: dict[str, Any], advance: Callable[[float], None]) -> Trained:
        return _train(point, digits, advance, stop)

    # Threads start with no active run; `bind` carries this one into the pool.
    with _progress(console) as bars, ThreadPoolExecutor(max_workers=len(SEARCH)) as pool:
        jobs = [pool.submit(withrun.bind(train), point, bars(_name(point))) for point in SEARCH]
        try:
            return [job.result() for job in as_completed(jobs)]
        except BaseException:
            stop.set()  # the others end at their next epoch, in place of training on for nothing
            raise


def _train(
    point: dict[str, Any], digits: Digits, advance: Callable[[float], None], stop: threading.Event
) -> Trained:
    """Train one model in a child run of the active run, logging as it goes."""
    from sklearn.metrics import accuracy_score
    from sklearn.neural_network import MLPClassifier

    (x, y), (x_valid, y_valid) = digits.train, digits.valid
    model = MLPClassifier(
        hidden_layer_sizes=point["model"]["hidden"],
        alpha=point["model"]["alpha"],
        solver=point["optimizer"]["name"],
        learning_rate_init=point["optimizer"]["learning_rate"],
        batch_size=point["optimizer"]["batch_size"],
        random_state=0,
    )
    parent = withrun.active_run()
    assert parent is not None  # noqa: S101 - bound into this thread by the caller
    with parent.start_child(_name(point)) as run:
        run.log_params(point)
        for epoch in range(1, EPOCHS + 1):
            if stop.is_set():
                raise KeyboardInterrupt("another part of the search failed or was interrupted")
            model.partial_fit(x, y, classes=range(10))
            accuracy = float(accuracy_score(y_valid, model.predict(x_valid)))
            # The verbs of the module find the run that is active in this thread.
            withrun.log_metrics({"loss": float(model.loss_), "accuracy": accuracy}, step=epoch)
            advance(accuracy)
        run.log_artifact(
            lambda path: _draw_confusion(y_valid, model.predict(x_valid), path), "confusion_matrix.png"
        )
        run.log_artifact(lambda path: _dump(model, path), "model.joblib")
    return Trained(run, model, accuracy)


def _name(point: dict[str, Any]) -> str:
    return f"mlp-{point['model']['hidden'][0]}-{point['optimizer']['learning_rate']}"


def _dump(model: Any, path: Path) -> None:
    import joblib

    joblib.dump(model, path)


def _draw_confusion(truth: Any, predicted: Any, path: Path) -> None:
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    with _drawing:
        figure = Figure(figsize=(5, 5), layout="constrained")  # no pyplot: no display, no global state
        ConfusionMatrixDisplay.from_predictions(
            truth, predicted, ax=figure.subplots(), colorbar=False, cmap="Blues"
        )
        figure.savefig(path, format="png", dpi=80)


# --- what is shown ---


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], Callable[[float], None]]]:
    """Show the epochs: a bar for each run in a terminal, else a line every quarter of the way.

    Yields:
        a function that adds a run by name, and returns what to call with its accuracy after each epoch.
    """
    if not console.is_terminal:
        console.print(f"Training {len(SEARCH)} models, {EPOCHS} epochs each …")
        yield lambda name: _Lines(console, name)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("epochs  accuracy {task.fields[accuracy]:.3f}"), console=console
    ) as bars:

        def add(name: str) -> Callable[[float], None]:
            task = bars.add_task(name, total=EPOCHS, accuracy=0.0)
            return lambda accuracy: bars.update(task, advance=1, accuracy=accuracy)

        yield add


class _Lines:
    """Reports the epochs of one run as lines, for a log or a pipe."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._epoch = 0

    def __call__(self, accuracy: float) -> None:
        self._epoch += 1
        if self._epoch % (EPOCHS // 4) == 0:
            self._console.print(f"  {self._name}: epoch {self._epoch}/{EPOCHS}, accuracy {accuracy:.3f}")


def _show(api: BaseMlflowApi, parent: RunApi, version: ModelVersionApi, console: Console) -> None:
    """Print the children as the store has them."""
    from rich.table import Table

    best = version.run.id if version.run is not None else None
    table = Table(title=f"Children of run {parent.id}, read back from the store")
    for column in ("run", "id", "status", "hidden", "rate"):
        table.add_column(column)
    for column in ("loss", "accuracy"):
        table.add_column(column, justify="right")
    for run in sorted(api.find_child_runs(parent), key=lambda run: -run.metrics["accuracy"]):
        table.add_row(
            run.name,
            run.id[:8],
            str(run.status),
            str(run.params["model"]["hidden"][0]),
            str(run.params["optimizer"]["learning_rate"]),
            f"{run.metrics['loss']:.4f}",
            f"{run.metrics['accuracy']:.4f}",
            style="bold" if run.id == best else "",
        )
    console.print()
    console.print(table)


def _is_ours(command: str | None) -> bool:
    """Whether a command on PATH is the one installed beside this interpreter."""
    return command is not None and Path(command).parent == Path(sys.executable).parent
