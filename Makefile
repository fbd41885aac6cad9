# What a person types. Every target sets up what it needs: a virtual environment in .venv, package caches in .cache,
# and for the tests the few system packages they use. Nothing outside the checkout is written (system packages apart).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# Package caches stay inside the checkout unless the caller points somewhere else.
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip

# `make molecule ANSIBLE=2.16` (or test, or lint) uses that ansible-core, in an environment of its own.
VENV := $(if $(ANSIBLE),.cache/ansible-$(ANSIBLE),.venv)

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
PYTHON_FILES := agent apiserver supervisor_gen demo benchmarks tests tools ansible molecule

# Where ansible finds the collection of this checkout, as molecule/run.py has it too.
COLLECTIONS := .cache/molecule/collections
COLLECTION := $(COLLECTIONS)/ansible_collections/gpufleet/clearml

.DEFAULT_GOAL := help
.PHONY: help demo up test lint format molecule sanity faults soak bench wheelhouse clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(RUNTIME) ## Three tasks through a server and two agents, then everything is shut down again
	@$(BIN)/python -m demo run $(ARGS)

up: $(RUNTIME) ## The same start, and it stays up until Ctrl-C
	@exec $(BIN)/python -m demo up $(ARGS)

test: $(DEV) ## All tests (ARGS="-k name" for some)
	@tools/setup.sh system
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV) $(COLLECTION) ## ruff (rules and format), mypy --strict, and ansible-lint with its production profile
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/ruff format --check $(PYTHON_FILES)
	@$(BIN)/mypy
	@$(BIN)/mypy molecule/*.py tools/*.py
	@PATH="$(CURDIR)/$(BIN):$$PATH" ANSIBLE_HOME=$(CURDIR)/.cache/ansible ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/$(COLLECTIONS) \
		$(BIN)/ansible-lint -q ansible molecule # it asks ansible-playbook --syntax-check about each playbook, too

format: $(DEV) ## Let ruff put the code in order
	@$(BIN)/ruff check --fix $(PYTHON_FILES)
	@$(BIN)/ruff format $(PYTHON_FILES)

molecule: $(DEV) .venv/.installed-runtime ## The collection on hosts that are booted for it, as root (ARGS="default" for some scenarios)
	@tools/setup.sh system
	@$(BIN)/python molecule/run.py $(ARGS)

sanity: $(DEV) ## ansible-test sanity over the collection; not part of lint, as it takes minutes (ARGS="--test import" for some)
	@tools/sanity.sh $(ARGS)

faults: $(DEV) ## The whole fault suite, as root: an hour of kills, lost replies, full disks, odd input (ARGS="-k name" for some)
	@tools/setup.sh system
	@GPUFLEET_EXAMPLES=100 GPUFLEET_FUZZ=5 $(BIN)/python -m pytest --all-faults --timeout 1200 \
		tests/faults tests/model tests/contract/test_claim_protocol.py tests/*/test_bad_input*.py $(ARGS)

soak: $(DEV) ## Eight agents under random faults; nothing may be lost and memory stays flat (MINUTES=10)
	@$(BIN)/python -m pytest -s tests/faults/test_soak.py --minutes $(or $(MINUTES),10) $(ARGS)

bench: $(DEV) ## Measure every figure, ours and clearml-agent side by side (ARGS="--quick" for a first look)
	@$(BIN)/python -m benchmarks $(ARGS)

wheelhouse: $(DEV) ## A folder of wheels for hosts without a package index (build/wheelhouse)
	@tools/wheelhouse.sh build/wheelhouse

clean: ## Remove everything that the targets above made
	rm -rf .venv .cache demo-state benchmarks/results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PYTHON_FILES) -name __pycache__ -type d -prune -exec rm -rf {} +

%/.installed-runtime: pyproject.toml tools/setup.sh
	@VENV=$* tools/setup.sh runtime
	@touch $@

%/.installed-dev: pyproject.toml tools/setup.sh
	@VENV=$* ANSIBLE=$(ANSIBLE) tools/setup.sh dev
	@touch $@ $*/.installed-runtime

$(COLLECTION):
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR)/ansible $@
