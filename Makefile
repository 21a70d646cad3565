PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_PROCESSES ?= 2
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help install demo docs test lint bench bench-full bench-gpu bench-quality bench-students embedded ci clean test-clients test-deploy test-readers test-labelstudio test-lowest audit

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Set up .venv with the locked versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ovseg needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Setting up $(VENV) (torch with CUDA libraries: about 8 GB; it says nothing for 5 to 15 minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## Annotate 24 drawn scenes with the embedded models and show the masks
	@$(BIN)/ovseg demo

test: lint ## Check style, types and imports, then run the test suite; CI runs the same
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --no-loadscope-reorder

.%/.installed: tests/external/%.txt
	@echo "Setting up .$* for tests of other tools (1 to 2 GB, a few minutes) ..."
	@test -x .$*/bin/python || $(PYTHON) -m venv .$*
	@.$*/bin/pip install -qq --disable-pip-version-check -r $<
	@touch $@

test-clients: $(INSTALLED) .clients/.installed ## Let datumaro, labelme and FiftyOne read the exports (installs 1.6 GB)
	@OVSEG_CLIENTS=$(CURDIR)/.clients/bin/python $(BIN)/python -m pytest tests/external/test_clients.py

test-readers: $(INSTALLED) .readers/.installed ## Let DuckDB, Polars, Hugging Face datasets, Daft, Ray Data and mlcroissant read a run (installs 0.9 GB)
	@OVSEG_READERS=$(CURDIR)/.readers/bin/python $(BIN)/python -m pytest tests/external/test_readers.py tests/external/test_croissant.py

test-deploy: $(INSTALLED) .deploy/.installed ## Let SkyPilot's and Kubernetes' schemas read deploy/ (installs 0.6 GB)
	@OVSEG_DEPLOY=$(CURDIR)/.deploy/bin/python $(BIN)/python -m pytest tests/external/test_deploy.py

test-labelstudio: $(INSTALLED) .labelstudio/.installed ## Try the export on a real Label Studio and its page (installs 1 GB)
	@OVSEG_LABEL_STUDIO=$(CURDIR)/.labelstudio/bin/label-studio $(BIN)/python -m pytest tests/external -k label_studio

test-lowest: $(INSTALLED) ## Run the golden tests with the oldest allowed libraries (installs 8 GB, a few minutes)
	@echo "Setting up .lowest with the lower bounds of pyproject.toml ..."
	@rm -rf .lowest && $(PYTHON) -m venv .lowest
	@$(BIN)/python -m tests.golden.lowest > .lowest/requirements.txt
	@.lowest/bin/pip install -qq --disable-pip-version-check -r .lowest/requirements.txt
	@.lowest/bin/python -m pytest tests/golden tests/unit/ovseg_core/images/resize tests/unit/ovseg_core/images/decoding
	@rm -rf .lowest

audit: ## Check the locked versions against known advisories; says so where it cannot
	@test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && \
	  timeout 120 .audit/bin/pip install -qq --disable-pip-version-check -r tests/external/audit.txt; } || true
	@$(PYTHON) .ci/audit.py .audit/bin/pip-audit constraints.txt

lint: $(INSTALLED) ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

docs: $(INSTALLED) ## Build the documentation as a site, in site/
	@$(BIN)/python -m docs.columns
	@$(BIN)/python -m docs.weights
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q
	@echo "site/index.html"

bench: $(INSTALLED) ## Measure the main speeds as ratios, within ten minutes on two cores
	@$(BIN)/python -m benchmarks

bench-full: $(INSTALLED) ## Measure all speeds and memory as ratios (an hour or more)
	@$(BIN)/python -m benchmarks --full

bench-gpu: $(INSTALLED) ## Measure one GPU layer by layer (5 minutes); writes benchmarks/results/gpu-*.json
	@$(BIN)/python -m benchmarks.gpu

bench-quality: $(INSTALLED) ## Measure every method on drawn scenes; writes the tables of docs/quality.md
	@$(BIN)/python -m benchmarks.quality

bench-students: $(INSTALLED) ## Train students on drawn scenes and measure them; writes the tables of docs/students.md
	@$(BIN)/python -m benchmarks.students

embedded: $(INSTALLED) ## Retrain the embedded models from nothing (CPU, tens of minutes)
	@$(BIN)/python -m training.embedded

ci: ## What CI runs
	@bash .ci/run

clean: ## Remove what the other targets made, but not your runs
	rm -rf $(VENV) .clients .deploy .readers .labelstudio .lowest .audit .pytest_cache .ruff_cache .hypothesis site *.egg-info
