.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup run test lint format lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(SETUP)  ## .venv from requirements.lock, again only when that changes

# uv itself comes from the lock too, by hash, through the venv's own pip; uv then installs the rest.
$(SETUP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "cifarflow needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) from requirements.lock (about 5 GB with CUDA's libraries)"
	$(PYTHON) -m venv $(VENV)
	awk '/^[^ ]/ {inside = /^uv==/} inside' requirements.lock > $(VENV)/uv.lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

run: $(SETUP)  ## the whole pipeline, on CIFAR-10 (where that cannot be had: on a generated sample)
	$(BIN)/cifarflow run --sample-fallback

test: $(SETUP)  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e/test_deployments.py
	$(BIN)/python -m pytest tests/e2e/test_deployments.py

lint: $(SETUP)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(SETUP)  ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(SETUP)  ## pin pyproject.toml's ranges anew, with hashes, for every platform
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-annotate \
		--all-extras pyproject.toml --output-file requirements.lock

clean:  ## remove what runs leave behind, but neither the data nor DVC's cache
	rm -rf artifacts sample .mypy_cache .pytest_cache .ruff_cache .hypothesis
