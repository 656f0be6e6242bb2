# Each target works on a fresh clone: it makes .venv, installs what it needs into it, and does nothing twice.
#   make finetune                          the default recipe on the bundled model and charts
#   make finetune RECIPE=recipes/NAME.yaml BACKEND=auto|mlx|torch ARGS="--resume --set train.steps=50"

PYTHON ?= python3
RECIPE ?= recipes/charts-tiny.yaml
BACKEND ?= auto
ARGS ?=

VENV := .venv
BENCH := .venv-bench
BIN := $(VENV)/bin
# Python compiles a module when it is first imported; all of torch and transformers at once would be a minute. Where it may not
# keep what it compiled, as container images often have it, every start does it again, for as long as the rest of the start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := -m pip --disable-pip-version-check -qq install --no-compile
PIP = $(BIN)/python $(INSTALL) -c constraints.txt

# Apple silicon has MLX as its own backend, everything else torch; BACKEND= takes the other one.
NATIVE := $(if $(filter Darwin-arm64,$(shell uname -s)-$(shell uname -m)),mlx,torch)
WANTED := $(if $(filter mlx torch,$(BACKEND)),$(BACKEND),$(NATIVE))

.DEFAULT_GOAL := help
.PHONY: help finetune test check bench clean

help: ## what can be made
	@echo "make finetune   fine-tune and compare before and after  [RECIPE=$(RECIPE)] [BACKEND=auto|mlx|torch] [ARGS=...]"
	@echo "make test       all tests, on both backends              [ARGS=...] for pytest"
	@echo "make check      lint and format"
	@echo "make bench      speed and memory beside the other trainers, hours [ARGS=...] for scripts/bench.py"
	@echo "make clean      remove .venv, .venv-bench and caches; runs/ stays"

finetune: $(VENV)/with-$(WANTED)
	@$(BIN)/mlxtune finetune $(RECIPE) $(if $(filter-out auto,$(BACKEND)),--backend $(BACKEND)) $(ARGS)

test: $(VENV)/with-test
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

check: $(VENV)/with-check
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

bench: $(BENCH)/made
	@$(BENCH)/bin/python scripts/bench.py $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH) .pytest_cache .ruff_cache .hypothesis
	find mlxtune scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11. Say which to take: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamps with-mlx, with-torch, with-test: each is installed once, and again when a version changes.
$(VENV)/with-%: EXTRAS = $*
$(VENV)/with-test: EXTRAS = mlx,torch,test
$(VENV)/with-mlx $(VENV)/with-torch $(VENV)/with-test: $(VENV)/with-%: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing mlxtune[$(EXTRAS)] into $(VENV) (minutes, the first time)"
	@$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# Without the library: a look at the style needs no framework.
$(VENV)/with-check: $(VENV)/made constraints.txt
	@$(PIP) ruff
	@touch $@

# The other trainers pin older versions than mlxtune runs with, so they live apart.
$(BENCH)/made: pyproject.toml constraints.txt $(wildcard scripts/benchmarks/requirements*.txt)
	@echo "making $(BENCH) with mlxtune and the other trainers (minutes)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python $(INSTALL) -c constraints.txt \
	  --editable '.[mlx,torch,test]' -r scripts/benchmarks/requirements.txt
	@$(BENCH)/bin/python $(INSTALL) --no-deps -r scripts/benchmarks/requirements-no-deps.txt
	@touch $@
