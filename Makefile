# Every target makes the virtual environment it needs; only Python >= 3.11 and make must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORKERS ?= 2
# Most of the time of the tests is XLA's: what it compiled is kept, and the next run takes half of the time or less.
# OPTIMIZED=1 compiles as users do, which takes twice as long.
CACHE := JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
PYTEST := $(CACHE) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: demo test test-all test-torch durations mutants notebooks stubs lint ruff pyright hooks bench bench-overhead bench-sparse bench-lbfgs bench-averaging bench-checkpoint bench-precision parity reference
.DELETE_ON_ERROR:

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "functorch_optim needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.torch: $(VENV)/.test
	$(PIP) torch==2.13.0
	@touch $@

demo: $(VENV)/.demo      ## train a small network on real digits; make demo ARGS="--optimizer sgd"
	$(BIN)/python -m functorch_optim.demo $(ARGS)

test: $(VENV)/.test      ## what a contributor runs: every algorithm, pair of flags, feature and format, the README
	@echo "about 6 minutes on two cores, less the next time"
	$(PYTEST) -m "not torch" $(ARGS)

test-all: $(VENV)/.torch ## every combination, long runs, kills and injections, and a live torch
	@echo "about 15 minutes on two cores"
	FULL=1 $(PYTEST) $(ARGS)

test-torch: test-all     ## the same

durations: $(VENV)/.test ## record how long the tests of every file take, with nothing compiled before
	$(subst $(CACHE),,$(PYTEST)) -m "not torch" -p tests.tools.durations

mutants: $(VENV)/.test   ## whether the tests notice slips in the library: an hour
	$(PIP) coverage
	$(BIN)/python -m tests.tools.mutants cover -- -m "not torch"
	$(BIN)/python -m tests.tools.mutants run -- -m "not torch"

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@

notebooks: $(VENV)/.docs ## run every notebook; each ends with assertions
	$(BIN)/jupyter execute notebooks/*.ipynb

stubs: $(VENV)/.test     ## write the torch classes' constructors out for editors and type checkers
	$(BIN)/python -m tests.tools.stubs

lint: $(VENV)/.test      ## every hook of .pre-commit-config.yaml, on all files; pre-commit needs a git repository
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit run --all-files; else $(MAKE) ruff pyright; fi

hooks: $(VENV)/.test     ## the same before every commit, where files have changed that a hook is about
	$(BIN)/pre-commit install

ruff: $(VENV)/.test      ## a hook: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

pyright: $(VENV)/.test   ## a hook: types
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.torch    ## the speed table, in three processes: an hour
	$(BIN)/python -m benchmarks.table --write $(ARGS)

bench-overhead: $(VENV)/.torch  ## what the torch face does beside the compiled step
	$(BIN)/python -m benchmarks.overhead

bench-sparse: $(VENV)/.torch  ## row-sparse steps on large tables
	$(BIN)/python -m benchmarks.sparse $(ARGS)

bench-lbfgs: $(VENV)/.test ## L-BFGS against SciPy's
	$(BIN)/python -m benchmarks.lbfgs $(ARGS)

bench-averaging: $(VENV)/.test ## what an average of the parameters costs
	$(BIN)/python -m benchmarks.averaging $(ARGS)

bench-precision: $(VENV)/.test ## slots and parameters in fewer bytes
	$(BIN)/python -m benchmarks.precision $(ARGS)

bench-checkpoint: $(VENV)/.torch ## saving and loading, against torch
	$(BIN)/python -m benchmarks.checkpoint $(ARGS)

parity: $(VENV)/.test    ## the parity table of the README
	FULL=1 $(BIN)/python -m benchmarks.parity $(ARGS)

reference: $(VENV)/.torch   ## record torch's trajectories anew; make reference ARGS=adam those of one algorithm
	FULL=1 $(BIN)/python -m tests.reference.record $(ARGS)
