# `make` alone lists the targets. The text after ## is the help.

CARGO ?= cargo
# Passed to `matctl demo`, for instance ARGS="--ipv6 --rtt 20"; without any, `make demo`
# shows both families at two round trips.
ARGS ?=
# Passed to `mat-bench`, for instance BENCH="--rounds 6 --only mat,wireguard-go".
BENCH ?=
# Gigabytes that `make soak` moves.
SIZE ?= 100
# Runs of `make simulate`, and the first seed; SEED=7 tells the story of one run, and SHRINK=1
# leaves out what it does not take to break something. CALM=1: only moves, and no datagram may be
# missed.
RUNS ?= 10000
FIRST ?= 1
SEED ?=
SHRINK ?=
CALM ?=
# Seconds for each target of `make fuzz`.
FUZZ ?= 60
# Results of long runs are kept.
SOAK = scripts/privileged target/release/mat-soak --cell-seconds 300 \
    --json bench/results/soak/$(shell date -u +%F)-

# Suites of tests, and how cargo is told to run these. Of the whole workspace, and programs along
# with tests: of a part of it the libraries have other features, and would all be built again.
suites := $(wildcard */tests/*.rs) $(patsubst %/main.rs,%.rs,$(wildcard */tests/*/main.rs))
named = $(addprefix --test ,$(basename $(notdir $(1))))

# The scripts name the command that was typed when they say what it needs.
export MAKECMDGOALS
# ip, tc and nft are not on everybody's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: ## check for what is needed, and install what is missing
	@scripts/setup

.PHONY: demo
demo: setup ## move a container between two subnets in mid-transfer (ARGS="--ipv6 --rtt 20")
	$(CARGO) build --release --locked
	scripts/privileged scripts/demo $(ARGS)

.PHONY: test
test: setup ## format, lints, unit tests, and the real binaries in namespaces
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) build --workspace --locked --bins --tests
	scripts/dns-servers || echo 'test: without BIND, Knot and NSD, mat-mapd is tested alone' >&2
	scripts/privileged $(CARGO) test --workspace --locked --lib --bins \
	    $(call named,$(filter-out netns-tests/%,$(suites)))
	scripts/privileged $(CARGO) test --workspace --locked \
	    $(call named,$(filter netns-tests/%,$(suites))) -- --test-threads=1

.PHONY: simulate
simulate: ## many runs in virtual time with everything that can go wrong (RUNS=10000), or the story of one (SEED=7)
	$(CARGO) build --release --locked --package mat-simulator
	target/release/mat-simulate $(if $(CALM),--calm) $(if $(SEED),--seed $(SEED) $(if $(SHRINK),--shrink),--first $(FIRST) --runs $(RUNS))

.PHONY: deny
deny: ## check licences, duplicates and sources of the dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || \
	    { echo 'cargo-deny is missing. Type: $(CARGO) install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --locked check licenses bans sources

.PHONY: bench
bench: setup bench-tools ## micro-benchmarks, then every contender side by side; three hours (BENCH="--rounds 6 --only mat")
	$(CARGO) bench --package mat-bench --locked
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-bench $(BENCH)
	scripts/privileged target/release/mat-bench --busy 2 --measures tcp1,udp64 $(BENCH)
	scripts/privileged target/release/mat-bench --ipv6 --measures tcp1,udp64,latency $(BENCH)
	# Packets of 1500 bytes would rather measure the user-space link that carries them.
	scripts/privileged target/release/mat-bench --rtt 20 --set-up tso $(BENCH)
	scripts/privileged target/release/mat-bench --rtt 100 --set-up tso $(BENCH)
	scripts/privileged target/release/mat-bench-calls --json bench/results/calls/$(shell date -u +%F).json

.PHONY: bench-moves
bench-moves: setup ## thirty moves at 0, 20 and 100 ms round trip, and the same lab at rest; six minutes
	$(CARGO) build --release --locked
	scripts/privileged scripts/bench-moves

.PHONY: bench-quick
bench-quick: setup ## the wire, the kernel and MAT side by side, IPv4, in four minutes
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-bench --quick $(BENCH)

.PHONY: bench-tools
bench-tools: ## fetch the other forwarders for `make bench` into target/bench-tools
	@scripts/bench-tools

.PHONY: soak
soak: setup ## 100 GB (SIZE=100) through every combination of offloads and impairments, none wrong
	$(CARGO) build --release --locked
	$(SOAK)$(SIZE)G.json --bytes $(SIZE)G

.PHONY: soak-quick
soak-quick: setup ## the same with 5 GB, in a few minutes
	$(CARGO) build --release --locked
	$(SOAK)5G.json --bytes 5G

.PHONY: kills
kills: setup ## kill -9 of every program at every step of a move, one live copy each time; five minutes
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-kills --json bench/results/kills/$(shell date -u +%F).json

.PHONY: kills-mapping
kills-mapping: setup ## kill -9 of the mapping service 1000 times under load: nothing acknowledged is lost; four minutes
	MAT_KILLS=1000 $(CARGO) test --release --locked --package mat-mapping --test blackbox kill_dash_nine

.PHONY: bench-evacuation
bench-evacuation: setup ## 200 instances leave a site at one command, each with a connection; four minutes
	$(CARGO) build --release --locked
	scripts/privileged scripts/bench-evacuation

.PHONY: bench-mapping
bench-mapping: setup ## the mapping service beside BIND and Knot: questions, signed updates; eight minutes
	scripts/dns-servers
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-bench-map --json bench/results/mapping/$(shell date -u +%F).json

.PHONY: bench-mapping-growth
bench-mapping-growth: setup ## what the mapping service takes of disk and memory over ten million updates; fifteen minutes
	scripts/dns-servers
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-bench-map --growth 10000000 \
	    --json bench/results/mapping/$(shell date -u +%F)-growth.json

.PHONY: bench-push
bench-push: setup ## ten thousand subscribers hear of a change; three minutes
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-bench-push --json bench/results/push/$(shell date -u +%F).json

.PHONY: fuzz
fuzz: setup ## fuzz what reads messages, updates, sessions and journals, FUZZ=60 seconds each
	scripts/fuzz $(FUZZ)

.PHONY: bench-renumber
bench-renumber: setup ## the address of a node changes again and again; eight minutes
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-renumber --changes 15 --json bench/results/renumber/$(shell date -u +%F).json

.PHONY: bench-flood
bench-flood: setup ## 10,000 first contacts a second while an instance receives; eight minutes
	$(CARGO) build --release --locked
	scripts/privileged target/release/mat-flood --json bench/results/flood/$(shell date -u +%F)-full.json
	scripts/privileged target/release/mat-flood --mbits 1000 --json bench/results/flood/$(shell date -u +%F)-1G.json
