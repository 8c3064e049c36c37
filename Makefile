# Everything a fresh Debian or Ubuntu machine with Rust needs is behind these targets; `make` lists them.
# All is built in release, so that tests and demo share one compile of librdkafka; benchmarks build what is shipped.

CARGO := cargo
DEVSTACK := $(or $(CARGO_TARGET_DIR),target)/release/devstack

.DEFAULT_GOAL := help
.PHONY: help demo test torture import-torture import-storm replicas mutations exactly-once fuzz-api clients bench doctor fmt lint install install-tests build

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# No test, no benchmark: a first demo waits for nothing that it does not run.
DEMO := devstack writer reader jobs importer notifier console

demo: install ## starts the whole system with data in it and prints addresses; Ctrl-C ends it
	$(CARGO) build --release --locked $(addprefix --bin ,$(DEMO))
	@$(DEVSTACK) demo

# Tests wait for servers more than they compute: more of them at once than there are cores.
TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

test: install-tests ## every check and test: format, lints, docs, unit, property, integration, whole system
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --locked
	# With all targets, or the tests' own features would have half of the workspace compiled a second time.
	$(CARGO) build --release --workspace --all-targets --locked
	deploy/check/run.sh $(dir $(DEVSTACK))
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --release --workspace --locked --no-fail-fast

torture: build ## random faults over a live stream; SEED=… repeats one, MINUTES=… makes it longer
	$(dir $(DEVSTACK))torture "$(SEED)" "$(MINUTES)"

import-torture: build ## kills under one large import; SEED=… repeats one, ROWS=1000000 KILLS=20 by default, KILLS=0 measures
	$(dir $(DEVSTACK))imports torture "$(SEED)" "$(ROWS)" "$(KILLS)"

import-storm: build ## a crowd of websockets that comes back at once among bad guests; CLIENTS=5000 by default
	$(dir $(DEVSTACK))imports storm "$(CLIENTS)"

replicas: build ## one of two replicas is killed, frozen, held back, disturbed and promoted while clients read
	$(CARGO) test --release --workspace --locked --test own_servers replicas:: -- --nocapture

mutations: install-tests build ## puts deliberate bugs into a copy of the sources, and sees each one found; about an hour
	acceptance/mutations/run.sh $(ONLY)
	$(if $(ONLY),,acceptance/mutations/run.sh --torture)

EXAMPLES := $(dir $(DEVSTACK))examples

exactly-once: build ## 100,000 records and 50 kills through transactions and through commands; some minutes
	$(CARGO) build --release --workspace --examples --locked
	$(EXAMPLES)/checkout --orders 100000 --kills 50
	$(EXAMPLES)/import_progress --imports 100 --jobs 1000 --kills 50

fuzz-api: install-tests build ## holds a running reader against its own document with schemathesis
	$(dir $(DEVSTACK))api acceptance/api/fuzz.sh

clients: install-tests build ## generates clients in TypeScript and Python, compiles them and makes calls
	$(dir $(DEVSTACK))api acceptance/api/clients.sh

# What is measured is what is shipped.
PRODUCTION := loadtest naive-reader reader writer
LOADTEST := $(or $(CARGO_TARGET_DIR),target)/production/loadtest
PEER := $(LOADTEST) drain --peer jdbc-sink $(if $(QUICK),--quick --events 60000 --repeat 1)
SAME_TOPIC := --form envelope-schema --peer-form envelope-schema
BEST_FORMS := --form flattened --peer-form flattened-schema

bench: install ## the benchmarks, half an hour and some minutes of compiling; JSON lines into target/bench; QUICK=1: a short, marked run
	$(CARGO) build --profile production --locked $(addprefix --bin ,$(PRODUCTION))
ifdef QUICK
	$(LOADTEST) read --quick --peer naive --sites 5000 --rate 2000 --seconds 5 --warm-up-seconds 1 --repeat 1 --yardstick-seconds 3
	$(PEER) $(SAME_TOPIC)
	$(LOADTEST) latency --quick --seconds 10 --warm-up-seconds 2 --sites 2000 --repeat 1
else
	$(PEER) $(SAME_TOPIC)
	$(PEER) $(BEST_FORMS)
	$(PEER) $(SAME_TOPIC) --unrelated 80
	$(PEER) $(BEST_FORMS) --unrelated 80
	$(LOADTEST) drain --events 1000000 --repeat 1
	$(LOADTEST) latency
	$(LOADTEST) read --peer naive
	$(LOADTEST) read --tagged 100 --unknown 0
	$(LOADTEST) read --mix batch=100 --rate 500
	$(LOADTEST) read --mix site=70,batch=2,sites=8,count=10,instance=10 --tagged 30 --rate 5000
	$(LOADTEST) read --while-draining
endif

doctor: ## says what the machine lacks and the command that installs it
	@if [ -x $(DEVSTACK) ]; then $(DEVSTACK) doctor; else devstack/install.sh --check; fi

fmt: ## formats the code
	$(CARGO) fmt --all

lint: install ## format and lints only
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

install:
	@devstack/install.sh

install-tests:
	@devstack/install.sh --tests

build: install
	$(CARGO) build --release --workspace --locked
