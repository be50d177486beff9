"""Experiment tracking and model registry on MLflow backends, with runs scoped to the current context."""

__version__ = "0.1.0"
