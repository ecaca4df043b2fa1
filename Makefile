# Everything here needs cargo, Node 20 or later and npm. Redis and Postgres are found, or installed where that is allowed.
.DEFAULT_GOAL := help
.PHONY: help build demo test soak bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

build: ## build the release addon
	@node scripts/prepare.mjs --build

demo: ## sign in, sign out, limits, and Redis going away under traffic, on real servers
	@node scripts/prepare.mjs --build
	@node demo/run.mjs

test: ## run every check (within 20 minutes on two cores)
	@node scripts/test.mjs

soak: ## run every check with full counts, the fuzzing and the mutants
	@SOAK=1 node scripts/test.mjs

bench: ## measure sessions, Redis commands and rate limits against other packages (about 37 minutes)
	@node scripts/prepare.mjs --build
	@node __test__/bench/run.mjs

clean: ## remove what was built and installed
	@rm -rf target node_modules *.node npm/*/*.node
