# make run     a first run in an environment of its own      make check   linter, type checker, tests
# make test    the test suite                                make clean   removes the environment and caches
# make engines tests of the launchers submitit and Ray        make browser the report in Chromium (installed by you)
# make zoo     tests of all of torchvision's families
# PYTHON=python3.12 make ... picks the interpreter. Stamp files in .venv make a second call quick.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test engines browser zoo lint types check clean

run: .venv/for-run
	$(BIN)/pruner method=dtp sparsity=0.9

test: .venv/for-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

engines: .venv/for-engines
	$(BIN)/python -m pytest -m engines

browser: .venv/for-test
	$(BIN)/python -m pytest -m browser

zoo: .venv/for-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m zoo -n auto --dist worksteal

lint: .venv/for-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/for-check
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/for-run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

.venv/for-test: .venv/for-run
	$(INSTALL) --editable '.[test]'
	touch $@

.venv/for-engines: .venv/for-test
	$(INSTALL) --editable '.[test,submitit,ray]'
	touch $@

.venv/for-check: .venv/for-test
	$(INSTALL) --editable '.[test,dev]'
	touch $@
