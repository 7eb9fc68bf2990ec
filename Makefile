SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
# Any Python from 3.11 on; everything else is installed into .venv.
PYTHON ?= python3
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs')

.DEFAULT_GOAL := help
.PHONY: help build demo test lint format bench bench-run gate clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: $(VENV)/.built ## Set up .venv and build the extension into it

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --skip-install --quiet
	@touch $@

# The extension is built here a first time, by pip; .built only follows changes of the Rust sources.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,dev]'
	@touch $@

demo: build ## Train on the synthetic sample market and show where the bundle is
	$(BIN)/atb-fast train model BTCUSDT --source sample --timeframe 1d --start-date 2019-01-01 \
		--end-date 2024-12-01 --epochs 20 --registry models

test: build ## Run every test: Rust, then Python
	cargo test --quiet --no-default-features
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: build ## Check format, lints, types and stubs
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --no-default-features -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest atb_fast._core

format: build ## Format everything
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: build ## Time data preparation beside pandas, scikit-learn, Polars, NumPy and Keras
	$(BIN)/python -m pytest benches -q -s --benchmark-group-by=group --benchmark-sort=mean \
		--benchmark-columns=median,min,max,rounds

# Seeds of bench-run, and the file that keeps its runs: what is there is not run again.
SEEDS ?= 1 2 3
RUNS ?= .bench-runs.jsonl

bench-run: build ## Train with the old trainer and with atb-fast in turns (SEEDS="1 2 3"); an hour
	$(BIN)/python benches/run.py --seeds $(SEEDS) --results $(RUNS)

gate: build ## Fail if kernels, data preparation or a short training run got slower; needs valgrind
	$(BIN)/python benches/instructions.py
	$(BIN)/python -m pytest benches/test_preparation.py -q -s --gate --benchmark-disable-gc \
		--benchmark-columns=median,rounds -k "64k and not epoch"
	$(BIN)/python benches/run.py --seeds 1 --epochs 8 --min-run 1.1 --min-epoch 1.8 \
		--max-error 1.01

clean: ## Remove .venv and everything built
	rm -rf $(VENV) target models python/atb_fast/*.so
