# `make help` says what there is.  Every target does the set-up that it needs, once.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-torch test-gpu test-losses test-interop test-chart test-cluster \
	cluster-up cluster-down cluster-status cluster-image bench bench-placement bench-netns bench-docs clean

PYTHON_ENV := .venv/bin/python
TAG ?= dev
ONEMACHINE := PYTHONPATH=tests/cluster $(if $(wildcard $(PYTHON_ENV)),$(PYTHON_ENV),python3) -m onemachine
REQUIRE_BPF := $(if $(filter 0,$(shell id -u)),LIFL_REQUIRE_BPF=1)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## .venv, native extensions, eBPF object; as root also what Debian has to provide
	@sh scripts/setup.sh

demo: setup ## digits over 16 clients and 2 nodes, 30 rounds
	@.venv/bin/lifl run examples/01-digits/job.yaml

test: setup lint ## all tests that need no cluster and no GPU; as root the eBPF tests too
	@$(PYTHON_ENV) -m compileall -q lifl shm proxy_ebpf functions placement
	$(REQUIRE_BPF) $(PYTHON_ENV) -m pytest -m "not gpu and not cluster and not interop and not losses"

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

test-losses: setup ## a node lost at every point, minutes; make test has a few of them
	$(REQUIRE_BPF) $(PYTHON_ENV) -m pytest -m losses

test-interop: setup ## a client in Go beside Python ones; needs Go and, from Debian, libzmq3-dev
	@sh scripts/setup-interop.sh
	$(REQUIRE_BPF) LIFL_GO_CLIENT=$(CURDIR)/build/go-client $(PYTHON_ENV) -m pytest -m interop

test-chart: setup ## the Helm chart: lint, snapshots, conflicts, alerts; finds or builds helm and promtool
	@sh scripts/setup-chart.sh
	LIFL_REQUIRE_CHART=1 $(PYTHON_ENV) -m pytest tests/chart tests/unit/test_crd.py

test-cluster: setup ## tests on a Kubernetes cluster: KUBECONFIG's, or one made here; KEEP=1 keeps it
	@sh scripts/test-cluster.sh

cluster-up: ## a Kubernetes cluster on this machine, with LIFL's image in it; as root
	@sh scripts/setup-cluster.sh
	@$(ONEMACHINE) up --tag $(TAG)

cluster-image: ## LIFL's image again, from this checkout, into the cluster; TAG=dev
	@$(ONEMACHINE) image --tag $(TAG)

cluster-status: ## what runs of the cluster, and what is wrong
	@$(ONEMACHINE) status

cluster-down: ## take the cluster away, whatever state it is in
	@$(ONEMACHINE) down

bench: setup ## measure, each figure beside its reference; CASE=fold for one of them
	@$(PYTHON_ENV) -m benchmarks $(CASE)

bench-placement: setup ## policies, the paper's steps, planner and simulator; CASE=planner for one
	@$(PYTHON_ENV) -m benchmarks.placement $(CASE)

bench-netns: setup ## real rounds over network namespaces, and the simulator beside them; root, 30 min
	@$(PYTHON_ENV) -m benchmarks.placement netns-64 netns-16 calibration --out build/bench-netns.json

bench-docs: setup ## write the figures of build/bench*.json into docs/benchmarks.md, docs/placement.md
	@$(PYTHON_ENV) -m benchmarks.docs
	@[ ! -e build/bench-placement.json ] || $(PYTHON_ENV) -m benchmarks.docs_placement
	@[ ! -e build/bench-netns.json ] || $(PYTHON_ENV) -m benchmarks.docs_netns

clean: ## remove what was built, .venv included; runs/ stays
	rm -rf .venv .venv-torch build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f shm/*.so functions/kernels/*.so proxy_ebpf/*.o
