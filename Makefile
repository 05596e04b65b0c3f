# Each target sets up what it needs in .venv and runs again fast. A fresh machine needs Python 3.11+, make and a package index.
VENV    ?= .venv
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
             $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN      = $(VENV)/bin
# --no-compile: byte code is made when a module is first imported, and most of them never are.
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
TORCH   ?= torch==2.13.0
READY    = $(VENV)/.ready
ROOMS    = bundle wire runtime export serve handlers client loadtest cli
PYTEST_ARGS ?=

export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint types bench bench-gpu bench-serve bench-torchserve bench-verdict soak clean setup

setup: $(READY)

# A new pip finds what fits together in half the time. torch first: asked for later, another package may pull in a build with
# gigabytes of CUDA libraries.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "nlpdeploy needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (first time: some minutes) ..."
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) "$(TORCH)"
	@$(PIP_INSTALL) --editable '.[dev,rtx]' || { \
	  echo "without TensorRT for RTX: if this platform has none, its engines can't be built here and their tests are skipped" >&2; \
	  $(PIP_INSTALL) --editable '.[dev]'; }
	@touch $@

demo: $(READY)
	@$(BIN)/nlpdeploy demo $(DEMO_ARGS)

# OpenVINO's bindings would otherwise warn at the interpreter's end, below pytest's summary.
test: $(READY)
	@PYTHONWARNINGS="ignore:builtin type:DeprecationWarning" $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# mypy wants a folder named like the package; the rooms stand at the top level, so it gets links.
types: $(READY)
	@mkdir -p $(VENV)/typings/nlpdeploy
	@for room in $(ROOMS); do ln -sfn "$(CURDIR)/$$room" $(VENV)/typings/nlpdeploy/$$room; done
	@MYPYPATH=$(VENV)/typings $(BIN)/mypy --cache-dir $(VENV)/.mypy_cache -p nlpdeploy

bench: $(READY)
	@$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

# BENCH_GPU_ARGS="CKPT BUNDLE": a checkpoint, and the folder of its bundle that was exported on this machine.
bench-gpu: $(READY)
	@$(BIN)/python -m benchmarks.gpu $(BENCH_GPU_ARGS)

bench-serve: $(READY)
	@TORCH="$(TORCH)" $(BIN)/python -m benchmarks.serve $(BENCH_SERVE_ARGS)

bench-torchserve: $(READY)
	@$(BIN)/python -m benchmarks.torchserve $(BENCH_TORCHSERVE_ARGS)

bench-verdict: $(READY)
	@$(BIN)/python -m benchmarks.verdict $(BENCH_VERDICT_ARGS)

soak: $(READY)
	@$(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
