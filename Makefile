PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench bench-quality embedded ci clean test-labelstudio

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Set up .venv with the locked versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ovseg needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Setting up $(VENV) (torch with CUDA libraries: about 6 GB, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## Annotate 24 drawn scenes with the embedded models and show the masks
	@$(BIN)/ovseg demo

test: $(INSTALLED) ## Run the test suite
	@$(BIN)/python -m pytest

test-labelstudio: $(INSTALLED) ## Try the Label Studio export on a real server (installs 1 GB, takes minutes)
	@test -x .labelstudio/bin/label-studio || (python3 -m venv .labelstudio && \
		.labelstudio/bin/pip install -qq --disable-pip-version-check label-studio==1.23.2)
	@OVSEG_LABEL_STUDIO=$(CURDIR)/.labelstudio/bin/label-studio $(BIN)/python -m pytest tests/external

lint: $(INSTALLED) ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

bench: $(INSTALLED) ## Measure speed and memory as ratios against the plain way
	@$(BIN)/python -m benchmarks

bench-quality: $(INSTALLED) ## Measure every method on drawn scenes; writes the README's tables
	@$(BIN)/python -m benchmarks.quality

embedded: $(INSTALLED) ## Retrain the embedded models from nothing (CPU, tens of minutes)
	@$(BIN)/python -m training.embedded

ci: ## What CI runs
	@bash .ci/run

clean: ## Remove what the other targets made, but not your runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
