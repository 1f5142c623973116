# Two commands matter: `make demo` and `make test`. Everything else is here for those who change the code.
PY := .venv/bin/python
# Test processes. Files stay whole, so that what a module builds once is built once.
JOBS ?= 2
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo test test-all lint measure clean clean-all

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup: ## .venv with everything for development
	@scripts/setup dev

setup-demo:
	@scripts/setup demo

demo: setup-demo ## train a small net, plan, compile, flash an emulated board, prove it there, report
	@$(PY) examples/demo.py

test: setup ## the everyday tests (under 8 minutes on two cores)
	@echo "test: everything but the long tier, $(JOBS) processes"
	@$(PYTEST) -q -m "not long"

test-all: setup ## the long tier only: whole data sets, every board, fuzzing
	@echo "test-all: the long tier, $(JOBS) processes"
	@$(PYTEST) -q -m long --durations=25

lint: setup ## ruff and mypy
	@echo "lint: ruff"
	@$(PY) -m ruff check .
	@echo "lint: mypy"
	@$(PY) -m mypy sdk firmware_bridge targets

measure: setup ## code and stack of every kernel, with both compilers: after any change to C (minutes)
	@$(PY) -m sdk.backends.firmware.measure zig gcc

clean: ## what building and testing leave behind
	rm -rf build dist out demo .cache .hypothesis .mypy_cache .ruff_cache .pytest_cache embarq.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

clean-all: clean ## the same, and .venv
	rm -rf .venv
