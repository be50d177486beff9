# `make demo` and `make test` need nothing but Python (3.10+), pip and make; they work in a private
# virtual environment, .venv, which is made once and brought up to date when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help demo test test-slow check bench clean

help:
	@echo "make demo    install into $(VENV) and run the demonstration (writes withrun-demo/)"
	@echo "make test    install what the tests need and run them"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   measure against MLflow and the floor"
	@echo "make clean   remove $(VENV) and what the tools left"

$(VENV)/.demo: pyproject.toml
	@echo ">> making $(VENV) and installing withrun into it (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	@echo ">> making $(VENV) and installing withrun with its development tools into it (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	@echo ">> withrun demo"
	@$(BIN)/withrun demo

test: $(VENV)/.dev
	@echo ">> pytest (without the tests marked slow)"
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev
	@echo ">> pytest, the tests marked slow"
	@$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	@$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
