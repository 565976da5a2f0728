# What a person or CI types. Each target installs what it needs first; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# rustup's directory, for shells that have not read its profile yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

STEP := tests/step
INSTALL := tests/servers/install
# Runs a command beside a private PostgreSQL and a private Kafka broker.
WITH_SERVERS := tests/servers/with
SHELL_SCRIPTS := .ci/run docker/make-secrets tests/step $(addprefix tests/servers/,broker common.sh hdrhistogram install postgres stop with) $(addprefix tuning/,common.sh compare-builds compression folding ledger-cost secondary-indexes synthetic-events.sh) benches/queries $(addprefix systemd/,usage-processor-ctl $(addprefix debian/,postinst postrm prerm))
# Most integration tests wait for a server or a timeout, so more of them than cores run at a time.
TEST_THREADS ?= 4
# These load the machine themselves, or look for what happens at the same time within seconds, and run one after the other.
LONELY_TESTS := pipeline::chaos pipeline::crashes pipeline::memory pipeline::scaling \
    closing::closing_while_others_write figures::every_read_is_exact
NODE_MODULES := $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard tests/*/package-lock.json))

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' Makefile | while IFS='|' read -r target text; do printf '  %-12s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: ## see real events travel from a real broker into a real database (KEEP=1 leaves both up)
	@$(STEP) "install what is missing" $(INSTALL) demo
	@$(STEP) "release build" cargo build --release --locked
	@$(STEP) "demo" $(WITH_SERVERS) --kafka-optional cargo run --release --locked --quiet -- demo

.PHONY: test
test: ## prove it: format, lints, docs, unit, property and integration tests on real servers
	@$(STEP) "install what is missing" $(INSTALL) test
	@$(MAKE) --no-print-directory check unit integration

.PHONY: check
check: ## format, lints, docs and shell scripts
	@$(STEP) "format" cargo fmt --all --check
	@$(STEP) "clippy" cargo clippy --locked --all-targets --features failpoints -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(STEP) "docs" cargo doc --locked --no-deps --document-private-items
	@if command -v shellcheck >/dev/null; then \
	    $(STEP) "shell scripts" shellcheck --external-sources $(SHELL_SCRIPTS); \
	else \
	    echo "==> shell scripts: NOT CHECKED, shellcheck is not installed"; [ -z "$${CI:-}" ]; \
	fi

.PHONY: unit
unit: ## unit and property tests, which need no server
	@$(STEP) "unit and property tests" cargo test --locked --features failpoints --lib --bins
	@$(STEP) "what is allocated" cargo test --locked --features failpoints --test allocations
	@$(STEP) "examples in the docs" cargo test --locked --features failpoints --doc

.PHONY: integration
integration: $(NODE_MODULES) ## the tests in tests/integration/, on a private PostgreSQL and a private Kafka broker
	@$(STEP) "build the integration tests" cargo test --locked --features failpoints --test integration --no-run
	@$(STEP) "integration tests" $(WITH_SERVERS) cargo test --locked --features failpoints --test integration -- --test-threads=$(TEST_THREADS) $(addprefix --skip ,$(LONELY_TESTS))
	@$(STEP) "tests under load" $(WITH_SERVERS) cargo test --locked --features failpoints --test integration -- --test-threads=1 $(LONELY_TESTS)

.PHONY: chaos
chaos: ## break servers and processors at random for a while (DURATION=10m SEED=1 REPORT=FILE)
	@$(STEP) "install what is missing" $(INSTALL) test
	@$(STEP) "chaos" env CHAOS_DURATION="$(or $(DURATION),10m)" CHAOS_SEED="$(SEED)" CHAOS_REPORT="$(REPORT)" \
	    $(WITH_SERVERS) cargo test --locked --features failpoints --test integration -- --nocapture chaos

.PHONY: rolling-restart
rolling-restart: ## restart four instances under load, as tuning/rolling-restart.md does (ROUNDS=3 RATE=1000)
	@$(STEP) "install what is missing" $(INSTALL) test
	@$(STEP) "build the tests" cargo test --locked --features failpoints --test integration --no-run
	@report="$$(mktemp)"; for round in $$(seq "$(or $(ROUNDS),3)"); do \
	    $(STEP) "rolling restart $$round" env ROLLING_RESTART_RATE="$(or $(RATE),1000)" ROLLING_RESTART_REPORT="$$report" \
	        $(WITH_SERVERS) cargo test --locked --features failpoints --test integration -- --test-threads=1 rolling_restart; \
	done; \
	echo "| membership | longest wait ms | longest gap ms | partitions assigned |"; echo "|---|---|---|---|"; sort "$$report"; rm "$$report"

BENCH_END_TO_END := $(WITH_SERVERS) cargo bench --locked --bench end_to_end --

.PHONY: bench
bench: ## drain, cost and latency against what COPY alone reaches, both profiles, into tuning/end-to-end (BENCH="--help" ...)
	@$(STEP) "install what is missing" $(INSTALL) demo
	@$(STEP) "build the bench" cargo bench --locked --bench end_to_end --no-run
ifdef BENCH
	@$(BENCH_END_TO_END) $(BENCH)
else
	@mkdir -p tuning/end-to-end
	@for profile in timescaledb postgresql; do \
	    $(BENCH_END_TO_END) --profile $$profile --json "tuning/end-to-end/$$profile.json" | tee "tuning/end-to-end/$$profile.md"; \
	done
endif

.PHONY: bench-page
bench-page: ## the runs that a tuning page lists, and its table: tuning/pages/PAGE.md (PAGE=batch-size)
	@test -f "tuning/pages/$(PAGE).md" || { echo "PAGE is one of:" tuning/pages/*.md >&2; exit 1; }
	@$(STEP) "install what is missing" $(INSTALL) demo
	@$(STEP) "build the bench" cargo bench --locked --bench end_to_end --no-run
	@$(BENCH_END_TO_END) --page "tuning/pages/$(PAGE).md"

.PHONY: bench-queries
bench-queries: ## how long dashboards wait beside 10,000 events/s, into tuning/queries (ROWS=20000000 PROFILE=timescaledb)
	@$(STEP) "install what is missing" $(INSTALL) test
	@$(STEP) "release build" cargo build --release --locked
	@env ROWS="$(or $(ROWS),20000000)" PROFILE="$(or $(PROFILE),timescaledb)" $(WITH_SERVERS) benches/queries

FUZZ_SECONDS ?= 60
# What the fuzzer finds goes below fuzz/target; the committed corpora are only read. No sanitizer: there is no unsafe code
# here, and librdkafka and zstd do not link with one.

.PHONY: fuzz
fuzz: ## fuzz the pure parts, FUZZ_SECONDS=60 each (needs a nightly toolchain and cargo-fuzz)
	@cargo +nightly --version >/dev/null 2>&1 || { echo "missing: a nightly toolchain (rustup toolchain install nightly)" >&2; exit 1; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo "missing: cargo-fuzz (cargo install cargo-fuzz)" >&2; exit 1; }
	@for target in decode encode config watermarks; do \
	    mkdir -p "fuzz/target/corpus/$$target"; \
	    $(STEP) "fuzz $$target" cargo +nightly fuzz run --sanitizer none "$$target" "fuzz/target/corpus/$$target" "fuzz/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done

%/node_modules/.package-lock.json: %/package-lock.json
	@$(STEP) "npm ci in $*" npm --prefix $* ci --no-audit --no-fund
	@touch $@

.PHONY: build
build: ## the release binary, target/release/usage-processor
	@$(STEP) "install what is missing" $(INSTALL) build
	@$(STEP) "release build" cargo build --release --locked

.PHONY: deb
deb: ## the Debian package: program, systemd units, manual pages, completions, into target/debian
	@$(STEP) "install what is missing" $(INSTALL) deb
	@$(STEP) "release build" cargo build --release --locked
	@$(STEP) "manual pages and completions" target/release/usage-processor generate-docs target/release/package
	@$(STEP) "package" cargo deb --no-build --locked

.PHONY: clean
clean: ## remove what was built here (the cache with Kafka stays)
	@$(STEP) "clean" cargo clean
	@rm -rf tests/*/node_modules
