# What a person types. Every target sets up what it needs: a virtual environment in .venv, package caches in .cache,
# and for the tests the few system packages they use. Nothing outside the checkout is written (system packages apart).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# Package caches stay inside the checkout unless the caller points somewhere else.
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip

BIN := .venv/bin
RUNTIME := .venv/.installed-runtime
DEV := .venv/.installed-dev
PYTHON_FILES := agent apiserver supervisor_gen demo benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help demo up test lint format bench clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(RUNTIME) ## Three tasks through a server and two agents, then everything is shut down again
	@$(BIN)/python -m demo run $(ARGS)

up: $(RUNTIME) ## The same start, and it stays up until Ctrl-C
	@exec $(BIN)/python -m demo up $(ARGS)

test: $(DEV) ## All tests (ARGS="-k name" for some)
	@tools/setup.sh system
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV) ## ruff (rules and format) and mypy --strict
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/ruff format --check $(PYTHON_FILES)
	@$(BIN)/mypy

format: $(DEV) ## Let ruff put the code in order
	@$(BIN)/ruff check --fix $(PYTHON_FILES)
	@$(BIN)/ruff format $(PYTHON_FILES)

bench: $(DEV) ## Measure every figure, ours and clearml-agent side by side (ARGS="--quick" for a first look)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove everything that the targets above made
	rm -rf .venv .cache demo-state benchmarks/results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PYTHON_FILES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml tools/setup.sh
	@tools/setup.sh runtime
	@touch $@

$(DEV): pyproject.toml tools/setup.sh
	@tools/setup.sh dev
	@touch $@ $(RUNTIME)
