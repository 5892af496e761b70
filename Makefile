# Every target works from a clean clone. PYTHON chooses the interpreter, VENV the place of the virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PYTHONUTF8 := 1

.PHONY: demo test check test-train bench examples models clean

demo: $(VENV)/user  ## classify the clips of examples/ with the shipped models
	$(BIN)/fervid classify examples --format table --progress none

test: $(VENV)/dev  ## run the tests
	$(BIN)/python -m pytest --cov --cov-report=

check: $(VENV)/dev  ## lint, formatting, types, and the coverage of the last `make test`
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/coverage report

test-train: $(VENV)/train  ## run the tests of fervid.train, which need torch
	$(BIN)/python -m pytest tests/train

bench: $(VENV)/dev  ## measure speed; CLIPS names the videos
	$(BIN)/python benchmarks/speed.py $(or $(CLIPS),examples/astronaut.mp4)

examples: $(VENV)/dev  ## make the clips of examples/ anew
	PYTHONPATH=tests $(BIN)/python examples/make.py

models:  ## how each shipped model is made
	@sed -n '/^## How they are made/,$$p' models/README.md

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/user: $(VENV)/python pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/user

# The one torch that is tested; on Linux its CPU build is enough.
$(VENV)/train: $(VENV)/dev
	$(PIP) torch==2.13.0
	$(PIP) -e '.[train,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .coverage .mypy_cache .pytest_cache .ruff_cache dist
