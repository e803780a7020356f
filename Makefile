# The doors of the repository. The first one used makes the environment in .venv.
#
#   make demo    simulate a landscape, map it with two ranks, write the report
#   make test    all tests: serial, on 1 to 4 ranks, kernels with bounds checks
#   make faults  strike every stage at random moments on 2, 3 and 4 ranks; writes docs/faults.md (REPETITIONS=3)
#   make fuzz    give the parsers of outside data what a fuzzer thinks of (SECONDS_EACH=60)
#   make perf    measure kernels, composites, storage, k-means and retrieval against others, with pictures and tables
#   make tables  measure quality where the truth is known: cloud masks, samples, years
#   make slurm   start a Slurm with two partitions here, to try job scripts on (docs/hpc.md); slurm-stop ends it
#   make lint    ruff
#   make env     only the environment and the kernels
#   make clean   remove what was built (not .venv)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test test-serial test-mpi test-kernels faults fuzz perf tables slurm slurm-stop lint clean

RANKS ?= 2
python := $(CURDIR)/.venv/bin/python
enter := source jobscripts/env/debian.sh

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

env:
	@jobscripts/env/install.sh

demo: env
	@$(enter); mpirun -n $(RANKS) $(python) -m lcu.main run examples/demo.toml

# Every phase runs, whichever fails.
test: env
	@$(MAKE) --no-print-directory --keep-going -j1 test-serial test-mpi test-kernels

test-serial: env
	@echo "== tests without mpirun"
	@$(enter); timeout -k 5 2400 $(python) -m pytest -q --durations 30

test-mpi: test-mpi-1 test-mpi-2 test-mpi-3 test-mpi-4

# Only rank 0 prints; the others write to files, which are shown when something failed. A test
# that waits too long ends its process, and with it the job: a rank that went on to the next
# test alone would hang there. Exit code 5 is "no such tests".
# Only files with such tests are looked at: every rank would import all of them.
mpi_tests := $(sort $(shell grep -rl 'mark.mpi' tests --include='test_*.py'))
mpi_pytest := -m pytest -q --with-mpi -m mpi -p no:cacheprovider --timeout 120 --timeout-method thread
test-mpi-%: env
	@echo "== MPI tests on $* ranks"
	@$(enter); rm -rf build/mpi-$*; mkdir -p build/mpi-$*; \
	timeout -k 5 600 mpirun -q -n $* bash -c 'rank=$$OMPI_COMM_WORLD_RANK; out=/dev/stdout; \
	    if [ $$rank -gt 0 ]; then out=build/mpi-$*/rank-$$rank.log; fi; \
	    export PYTEST_DEBUG_TEMPROOT=$$PWD/build/mpi-$*/tmp-$$rank; mkdir $$PYTEST_DEBUG_TEMPROOT; \
	    exec $(python) $(mpi_pytest) $(mpi_tests) &>$$out' \
	|| { status=$$?; [ $$status -eq 5 ] && exit 0; \
	    tail -n 40 build/mpi-$*/rank-*.log; \
	    echo "== MPI tests on $* ranks failed with exit code $$status (124: too long)"; exit 1; }

# A second tree, whose kernels check every index.
test-kernels: env
	@echo "== kernel tests with bounds checks"
	@mkdir -p build/debug; rm -rf build/debug/{tests,kernels,perf}; \
	cp -pR lcu kernels perf tests setup.py pyproject.toml build/debug/; rm -f build/debug/lcu/_*.so; \
	$(enter); cd build/debug; \
	LCU_DEBUG_KERNELS=1 $(python) setup.py -q build_ext --inplace >build.log 2>&1 || { tail -n 30 build.log; exit 1; }; \
	timeout -k 5 900 $(python) -m pytest -q -k kernel tests || [ $$? -eq 5 ]

# Each parser of outside data for so many seconds, with a fuzzer that follows the branches.
SECONDS_EACH ?= 60
fuzz: env
	@$(enter); $(python) -m pip install --quiet atheris==3.0.0; \
	for parser in product granule item points config; do echo "== $$parser"; \
	    $(python) -m tests.faults.fuzz $$parser --seconds $(SECONDS_EACH) 2>build/fuzz.log \
	    || { tail -n 30 build/fuzz.log; exit 1; }; tail -n 1 build/fuzz.log; done

REPETITIONS ?= 3
faults: env
	@$(enter); timeout -k 5 7200 $(python) -m pytest -q tests/faults tests/test_deadline.py tests/test_slurm.py \
	    --full --repetitions $(REPETITIONS) --ranks 2,3,4 --table docs/faults.md

# CASE is tiny, small or medium.
CASE ?= small
perf: env
	@PYTHON=$(python) perf/competitors.sh; PYTHON=$(python) perf/kmeans_competitors.sh; perf/native.sh; $(enter); \
	$(python) perf/kernels.py --case $(CASE); $(python) perf/record.py; \
	$(python) perf/composite.py --sizes 1024; $(python) perf/storage.py --size 1024; \
	$(python) perf/kmeans.py --case $(CASE); $(python) perf/years.py; $(python) perf/retrieve.py

tables: env
	@$(enter); $(python) perf/clouds.py; $(python) perf/purity.py --seeds 5; \
	$(python) perf/usefulness.py --seeds 5; $(python) perf/consistency.py --seeds 1 2 3; $(python) perf/sweden.py

slurm: env
	@jobscripts/slurm.sh start build/slurm
	@echo "now: source build/slurm/env.sh"

slurm-stop:
	@jobscripts/slurm.sh stop build/slurm

lint: env
	@.venv/bin/ruff check .

clean:
	rm -rf build *.egg-info lcu/_*.so .pytest_cache .ruff_cache .hypothesis
	find lcu tests -name __pycache__ -prune -exec rm -rf {} +
