# Every target sets up what it needs by itself; `make` alone lists them.

BIN := .venv/bin
STAMP := .venv/.rowferry-setup
FAST_TESTS := $(wildcard tests/unit tests/property tests/contract)
# What the whole suite may take on two cores, and how many workers share it: many tests wait more than they work.
TEST_SECONDS ?= 4800
TEST_WORKERS ?= 3
PYTEST_ARGS ?=
BENCH_ARGS ?=
# The tests start some thousand processes, and each would compile all of Rowferry anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup check format test test-nightly soak faults mutants services demo bench bench-small clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## build .venv with Rowferry and its development tools

$(STAMP): pyproject.toml infra/scripts/setup_venv.sh
	@infra/scripts/setup_venv.sh
	@touch $@

check: $(STAMP) ## the quick half: format, lint, types, layers, fast tests
	@echo "== format"
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@echo "== lint"
	@$(BIN)/ruff check --quiet .
	@echo "== types"
	@$(BIN)/mypy --no-error-summary
	@echo "== layers"
	@$(BIN)/lint-imports --no-logo > .venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }
	@echo "== fast tests"
	@$(BIN)/pytest -q -n 2 -m "not containers and not heavy" $(FAST_TESTS) $(PYTEST_ARGS)

format: $(STAMP) ## format the code and repair what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

services: ## make this machine able to run the container tests
	@infra/scripts/test_services.sh up

# One file's tests stay in one worker, so that a server of the module's own is started once.
test: $(STAMP) services ## all tests, with real PostgreSQL and RabbitMQ servers
	@ROWFERRY_REQUIRE_SERVICES=1 HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} \
		$(BIN)/pytest -q -n $(TEST_WORKERS) --dist loadfile --session-timeout=$(TEST_SECONDS) $(PYTEST_ARGS)

test-nightly: ## all tests with many random examples; for the nightly run
	@HYPOTHESIS_PROFILE=nightly $(MAKE) --no-print-directory test TEST_SECONDS=7200

SECONDS ?= 3600
# Side by side, one core each: the machine for that long, and kills for that long.
soak: $(STAMP) services ## the state machine of several nodes, and processes killed, at random for SECONDS seconds (3600)
	@failed=0; for half in machine kills; do \
		ROWFERRY_REQUIRE_SERVICES=1 ROWFERRY_TEST_SOAK_SECONDS=$(SECONDS) $(BIN)/pytest -q -s -k test_soak_$$half \
			tests/soak --session-timeout=$$(($(SECONDS) + 700)) & pids="$$pids $$!"; \
	done; for pid in $$pids; do wait $$pid || failed=1; done; exit $$failed

FAULTS_OUT := $(CURDIR)/.cache/faults
faults: $(STAMP) services ## every fault, kill and named point, and renew docs/RELIABILITY.md; half an hour of an idle machine
	@rm -rf $(FAULTS_OUT) && mkdir -p $(FAULTS_OUT)
	@ROWFERRY_REQUIRE_SERVICES=1 ROWFERRY_TEST_FAULTS_OUT=$(FAULTS_OUT) $(BIN)/pytest -q tests/faults $(PYTEST_ARGS)
	@$(BIN)/python -m tests.faults.page $(FAULTS_OUT)

mutants: $(STAMP) services ## switch off one safeguard after the other, in a copy: each must turn tests red; MUTANTS="name …" for some
	@$(BIN)/python -m tests.mutants $(MUTANTS)

demo: $(STAMP) ## the demonstration
	@$(BIN)/rowferry demo

bench: $(STAMP) services ## measure Rowferry beside its peers, and renew docs/PERFORMANCE.md; ten minutes of an idle machine
	@infra/scripts/bench_setup.sh
	@$(BIN)/python -m tests.bench --publish $(BENCH_ARGS)

bench-small: $(STAMP) services ## the same with little data: only to see that all of it works
	@infra/scripts/bench_setup.sh
	@$(BIN)/python -m tests.bench --small $(BENCH_ARGS)

clean: ## remove this checkout's containers, the engine that was started for it, and all caches
	@infra/scripts/test_services.sh down
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
