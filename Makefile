# Everything sets up what it needs. TORCH_INDEX=URL takes torch from another index; PYTHON=python3.12 another Python.
PYTHON ?= python3
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 8000
BIN := .venv/bin
READY := .venv/ready

.PHONY: venv serve demo test check clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

venv: $(READY) ## .venv with all that runs and tests need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/pip install -q -c constraints.txt --index-url "$(TORCH_INDEX)" torch; fi
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

serve: $(READY) ## the service with the embedded model
	$(BIN)/retouch serve --host $(HOST) --port $(PORT)

demo: $(READY) ## a chain of edits, and the sheet that the README shows
	$(BIN)/python -m loadtests.demo

test: $(READY) ## all tests, without a GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

check: $(READY) ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## what can be made again
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
