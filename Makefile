# Everything is built in the release profile, tests and clippy included: SQLite and two hundred crates are then compiled
# once instead of twice, and the tests run what is shipped. `PROFILE=dev` builds without optimisation of our own crates,
# for quicker turns while working.
PROFILE ?= release
ifeq ($(PROFILE),dev)
BIN := target/debug
else
BIN := target/$(PROFILE)
endif
CARGO_FLAGS := --locked --profile $(PROFILE)

# `make torture N=200 MODE=async SEED=7`; without MODE all modes, without SEED a new one.
N ?= 20
MODE ?=
SEED ?=
# `make demo LOG_FORMAT=statement`, and torture likewise; without it pages.
LOG_FORMAT ?=
FORMAT_FLAGS := $(addprefix --log-format ,$(LOG_FORMAT))
TORTURE_FLAGS := --faults $(N) $(addprefix --mode ,$(MODE)) $(addprefix --seed ,$(SEED)) $(FORMAT_FLAGS)

# `make sim SEEDS=100000`: simulated worlds; more of them find more.
SEEDS ?= 10000

# `make bench ARGS="--scenario insert --runs 1"`.
ARGS ?=

# `make bench-failover RUNS=20`.
RUNS ?= 10

# Clusters and measurements would disturb each other.
.NOTPARALLEL:

.PHONY: all build demo test test-fast test-docs check bench torture test-formats sim planted sim-porcupine fmt doc licences
.PHONY: images kind-up kind-down kind-demo e2e e2e-long bench-failover

all: build

build:
	cargo build $(CARGO_FLAGS) --workspace

# A cluster of three on loopback, a real dump, a write load, and a leader killed in the middle of it.
demo: build
	$(BIN)/rdb-demo $(FORMAT_FLAGS)

# Unit and scenario tests only: no clusters of processes.
test-fast:
	cargo test $(CARGO_FLAGS) --workspace

# Everything: tests, then simulated worlds, then real clusters of processes (the documents' commands, the demo, real faults),
# then a real Kubernetes cluster.
test: test-fast test-sim test-docs demo torture test-formats charts-test e2e

.PHONY: test-sim
test-sim:
	$(MAKE) sim SEEDS=3000

# Runs every command in README.md and docs/ as a reader would.
test-docs: build
	scripts/test-docs --binaries $(BIN)

# A random workload through real clusters in every log format; the nodes are compared after each case.
test-formats: build
	$(BIN)/rdb-formats

# A cluster of nodes with two versions of SQLite, in every log format. Builds a second rdb-node; OTHER=0.39.0 is a version
# of libsqlite3-sys.
.PHONY: test-sqlite-versions
test-sqlite-versions:
	scripts/test-sqlite-versions

# Kills and freezes nodes of real clusters under load, in every mode, and checks every acknowledged write.
torture: build
	$(BIN)/rdb-torture $(TORTURE_FLAGS)

# Both cores in simulated worlds, see docs/simulation.md. The last line says how many, and what was wrong.
sim:
	cargo run $(CARGO_FLAGS) --quiet -p sim -- --seeds $(SEEDS)

# The simulator's own test: every planted bug has to be found within 1,000 seeds. In a folder of its own, so that nothing
# that is shipped is ever built with the bugs in it.
planted:
	cargo run $(CARGO_FLAGS) --quiet -p sim --features planted --target-dir target/planted -- --planted --seeds 1000

# Small histories of simulated clients, checked by Porcupine (needs Go).
sim-porcupine:
	rm -rf target/histories
	cargo run $(CARGO_FLAGS) --quiet -p sim -- --seeds 200 --histories target/histories
	cd sim/porcupine && go run . ../../target/histories

# Measures this machine; the last lines are one per scenario, and the table goes to bench/results.md.
bench: build
	$(BIN)/rdb-bench --table bench/results.md $(ARGS)

check: licences
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

# The allow list is in deny.toml; without cargo-deny a small script checks it.
licences:
	scripts/licences

fmt:
	cargo fmt --all

# The module headers are the map of the code: target/doc/rdb_node/index.html and its neighbours.
doc:
	cargo doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items

# Container images of the node, the operator and the tests' load; under 60 MiB each.
images:
	images/build

# A Kubernetes cluster of kind with our images, volume snapshots and the operator. See docs/testing.md.
kind-up:
	e2e/cluster/up

kind-down:
	e2e/cluster/down

E2E := e2e/cluster/run
# `make e2e TEST=switchover`: only the tests with this in their names.
TEST ?=

# A replicated database on Kubernetes, and two failovers of it under a write load.
kind-demo: kind-up
	$(E2E) demo

# Tests on a real cluster, one after the other.
e2e: kind-up
	$(E2E) run $(TEST)

# Those that take minutes each.
e2e-long: kind-up
	$(E2E) run --tier long

# Failover times as a client sees them, and five minutes without the API server.
bench-failover: kind-up
	$(E2E) bench -n $(RUNS) --outage 300

# Lints the charts, renders them with several sets of values, and checks what they refuse. Needs Go where there is
# no helm, and no cluster.
.PHONY: charts-test bench-fleet
charts-test:
	cargo test $(CARGO_FLAGS) -p rdb-operator --test charts
	charts/test

# What one operator costs that looks after 300 databases, and how quick it is then. Needs root.
bench-fleet:
	cargo build $(CARGO_FLAGS) -p rdb-operator -p rdb-e2e
	e2e/cluster/fleet
