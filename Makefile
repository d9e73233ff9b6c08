# The commands a person types. `make` alone lists them.
#
#   BACKEND=libvirt        demo and serve use libvirt, one of their own, instead of QEMU itself (default: qemu)
#   FORGE=github-fake      demo has its job from a GitHub, a fake one on this machine (default: the local queue)
#   FORGE=gitlab-fake      demo has its jobs from a GitLab, likewise
#   DATA=DIR               where demo and serve keep things (default: cache/demo, cache/serve)
#   PORT=N                 where serve listens on 127.0.0.1 (default: 8000)
#   MONITOR_API_TOKEN=…    the token of the API (default: generated into DATA/api-token, mode 0600)

BACKEND ?= qemu
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo serve test steady dashboard storm bench mutants check deb embed install-run install-qemu install-libvirt install-test install-deb clean

help: ## List these commands
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: install-$(BACKEND) ## Run a sample job in a fresh virtual machine, then leave nothing behind
	@scripts/demo$(patsubst %-fake,-%,$(filter github-fake gitlab-fake,$(FORGE)))

serve: install-$(BACKEND) ## The same, and stay up on 127.0.0.1:8000
	@scripts/serve

test: install-test ## Install what is missing and run every test, real QEMU included
	@scripts/test

# Optimised: what is simulated takes as long as it takes to compute.
STEADY := $(foreach crate,runner-core fake-github forge-github,--config 'profile.dev.package.$(crate).opt-level=2')

steady: ## Ten thousand simulated GitHub jobs of each kind in bad weather, and what they cost in calls
	RUNNER_TEST_JOBS=$${RUNNER_TEST_JOBS:-10000} cargo test $(STEADY) -p forge-github --test steady -- --nocapture

dashboard: install-test ## Drive the dashboard in a real Chromium; screenshots stay in target/dashboard
	@scripts/dashboard

check: ## Formatting, lints and documentation, with warnings denied
	cargo fmt --all --check
	cargo lint
	RUSTDOCFLAGS="-D warnings" cargo docs

storm: ## A hundred takes on fifty workers, a hundred times, half of them with a kill -9 (STORM_ROUNDS=)
	STORM_ROUNDS=$${STORM_ROUNDS:-100} cargo test --workspace --all-features --test servo_storm -- --nocapture --test-threads=1

bench: install-libvirt ## Measure: medians, and ratios against the alternative in the same run
	@scripts/bench

mutants: ## Plant known bugs, one at a time, and see the storms and tests notice each
	@scripts/plant-bugs

deb: install-deb ## Make the Debian package, in target/debian
	@scripts/deb

embed: install-run ## Run the smallest program that embeds a pool
	cargo run --quiet -p embed

install-run install-qemu:
	@scripts/install run

install-libvirt:
	@scripts/install libvirt

install-test:
	@scripts/install test

install-deb:
	@scripts/install deb

clean: ## Remove what was built and cached
	cargo clean
	rm -rf cache
