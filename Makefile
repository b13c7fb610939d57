# The README's commands. Each does all the set-up on a fresh machine; a second run takes what is there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow faults check clean

demo: $(READY)  ## tune the warm-up of a small GPT on real text, and say how to browse what was found
	$(BIN)/autowarmup tune examples/char_gpt.py:task --steps 240 --study studies/demo

test: $(READY)  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2

test-slow: $(READY)  ## the slow ones, one after the other: many kills, servers, a browser
	$(BIN)/python -m pytest -m slow

faults: $(READY)  ## accidents on a cluster, hundreds of them, for half an hour
	$(BIN)/python benchmarks/faults.py --write

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv studies

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
