# Every command of the project; CI calls the same ones. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The words after bench and bench-peers are scenarios: make bench drain insert
ifneq ($(filter bench bench-peers,$(firstword $(MAKECMDGOALS))),)
SCENARIOS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(SCENARIOS)
$(SCENARIOS):
	@:
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test prove torture torture-bell torture-drain soak check bench bench-peers lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with pushq, the embedded PostgreSQL and the tools (PYTHON=… chooses the Python)

demo: $(READY) ## start a PostgreSQL of its own, run real jobs, show what happened, end
	@$(BIN)/pushq demo

quick: $(READY) ## test within a minute what needs little: pure parts, the pool's, the tables, two promises
	@$(BIN)/pytest tests/test_*.py tests/exporter tests/pool tests/migrations \
		tests/promises/test_claims_ahead.py tests/promises/test_one_owner.py

test: $(READY) ## test within six minutes what a change most likely breaks, against a real PostgreSQL
	@$(BIN)/pytest --ignore=tests/prove

prove: $(READY) ## test under rare faults, and the tests and the benchmark, within half an hour; and the wheel, short batteries, on 15
	@$(BIN)/pytest --session-timeout=1800 tests/prove

torture-bell: $(READY) ## try to make it lose a wake-up (MINUTES=30 SEED=… PLANTED=… chooses a bug to be found)
	@$(BIN)/python -m tests.torture_bell --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(PLANTED),--planted $(PLANTED))

torture: $(READY) ## try to break the guarantees by random faults (RUNS=10 SEED=… REPLAY=FILE PLANTED=…)
	@$(BIN)/python -m tests.torture --record $(or $(RECORD),build/torture.jsonl) --runs $(or $(RUNS),10) $(if $(SEED),--seed $(SEED)) $(if $(REPLAY),--replay $(REPLAY)) $(if $(PLANTED),--planted $(PLANTED))

torture-drain: $(READY) ## stop supervisors at random instants, and go on where it was stopped (RUNS=600 SEED=…)
	@$(BIN)/python -m tests.torture_drain --record $(or $(RECORD),build/torture-drain.jsonl) --runs $(or $(RUNS),600) $(if $(SEED),--seed $(SEED))

soak: $(READY) ## ordinary work under kills and restarts; does memory grow? (MINUTES=30)
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

check: $(READY) ## lint, format, types, migrations
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/squawk --assume-in-transaction --pg-version 15 migrations/*.sql

bench: $(READY) ## measure everything, for most of two hours, and go on where it was stopped (make bench drain: only that)
	@$(BIN)/pushq bench --embedded --long --record build/bench.jsonl --resume $(BENCH) $(SCENARIOS)

bench-peers: $(READY) ## compare with Graphile Worker, pg-boss, PgQueuer and awa, for an hour (make bench-peers drain ROUNDS=5)
	@$(BIN)/pushq bench --embedded --peers build/peers --record build/bench-peers.jsonl --resume $(if $(ROUNDS),--rounds $(ROUNDS)) $(BENCH) $(SCENARIOS)

lock: $(READY) ## choose the versions that a release is built of, and write them with their hashes: deploy/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --output-file deploy/requirements.txt pyproject.toml

clean: ## remove what the other commands made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "pushq needs Python 3.11 or newer, and $(PYTHON) is not: name one with 'make $(MAKECMDGOALS) PYTHON=python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)
