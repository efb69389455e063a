# Every target sets up what it needs. On a machine without CUDA, the CPU build of torch is smaller by far:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup
PYTHON ?= python3
WORKERS ?= auto
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
SECONDS_OF_FUZZ ?= 300
.PHONY: help setup demo test test-slow image-test fuzz lint format schema action config bench clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## Create .venv and install everything, if that has not been done

demo: $(READY)  ## Train a tiny model and an adapter, merge, publish to a local Hub, look at the result
	$(BIN)/python -m tests.demo $(ARGS)

test: $(READY)  ## Run the tests, but for those that are marked slow
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: $(READY)  ## Run the slow ones: every case of what the others try some of, the demo, real weights
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

image-test: $(READY)  ## Build the container image without Docker, and run it (Debian, as root; takes minutes)
	$(BIN)/python -m pytest tests/image/built.py $(ARGS)

fuzz: $(READY)  ## Feed made-up files to the readers of headers and configs (SECONDS_OF_FUZZ=300)
	FUZZ_SECONDS=$(SECONDS_OF_FUZZ) $(BIN)/python -m pytest tests/test_fuzz.py --timeout 0 -q $(ARGS)

lint: $(READY)  ## Check style, types, the order of imports, workflows and scripts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/zizmor --offline --no-progress --quiet .
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run .ci/actionlint .github/action/*.sh
	.ci/actionlint

format: $(READY)  ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schema: $(READY)  ## Write the JSON schemas of merge_report.json and merge_plan.json anew, from the records
	$(BIN)/python -m tests.publish.schemas

action: $(READY)  ## Write the inputs and outputs of action.yml and docs/action.md anew, from their table
	$(BIN)/python -m tests.action.lists

config: $(READY)  ## Write the example and the keys in docs/config.md anew, from what the code says
	$(BIN)/python -m tests.config.reference

bench: $(READY)  ## Measure time and memory against cp and the plain PEFT script
	$(BIN)/python -m benchmarks.run $(ARGS)

clean:  ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: pip then takes the build that its own configuration prefers (CPU or CUDA).
$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install "$(TORCH)"
	$(BIN)/pip install --editable ".[dev]" --constraint constraints.txt
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) must be Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv is missing; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "Creating $(VENV) and installing; torch is large, so this takes a few minutes the first time."
	@$(PYTHON) -m venv --clear $(VENV)
