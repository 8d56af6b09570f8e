# `make` lists the targets.

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config

ROOT := $(CURDIR)
export CARGO_TARGET_DIR ?= $(ROOT)/target
# pgrx works in a folder of ours, on a private copy of PostgreSQL: see scripts/setup.sh.
export PGRX_HOME := $(ROOT)/build/pgrx
export PATH := $(ROOT)/build/cargo/bin:$(PATH)

EXTENSION := --package rsrepl --no-default-features --features pg15,pg_test

# cargo is parallel by itself, and the targets share its folder.
.NOTPARALLEL:
.PHONY: help setup build install demo bench bench-report test test-unit test-extension test-e2e lint clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what a fresh Debian 12 with Rust lacks (a second run only looks)
	@scripts/setup.sh

build: setup ## Build sidecar and plugin in release mode; the plugin goes into build/'s PostgreSQL
	cargo build --release --locked --package rsrepl-sidecar
	QUIET=1 scripts/install.sh $(ROOT)/build/pg_config

install: setup ## Build the plugin and install it into the PostgreSQL of PG_CONFIG=…
	scripts/install.sh $(PG_CONFIG)

demo: build ## Replicate a live shop into PostgreSQL and ClickHouse, and compare (KEEP=1 leaves it running)
	cargo run --locked --quiet --package rsrepl-tests --bin rsrepl-demo

bench: build ## Measure against pgoutput, native subscriptions and ClickHouse (CASE="decode pg-bulk", ROWS=3000000, RUNS=3)
	-@scripts/bench-peers.sh
	cargo run --locked --quiet --package rsrepl-bench

bench-report: ## Put the figures of the last `make bench` into README.md and docs/
	cargo run --locked --quiet --package rsrepl-bench -- report

test: test-unit test-extension test-e2e ## All tests
	@echo "make test: all passed"

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

lint: setup ## rustfmt and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude rsrepl --all-targets -- -D warnings
	cargo clippy --locked $(EXTENSION) --all-targets -- -D warnings
	bash -n scripts/*.sh .ci/run

clean: ## Remove what was built (packages of the system stay)
	[ ! -e build/pg_config ] || case $$(readlink build/pg_config) in /var/cache/rsrepl/*) \
	    rm -rf "$$(readlink build/pg_config | cut -d/ -f1-5)";; esac
	rm -rf target build wire/fuzz/target
