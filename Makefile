# Two commands matter: `make book` and `make test`. Both need only Python 3.11 or later with venv, git and make.
# `make clean` removes this folder, so the command line cannot point it elsewhere.
override VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
PY := $(VENV)/Scripts/python
else
PYTHON ?= python3
PY := $(VENV)/bin/python
endif
# The weekly workflow empties this, to learn what today's versions of everything do.
CONSTRAINTS ?= --constraint constraints.txt
INSTALLED := $(VENV)/.installed
HTML := _build/html
PORT ?= 8000

.DEFAULT_GOAL := help
.PHONY: help book test notebooks serve bench lint clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# The stamp is newer than the files that say what to install, or the environment is brought up to date. The stamp
# also holds the folder it was made in: an environment that was moved, or whose Python is gone, is made afresh.
ifneq ($(shell cat $(INSTALLED) 2>&1 && $(PY) -c "" 2>&1 || echo broken),$(shell pwd))
.PHONY: $(INSTALLED)
endif

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "" || { echo "This needs Python 3.11 or later, and '$(PYTHON)' does not run. Set it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This needs Python 3.11 or later, and $(PYTHON) is %d.%d. Set it: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@if test -s $@ && test "$$(cat $@)" != "$$(pwd)" || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "Installing into $(VENV): a few minutes the first time"
	@$(PY) -m pip install --disable-pip-version-check $(CONSTRAINTS) --editable '.[book,test,grading]'
	@pwd > $@
	@echo "Installed into $(CURDIR)/$(VENV)"

book: $(INSTALLED)  ## Build the book, every chapter executed, into _build/html
	$(PY) book/_ext/build.py
	@echo "Made the book: $(CURDIR)/$(HTML)/index.html   (read it with: make serve)"

notebooks: $(INSTALLED)  ## Make the reader's editions book/*.ipynb from book/*.md, executed
	$(PY) book/_ext/reader_edition.py
	@echo "Made the notebooks: $(CURDIR)/book/*.ipynb"

test: $(INSTALLED)  ## Run every check: formulas, stored numbers, pages, planted faults
	$(PY) -m ruff check .
	$(PY) -m pytest --numprocesses auto --dist worksteal
	@echo "Tested: every check above passed. Pages that the checks built are in $(CURDIR)/_build"

lint: $(INSTALLED)  ## Check the style, and mend what can be mended
	$(PY) -m ruff check --fix .

bench: $(INSTALLED)  ## Time course_lib beside its peers; ratios into _build/benchmarks
	$(PY) -m benchmarks.gaussian_kl
	$(PY) -m benchmarks.backprop
	$(PY) -m benchmarks.pca
	$(PY) -m benchmarks.vae
	$(PY) -m benchmarks.vae_linear
	$(PY) -m benchmarks.vae_digits --latent 2
	$(PY) -m benchmarks.vae_digits --latent 10
	$(PY) -m benchmarks.bayes
	$(PY) -m benchmarks.bayes_regression
	@echo "Made the figures: $(CURDIR)/_build/benchmarks/*.json"

serve: book  ## Build the book and serve it at http://127.0.0.1:8000 (PORT=...)
	$(PY) -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

clean:  ## Remove what the commands made, the environment too; your files stay
	rm -rf _build .cache $(VENV) course_lib.egg-info .hypothesis .ruff_cache
	find $(wildcard course_lib tests benchmarks book) -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed _build, caches and $(VENV); the next command makes them again"
