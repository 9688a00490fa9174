# make run     a first run in an environment of its own      make check   linter, type checker, tests
# make test    the test suite                                make clean   removes the environments and caches
# make quick   the tests without slow ones                   make dist    sdist and wheel into dist/, checked
# make engines tests of the launchers submitit and Ray       make browser the report in Chromium (installed by you)
# make zoo     tests of all of torchvision's families        make hooks   lint and types before each commit
# make docs    docs/ as a site in build/site, links checked  make frameworks  loops in Lightning and by Hugging Face
# make long    slow sweeps of cells; the quick part on Python 3.10 and 3.13, where they are found (6 GB each)
# PYTHON=python3.12 make ... picks the interpreter. Stamp files in .venv make a second call quick.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# Pythons that fit, as requires-python says; asked before anything is installed
FITS := 3.10 3.11 3.12 3.13
FOUND = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SAID = $(if $(FOUND),is Python $(FOUND),is not there)

.PHONY: run test quick long engines frameworks browser zoo docs lint types check dist hooks clean

run: $(VENV)/for-run
	$(BIN)/pruner method=dtp sparsity=0.9

test: $(VENV)/for-test
	$(PYTEST)

quick: $(VENV)/for-test
	$(PYTEST) -m "not slow and not long and not engines and not browser and not zoo"

long: $(VENV)/for-test
	$(PYTEST) -m long
	@for python in python3.10 python3.13; do \
	    if $$python -c "" 2>/dev/null; then $(MAKE) quick PYTHON=$$python VENV=.venv-$$python || exit; \
	    else echo "not run: make quick PYTHON=$$python, which is not there" >&2; fi; \
	done

engines: $(VENV)/for-engines
	$(BIN)/python -m pytest -m engines

frameworks: $(VENV)/for-frameworks
	$(BIN)/python -c "import lightning, transformers" # without which the page's blocks would be left out
	$(BIN)/python -m pytest tests/docs/test_blocks.py -k own-loop

browser: $(VENV)/for-test
	$(BIN)/python -m pytest -m browser

zoo: $(VENV)/for-test
	$(PYTEST) -m zoo

docs: $(VENV)/for-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # not --quiet, which would keep warnings from being errors

lint: $(VENV)/for-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/for-check
	$(BIN)/mypy

check: lint types test

dist: $(VENV)/for-check
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

hooks: $(VENV)/for-check
	$(BIN)/pre-commit install

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(filter $(FITS),$(FOUND)),,$(error $(PYTHON) $(SAID), pruner runs on Python $(FITS): PYTHON=python3.12 make $(or $(MAKECMDGOALS),run)))
	$(PYTHON) -m venv $(VENV)

$(VENV)/for-run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/for-test: $(VENV)/for-run
	$(INSTALL) --editable '.[test]'
	touch $@

$(VENV)/for-engines: $(VENV)/for-test
	$(INSTALL) --editable '.[test,submitit,ray]'
	touch $@

$(VENV)/for-frameworks: $(VENV)/for-test
	$(INSTALL) --editable '.[test,frameworks]'
	touch $@

$(VENV)/for-check: $(VENV)/for-test
	$(INSTALL) --editable '.[test,dev]'
	touch $@

$(VENV)/for-docs: $(VENV)/for-run
	$(INSTALL) --editable '.[docs]'
	touch $@
