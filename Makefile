# make demo: explain a photograph, offline.  make test: all that the gate checks.  Both install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# glibc gives every large buffer back to the kernel and faults it in anew; benchmarks are run with it kept.
MALLOC = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=100000000

# The site, into site/; without the notice that the theme prints.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A process a core, each with one thread: small networks keep no two threads busy.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

.PHONY: demo test test-all check docs format generate bench

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev check
	$(PYTEST)

test-all: $(VENV)/.all check
	$(PYTEST) -m ""

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/generate.py --check
	$(DOCS)

docs: $(VENV)/.dev
	$(DOCS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV)/.dev
	$(BIN)/python tools/generate.py

bench: $(VENV)/.dev
	$(MALLOC) $(BIN)/python benchmarks/speed.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.all: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable '.[dev,neighbours]'
	touch $@
