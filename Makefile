# Runs, tests and checks Weir; `make help` lists what there is.

TOOL := go tool -modfile=tools/go.mod
# Each fuzz target gets this long in `make check`.
FUZZTIME ?= 5s

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help run build test check format fix vet lint vuln fuzz benchmarks bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: ## install what is missing, build, and run everything (ARGS='--policy F')
	@scripts/install.sh run
	go build -o bin/weir ./cmd/weir
	bin/weir up $(ARGS)

build: ## build every program into bin/
	go build -o bin/ ./cmd/...

test: ## install what is missing and run all tests
	@scripts/install.sh test
	REQUIRE_ENV=1 go test -race -shuffle=on ./...

check: format fix vet lint vuln fuzz benchmarks test ## all that CI does

format: ## gofmt changes nothing
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }

fix: ## go fix changes nothing
	go fix -diff ./...

vet: ## go vet
	go vet ./...

lint: ## golangci-lint
	$(TOOL) golangci-lint run

vuln: ## known vulnerabilities, if the database can be reached
	@scripts/vuln.sh

fuzz: ## every fuzz target for FUZZTIME
	@scripts/install.sh test
	@scripts/fuzz.sh $(FUZZTIME)

benchmarks: ## every benchmark once, so that none rots
	@scripts/install.sh test
	@grep -rl --include='*_test.go' '^func Benchmark' cmd gateway internal | xargs -r -n1 dirname | sort -u | sed 's|^|./|' | \
		REQUIRE_ENV=1 xargs -r go test -race -run '^$$' -bench . -benchtime 1x
	cd bench && go vet ./... && go run . -rounds 1 -duration 50ms -records 10000 -keys 10000

bench: ## measure against bare NATS, bare COPY and other limiters, in about nine minutes
	@scripts/install.sh bench
	cd bench && go run .
