# Two commands matter: `make book` and `make test`. Both need only Python 3.11 or later with venv, git and make.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
INSTALLED := $(VENV)/.installed
HTML := _build/html
PORT ?= 8000

.DEFAULT_GOAL := help
.PHONY: help book test notebooks serve bench lint clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# The stamp is newer than the files that say what to install, or the environment is brought up to date.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "course_lib needs Python 3.11 or later; set PYTHON=/path/to/python3.11")'
	@echo "Installing into $(VENV): two to five minutes the first time"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[book,test]'
	@touch $@

book: $(INSTALLED)  ## Build the book, every chapter executed, into _build/html
	$(PY) book/_ext/build.py
	@echo "Made the book: $(CURDIR)/$(HTML)/index.html   (read it with: make serve)"

notebooks: $(INSTALLED)  ## Make the reader's editions book/*.ipynb from book/*.md, executed
	$(PY) book/_ext/reader_edition.py
	@echo "Made the notebooks: $(CURDIR)/book/*.ipynb"

test: $(INSTALLED)  ## Run every check: formulas, stored numbers, pages, planted faults
	$(PY) -m ruff check .
	$(PY) -m pytest
	@echo "Tested: every check above passed"

lint: $(INSTALLED)  ## Check the style, and mend what can be mended
	$(PY) -m ruff check --fix .

bench: $(INSTALLED)  ## Time course_lib beside its peers; ratios into _build/benchmarks
	$(PY) -m benchmarks.gaussian_kl
	@echo "Made the figures: $(CURDIR)/_build/benchmarks/gaussian_kl.json"

serve: book  ## Build the book and serve it at http://127.0.0.1:8000 (PORT=...)
	$(PY) -m http.server --bind 127.0.0.1 --directory $(HTML) $(PORT)

clean:  ## Remove what the commands made, the environment too
	rm -rf _build .cache $(VENV) *.egg-info .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
