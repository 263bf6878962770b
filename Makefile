# Everything here needs Python 3.11 and make; the rest is installed into .venv inside the checkout.
.DEFAULT_GOAL := help
.PHONY: help install demo up test test-fast lint format protos faults bench clean
SHELL := /bin/sh

# The first Python 3.11 on the path; `make PYTHON=/path/to/python3.11 ...` chooses another.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then command -v "$$p"; break; fi; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
WORKDIR ?= demo-workdir
ARGS ?=

# Caches stay inside the checkout; Ray and ONNX Runtime report nothing to anybody.
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CURDIR)/.cache
export KERAS_HOME := $(CURDIR)/.cache/keras
export RAY_USAGE_STATS_ENABLED := 0
export ORT_DISABLE_TELEMETRY := 1
export TF_USE_LEGACY_KERAS := 1

# Runs the rest of its line with a temporary folder of its own, which is gone afterwards. The name is
# short because Ray keeps Unix sockets below it (107 bytes at most).
WITH_TMP = tmp=$$(mktemp -d "$${TMPDIR:-/tmp}/sl.XXXXXX") && trap 'rm -rf "$$tmp"' EXIT && \
	trap 'exit 130' INT TERM && export TMPDIR="$$tmp" &&

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "error: Python 3.11 is needed, and no python3.11 is on the path;" \
	       "name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	@echo "Installing into .venv (about 1 GB of wheels, one to three minutes) ..."
	@$(WITH_TMP) $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Make a world, train both tiers, serve, and show pages and the funnel
	@$(BIN)/shortlist demo --workdir $(WORKDIR) $(ARGS)

up: $(INSTALLED) ## Serve the demo's workdir as separate processes (ARGS="--shards 2 --port 7700")
	@$(BIN)/shortlist up --workdir $(WORKDIR) $(ARGS)

# Slow tests start processes of their own, and wait for them: those of three files at once keep two
# cores busy. In the order of their names, which has the longest at the front: a file with few tests
# that comes last is what everybody waits for.
test: lint test-fast ## Lint, then every test
	@$(WITH_TMP) $(BIN)/python -m pytest -m slow -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# One more than there are cores: many tests wait.
test-fast: $(INSTALLED) ## The tests that neither train nor start processes
	@$(WITH_TMP) workers=$$($(BIN)/python -c 'import os; print(1 + (os.cpu_count() or 1))') && \
	  $(BIN)/python -m pytest -m "not slow" -n $$workers --dist loadfile $(ARGS)

lint: $(INSTALLED) ## Ruff, mypy, buf, and whether the generated stubs are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	@$(WITH_TMP) PYTHON=$(BIN)/python sh protos/generate.sh "$$tmp" && \
	  diff -r -x __pycache__ -x __init__.py "$$tmp/shortlist/v1" shortlist/v1 || { \
	  echo "error: shortlist/v1 differs from protos/; run: make protos" >&2; exit 1; }

format: $(INSTALLED) ## Sort imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(INSTALLED) ## Regenerate shortlist/v1 from protos/
	PYTHON=$(BIN)/python sh protos/generate.sh

faults: $(INSTALLED) ## Run the fault catalogue and print its table
	@$(WITH_TMP) $(BIN)/python -m tests.faults $(ARGS)

bench: $(INSTALLED) ## Measure retrieval: recall and time of a search against brute force
	@$(WITH_TMP) $(BIN)/python -m benchmarks.retrieval $(ARGS)

clean: ## Remove .venv, caches, build output and the demo's workdir
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache build dist shortlist.egg-info demo-workdir
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
