# Everything that a person or CI does. `make help` lists it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# pip says nothing but errors: thousands of lines of progress hide the one that matters
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test lint pins clean
# the steps are pips in one environment: side by side they would break it, however many jobs `make -j` or MAKEFLAGS allow
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/project ## .venv with .venv/bin/timeline, pinned by hash

demo: setup ## everything on this machine, with a small world to look at
	@$(BIN)/timeline local --world demo

test: dev lint ## lint, then every test, on real engines
	$(BIN)/pytest

lint: dev ## ruff, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dev: setup $(STAMPS)/dev

# What is pinned stays while it fits: `make pins PINS=--upgrade` takes the newest. Its resolver is gone afterwards.
PINS ?=
COMPILE := uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
pins: ## requirements/*.txt anew, from pyproject.toml and requirements/build.in
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input uv && PATH="$$folder/bin:$$PATH" && \
	$(COMPILE) $(PINS) pyproject.toml -o requirements/runtime.txt && \
	$(COMPILE) $(PINS) pyproject.toml --extra dev -c requirements/runtime.txt -o requirements/dev.txt && \
	$(COMPILE) $(PINS) requirements/build.in -o requirements/build.txt

clean: ## remove .venv and what tools left (not the data in .timeline, not the cache of engines)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp a step, so that what has not changed is not done again.
$(STAMPS)/venv:
	@for python in $(PYTHON) python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV) || exit 1; \
	    mkdir -p $(STAMPS) && touch $@; exit 0; \
	  fi; \
	done; \
	echo "error: neither '$(PYTHON)' nor 'python3' is Python 3.11" >&2; \
	echo "  what to do: install Python 3.11 with venv, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1

$(STAMPS)/runtime: requirements/build.txt requirements/runtime.txt | $(STAMPS)/venv
	@echo "installing what the service needs"
	@$(PIP) --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/runtime
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/runtime
	@echo "installing what the tests need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
