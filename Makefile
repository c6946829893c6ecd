# Everything sets up what it needs. TORCH_INDEX=URL takes torch from another index; PYTHON=python3.12 another Python;
# EXTRAS=dev,cuda also installs CuPy, for the kernels on an NVIDIA GPU.
PYTHON ?= python3
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 8000
EXTRAS ?= dev
BIN := .venv/bin
READY := .venv/ready-$(EXTRAS)

.PHONY: venv serve demo test proof check clean g++ promtool chromium
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

venv: $(READY) ## .venv with all that runs and tests need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/pip install -q -c constraints.txt --index-url "$(TORCH_INDEX)" torch; fi
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

serve: $(READY) ## the service with the embedded model
	$(BIN)/retouch serve --host $(HOST) --port $(PORT)

demo: $(READY) ## a chain of edits, and the sheet that the README shows
	$(BIN)/python -m loadtests.demo

test: $(READY) g++ promtool chromium ## all tests, without a GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

proof: $(READY) g++ ## all of the kernels' proof: seeds, sanitizers, architectures, mutations; half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'proof or not proof' tests/kernels

g++:
	@command -v g++ >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -q g++; } || \
	    { echo "the kernels' tests are built with g++: install it (Debian: apt-get install g++)"; exit 1; }

promtool:
	@command -v promtool >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -q --no-install-recommends prometheus; } || \
	    { echo "metrics are checked with promtool: install it (Debian: apt-get install prometheus)"; exit 1; }

chromium:  # with a font: a bare system has none, and the page would have no letters
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -q && \
	    apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; } || \
	    { echo "the page is tested in chromium: install it (Debian: apt-get install chromium fonts-dejavu-core)"; exit 1; }

check: $(READY) ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## what can be made again
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
