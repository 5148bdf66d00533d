# Everything here builds .venv/ first when it is missing or older than the pins.
# `make` alone prints what there is.

SHELL := /bin/bash
PYTHON ?= python3
PROFILE ?= smoke
ONLY ?=
ARGS ?=

# This checkout's code comes first, wherever an older install of the kit may point.
export PYTHONPATH := $(CURDIR)
# The kernels of .venv come before those of the user's home.
export JUPYTER_PREFER_ENV_PATH := 1

PY := .venv/bin/python
QUICKSTART := build/quickstart

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-slow soak notebooks site lab lint format clean

help:
	@echo "make quickstart            defects on normal images of three products, in a few minutes"
	@echo "make lab                   open the notebooks in JupyterLab"
	@echo "make notebooks PROFILE=smoke|laptop|paper [ONLY=05]"
	@echo "                           run them: smoke and paper into build/notebooks/, laptop (the"
	@echo "                           committed outputs) in place"
	@echo "make site                  README, guides, executed notebooks and the explorer as pages"
	@echo "make test                  lint, types, unit tests, every notebook at PROFILE=smoke"
	@echo "make test-slow             the tests that take long"
	@echo "make soak                  long work, watched: nothing may grow (part of no test)"
	@echo "make lint, make format     check the code, or mend its layout"
	@echo "make clean                 remove build/ and caches; .venv/ and runs/ stay"
	@echo
	@echo "Options: PYTHON=python3.12 (3.11 or newer, used when .venv/ is built),"
	@echo "ARGS='-k losses -x' (for pytest), DTGAN_MTD_SOURCE=file.zip (tests on the real MTD)."

# The problem is raised by make itself, so that it is one line and not make's own error on top.
venv:
	$(eval problem := $(shell PYTHON='$(PYTHON)' tools/make_venv.sh --problem))
	$(if $(problem),$(error $(problem)))
	@PYTHON='$(PYTHON)' tools/make_venv.sh

quickstart: venv
	@rm -rf $(QUICKSTART)
	@$(PY) notebooks/runner.py --profile laptop --only 00 --out $(QUICKSTART) --html \
		-p OUT=$(QUICKSTART)

# Two processes with a thread each: a file's tests stay together, for they share what they train,
# and the runs of notebooks go to whichever is free (tests/conftest.py).
test: lint
	@set -o pipefail; OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: venv
	@set -o pipefail; $(PY) -m pytest -m slow $(ARGS)

soak: venv
	@$(PY) tools/soak.py $(ARGS)

notebooks: venv
	@$(PY) notebooks/runner.py --profile $(PROFILE) --html $(if $(ONLY),--only $(ONLY)) \
		$(if $(filter laptop,$(PROFILE)),--in-place)

site: venv
	@$(PY) tools/make_site.py

lab: venv
	@$(PY) -m jupyter lab --ServerApp.root_dir=. $(if $(filter 0,$(shell id -u)),--allow-root) \
		$(ARGS) notebooks/00_quickstart.ipynb

lint: venv
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: venv
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d \
		-exec rm -rf {} +
