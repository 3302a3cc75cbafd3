# The everyday commands. Each brings what it needs on Debian 12 (packages, BPF tool chain) and does nothing twice.
# The work is done by xtask; `./scripts/xtask --help` has more of it.
.DEFAULT_GOAL := help
.PHONY: help setup build test demo lab bench miri fmt clean
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

demo: ## Play the story on this machine's kernel: two nodes, three nginx pods, a Service
	@$(XTASK) demo

lab: ## Set the demo's nodes and pods up, and keep them up to look around in
	@$(XTASK) lab

bench: ## Measure the agent on this machine; `make bench ARGS=--quick` within two minutes
	@$(XTASK) bench control-plane $(ARGS)

miri: ## Run the datapath core's tests under Miri (needs a rustup nightly with miri)
	@$(XTASK) miri

fmt: ## Format the Rust sources
	@$(XTASK) fmt

clean: ## Remove everything that was built here; tools that setup brought stay
	@rm -rf target
