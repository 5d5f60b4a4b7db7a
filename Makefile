# Everything a fresh machine needs is Python 3.11+ and make: each target builds .venv first, with the extra it needs.
# PYTHON, VENV, PIP_FLAGS and JOBS (processes of pytest) can be set by the caller:  make test PYTHON=python3.12 JOBS=4

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= --disable-pip-version-check --quiet
RUN := $(VENV)/bin/python
JOBS ?= 2
PYTEST := $(RUN) -m pytest
SPREAD := -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all check bench clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## train on real and on generated data with 1 and 2 workers; report in demo-report/index.html
	$(RUN) examples/demo.py

test: $(VENV)/.installed-test  ## all but the slow tests; what needs a part that is not installed is skipped with the reason
	$(PYTEST) $(SPREAD) -m "not slow and not alone"
	$(PYTEST) -m "not slow and alone"

test-all: $(VENV)/.installed-test  ## all tests, the slow ones too
	$(PYTEST)

check: $(VENV)/.installed-dev  ## what a change must pass: ruff, mypy, layers, fast tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(PYTEST) -q -m "not slow and not thorough" tests/test_layers.py tests/test_house.py
	$(PYTEST) -q $(SPREAD) -m "not slow and not thorough and not alone" \
	  --deselect tests/test_layers.py --deselect tests/test_house.py

bench: $(VENV)/.installed-bench  ## every claim with a number, measured here; results in benchmarks/results/
	@set -e; for claim in benchmarks/[a-z]*.py; do echo "== $$claim"; $(RUN) "$$claim"; done

clean:  ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) demo-report build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tutti needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); write: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install $(PIP_FLAGS) -e '.[$*]'
	@touch $@
