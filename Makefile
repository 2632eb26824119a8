# `make help` lists the targets.
PYTHON ?= python3
# The first Python of 3.11, 3.10, 3.9 that really runs: a version manager's shim may only print an error.
PYTHON_ADDONS ?= $(shell for v in 3.11 3.10 3.9; do \
	python$$v -c "import venv" 2>/dev/null && { echo python$$v; break; }; done)
PYTHON_BENCHMARKS ?= python3.11
# Two processes, a file of tests in one of them. TensorFlow keeps 10 to 60 MB of each model that was fitted until its
# process ends, which is more than 20 GB for all tests: so no process has more than 30 files.
suite = ls tests/test_*.py tests/*/test_*.py | xargs -n 30 $(1)/python -m pytest -q -n 2 --dist loadfile
BIN := .venv/bin
ADDONS := .venv-addons/bin
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: train
train: venv ## Train on scikit-learn's digits: table, pictures and a SavedModel in runs/digits-simclr
	$(BIN)/python scripts/train.py --overwrite

.PHONY: test
test: venv ## Run the main suite (TensorFlow 2.21, Keras 3)
	@$(call suite,$(BIN))

.PHONY: test-addons
test-addons: .venv-addons/.installed ## Run the suite on TensorFlow 2.15, Keras 2.15, tensorflow-addons
	@$(call suite,$(ADDONS))

.PHONY: lint
lint: venv ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: venv
venv: .venv/.installed ## Make .venv from requirements.txt, when it is missing or older

.venv/.installed: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || { \
		echo "This needs Python 3.11, 3.12 or 3.13. Name one: make venv PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

.venv-addons/.installed: requirements-addons.txt
	@test -n "$(PYTHON_ADDONS)" || { \
		echo "tensorflow-addons needs Python 3.9, 3.10 or 3.11, and none was found." \
			"Name one: make test-addons PYTHON_ADDONS=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON_ADDONS) -c "import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))" || { \
		echo "tensorflow-addons needs Python 3.9, 3.10 or 3.11; $(PYTHON_ADDONS) is another." >&2; exit 2; }
	$(PYTHON_ADDONS) -m venv .venv-addons
	$(ADDONS)/python -m pip install --quiet -r requirements-addons.txt
	@touch $@

.PHONY: venv-benchmarks
venv-benchmarks: .venv-benchmarks/.installed ## Make .venv-benchmarks: the libraries that benchmarks compare with (Python 3.11)

.venv-benchmarks/.installed: requirements-benchmarks.txt
	@$(PYTHON_BENCHMARKS) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { \
		echo "The benchmarks' peers need Python 3.11. Name one:" \
			"make venv-benchmarks PYTHON_BENCHMARKS=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON_BENCHMARKS) -m venv .venv-benchmarks
	.venv-benchmarks/bin/python -m pip install --quiet -r requirements-benchmarks.txt
	@touch $@

.PHONY: clean
clean: ## Remove the environments, caches and build leftovers (runs/ stays)
	rm -rf .venv .venv-addons .venv-benchmarks build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
