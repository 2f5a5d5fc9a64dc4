# `make quickstart`, `make test` and `make docs` need Python >= 3.11 and nothing else: the first of
# these that is new enough, or the one that `make PYTHON=...` names.
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo $$name && break; done)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

# tests/smoke is for the newest dependencies of newer Pythons (.ci/run): the other tests hold what it
# holds.
.PHONY: quickstart test docs venv

quickstart: venv
	$(PIP) install --quiet --constraint constraints.txt '.[all]'
	$(VENV)/bin/retfm quickstart

test: venv
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal --ignore=tests/smoke

docs: venv
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[test,docs]'
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --builder html docs docs/_build

venv:
	$(if $(PYTHON),,$(error Python >= 3.11 is not on PATH: make PYTHON=/path/to/python3.11))
	$(PYTHON) -m venv $(VENV)
