# Everything a stranger needs starts here: `make help`. Each target does all of its own set-up, on a bare Debian 12 as root.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON := .venv/bin/python
CARGO := cargo --locked
MANIFEST := --manifest-path engine/Cargo.toml
export CARGO_NET_RETRY ?= 10
export CARGO_TERM_PROGRESS_WHEN ?= never
export PYTHONUNBUFFERED := 1
# benchmark: rounds of each row, seconds of each measurement, the rows to run, a directory on another file system
export ROUNDS SECONDS ROWS BENCH_DIR BENCH_SIZE BENCH_SPDK
# fuzzing: seconds for each target
FUZZ_SECONDS ?= 60

.PHONY: help setup venv build demo test test-quick test-all check format bench bench-quick fuzz tables lock wheel clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))

setup: venv ## Debian packages of the build (those missing), .venv with the pinned Python packages

venv:
	@scripts/setup build
	@scripts/venv

build: venv ## the engine in release mode, installed into .venv
	@scripts/build

demo: build ## the main job on real input, narrated: create, fill, read back over NBD and iSCSI, check, remove
	@scripts/setup demo
	@$(PYTHON) -m demo </dev/null

test: build ## every test; prints the time of each part
	@scripts/setup test
	@$(PYTHON) scripts/run_tests.py </dev/null

test-quick: build ## the tests that need no daemon: seconds
	@$(PYTHON) -m pytest -q tests/unit tests/property </dev/null

test-all: check test fuzz ## linters, every test, a minute of fuzzing for each target

check: build ## ruff, mypy --strict, rustfmt, clippy with warnings denied
	@scripts/check

format: venv ## let ruff and rustfmt rewrite the sources
	@$(PYTHON) -m ruff check --quiet --fix . || true
	@$(PYTHON) -m ruff format --quiet .
	@cargo fmt $(MANIFEST)

bench: build ## blockgate beside its peers (nbdkit, qemu-nbd; tgt, SPDK in BENCH_SPDK); about 20 minutes (ROUNDS= SECONDS= ROWS= BENCH_DIR=)
	@scripts/setup bench
	@$(PYTHON) -m bench </dev/null

bench-quick: build ## the same with one short round: does it run, roughly what does it say
	@scripts/setup bench
	@$(PYTHON) -m bench --rounds 1 --seconds 1 </dev/null

fuzz: venv ## cargo-fuzz on the stable toolchain, FUZZ_SECONDS= for each target
	@scripts/setup fuzz
	@scripts/fuzz $(FUZZ_SECONDS)

wheel: venv ## one abi3 wheel in dist/
	@PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/maturin build --release --locked --compatibility linux --out dist

tables: venv ## the engine's opcode table out of src/blockgate/scsi/opcodes.toml
	@$(PYTHON) scripts/generate_opcodes.py

lock: ## renew requirements*.txt
	@scripts/lock

clean: ## remove everything that make has made
	rm -rf .venv dist engine/target engine/fuzz/target bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f src/blockgate/_engine*.so
