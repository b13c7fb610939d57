# The README's commands. Each does all the set-up on a fresh machine; a second run takes what is there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow test-frameworks faults mutants check bench-search bench-transfer clean

demo: $(READY)  ## tune the warm-up of a small GPT on real text, and say how to browse what was found
	$(BIN)/autowarmup tune examples/char_gpt.py:task --steps 240 --study studies/demo

test: $(READY)  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2

test-slow: $(READY)  ## the slow ones: many kills, servers, a browser
	$(BIN)/python -m pytest -n 2 -m slow

test-frameworks: .frameworks/.ready  ## exports, audits, lint and integrations against the frameworks' own code
	PYTHONPATH=$(CURDIR)/.frameworks CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n 2 tests/test_*_frameworks.py

faults: $(READY)  ## accidents on a cluster, hundreds of them, for half an hour
	$(BIN)/python benchmarks/faults.py --write

mutants: $(READY)  ## small changes to the code at random, and whether the tests notice: half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants --write

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-search: .venv-bench/.ready  ## search and whole studies against general tuners, on stored tables: ten minutes
	.venv-bench/bin/python -W ignore -m benchmarks.search.compare --slots 1 8 32

bench-transfer: $(READY) .faces/.ready  ## groups of parameters in fine-tuning: ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.transfer --write

clean:
	rm -rf .venv .venv-bench .frameworks .faces studies

.venv-bench/.ready: pyproject.toml constraints-benchmark.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet -c constraints-benchmark.txt -e ".[dev,benchmark]"
	touch $@

.frameworks/.ready: $(READY) constraints-frameworks.txt
	rm -rf .frameworks
	$(BIN)/pip install --quiet --no-deps --target .frameworks -r constraints-frameworks.txt
	touch $@

.faces/.ready: $(READY)
	$(BIN)/pip install --quiet --no-deps --target .faces facenet-pytorch==2.6.0 scikit-image==0.26.0
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,service,stack]"
	touch $@
