# `make run` and `make test` need Python >= 3.11 and a package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
STUBS := clients/python

.PHONY: help setup run test test-slow check runtime tracked lint types contracts protos generate generated typescript docs manifests images torture watch-torture callers bench compose-smoke failover rolling lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtual environment, from the hash-pinned lock

$(STAMP): requirements/dev.txt pyproject.toml clients/cli/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "This needs Python >= 3.11 on the PATH (or PYTHON=/path/to/python3)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "This needs Python >= 3.11; $(PYTHON) is older. Name another with PYTHON=..."; exit 1; }
	@echo "Preparing $(VENV) (once; about a minute)..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . --editable clients/cli
	@touch $@

run: $(STAMP) ## everything: Postgres, stand-in Stripe, service, gateway, storefront; Ctrl-C stops it
	@exec $(BIN)/python -m sandbox

# A hundred programs are started: where an environment keeps Python from writing bytecode, as containers do, each compiles all of ours again.
test test-slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP) ## unit, integration and acceptance tests
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(STAMP) ## the tests that start programs and databases again and again: restarts, failover, upgrade, wheels
	@$(BIN)/python -m pytest -n auto --dist worksteal -m slow

SEED ?= 1
DELIVERIES ?= 100000
torture: $(STAMP) ## random lives, every fault, programs killed: SEED=1 DELIVERIES=100000
	@$(BIN)/python -m tests.torture --seed $(SEED) --deliveries $(DELIVERIES)

CHANGES ?= 10000
watch-torture: $(STAMP) ## watches while everything is killed: SEED=1 CHANGES=10000 (about five minutes)
	@$(BIN)/python -m tests.watch_torture --seed $(SEED) --changes $(CHANGES)

LIVES ?= 500
callers: $(STAMP) ## lives through the API with faults, checked after each call: SEED=1 LIVES=500 (about fifteen minutes)
	@$(BIN)/python -m tests.callers --seed $(SEED) --lives $(LIVES)

RESULTS := benchmarks/results
bench: $(STAMP) ## webhooks beside pgbench and a Node mirror, reads, watching; writes the tables and plots of docs/benchmarks.md
	@mkdir -p $(RESULTS)
	@$(BIN)/python -m benchmarks.webhooks --out $(RESULTS)/webhooks.json
	@$(BIN)/python -m benchmarks.growth --out $(RESULTS)/growth.json
	@$(BIN)/python -m benchmarks.owned --of invoices --each 1 10 100 1000 --out $(RESULTS)/own_invoices.json
	@$(BIN)/python -m benchmarks.owned --of purchases --each 1 10 100 --out $(RESULTS)/own_purchases.json
	@$(BIN)/python -m benchmarks.backlog --out $(RESULTS)/backlog.json
	@$(BIN)/python -m benchmarks.reads --out $(RESULTS)/reads.json
	@$(BIN)/python -m benchmarks.watch --out $(RESULTS)/watch.json
	@$(BIN)/python -m benchmarks.cores --out $(RESULTS)/cores.json
	@$(BIN)/python -m benchmarks.report

compose-smoke: $(STAMP) ## docker-compose.yml up for real, a purchase through it, and down; skipped without Docker
	@PYTHONPATH="$(CURDIR):$(CURDIR)/$(STUBS)" $(BIN)/python -m tests.compose

failover: $(STAMP) ## a replicated PostgreSQL loses its primary under webhook load: nothing acknowledged may be lost
	@PYTHONPATH="$(CURDIR):$(CURDIR)/$(STUBS)" $(BIN)/python -m tests.failover

ROUNDS ?= 3
rolling: $(STAMP) ## two services and two gateways restarted in turn under load: no failed call, no lost event: ROUNDS=3
	@PYTHONPATH="$(CURDIR):$(CURDIR)/$(STUBS)" $(BIN)/python -m tests.rolling --rounds $(ROUNDS) --rate 200
	@PYTHONPATH="$(CURDIR):$(CURDIR)/$(STUBS)" $(BIN)/python -m tests.rolling --rounds 1 --rate 200 --workers 2

check: tracked lint types contracts protos generated docs manifests ## everything that must stay true beside the tests

runtime: ## both programs import with requirements/runtime.txt alone, as the image has them
	@rm -rf build/runtime && $(PYTHON) -m venv build/runtime
	@build/runtime/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@PYTHONPATH="$(CURDIR):$(CURDIR)/$(STUBS)" build/runtime/bin/python -P tools/runtime_imports.py

tracked: $(STAMP) ## no link, no ignored file and no index's address is committed
	@$(BIN)/python -m tools.tracked

lint: $(STAMP) ## ruff: rules and format; and no text of an exception in a log line
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m tools.log_errors

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

contracts: $(STAMP) ## which way imports may point
	@$(BIN)/lint-imports --no-cache

protos: $(STAMP) ## buf: lint, format, and no breaking change since BREAKING_AGAINST (a git ref)
	@PATH="$(BIN):$$PATH" buf lint
	@PATH="$(BIN):$$PATH" buf format protos -d --exit-code
	@BUF="$(BIN)/buf" sh tools/proto_breaking.sh

generate: $(STAMP) ## the Python stubs, from protos/ (buf.gen.yaml)
	@find $(STUBS)/billing -name '*_pb2*.py*' -delete
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf generate

typescript: $(STAMP) ## the TypeScript stubs, from protos/, and the client around them (needs npm)
	@npm --prefix clients/typescript ci --no-audit --no-fund --ignore-scripts
	@PATH="$(CURDIR)/$(BIN):$$PATH" buf generate --template buf.gen.typescript.yaml
	@npm --prefix clients/typescript run build

generated: generate ## regenerating leaves no difference
	@git diff --exit-code --stat -- $(STUBS) && test -z "$$(git status --porcelain -- $(STUBS))" \
	  || { echo "The stubs are not what protos/ gives: run 'make generate' and commit."; exit 1; }

docs: $(STAMP) ## pages agree with the contract, and links lead somewhere
	@$(BIN)/python -m tools.error_docs --check && $(BIN)/python -m tools.access_docs --check && $(BIN)/python -m tools.promise_docs && $(BIN)/python -m tools.doc_links && $(BIN)/python -m tools.metrics

manifests: $(STAMP) ## deploy/kubernetes against the schemas of Kubernetes' API; images by digest
	@$(BIN)/python -m tools.manifests && $(BIN)/python -m tools.images

images: $(STAMP) ## whether a tag has another digest now than here (asks the registry; needs docker with buildx)
	@$(BIN)/python -m tools.images --resolve

lock: ## requirements/*.txt anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	printf 'rich>=15.0\ntyper>=0.29\n' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url -c requirements/runtime.txt -c requirements/dev.txt - -o requirements/cli.txt
	echo 'hatchling>=1.27' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url -c requirements/dev.txt - -o requirements/build.txt

clean: ## the virtual environment and the sandbox's data
	rm -rf $(VENV) .sandbox
