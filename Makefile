# make demo: set everything up, then run the main job.   make test: set up, then pass the tests.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.PHONY: setup demo test test-all browser check docs bench clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot make a virtual environment: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true  # on every core, which pip does on one
	touch $@

demo: setup
	$(BIN)/mixbct demo --out runs/demo --resume

# the page is tested in Debian's Chromium; without it, and where it may not be installed, it is not
browser:
	@command -v chromium > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "no chromium: the page is not tested in a browser (apt-get install chromium)"

test: setup browser
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# and what takes a minute or more by itself
test-all: setup browser
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m ""

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
