# Everything a developer types. Only Python ≥ 3.10 with pip and venv and GNU make are needed; the rest goes into
# .venv. With a C compiler and Python's headers there is more: gunicorn_h1c, which splits heads in C, is tried at
# each install and by `make parser`; `make compile` needs both.

VENV := .venv
BIN := $(VENV)/bin
# Which Python makes .venv; the first that fits if not given: make PYTHON=/path/to/python test
PYTHON ?=
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo run parser compile test check fmt docs lock bench bench-quick bench-micro bench-failures bench-slow soak wire-peers fuzz clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## the balancer on port 8080 with two demo backends behind it
	@$(BIN)/python load_balancer.py demo

run: $(VENV)/.run ## the balancer with config.json, or the file in LB_CONFIG
	@$(BIN)/python load_balancer.py run

parser: | $(BIN)/python ## the parser of heads in C, where it could not be built before
	@$(BUILD_PARSER) || { cat $(VENV)/parser.log >&2; echo "$$NO_PARSER" >&2; exit 1; }

compile: $(VENV)/.dev ## the request path as C extensions: a fifth less CPU a request; half a minute
	@$(BIN)/python deploy/compile.py

test: $(VENV)/.dev ## all tests; some only: make test ARGS="-k table"
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/.dev ## lint, formatting, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fmt: $(VENV)/.dev ## format, and mend what the linter can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(VENV)/.run ## config.schema.json and docs/configuration.md, from app/config/keys.py
	$(BIN)/python -m app.config schema > config.schema.json
	$(BIN)/python -m app.config docs > docs/configuration.md

UV := $(BIN)/uv pip compile --quiet --no-python-downloads --universal --python-version 3.10 \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock"

lock: $(VENV)/.dev ## the locks, after a change of requirements.txt or requirements-dev.txt
	$(UV) requirements.txt -o requirements.lock
	$(UV) requirements-c.txt -o requirements-c.lock
	$(UV) requirements.txt requirements-dev.txt -c requirements.lock -o requirements-dev.lock

bench: $(VENV)/.dev ## every case beside nginx, HAProxy, Envoy, Caddy and aiohttp; about 50 minutes
	$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.dev ## small GET beside nginx, Envoy and Caddy; under 2 minutes
	$(BIN)/python -m bench quick $(ARGS)

bench-micro: $(VENV)/.run ## what each step of a request costs, in ns
	$(BIN)/python -m bench.micro $(ARGS)

bench-slow: $(VENV)/.run ## 2,000 clients that drip a byte a second, beside honest ones; 3 minutes
	$(BIN)/python -m bench.slow_clients $(ARGS)

soak: $(VENV)/.run ## ten minutes of everything at once: one access line a request? does memory stay?
	$(BIN)/python -m bench.soak $(ARGS)

bench-failures: $(VENV)/.run ## servers fail by script, ours and the peers (docs/failures.md); ARGS="--quick"
	$(BIN)/python -m bench.scenarios $(ARGS)

wire-peers: $(VENV)/.dev ## the wire cases against nginx and HAProxy, in one table; ARGS="-v" names each difference
	cd tests/wire && ../../$(BIN)/python -m replay.peers $(ARGS)

fuzz: $(VENV)/.dev ## a minute of coverage-guided fuzzing; needs: .venv/bin/pip install atheris
	$(BIN)/python tests/fuzz/fuzz.py --seconds 60 $(ARGS)

clean: ## remove .venv and every cache
	rm -rf $(VENV) app/_compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment: made once, filled again when a lock changes ------------------------

define INSTALL_FAILED
make: the packages could not be installed; pip's words are above. All of them come ready built for Linux and
make: Python 3.10 to 3.13 (arm64: from 3.11), so it is the way to PyPI, or another Python: make PYTHON=/path/to/it
endef
NO_PARSER := make: gunicorn_h1c cannot be built here ($(VENV)/parser.log has why), so heads are read in Python \
	(5 to 8 µs more CPU a request); to have it, install a C compiler and Python's headers \
	(Debian: apt install gcc python3-dev), then: make parser
export INSTALL_FAILED NO_PARSER

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# Published as source only. Where it cannot be built that is said once, not tried again at every make.
BUILD_PARSER = $(INSTALL) -r requirements-c.lock >$(VENV)/parser.log 2>&1
TRY_PARSER = $(BUILD_PARSER) || echo "$$NO_PARSER" >&2

$(VENV)/.run: requirements.lock requirements-c.lock | $(BIN)/python
	@echo "Installing requirements.lock into $(VENV)" >&2
	@$(INSTALL) -r $< || { echo "$$INSTALL_FAILED" >&2; exit 1; }
	@$(TRY_PARSER)
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements-c.lock | $(BIN)/python
	@echo "Installing requirements-dev.lock into $(VENV)" >&2
	@$(INSTALL) -r $< || { echo "$$INSTALL_FAILED" >&2; exit 1; }
	@$(TRY_PARSER)
	@touch $@ $(VENV)/.run

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
		"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
			|| continue; \
		echo "Making $(VENV) with $$("$$python" --version)" >&2; \
		exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "make: no Python 3.10 or newer with venv and pip was found: install one" \
		"(Debian: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
	exit 1
