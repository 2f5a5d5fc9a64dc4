# Two commands: `make quickstart` and `make test`. Both need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: quickstart test

quickstart:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt .
	$(VENV)/bin/retfm quickstart

test:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest -n 2
