SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
# Any Python from 3.11 on; everything else is installed into .venv.
PYTHON ?= python3
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust/src -name '*.rs')

.DEFAULT_GOAL := help
.PHONY: help build demo dist test test-long test-dist faults fuzz lint audit audit-tools docs format bench bench-run gate clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

build: $(VENV)/.built ## Create .venv and build the extension into it

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --skip-install --quiet
	@touch $@

# pip builds the extension for the first time; after that, .built follows changes to the Rust sources.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "this Python is too old, expected 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,dev,docs]'
	@touch $@

demo: build ## Train on the synthetic sample market and print the path of the bundle
	$(BIN)/atb-fast train model BTCUSDT --source sample --timeframe 1d --start-date 2019-01-01 \
		--end-date 2024-12-01 --epochs 20 --registry models

# maturin packs the sources, unpacks them elsewhere and builds the wheel there. With CARGO_TARGET_DIR set, it would reuse
# an outdated build, because all unpacked files have the same old date.
dist: $(VENV)/.installed ## Build the source distribution and a wheel from it into dist/
	rm -rf dist
	env -u CARGO_TARGET_DIR $(BIN)/maturin build --release --locked --sdist --out dist \
		--interpreter $(BIN)/python

# The tests of a file share their fixtures, so one worker runs them all. tests/conftest.py starts the slowest files first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: build ## Run the tests: Rust, then Python
	cargo test --quiet --no-default-features
	$(PYTEST)

test-long: build dist ## Run the tests that take minutes
	$(PYTEST) -m long

test-dist: build dist ## Install the wheel into environments without Rust and TensorFlow, and check what works there
	$(BIN)/python -m pytest tests/test_packaging.py -m long -v

# The number of faults, the seed that determines them (default: a new one every day), and the faults to repeat.
N ?= 60
SEED ?=
ONLY ?=

faults: build ## Inject kills, full disks, wrong answers and damaged files (N=1000 SEED=1, or ONLY=12)
	$(BIN)/python tests/faults --number $(N) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

# Seconds for each target.
SECONDS ?= 60

fuzz: build ## Fuzz everything that reads files, frames and expressions (SECONDS=60 for each target)
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS)

lint: build ## Check format, lints, types, stubs, imports, spelling and workflows
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --no-default-features -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest atb_fast._core
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/typos
	$(BIN)/zizmor --quiet --offline --persona pedantic .github

# Advisories are downloaded from GitHub. Without access to it, run: make audit CHECKS="bans licenses sources".
CHECKS ?= advisories bans licenses sources

audit: ## Check the Rust packages: advisories, licenses, sources, duplicates, unused packages
	cargo deny check $(CHECKS)
	cargo deny --manifest-path rust/fuzz/Cargo.toml check $(CHECKS)
	cargo shear

audit-tools: ## Install the tools of make audit; takes minutes
	cargo install --quiet --locked cargo-deny@0.18.9 cargo-shear@1.6.6

# Zensical only prints what Griffe finds wrong in a docstring, so grep fails the build.
docs: build ## Build the documentation site into build/site; fails on warnings
	@mkdir -p build
	set -o pipefail; $(BIN)/python -m zensical build --strict --clean 2>&1 | tee build/docs.log
	@! grep -q '^griffe:' build/docs.log

format: build ## Format everything
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Iterating over Keras' time series takes half a minute and is in no table.
bench: build ## Print the tables of docs/benchmarks.md, except those of whole courses; ten minutes
	$(BIN)/python -m pytest benches -q --benchmark-quiet -k "not keras_timeseries"
	$(BIN)/python benches/families.py --memory
	$(BIN)/python benches/steps.py
	$(BIN)/python benches/run.py --epochs 12 --seeds 1 2 3
	$(BIN)/python benches/run.py --epochs 3 --seeds 1 2 --sides uncached cold new
	$(BIN)/python benches/folds.py

# Seeds of bench-run, and the file for its results; runs that are already in the file are skipped.
SEEDS ?= 1 2 3 4
RUNS ?= .bench-runs.jsonl

bench-run: build ## Compare whole courses of the old trainer and atb-fast (SEEDS="1 2 3 4"); takes an hour
	$(BIN)/python benches/run.py --seeds $(SEEDS) --results $(RUNS)

# Ratios of one run hold on another processor and on a busy machine; seconds do not.
gate: build ## Fail if kernels, preparation, a short run or a later fold got slower (needs valgrind)
	$(BIN)/python benches/instructions.py
	$(BIN)/python -m pytest benches/test_preparation.py benches/test_expressions.py -q --gate \
		--benchmark-quiet --benchmark-disable-gc \
		-k "64k and not epoch and not eager or test_features and 1.3M and not pandas"
	$(BIN)/python benches/run.py --seeds 1 2 3 --epochs 12 --min-run 1.5 --min-epoch 1.9 \
		--max-error 1.01
	$(BIN)/python benches/folds.py --folds 3 --min-last 3

clean: ## Remove .venv and all build output
	rm -rf $(VENV) .cache build target models python/atb_fast/*.so
