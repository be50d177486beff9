# `make demo` and `make test` need nothing but Python (3.10+), pip and make. They work in a private virtual
# environment, .venv, which is made once and brought up to date when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DIR ?= withrun-demo
.DEFAULT_GOAL := help

.PHONY: help demo test test-slow check bench clean

help:
	@echo "make demo       install into $(VENV) and run the demonstration (writes $(DIR)/)"
	@echo "make test       install what the tests need and run them, but for the slow ones"
	@echo "make test-slow  run those marked slow"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make bench      measure against MLflow and the floor"
	@echo "make clean      remove the environments and what the tools left"
	@echo "PYTHON=python3.12 picks the interpreter of a new $(VENV)"

# The stamps say that an installation was finished; whatever was interrupted before is made anew.
$(VENV)/.python:
	@echo ">> making the virtual environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "withrun needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.python
	@echo ">> installing withrun and what the demonstration needs (some minutes the first time)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.python
	@echo ">> installing withrun and its development tools (some minutes the first time)"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	@echo ">> withrun demo --dir $(DIR)"
	@$(BIN)/withrun demo --dir '$(DIR)'

test: $(VENV)/.dev
	@echo ">> pytest, without the tests marked slow"
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# A server of MLflow 2 is tested against too; MLflow 2 does not run with SQLAlchemy 2.1.
.venv-mlflow2/.done:
	@echo ">> installing MLflow 2 into .venv-mlflow2"
	@$(PYTHON) -m venv --clear .venv-mlflow2
	@.venv-mlflow2/bin/python -m pip install --quiet --disable-pip-version-check 'mlflow==2.22.*' 'sqlalchemy<2.1'
	@touch $@

test-slow: $(VENV)/.dev .venv-mlflow2/.done
	@echo ">> pytest, the tests marked slow"
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: $(VENV)/.dev
	@echo ">> ruff, mypy, import-linter"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	@echo ">> benchmarks"
	@$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .venv-mlflow2 .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
