# `make` lists the targets. PG=16 or PG=18 in front of any of them means that version of PostgreSQL.

PG ?= 15
export PG
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config

ROOT := $(CURDIR)
export CARGO_TARGET_DIR ?= $(ROOT)/target
# pgrx works in a folder of ours, on a private copy of PostgreSQL: see scripts/setup.sh.
export PGRX_HOME := $(ROOT)/build/pg$(PG)/pgrx
export PATH := $(ROOT)/build/cargo/bin:$(PATH)

EXTENSION := --package rsrepl --no-default-features --features pg$(PG),pg_test

# cargo is parallel by itself, and the targets share its folder.
.NOTPARALLEL:
.PHONY: help setup build install demo bench bench-report test test-all test-unit test-extension test-e2e \
	test-smoke chaos copy-large verify-large lint lint-extension clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what a fresh Debian 12 with Rust lacks (a second run only looks)
	@scripts/setup.sh

build: setup ## Build sidecar and plugin in release mode; the plugin goes into build/'s PostgreSQL
	cargo build --release --locked --package rsrepl-sidecar
	QUIET=1 scripts/install.sh $(ROOT)/build/pg$(PG)/bin/pg_config

install: setup ## Build the plugin and install it into the PostgreSQL of PG_CONFIG=…
	scripts/install.sh $(PG_CONFIG)

demo: build ## Replicate a live shop into PostgreSQL and ClickHouse, and compare (KEEP=1 leaves it running)
	cargo run --locked --quiet --package rsrepl-tests --bin rsrepl-demo

bench: build ## Measure against pgoutput, native subscriptions and ClickHouse (CASE="decode pg-bulk", ROWS=3000000, RUNS=3)
	-@scripts/bench-peers.sh
	cargo run --locked --quiet --package rsrepl-bench

bench-report: ## Put the figures of the last `make bench` into README.md and docs/
	cargo run --locked --quiet --package rsrepl-bench -- report

test: test-unit test-extension test-e2e ## All tests (PG=16 or PG=18: on that version, source and targets)
	@echo "make test: all passed on PostgreSQL $(PG)"

test-all: ## All tests on PostgreSQL 15, 16 and 18
	$(MAKE) --no-print-directory test PG=15
	$(MAKE) --no-print-directory test PG=16
	$(MAKE) --no-print-directory test PG=18

# The sidecar's own tests use real servers too, with the plugin.
test-unit: build ## Tests of wire and sidecar, and of the test harness
	cargo test --locked --package rsrepl-wire --package rsrepl-sidecar
	cargo test --locked --package rsrepl-tests --lib --bins

test-extension: setup ## Tests inside a PostgreSQL server
	scripts/test-extension.sh

# Builds by itself: test-extension has left its own build of the plugin in build/'s PostgreSQL.
test-e2e: setup ## Tests of the built binary against real servers (SEED=… repeats a differential run)
	$(MAKE) --no-print-directory build
	cargo test --locked --package rsrepl-tests --test '*' -- --nocapture --test-threads=2

test-smoke: build ## The shortest test that goes through everything: random transactions into all targets, compared
	cargo test --locked --package rsrepl-tests --test e2e -- --nocapture whatever_happens_all_systems_are_equal

chaos: build ## Faults one after the other under load: SEED=… repeats them, FAULTS=60 (ten minutes)
	FAULTS=$${FAULTS:-60} cargo test --locked --package rsrepl-tests --test e2e -- --nocapture faults_one_after_the_other

copy-large: build ## The initial copy of a large table under load, compared (ROWS=10000000, TPS=2000; minutes, and gigabytes)
	cargo test --locked --package rsrepl-tests --test e2e -- --nocapture --ignored a_large_table

verify-large: build ## `rsrepl verify` of ROWS=10000000 rows under 2,000 transactions a second, and in what time
	cargo test --locked --package rsrepl-tests --test e2e -- --ignored --nocapture ten_million_rows

lint: lint-extension ## rustfmt and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude rsrepl --all-targets -- -D warnings
	bash -n scripts/*.sh .ci/run

lint-extension: setup ## clippy of the extension
	cargo clippy --locked $(EXTENSION) --all-targets -- -D warnings

clean: ## Remove what was built (packages of the system stay)
	rm -rf "/var/cache/rsrepl/$$(printf '%s' '$(ROOT)' | cksum | cut -d' ' -f1)" target build wire/fuzz/target
