# The verbs of the project. `make help` lists them; each one sets up .venv first and reuses it afterwards.

PYTHON ?= python3
NAME ?= miniature
PORT ?= 4200
POOLS ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# PYTHONSAFEPATH keeps the project root off the import path: its datasets/ would shadow Hugging Face datasets.
export PYTHONSAFEPATH := 1
export PREFECT_HOME := $(CURDIR)/.prefect
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo install test test-gpu ui check format bench bench-gpu report contact-sheet zoo figures clean

demo: $(READY) ## the whole lifecycle on the miniature world, on a CPU; ends with the path of the report
	@report=$$(HF_HUB_OFFLINE=1 $(BIN)/python -m flows.lifecycle --preset miniature --name $(NAME)); status=$$?; \
	test -z "$$report" || { echo "The report, to open in a browser: $$report"; \
	echo "Put somebody into a picture with the model just made: README.md, \"Use the model\""; }; exit $$status

install: $(READY) ## the environment alone: .venv, pinned packages, the project itself
	@echo "Ready: . $(BIN)/activate; export PYTHONSAFEPATH=1"

test: $(READY) ## every test that needs no GPU and no network
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-gpu: $(READY) ## what only a CUDA GPU can show: its kernels, its memory, full width
	@$(BIN)/python -m pytest -q tests/moa/test_gpu.py

ui: $(READY) ## Prefect server, workers and deployments; prints the URL; Ctrl-C ends everything (PORT=4200 POOLS="cpu gpu")
	@$(BIN)/python -m flows.serve --port $(PORT) --pools $(POOLS)

check: $(READY) ## format, lint and types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

format: $(READY) ## formats the code and mends what the linter can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(READY) ## benchmarks against the named baselines; writes benchmarks/*.json
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

bench-gpu: $(READY) ## the same at full size on a GPU; writes benchmarks/*-cuda.json
	@for name in inference training_step training_memory pipeline evaluation; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py --device cuda || exit 1; done

report: $(READY) ## builds runs/NAME/report/index.html again (NAME=miniature)
	@$(BIN)/python -m reports "$${MOA_RUNS_DIR:-runs}/$(NAME)"

contact-sheet: $(READY) ## draws a sheet of scenes of the miniature world: data/contact-sheet.png
	@$(BIN)/python -m preprocessing.world --out data/contact-sheet.png

zoo: $(READY) ## trains the models of the miniature world that zoo/ lacks (all: hours on a CPU); delete zoo/MODEL to train it again
	@$(BIN)/python -m flows.zoo

figures: $(READY) ## evaluates the shipped zoo on 40 prompts with all ablations: the figures of LOG.md; trains nothing
	@HF_HUB_OFFLINE=1 $(BIN)/python -m flows.figures

clean: ## removes .venv, .prefect and caches; data and runs stay
	@rm -rf $(VENV) .prefect .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than the lock file and pyproject.toml when the environment is complete.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "This project needs Python 3.11 or newer, and '$(PYTHON)' is not. Choose one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	{ echo "Could not make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV) (once, some minutes) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
