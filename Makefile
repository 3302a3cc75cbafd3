# The everyday commands. Each brings what it needs on Debian 12 (packages, BPF tool chain) and does nothing twice.
# The work is done by xtask; `./scripts/xtask --help` has more of it.
.DEFAULT_GOAL := help
.PHONY: help setup build test demo lab image bench miri fmt clean
XTASK := ./scripts/xtask

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Bring all tools and packages that this machine lacks
	@$(XTASK) setup

build: ## Build the BPF object and the berrylb binary that embeds it
	@$(XTASK) setup --for build
	@$(XTASK) build

test: ## Run all checks and tests; `make test LEVELS="fmt unit"` runs some of them
	@$(XTASK) test $(LEVELS)

demo: ## Play the story on this machine's kernel: three nodes, three nginx pods on two of them, a Service
	@$(XTASK) demo

lab: ## Set the demo's nodes and pods up, and keep them up to look around in
	@$(XTASK) lab

image: ## Make static binaries and container images for arm64 and amd64, in target/dist
	@$(XTASK) setup --for dist
	@$(XTASK) image

bench: ## Measure agent and data path on this machine in half an hour; `make bench ARGS=--quick` in three minutes
	@$(XTASK) bench $(ARGS)

miri: ## Run the datapath core's tests under Miri (needs a rustup nightly with miri)
	@$(XTASK) miri

fmt: ## Format the Rust sources
	@$(XTASK) fmt

clean: ## Remove everything that was built here; tools that setup brought stay
	@rm -rf target
