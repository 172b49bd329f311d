# What each target does is in scripts/; `make build` and `make run` are all that a user needs.
CONFORMANCE ?= ../shared/conformance
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: build run test test-unit test-e2e conformance lint bench test-vm deps clean

build: ## dist/labk
	@scripts/build.sh

run: ## build, then a whole lab on this PC; ARGS= for the flags of `labk lab up`
	@scripts/deps.sh --build --run
	@scripts/build.sh
	$(SUDO) dist/labk lab up $(ARGS)

test: ## everything that CI runs
	@scripts/lint.sh
	@scripts/test.sh unit
	@scripts/build.sh
	@scripts/test.sh e2e

test-unit: ## the packages' own tests; RACE= without the race detector, PACKAGES= for some
	@scripts/test.sh unit

test-e2e: build ## whole clusters in lab hosts; TESTS= for a part
	@scripts/test.sh e2e

conformance: build ## Kubernetes' own suite on a server and an agent; ARGS= for the harness, see docs/conformance.md
	@$(SUDO) env CONFORMANCE=$(CONFORMANCE) scripts/conformance.sh $(ARGS)

lint:
	@scripts/lint.sh

bench: build ## the figures of docs/performance.md, on this machine
	@LABK_RELEASE=2 LABK_OUTPUT=dist/labk-2 scripts/build.sh
	@. scripts/env.sh && go build -o dist/bench ./tests/bench && $(SUDO) env LABK_BINARY=$(CURDIR)/dist/labk dist/bench -next dist/labk-2 $(ARGS)

test-vm: build ## the single-node scenario in a Debian VM with systemd and cgroup v2
	@scripts/test-vm.sh

deps: ## Debian packages that building, running and testing need
	@scripts/deps.sh --test

clean:
	rm -rf dist package/out
	find pkg/payload/bundle -type f ! -name README -delete
