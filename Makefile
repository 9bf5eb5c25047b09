# Two commands for a newcomer: `make demo` and `make test`. Each creates .venv and installs what it needs the first time.
# Another interpreter: make PYTHON=python3.12 demo

VENV   ?= .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test lint types unit test-servers test-engines clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: needs Python 3.11 to 3.13; name one with: make PYTHON=/path/to/python demo" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Stamps: the second run installs nothing unless the requirements changed.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) -e '.[serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), with the development tools (a few minutes the first time)"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/s2t demo

# The type checker runs beside the tests, which wait for processes of theirs now and then.
test: lint
	$(MAKE) -j2 types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check src recipe tests
	$(BIN)/ruff format --check src recipe tests

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses=4

# An LLM behind real servers, which are installed into $(SERVERS) the first time (half an hour, 8 GB).
SERVERS ?= .servers
test-servers: $(VENV)/.dev
	tests/servers/install.sh $(SERVERS)
	OMP_NUM_THREADS=1 S2T_SERVERS=$(abspath $(SERVERS)) $(BIN)/pytest -q -rA tests/servers

# Our plug-in inside a real vLLM, which is installed into $(SERVERS) the first time.
test-engines: $(VENV)/.dev
	tests/servers/install.sh $(SERVERS) vllm
	OMP_NUM_THREADS=1 S2T_SERVERS=$(abspath $(SERVERS)) $(BIN)/pytest -q -rA tests/engines

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
