# `make demo` and `make test` need nothing but Python 3.11, make and git; the rest is for developers.

# The first interpreter on the path that is new enough; or name one: make PYTHON=/path/to/python3.11
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
ifeq ($(strip $(PYTHON)),)
$(error pagesim needs Python 3.11 or newer and none was found; install it, or name it: make PYTHON=/path/to/python3.11)
endif

BIN := .venv/bin
# Test processes; 0 runs the tests in one process, as a debugger wants it.
WORKERS ?= 2

.PHONY: demo test test-deep lint format setup setup-test venv constraints clean

demo: setup
	@$(BIN)/pagesim run experiments/quickstart.yaml
	@echo "The report, to be opened in a browser: results/quickstart/latest/report.html"

test: lint
	$(BIN)/pytest -n $(WORKERS) -m "not slow" --hypothesis-profile=ci

# Every test, and many more examples for each property.
test-deep: lint
	$(BIN)/pytest -n $(WORKERS) --hypothesis-profile=deep

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup:
	@$(PYTHON) scripts/bootstrap.py

setup-test:
	@$(PYTHON) scripts/bootstrap.py --extra test

# The empty environment, for what has to be installed before everything else.
venv:
	@$(PYTHON) scripts/bootstrap.py --venv-only

# Take the newest release of everything within the bounds of pyproject.toml, for every platform.
constraints: setup-test
	printf 'hatchling\nuv\n' | $(BIN)/uv pip compile pyproject.toml - --extra test --universal --python-version 3.11 \
		--upgrade --quiet --no-header --no-annotate --no-emit-index-url -o scripts/constraints.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
