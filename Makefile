# The same commands by hand and in CI. `make check` is the whole gate without
# other people's software; `make e2e` adds the real peers (Debian, root).

# ./... leaves out folders named testdata, and one of them is a package.
PACKAGES := ./... ./testdata/campaign
FUZZTIME ?= 3s

.PHONY: build check format vet lint test race fuzz-short bench demo e2e

build:
	CGO_ENABLED=0 go build -trimpath -o bin/gateway ./cmd/gateway

check: format vet lint race fuzz-short

format:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; exit 1; fi

vet:
	go vet $(PACKAGES)
	go vet -tags e2e ./internal/e2e

lint:
	go tool staticcheck $(PACKAGES)
	go tool staticcheck -tags e2e ./internal/e2e

test:
	go test $(PACKAGES)

race:
	go test -race -shuffle=on $(PACKAGES)

# Every fuzz target there is, a few seconds each, beyond its seeds.
fuzz-short:
	@for package in $$(go list $(PACKAGES)); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "go test -run '^$$' -fuzz '^$$target$$' -fuzztime $(FUZZTIME) $$package"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

bench:
	go test -run '^$$' -bench . -benchmem $(PACKAGES)

demo:
	go run ./cmd/gateway demo

# Installs what is missing, then runs in namespaces of its own.
e2e: build
	E2E_PEERS=$$(bash internal/e2e/peers.sh) E2E_GATEWAY=$(CURDIR)/bin/gateway \
		go test -tags e2e -count=1 -v -timeout 15m ./internal/e2e/...
