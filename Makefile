# Needs git, make and python3 >= 3.11; everything else is installed into the checkout.
#   make run NAME=other PORT=4567    a second local cloud beside the first
#   make run FRESH=1                 without the orders of before
#   make test ARGS="-k receipt"      options for pytest; likewise of cost, load and the provers
# Works from any folder: make -f path/to/Makefile run

# These variables count on the command line only. An exported variable of the same name belongs to another program.
given = $(if $(filter command line,$(origin $(1))),$($(1)))
CLOUD := --name $(or $(call given,NAME),default)
START := $(CLOUD) $(addprefix --port ,$(call given,PORT)) $(if $(call given,FRESH),--fresh)
ARGS := $(call given,ARGS)
HERE := $(dir $(lastword $(MAKEFILE_LIST)))

ORDERCTL := $(HERE).venv/bin/orderctl
MEASURE := $(HERE).venv/bin/measure
PYTHON := .venv/bin/python
SAM := .local/venv-sam/bin/sam

# Local commands must not depend on, or reach, anybody's AWS account or Python environment.
unexport AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL
unexport AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
export PATH := $(abspath $(HERE))/.local/uv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install install-all run down status test lint format build validate invoke-samples cost load bench bench-laptop prove prove-case prove-stories prove-mutants mutants clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

install:
	@$(HERE)scripts/install run

install-all:
	@$(HERE)scripts/install all

run: install ## Start the local cloud, deploy to it, send the sample orders and watch them
	@exec $(ORDERCTL) run $(START)

down: ## Stop the local cloud and keep its orders; no process stays
	@if [ -d $(HERE).venv ]; then $(HERE)scripts/install run && exec $(ORDERCTL) down $(CLOUD); else echo "No local cloud is running: nothing is installed here."; fi

status: install ## Show what runs and where
	@exec $(ORDERCTL) status $(CLOUD)

test: install-all ## Run every test suite, on a local cloud of its own
	@cd $(HERE) && exec $(PYTHON) scripts/test.py $(ARGS)

lint: install-all ## Check formatting, lint, imports and types
	cd $(HERE) && .venv/bin/ruff format --check .
	cd $(HERE) && .venv/bin/ruff check .
	cd $(HERE) && .venv/bin/lint-imports --no-cache --no-logo
	cd $(HERE) && .venv/bin/mypy

format: install-all ## Format the code and apply the linter's fixes
	cd $(HERE) && .venv/bin/ruff format .
	cd $(HERE) && .venv/bin/ruff check --fix .

build: install ## Build the functions as AWS gets them (python3.13, arm64)
	@cd $(HERE) && exec $(SAM) build

validate: install ## Check the template with SAM's linter
	@cd $(HERE) && exec $(SAM) validate --lint

.PHONY: pictures ci
pictures: install-all ## Draw docs/workflow.md and docs/modules.md anew
	@cd $(HERE) && exec $(PYTHON) scripts/pictures.py

ci: ## Run everything that must hold before a change is merged
	@exec $(HERE)scripts/ci

invoke-samples: install ## Run every sample event through `sam local invoke` (needs Docker and a running local cloud)
	@cd $(HERE) && exec $(PYTHON) scripts/invoke_samples.py $(CLOUD)

cost: install ## Show what a million orders cost on AWS: ARGS='--profile mixed --orders-per-month 3000000'
	@exec $(MEASURE) cost $(ARGS)

load: install ## Send orders at a steady rate to the running local cloud and account for each: ARGS='--faults full'
	@exec $(MEASURE) load $(CLOUD) $(ARGS)

bench: install-all ## Measure cold starts, warm cost, dollars an order and scaling; also as JSON in .local/bench/
	@exec $(MEASURE) all

bench-laptop: install ## Measure the local cloud: clone to first order, second run, latencies
	@exec $(MEASURE) laptop

prove: install-all ## Prove that nothing is lost and nothing happens twice: fault matrix and stories
	@cd $(HERE) && $(PYTHON) -m verify matrix --write
	@cd $(HERE) && $(PYTHON) -m verify stories $(ARGS)

prove-case: install-all ## Run one case of the fault matrix: CASE='...'
	@cd $(HERE) && exec $(PYTHON) -m verify case "$(CASE)"

prove-stories: install-all ## Run the stories alone: ARGS='--seed 7 --examples 500'
	@cd $(HERE) && exec $(PYTHON) -m verify stories $(ARGS)

prove-mutants: install-all ## Insert deliberate defects, one at a time: each must turn the proof red
	@cd $(HERE) && exec $(PYTHON) -m verify mutants --write

.PHONY: freeze
freeze: install-all ## Freeze this version and what it has in flight under releases/: VERSION=1.0.0 [ARGS=--force]
	@cd $(HERE) && exec $(PYTHON) -m verify freeze --version "$(call given,VERSION)" $(ARGS)

mutants: install-all ## Change src/orders in one place at a time, a test must notice: SINCE=REV, FILES='...', SAMPLE=700 SEED=1
	@cd $(HERE) && exec $(PYTHON) -m verify.mutation $(if $(SINCE),--since $(SINCE)) $(if $(FILES),--files "$(FILES)") \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

clean: ## Stop every local cloud of this checkout; remove their orders and all that was built or installed
	@if [ -d $(HERE).venv ]; then $(HERE)scripts/install run && $(ORDERCTL) down --all >/dev/null; fi
	@cd $(HERE) && rm -rf .local .venv .aws-sam
	@echo "Removed: the local clouds of this checkout with their orders, and all that was built or installed."
