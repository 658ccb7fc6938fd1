# Every target does its own set-up: Python 3.11, make and git are enough to begin with.
#   make demo      a first report, from nothing
#   make help      the rest

# Another interpreter: make demo PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

PYTHON_FOUND = $(or $(PYTHON),$(error No Python 3.11 or later found. Install one, or name it: make PYTHON=/path/to/python))
SETUP  = $(PYTHON_FOUND) scripts/environment.py
VLLM  := .venv-vllm/bin/vllm
RUN   := .venv/bin
DEMO  ?= runs/demo
TESTS ?= -n 2
BENCH ?= --quick

.DEFAULT_GOAL := help
.PHONY: demo test test-vllm bench-vllm lint format docs bench tree lock clean help

demo:  ## build the model organisms, test the paper's claims on them, write the report
	@$(SETUP) runtime
	$(RUN)/safedepth reproduce --quick --out $(DEMO)

test:  ## all tests (TESTS="-n 0 -k chat" passes other options to pytest)
	@$(SETUP) dev
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest $(TESTS)

test-vllm:  ## the tests that ask a real vLLM server, on this machine's processor (2.4 GB, minutes)
	@$(SETUP) dev
	@$(PYTHON_FOUND) scripts/vllm_environment.py
	OMP_NUM_THREADS=1 SAFEDEPTH_VLLM=$(CURDIR)/$(VLLM) $(RUN)/python -m pytest -n 0 tests/vllm_server

lint:  ## ruff, its formatter, and strict type checking; changes nothing
	@$(SETUP) dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format:  ## let ruff format and mend what it can; bring the README's tree up to date
	@$(SETUP) dev
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/python scripts/tree.py

bench-vllm:  ## prefill sweep through a real vLLM server beside our engine (BENCH= for the full size)
	@$(SETUP) dev
	@$(PYTHON_FOUND) scripts/vllm_environment.py
	$(RUN)/python benchmarks/served_sweep.py $(BENCH)

docs:  ## build the documentation into site/; a broken link or reference is an error
	@$(SETUP) dev
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

bench:  ## side by side with the peers, small sizes (BENCH= for the full ones)
	@$(SETUP) dev
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
		echo "== $$script $(BENCH)"; $(RUN)/python "$$script" $(BENCH); \
	done

tree:  ## write the README's tree of modules anew, from their docstrings
	@$(SETUP) dev
	$(RUN)/python scripts/tree.py

lock:  ## resolve all versions anew in an empty environment and write the lock files (minutes)
	$(PYTHON) scripts/lock.py

clean:  ## remove what was built and cached; keeps .venv and runs/
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):  *## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 12
