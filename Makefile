# The same few commands for people and for CI; new tests add no lines here.
#
#   make run     build and start `hookline dev` (development profile: the first build is several times faster)
#   make build   the optimised program, left at target/release/hookline
#   make test    all checks and all tests, including those against a real Apache Kafka
#   make check   formatting, lints, licences and sources of dependencies
#   make simulate SEEDS=5000   the core under simulated faults, so many seeds; SEED=17 runs one, TRACE=1 shows it
#   make fuzz SECONDS=600   the judgement of URLs, with texts made at random from known cases
#   make bench   measures on a real Kafka and prints the figures
#   make setup   only looks what the system lacks (installs it as root on Debian and Ubuntu, else says so)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
KAFKA_LIBS := target/kafka/libs
KAFKA_STAMP := target/kafka/.copied
# Where `hookline dev` keeps its data, and further arguments for it: make run ARGS="--listen 127.0.0.1:9000"
ARGS ?=
# How many seeds are simulated, or which one, and whether to show what happened in it.
SEEDS ?=
SEED ?=
TRACE ?=
# Fail points, at which tests end the program as a crash would. Never in what `make build` leaves.
TEST_FEATURES := --features hookline-server/failpoints
# Tests at a time: one more than there are cores, where these are few.
TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n < 3 ? n + 1 : n)))

.PHONY: help run build test check simulate fuzz bench setup setup-run kafka

help:
	@sed -n 's/^#   //p' Makefile

setup-run:
	@tests/tools/setup.sh run

setup:
	@tests/tools/setup.sh test

run: setup-run
	@$(CARGO) build --locked --package hookline-server --bin hookline
	exec target/debug/hookline dev $(ARGS)

build: setup-run
	@$(CARGO) build --locked --release --package hookline-server --bin hookline
	echo "built target/release/hookline"

check: setup
	@echo "== formatting"
	$(CARGO) fmt --all --check
	echo "== lints"
	$(CARGO) clippy --locked --workspace --all-targets $(TEST_FEATURES) -- -D warnings
	echo "== dependencies: bans, licences, sources"
	$(CARGO) deny --log-level error check bans licenses sources
	echo "== dependencies: known vulnerabilities"
	tests/tools/advisories.sh

# The jars of Kafka, copied once per version of tests/kafka/pom.xml.
kafka: $(KAFKA_STAMP)
$(KAFKA_STAMP): tests/kafka/pom.xml
	@tests/tools/setup.sh test
	echo "== Kafka's jars"
	rm -rf $(KAFKA_LIBS)
	mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$(CURDIR)/$(KAFKA_LIBS)"
	touch $@

# The whole-system tests start target/debug/hookline, so everything is built first; `--all-targets` selects the same features as the
# tests do, so nothing is built twice. Those tests mostly wait: for timeouts, retries and members that are silent.
test: check kafka
	@echo "== tests"
	$(CARGO) build --locked --workspace --all-targets $(TEST_FEATURES)
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked --workspace --no-fail-fast $(TEST_FEATURES)

# Another target directory for the optimised tests would cost more than it gives: the development profile is optimised enough.
simulate: setup-run
	@SEEDS="$(SEEDS)" SEED="$(SEED)" TRACE="$(TRACE)" $(CARGO) test --locked --package hookline-tests --test sim -- --nocapture every_seed

fuzz: setup-run
	@HOOKLINE_FUZZ_SECONDS="$(or $(SECONDS),60)" $(CARGO) test --locked --package hookline-dispatch --lib -- --nocapture mutated_cases

bench: setup kafka build
	@$(CARGO) run --locked --release --package hookline-tests --bin bench -- $(ARGS)
