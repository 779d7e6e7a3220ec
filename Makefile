# Needs git, make and python3 >= 3.11; everything else is installed into the checkout.
#   make run            PORT=4567 and NAME=other start a second local cloud beside the first
#   make test           ARGS="-k receipt" is handed on to pytest

NAME ?= default
PORT ?= 4566
ARGS ?=

ORDERCTL := .venv/bin/orderctl
PYTHON := .venv/bin/python
SAM := .local/venv-sam/bin/sam

# Local commands must not depend on, or reach, anybody's AWS account or Python environment.
unexport AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL
unexport AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
export PATH := $(CURDIR)/.local/uv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install install-all run down status test lint format build validate invoke-samples bench bench-laptop prove prove-case prove-stories prove-mutants mutants clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

install:
	@scripts/install run

install-all:
	@scripts/install all

run: install ## Start the local cloud, deploy to it, send the sample orders and watch them
	@exec $(ORDERCTL) run --name $(NAME) --port $(PORT)

down: ## Stop the local cloud; leaves no process
	@if [ -d .venv ]; then scripts/install run && exec $(ORDERCTL) down --name $(NAME); else echo "Nothing is running: nothing is installed here."; fi

status: install ## Show what runs and where
	@exec $(ORDERCTL) status --name $(NAME)

test: install-all ## Run every test suite, on a local cloud of its own
	@exec $(PYTHON) -m pytest $(ARGS)

lint: install-all ## Check formatting, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: install-all ## Format the code and mend what the linter can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

build: install ## Build the functions as AWS gets them (python3.13, arm64)
	@exec $(SAM) build

validate: install ## Check the template with SAM's linter
	@exec $(SAM) validate --lint

invoke-samples: install ## Run every sample event through `sam local invoke` (needs Docker and a running local cloud)
	@exec $(PYTHON) scripts/invoke_samples.py --name $(NAME)

bench: install-all ## Measure cold start, warm cost, dollars an order and scaling; also as JSON in .local/bench/
	@exec $(PYTHON) -m benchmarks

bench-laptop: install ## Measure the local cloud: clone to first order, second run, latencies
	@exec $(PYTHON) -m benchmarks.laptop

prove: install-all ## Prove that nothing is lost and nothing happens twice: fault matrix and stories
	@$(PYTHON) -m proof matrix --write
	@$(PYTHON) -m proof stories $(ARGS)

prove-case: install-all ## Run one case of the fault matrix again: CASE='...'
	@exec $(PYTHON) -m proof case "$(CASE)"

prove-stories: install-all ## Tell the stories alone: ARGS='--seed 7 --examples 500'
	@exec $(PYTHON) -m proof stories $(ARGS)

prove-mutants: install-all ## Put in deliberate defects, one at a time: each must turn the proof red
	@exec $(PYTHON) -m proof mutants --write

mutants: install-all ## Change src/orders in one place at a time, a test must notice: SINCE=REV, FILES='...', SAMPLE=700 SEED=1
	@exec $(PYTHON) -m proof.mutation $(if $(SINCE),--since $(SINCE)) $(if $(FILES),--files "$(FILES)") \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

clean: ## Stop every local cloud of this checkout and remove everything that was built or installed
	@if [ -d .venv ]; then scripts/install run && $(ORDERCTL) down --all; fi
	rm -rf .local .venv .aws-sam
