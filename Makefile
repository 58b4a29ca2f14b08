# make run    install into .venv and run the main job on the default recipe
# make test   install what the tests need, then ruff, mypy --strict and pytest
# Both do nothing twice: the environment is remade only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test test-slow bench check-system clean

run: $(VENV)/run.stamp
	$(BIN)/python -m pipeline.all

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest --run-slow -m slow

bench: $(VENV)/run.stamp
	$(BIN)/python -m pytest bench/

$(VENV)/run.stamp: pyproject.toml constraints.txt | check-system
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | check-system
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/run.stamp

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
	rm -rf $(VENV) build *.egg-info
