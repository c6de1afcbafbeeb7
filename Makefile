# make demo: set everything up, then run the main job.   make test: set up, then pass the tests.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.PHONY: setup demo test check docs bench clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot make a virtual environment: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/mixbct demo --out runs/demo --resume

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(DOCS)

# the documentation, in site/index.html; a warning is an error
docs: setup
	$(DOCS)

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs site
