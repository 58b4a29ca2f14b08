# make run    install into .venv and run the main job on the default recipe
# make test   install what the tests need, then ruff, mypy --strict and pytest
# make check  the same for a change: of the tests only those that it touches
# make docs   the site of docs/ and of the public names, in site/
# None does anything twice: the environment is rebuilt only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check test-slow bench docs lint check-system clean

run: $(VENV)/run.stamp
	$(BIN)/python -m pipeline.all

test: lint
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder --durations=20

# Tests that read the source rather than run it are always due: testmon does not see what they depend on.
check: lint .testmondata
	$(PYTEST) -q tests/test_layout.py tests/test_pages.py
	$(PYTEST) -q --testmon

# Which test executes which function, recorded once (as long as `make test`), and kept up to date by every check.
.testmondata: | $(VENV)/test.stamp
	-$(PYTEST) -q -n 2 --dist loadfile --no-loadscope-reorder --testmon

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: $(VENV)/test.stamp
	$(PYTEST) --run-slow -m slow

bench: $(VENV)/run.stamp
	$(PYTEST) bench/

docs: $(VENV)/docs.stamp
	$(BIN)/python -m mkdocs build --strict

$(VENV)/run.stamp: pyproject.toml constraints.txt | check-system
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | check-system
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/run.stamp

# The extra `docs` without the package: the site is made from the source, and no torch is downloaded for it.
$(VENV)/docs.stamp: pyproject.toml constraints.txt | check-system
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) mkdocs mkdocstrings-python
	@touch $@

# What is missing is said here, with the command that installs it, before anything is downloaded or trained.
check-system:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "the module venv is missing: apt-get install python3-venv"; exit 2; }
	@command -v $${CXX:-g++} >/dev/null \
		|| echo "note: no C++ compiler; the backends compile and aotinductor will fail: apt-get install g++"
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' \
		|| echo "note: no Python headers; the backends compile and aotinductor will fail: apt-get install python3-dev"

clean:
	rm -rf $(VENV) build dist site *.egg-info
