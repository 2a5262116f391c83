# `make demo` and `make test` set up whatever they need first; see scripts/setup.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# With bytecode kept: tests start hundreds of processes, and each would compile us anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
WORKERS := -n 2 --dist loadscope --no-loadscope-reorder
STAMP := $(VENV)/.setup-stamp

export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help setup demo test test-kube test-cluster check bench compare compare-quick peers clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## virtual environment, pinned packages; with root: what eBPF and Redis need

$(STAMP): pyproject.toml constraints.txt scripts/setup
	@scripts/setup $(VENV)

demo: $(STAMP) ## the main job: 10 clients train a CNN on digits, without IID data, to 95 %
	@$(BIN)/python examples/digits/demo.py

# One worker runs whole platforms, the other everything else (tests/conftest.py).
test: check ## lint, types, import rules, then all tests
	@$(PYTEST) $(WORKERS)

# Each worker has an API server of its own; a cluster that is given there is only one of.
test-kube: $(STAMP) ## tests at a real Kubernetes API server (made once from Debian's source package)
	@scripts/kube-assets >/dev/null
	@$(PYTEST) tests/kube $(if $(KUBECONFIG),,$(WORKERS))

test-cluster: $(STAMP) ## tests on the cluster of KUBECONFIG (docs/cluster-run.md says what to set)
	@$(PYTEST) tests/cluster -s

check: $(STAMP) ## ruff, mypy (strict), import linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP) ## measure; writes results/bench.json
	@$(BIN)/python -m bench

compare: $(STAMP) ## side by side with vanilla serverless, an always-on server and peers; results/compare/
	@$(BIN)/python -m bench.compare

compare-quick: $(STAMP) ## a shorter comparison, under five minutes
	@$(BIN)/python -m bench.compare --quick

peers: $(STAMP) ## optional: Flower and NVFlare, in environments of their own, for `make compare`
	@scripts/peers

clean: ## remove the environment, caches and results
	rm -rf $(VENV) .venv-flower .venv-nvflare results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
