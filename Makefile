# Everything runs from a fresh clone: each target sets up the environment first if it has to.
#   PYTHON=...             the Python to build on, by name or as 3.12 (3.10 to 3.14; default python3, what is on PATH, or
#                          one that uv fetches)
#   VENV=...               the environment's folder (default .venv)
#   JOBS=...               processes that `make test` shares the tests among (default 2)
#   ARGS=...               options of `make demo` and `make mutants` (--help prints them)
#   DETECTRON2_SOURCE=...  folder or git URL of official Detectron2 sources to compile
VENV ?= .venv
JOBS ?= 2
export PYTHON VENV DETECTRON2_SOURCE

BIN := $(VENV)/bin
# set_up.py runs on any Python 3.7+ and looks for the right one itself.
HOST_PYTHON := $(or $(shell command -v python3 2>/dev/null),$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-faults mutants gpu-check docs lint lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup:  ## make .venv: locked packages, Detectron2, this package
	@$(HOST_PYTHON) tools/set_up.py

demo: setup  ## train softmax and BAGS on EmojiLVIS, compare them (ARGS=--quick: a minute)
	@$(BIN)/python tools/demo.py $(ARGS)

test: setup  ## run the tests except the slow ones
	@$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10

test-all: setup  ## run all tests
	@$(BIN)/python -m pytest --durations=10

gpu-check: setup  ## check and measure on a GPU, in 8 minutes (DEVICE=cpu: a rehearsal)
	@$(BIN)/python tools/gpu_check.py --device $(or $(DEVICE),cuda)

mutants: setup  ## change the code in 300 small ways, and name those that no test notices (hours)
	@$(BIN)/python -m tests.mutation $(ARGS)

test-faults: setup  ## kill trainings at random moments, break their files, compare what is resumed (long)
	@$(BIN)/python -m tests.faults --kills 100 --seed 0

docs:  ## make the site of the docs, output/site/index.html; needs a network the first time
	@$(HOST_PYTHON) tools/set_up.py --docs
	@NO_MKDOCS_2_WARNING=1 .cache/docs/bin/mkdocs build --strict --quiet
	@echo "output/site/index.html; with search: python3 -m http.server --directory output/site"

lint: setup  ## check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock:  ## resolve pyproject.toml into requirements.lock
	@$(HOST_PYTHON) tools/set_up.py --lock

clean:  ## delete the environment and the caches; datasets and output/ stay
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
