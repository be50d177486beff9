"""Registers versions the ways that MLflow's own users do, in a process of its own, and prints what it made.

MLflow's fluent functions set environment variables and globals, which the tests are to be free of.
Arguments: the tracking URI, and the experiment's artifact location (empty: the store's choice).
"""

from __future__ import annotations

import json
import sys

import mlflow
from sklearn.linear_model import LogisticRegression


def make(uri: str, location: str) -> dict[str, list[str]]:
    """Names of versions to `[model, version, run]`; a way that the store refuses is left out."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    experiment = mlflow.create_experiment("native", artifact_location=location or None)
    client = mlflow.MlflowClient(uri, uri)
    with mlflow.start_run(experiment_id=experiment) as run:
        fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        kind = "name" if int(mlflow.__version__.split(".")[0]) >= 3 else "artifact_path"
        mlflow.sklearn.log_model(
            fitted,
            **{kind: "net"},
            registered_model_name="logged",
            pip_requirements=["scikit-learn"],
            serialization_format="cloudpickle",
        )
        mlflow.log_text("whole", "folder/a.txt")
        mlflow.log_text("odd", "o d/é.txt")
    run_id, root = run.info.run_id, run.info.artifact_uri
    made = {"logged": ["logged", "1", run_id]}
    client.copy_model_version("models:/logged/1", "copied")
    made["copied"] = ["copied", "1", run_id]
    client.create_registered_model("others")
    ways = {
        "runs folder": (f"runs:/{run_id}/folder", run_id),
        "runs file": (f"runs:/{run_id}/folder/a.txt", run_id),
        "runs odd": (f"runs:/{run_id}/o d/é.txt", run_id),
        "runs root": (f"runs:/{run_id}", run_id),
        "plain folder": (f"{root}/folder", run_id),
        "missing": (f"{root}/nothing", run_id),
        "plain folder, no run": (f"{root}/folder", None),
        "runs folder, no run": (f"runs:/{run_id}/folder", None),
    }
    for name, (source, owner) in ways.items():
        try:
            version = client.create_model_version("others", source, owner, await_creation_for=0)
        except mlflow.MlflowException:
            continue
        made[name] = ["others", str(version.version), owner or ""]
    return made


if __name__ == "__main__":
    print(json.dumps(make(*sys.argv[1:])))
