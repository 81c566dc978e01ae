# `make help` says what there is.  Every target does the set-up that it needs, once.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-torch test-gpu test-interop test-cluster bench bench-placement bench-docs clean

PYTHON_ENV := .venv/bin/python
REQUIRE_BPF := $(if $(filter 0,$(shell id -u)),LIFL_REQUIRE_BPF=1)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## .venv, native extensions, eBPF object; as root also what Debian has to provide
	@sh scripts/setup.sh

demo: setup ## digits over 16 clients and 2 nodes, 30 rounds
	@.venv/bin/lifl run examples/01-digits/job.yaml

test: setup lint ## all tests that need no cluster and no GPU; as root the eBPF tests too
	@$(PYTHON_ENV) -m compileall -q lifl shm proxy_ebpf functions placement
	$(REQUIRE_BPF) $(PYTHON_ENV) -m pytest -m "not gpu and not cluster and not interop"

lint: setup ## ruff, mypy --strict, import-linter
	$(PYTHON_ENV) -m ruff check .
	$(PYTHON_ENV) -m mypy -p lifl
	.venv/bin/lint-imports

test-torch: setup ## torch in an environment of its own (.venv-torch), and the tests that need it
	@[ -x .venv-torch/bin/python ] || $(PYTHON_ENV) -m venv .venv-torch
	@.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples,torch]'
	$(REQUIRE_BPF) .venv-torch/bin/python -m pytest -m torch

test-gpu: setup ## tests that need a GPU
	@$(PYTHON_ENV) -m pytest -m gpu || { echo "test-gpu: failed, or there are no such tests yet" >&2; exit 1; }

test-interop: setup ## a client in Go beside Python ones; needs Go and, from Debian, libzmq3-dev
	@sh scripts/setup-interop.sh
	$(REQUIRE_BPF) LIFL_GO_CLIENT=$(CURDIR)/build/go-client $(PYTHON_ENV) -m pytest -m interop

test-cluster: ## tests that need a Kubernetes cluster: not there yet
	@echo "test-cluster: not there yet: LIFL runs on one machine so far, see make demo" >&2; exit 1

bench: setup ## measure, each figure beside its reference; CASE=fold for one of them
	@$(PYTHON_ENV) -m benchmarks $(CASE)

bench-placement: setup ## policies, the paper's steps, planner and simulator; CASE=planner for one
	@$(PYTHON_ENV) -m benchmarks.placement $(CASE)

bench-docs: setup ## write the figures of build/bench*.json into docs/benchmarks.md, docs/placement.md
	@$(PYTHON_ENV) -m benchmarks.docs
	@[ ! -e build/bench-placement.json ] || $(PYTHON_ENV) -m benchmarks.docs_placement

clean: ## remove what was built, .venv included; runs/ stays
	rm -rf .venv .venv-torch build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f shm/*.so functions/kernels/*.so proxy_ebpf/*.o
