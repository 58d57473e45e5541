.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
# TORCH_INDEX is the URL of an index with PyTorch's CPU builds, for machines without a GPU. requirements.lock has no hashes
# of these builds.
TORCH_INDEX ?=
SIZE := $(if $(TORCH_INDEX),2 GB,6 GB with CUDA)
CUDA_BUILD := ^(torch|torchvision|triton)==|^(nvidia|cuda)-

export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup run check lowest test distributed faults mutants bench lint format lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(SETUP)  ## make .venv from requirements.lock, again only if that changed

# The venv's own pip installs uv, by its hash in the lock; uv then installs the rest.
$(SETUP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "cifarflow needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "[1/4] creating $(VENV): some seconds"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/4] installing uv, which installs the rest: some seconds"
	@awk '/^[^ ]/ {inside = /^uv==/} inside' requirements.lock > $(VENV)/uv.lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock.txt
	@awk '/^[^ ]/ {skip = "$(TORCH_INDEX)" && /$(CUDA_BUILD)/} !skip' requirements.lock > $(VENV)/requirements.txt
	@echo "[3/4] installing $$(grep -c '^[a-z].*==' $(VENV)/requirements.txt) packages from requirements.lock, $(SIZE):" \
		"half a minute from uv's cache, minutes without"
	@[ -n "$(TORCH_INDEX)" ] || command -v nvidia-smi >/dev/null || \
		echo "      there is no NVIDIA driver: make setup TORCH_INDEX=... would save 4 GB of CUDA (README.md)"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes $(VENV)/requirements.txt & $(SHOW_PROGRESS)
	@[ -z "$(TORCH_INDEX)" ] || VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --index $(TORCH_INDEX) \
		$$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock)
	@echo "[4/4] installing cifarflow itself: some seconds"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# SHOW_PROGRESS prints how much was downloaded so far: on a terminal in one line that is rewritten, in a log once per minute.
define SHOW_PROGRESS
pid=$$!; trap 'kill $$pid; exit 130' INT TERM; cache=$$($(BIN)/uv cache dir); SECONDS=0; next=60; mb=0; \
	size() { du -sm $$cache 2>/dev/null | cut -f1; }; before=$$(size); \
	while kill -0 $$pid 2>/dev/null; do \
		sleep 1; if [ $$((SECONDS % 5)) = 0 ]; then mb=$$(($$(size) - $${before:-0})); fi; \
		if [ -t 1 ]; then printf '\r      %s s, %s MB downloaded ' $$SECONDS $$mb; \
		elif [ $$SECONDS -ge $$next ]; then echo "      $$SECONDS s, $$mb MB downloaded"; next=$$((SECONDS + 60)); fi; \
	done; wait $$pid && { if [ -t 1 ]; then echo; fi; echo "      done in $$SECONDS s"; }
endef

run: $(SETUP)  ## run the whole pipeline on CIFAR-10 (if it cannot be downloaded: on a generated sample)
	$(BIN)/cifarflow run --sample-fallback

check: lint  ## check lint, types and the fast tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not (slow or server or browser or data or node or postgres or distributed or faults)"

lowest: $(SETUP)  ## run the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest: 6 GB
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python .venv-lowest/bin/python --all-extras pyproject.toml \
		--output-file .venv-lowest/requirements.txt
	VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip sync --quiet .venv-lowest/requirements.txt
	VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip install --quiet --no-deps --editable .
	.venv-lowest/bin/python -m pytest -q -m "not (slow or server or browser or data or node or postgres or distributed or faults)"

test: $(SETUP)  ## run all tests except those of `distributed` and `faults`
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(MARKS),-m "$(MARKS)")

distributed: $(SETUP)  ## test workers, clusters, remotes and runs at once
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "distributed and not faults"

faults: $(SETUP)  ## test by fault injection: under 3 minutes
	$(BIN)/python -m pytest -q -n 2 -m faults

mutants: $(SETUP)  ## plant 300 faults in what decides, measures and splits (ONLY="3 7": these); list the survivors
	$(BIN)/uv run --quiet --no-project --python $(BIN)/python --with cosmic-ray==8.7.0 tests/mutation/sample.py | \
		$(BIN)/python tests/mutation/run.py $(if $(ONLY),--only $(ONLY))

bench: $(SETUP)  ## measure what people wait for, beside the last saved table (with nothing else on the machine)
	$(BIN)/python benchmarks/everyday.py

lint: $(SETUP)  ## check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(SETUP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(SETUP)  ## re-pin dependencies, with hashes, for every platform
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-annotate \
		--all-extras pyproject.toml --output-file requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-annotate --quiet \
		--python-version 3.11 --group pools --constraints requirements.lock \
		$$(sed -n 's/^\([a-z][^ ]*\)==.*/--no-emit-package \1/p' requirements.lock) --output-file tests/docs/pools.lock

clean:  ## remove what runs leave behind, except the data and DVC's cache
	rm -rf artifacts sample .mypy_cache .pytest_cache .ruff_cache .hypothesis
