# The two commands: `make demo` and `make test`. Both set themselves up; nothing is installed outside this folder.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=
bin := .venv/bin

.PHONY: demo test setup lint types imports unit locks chaos benchmarks clean

demo: setup
	$(bin)/python -m worker demo $(ARGS)

test: lint types imports unit

# The stamp is the lock's: a changed lock installs anew, an unchanged one costs nothing.
setup: .venv/installed

.venv/installed: requirements/dev.txt
	$(PYTHON) -c 'import sys; sys.exit("fedqueue needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(bin)/python || $(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	touch $@

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: setup
	$(bin)/mypy

imports: setup
	$(bin)/lint-imports --no-logo

unit: setup
	$(bin)/python -m pytest -m "not wide" $(ARGS)

# After a change of requirements/*.in. The locks hold hashes and no addresses, so stock pip installs them anywhere.
locks: setup
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/run.in --output-file requirements/run.txt
	$(bin)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 requirements/dev.in --output-file requirements/dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
