# Each command makes .venv on its first run and installs into it what it needs, pinned by constraints.txt.
#   make demo       explain photographs by a network trained on ImageNet: writes photo.png
#   make test       run the tests
#   make test-fast  run those that are not marked slow, in about three minutes
#   make test-repeats  run those that `make test` leaves out, since others show the same: more cases of tests of many
#   make lint       ruff and mypy
#   make docs       build the documentation: build/docs/index.html
#   make prove      check 10,000 random models, in a few hours; PROVE_ARGS=--help
#   make mutate     change passes and relevance functions, and see whether the tests notice; MUTATE_ARGS=--help
#   make fuzz       call every public function with wrong arguments; FUZZ_ARGS=--help
#   make soak       use explainers for long, in threads, processes and with interrupts; SOAK_ARGS=--help
#   make evidence   measure which rules find what decides and write docs/evidence.md; EVIDENCE_ARGS=--help
#   make bench      measure what explanations cost and write docs/benchmarks.md, in over an hour; BENCH_ARGS=--help
#   make runtimes   measure exported files in ONNX Runtime and AOTInductor; RUNTIMES_ARGS=--help
#   make conditioning  measure how far explanations are from double precision; CONDITIONING_ARGS=--help
# `make PYTHON=/path/to/python ...` chooses the interpreter, `make test PYTEST_ARGS="-k digits"` the tests.

# The first interpreter that is of a supported version and can make a virtual environment.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.10 python; do \
	$$python -c '$(USABLE)' >/dev/null 2>&1 && { echo $$python; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-fast test-repeats lint format docs prove fuzz soak mutate bench runtimes conditioning evidence clean

demo: $(VENV)/installed-demo
	$(BIN)/python -m fxlrp.demo

# A thread for each worker: more would only wait for each other on small tensors.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: $(VENV)/installed-dev
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not repeats" $(PYTEST_ARGS)

test-repeats: $(VENV)/installed-dev
	$(PYTEST) -m repeats $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# -E reads every page again: a page that is taken from the last build would not repeat its warnings.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -d build/doctrees docs build/docs

prove: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests/support $(BIN)/python -m prover $(PROVE_ARGS)

mutate: $(VENV)/installed-mutation
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python -m mutation $(MUTATE_ARGS)

$(VENV)/installed-mutation: tests/support/mutation/requirements.txt $(VENV)/installed-dev
	$(BIN)/python -m pip install --constraint constraints.txt --requirement $<
	@touch $@

fuzz: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests/support $(BIN)/python -m fuzz $(FUZZ_ARGS)

soak: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests/support $(BIN)/python -m soak $(SOAK_ARGS)

bench: $(VENV)/installed-peers
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

conditioning: $(VENV)/installed-dev $(VENV)/installed-demo
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.conditioning $(CONDITIONING_ARGS)

runtimes: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.runtimes $(RUNTIMES_ARGS)

evidence: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evidence $(EVIDENCE_ARGS)

$(VENV)/installed-peers: benchmarks/requirements.txt $(VENV)/installed-dev
	$(BIN)/python -m pip install --constraint constraints.txt --requirement benchmarks/requirements.txt
	@touch $@

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "fxlrp needs Python 3.10 to 3.13 with venv: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# installed-demo, installed-docs and installed-dev: the extra of that name is installed, until the pins or pyproject.toml change.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --no-build-isolation --constraint constraints.txt --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
