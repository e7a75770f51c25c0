# Every target creates the virtual environment it needs; it requires only Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORKERS ?= 2
# XLA takes most of the tests' time. Its compiled programs are cached, so the next run takes half the time or less.
# OPTIMIZED=1 compiles as users do, which takes twice as long.
COMPILED ?= $(abspath $(VENV))/compiled
CACHE := JAX_COMPILATION_CACHE_DIR=$(COMPILED) JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
PYTEST := $(CACHE) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: demo demo-sharded test test-all test-torch meshes durations mutants notebooks docs wheel stubs lint ruff pyright hooks bench bench-overhead bench-sparse bench-lbfgs bench-averaging bench-monitoring bench-skipping bench-loops bench-compile bench-checkpoint bench-sharded-checkpoint bench-precision bench-muon bench-training bytes parity coverage figures reference
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
	$(PIP) --editable '.[references]'
	@touch $@

demo: $(VENV)/.demo      ## train a small network on real digits; make demo ARGS="--optimizer sgd"
	$(BIN)/python -m functorch_optim.demo $(ARGS)

demo-sharded: $(VENV)/.demo  ## train a transformer on eight devices, kill it, resume on another mesh
	$(BIN)/python -m functorch_optim.demo.sharded $(ARGS)

test: $(VENV)/.test      ## for contributors: test every algorithm, pair of flags, feature and format, the README
	@echo "about 8 minutes on two cores, less the next time"
	$(PYTEST) -m "not torch" $(ARGS)

test-all: $(VENV)/.torch ## test every combination, long runs, kills and injected errors, with a live torch
	@echo "about 15 minutes on two cores"
	FULL=1 $(PYTEST) $(ARGS)

test-torch: test-all     ## alias of test-all

meshes: $(VENV)/.test    ## every transformation on every kind of mesh, as a table: minutes
	FULL=1 $(CACHE) $(BIN)/python -m tests.mesh_matrix

durations: $(VENV)/.test ## record how long each test file takes, with an empty compilation cache
	$(subst $(CACHE),,$(PYTEST)) -m "not torch" -p tests.tools.durations

mutants: $(VENV)/.test   ## check that the tests catch bugs planted in the library: an hour
	$(PIP) coverage
	$(BIN)/python -m tests.tools.mutants cover -- -m "not torch"
	$(BIN)/python -m tests.tools.mutants run -- -m "not torch"

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@

notebooks: $(VENV)/.docs ## run every notebook; each ends with assertions
	$(BIN)/jupyter execute notebooks/*.ipynb

docs: $(VENV)/.docs      ## run the code of the pages, build the site in build/site; warnings are errors
	FULL=1 $(PYTEST) tests/test_docs.py -m "not torch"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs/site --doctree-dir build/doctrees . build/site
	@echo "open build/site/index.html"

wheel: $(VENV)/.made     ## build the wheel in dist, install it by itself in a fresh environment, and take a step
	rm -rf dist $(VENV)/wheel
	$(PIP) build
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && $(abspath $(VENV))/wheel/bin/python -c "import functorch_optim as fo; print(fo.adam(), fo.adam().init([]).step)"

stubs: $(VENV)/.test     ## generate the stub of the torch classes' constructors, for editors and type checkers
	$(BIN)/python -m tests.tools.stubs

lint: $(VENV)/.test      ## run every hook of .pre-commit-config.yaml on all files; pre-commit needs a git repository
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit run --all-files; else $(MAKE) ruff pyright; fi

hooks: $(VENV)/.test     ## run the hooks before each commit that changes files they check
	$(BIN)/pre-commit install

ruff: $(VENV)/.test      ## hook: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

pyright: $(VENV)/.test   ## hook: types
	$(BIN)/pyright --pythonpath $(BIN)/python

figures: $(VENV)/.made    ## write the numbers of benchmarks/results/ into the pages
	$(BIN)/python -m benchmarks.pages

bench: $(VENV)/.torch    ## measure the speed tables, in three processes: an hour
	$(BIN)/python -m benchmarks.table --write $(ARGS)

bench-overhead: $(VENV)/.torch  ## the torch face's overhead over the compiled step
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-sparse: $(VENV)/.torch  ## row-sparse steps on large tables
	$(BIN)/python -m benchmarks.sparse $(ARGS)

bench-lbfgs: $(VENV)/.test ## L-BFGS against SciPy's
	$(BIN)/python -m benchmarks.lbfgs $(ARGS)

bench-averaging: $(VENV)/.test ## the cost of a parameter average
	$(BIN)/python -m benchmarks.averaging $(ARGS)

bench-monitoring: $(VENV)/.test ## the cost of watching a run
	$(BIN)/python -m benchmarks.monitoring $(ARGS)

bench-skipping: $(VENV)/.test ## the cost of skipping bad updates
	$(BIN)/python -m benchmarks.skipping $(ARGS)

bench-loops: $(VENV)/.torch ## training loops
	$(BIN)/python -m benchmarks.table --only closure $(ARGS)

bench-compile: $(VENV)/.test ## the time to trace and compile a step: half an hour
	$(BIN)/python -m benchmarks.compiling $(ARGS)

bench-precision: $(VENV)/.test ## slots and parameters in fewer bytes
	$(BIN)/python -m benchmarks.precision $(ARGS)

bench-muon: $(VENV)/.test ## what variants of Muon bring on a small transformer, and their time
	$(BIN)/python -m benchmarks.muon $(ARGS)

bench-training: $(VENV)/.test ## where every optimizer gets on three small problems: 40 minutes
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-checkpoint: $(VENV)/.torch ## saving and loading, against torch
	$(BIN)/python -m benchmarks.checkpoint $(ARGS)

bytes: $(VENV)/.test     ## compute the bytes that trainings of 1 B to 1 T parameters hold and send
	$(BIN)/python -m benchmarks.bytes $(ARGS)

bench-sharded-checkpoint: $(VENV)/.test ## the memory of saving and loading in two processes
	$(BIN)/python -m benchmarks.sharded_checkpoint $(ARGS)

parity: $(VENV)/.test    ## measure the distance from torch's trajectories: minutes
	FULL=1 $(BIN)/python -m benchmarks.parity $(ARGS)

coverage: $(VENV)/.torch ## count what of torch.optim is here
	$(BIN)/python -m benchmarks.coverage $(ARGS)

reference: $(VENV)/.torch   ## re-record torch's trajectories; make reference ARGS=adam those of one algorithm
	FULL=1 $(BIN)/python -m tests.reference.record $(ARGS)
