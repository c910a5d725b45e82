# Two commands: `make bench` and `make test`. Both make the environment first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := $(wildcard ../shared/data)

.PHONY: bench test lint env
env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) from constraints.txt (once, some minutes) ..."
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(BIN)/python -c 'import repirl, torch, transformers, lm_eval, pytest'
	@touch $@

bench: $(STAMP)
	$(BIN)/repirl bench tiny

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Pyright runs on the node that `pyright[nodejs]` brings; it needs no network, and looks for no newer version of itself.
lint: $(STAMP)
	$(BIN)/ruff check -q .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
