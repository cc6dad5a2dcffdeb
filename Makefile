# husk: `make demo` shows the main job, `make test` runs every test. `make` alone lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The steps of a target share cargo's target directory and the node: one after the other.
.NOTPARALLEL:

CARGO ?= cargo
# Where cargo puts what it builds for the target that .cargo/config.toml names.
BUILT := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu
# What the tests drive, beyond Rust and a C compiler: a registry, images' contents, CNI plugins, and tools to look
# at the node with. husk itself needs none of it.
PACKAGES := busybox-static ca-certificates containernetworking-plugins crun debootstrap docker-registry iproute2 \
	iptables mount nftables openssl procps protobuf-compiler runc tar util-linux

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(SYSCONFDIR)/systemd/system
DESTDIR ?=

.PHONY: help demo build test deps fmt lint check doc vm bench fuzz install uninstall

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Build husk and show the main job, from a pull to a clean node (root, nothing to install, no network)
	@$(BUILT)/release/husk demo

build: ## Build the release binary
	$(CARGO) build --release
	@ls -l $(BUILT)/release/husk

# One build serves the unit tests and the end-to-end suites, and one profile both: a second set of features or flags
# would compile everything twice.
test: deps lint check doc ## Install what the tests need, then run them all (root, a Debian machine)
	@echo "make test: everything passed"

deps: ## Install the Debian packages that the tests need
	@e2e/packages $(PACKAGES)

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The failures are messages for people: where in a library they were made does not help.
check: export RUST_LIB_BACKTRACE = 0
check: ## Run the unit tests and the end-to-end suites, without installing anything
	$(CARGO) test --workspace --locked --no-run
	e2e/swept $(CARGO) test --workspace --locked --no-fail-fast

doc: ## Build the documentation
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

# Under emulation everything takes ten times as long, so the suites that look at control groups and the LSM are enough.
# Pods with user namespaces need a file system that this kernel can map ids of, so nothing is kept in a tmpfs.
LSM ?= apparmor
VM ?= $(if $(filter selinux,$(LSM)),selinux:: containers:: exec:: image_volumes:: logs::,apparmor:: exits:: limits:: updates:: \
	exec:: mounts:: security:: stats:: metrics:: user_namespaces:: nri:: checkpoint::)
vm: ## Run suites on a node with cgroup v2 alone and AppArmor, in an emulated machine (LSM=selinux VM="names of suites")
	$(CARGO) build --locked
	suites=$$($(CARGO) test -p husk-e2e --test e2e --locked --no-run --message-format=json | \
		sed -n 's/.*"executable":"\([^"]*\/e2e-[^"]*\)".*/\1/p'); \
	HUSK=$(BUILT)/debug/husk e2e/vm $(if $(filter selinux,$(LSM)),-s) -m 3000 -t 3000 -f "$$suites" \
		"export HUSK_E2E_DIR=/var/tmp HUSK_BIN=/usr/local/bin/husk HUSK_E2E_$(if $(filter selinux,$(LSM)),SELINUX,APPARMOR)=1; \
		$$suites --test-threads 2 $(VM)"

bench: ## Measure, and judge nothing (BENCH="--socket ... --image ..." measures another runtime)
	$(CARGO) build --release --workspace --bins
	e2e/swept $(BUILT)/release/husk-bench $(BENCH)

# What it finds new stays in e2e/fuzz/libfuzzer/found; what breaks, in artifacts beside it.
fuzz: ## Fuzz one target with cargo-fuzz on nightly (TARGET=tar TIME=60); the tests do it without either
	mkdir -p e2e/fuzz/libfuzzer/found/$(TARGET)
	HUSK_FUZZ_TARGET=$(TARGET) $(CARGO) +nightly fuzz run --fuzz-dir e2e/fuzz/libfuzzer any \
		e2e/fuzz/libfuzzer/found/$(TARGET) e2e/fuzz/corpus/$(TARGET) -- -max_total_time=$(or $(TIME),60)

install: build ## Install the binary, the systemd units and a configuration (PREFIX, SYSCONFDIR, DESTDIR)
	install -D -m 0755 $(BUILT)/release/husk $(DESTDIR)$(PREFIX)/bin/husk
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONFDIR)/husk
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' deploy/husk.service > $(DESTDIR)$(UNITDIR)/husk.service
	install -m 0644 deploy/husk.socket $(DESTDIR)$(UNITDIR)/husk.socket
	[ -e $(DESTDIR)$(SYSCONFDIR)/husk/config.toml ] || \
		install -m 0644 deploy/config.toml $(DESTDIR)$(SYSCONFDIR)/husk/config.toml

uninstall: ## Remove the binary and the units; configuration, images and running pods stay
	rm -f $(DESTDIR)$(PREFIX)/bin/husk $(DESTDIR)$(UNITDIR)/husk.service $(DESTDIR)$(UNITDIR)/husk.socket
