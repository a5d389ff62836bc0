# `make run` and `make test` need Python 3.11 or newer with pip, and the network the first time; all goes into .venv.
PYTHON  ?= python3
VARIANT ?= baseline
ARGS    ?=
VENV    := .venv
PY      := $(VENV)/bin/python
PIP     := -m pip --disable-pip-version-check --no-input

# Where this is set no byte code is kept, and every cold import of jax and its company takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run lint format test test-slow test-slurm install lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## train one variant: make run VARIANT=gae ARGS="seed=3 env=acrobot"
	@$(PY) -m pgx.run +variant=$(VARIANT) $(ARGS)

lint: install ## ruff, as the tests run it
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

format: install ## ruff, mending what it can
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format --quiet .

test: install ## the quick tests: make test ARGS="-k lock"
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not slurm" $(ARGS)

test-slow: install ## the slow ones
	@$(PY) -m pytest -m slow $(ARGS)

test-slurm: install ## those of a cluster, on one that tests/slurm.sh starts here
	@tests/slurm.sh $(PY) -m pytest -m slurm $(ARGS)

install: $(VENV)/.project ## what both need, from requirements.lock; skipped when nothing has changed

# Playground asks for warp-lang, which is large, and whose physics gives other bits every time: it is never imported here.
lock: ## resolve pyproject.toml again into requirements.lock: make lock ARGS=--upgrade
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && $(PYTHON) -m venv "$$tools" && \
	"$$tools/bin/python" $(PIP) install -qq uv && \
	"$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --extra test --extra slurm --extra mujoco --extra brax --extra playground --extra optuna --group install \
	    --no-emit-package warp-lang $(ARGS) pyproject.toml -o requirements.lock

clean: ## remove .venv and caches, never the results in outputs/ and multirun/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache
	find pgx analysis tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The lock's own pip and setuptools first, so that nothing below is installed or built with an unpinned tool.
# Then everything else: the lock is complete, so pip need not resolve (--no-deps). Byte code comes from importing what
# a run imports, on two cores: 8 s, where compiling all of every package takes 20 s.
$(VENV)/.packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pgx needs Python 3.11 or newer, and $(PYTHON) is not: try make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Installing requirements.lock into $(VENV): once, about a minute …" >&2
	@rm -f $@ && $(PYTHON) -m venv --without-pip $(VENV)
	@sed -nE '/^(pip|setuptools)==/,/# via/p' requirements.lock > $(VENV)/tools.lock
	@$(PYTHON) $(PIP) --python $(PY) install -qq --require-hashes --no-deps -r $(VENV)/tools.lock
	@$(PY) $(PIP) install -qq --require-hashes --no-deps --no-build-isolation --no-compile -r requirements.lock
	@$(PY) -c "import equinox, flax, optax, orbax.checkpoint" & \
	    $(PY) -c "import gymnasium, hydra, pytest, seaborn, wandb" && wait $$!
	@touch $@

$(VENV)/.project: $(VENV)/.packages pyproject.toml
	@$(PY) $(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
