# Every target works from a clean clone. PYTHON and NEWEST choose interpreters, VENV the place of the virtual environment.
PYTHON ?= python3
VENV ?= .venv
NEWEST ?= python$(shell sed -n 's/.*Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml | sort -V | tail -1)
BIN := $(VENV)/bin
TOOLS := $(VENV)/tools/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Each worker takes tests in their order, so that most fixtures of a module are made once.
PARALLEL := -n auto --dist worksteal
export PYTHONUTF8 := 1
unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of processes

.PHONY: demo test coverage test-slow test-browser test-lowest test-newest test-docs check audit test-train fuzz bench examples models lock locked release docs clean

demo: $(VENV)/user  ## classify the clips of examples/ with the shipped models
	$(BIN)/fervid classify examples --format table --progress none

test: $(VENV)/dev  ## run the tests
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(VENV)/dev  ## run the tests and check that they cover 95 % of the branches; takes nearly twice as long
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=
	$(BIN)/coverage report

test-slow: $(VENV)/dev  ## run what is left out of `test`: thousands of hostile files, hundreds of kills
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=0

test-browser: $(VENV)/dev  ## look at the pages of reports in a headless Chromium, which must be installed
	$(BIN)/python -m pytest -m browser

# The lower bounds of pyproject.toml are promises: each names a release, and this installs just those.
test-lowest:  ## run the tests with the lowest versions of all direct dependencies
	$(PYTHON) -m venv $(VENV)/lowest
	sed -n 's/^    "\([A-Za-z0-9._-]*\)\(\[[a-z]*\]\)\{0,1\}>=\([0-9.]*\)".*/\1==\3/p' pyproject.toml | sort -u > $(VENV)/lowest.txt
	$(VENV)/lowest/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/lowest.txt -e '.[dev]'
	$(VENV)/lowest/bin/python -m pytest $(PARALLEL)

# What is newest depends on the Python: PyAV 19, for one, leaves out 3.11.
test-newest:  ## run the tests with the newest Python that is declared, and what is newest for it
	$(NEWEST) -m venv $(VENV)/newest
	$(VENV)/newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	$(VENV)/newest/bin/python -m pytest $(PARALLEL)

# timm without torchvision, of which PyPI has no build for CPUs alone.
test-docs:  ## follow the pages of docs/ with all of theirs that PyPI has, from the installation on
	$(PYTHON) -m venv $(VENV)/pages
	$(VENV)/pages/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)/pages/bin/python -m pip install --quiet --disable-pip-version-check -e '.[training,dev,docs,pages]'
	$(VENV)/pages/bin/python -m pip install --quiet --disable-pip-version-check --no-deps timm
	INSTALL=1 $(VENV)/pages/bin/python -m pytest tests/test_docs.py -m "slow or not slow" --timeout=1800 -rs

check: $(VENV)/dev audit  ## lint, formatting, types, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/dev $(TOOLS)/pip-audit  ## ask whether vulnerabilities are known; says so where no service can be reached
	PIPAPI_PYTHON_LOCATION=$(abspath $(BIN)/python) $(TOOLS)/python .ci/audit.py

fuzz: $(VENV)/dev  ## fuzz what is parsed beside videos, SECONDS for each parser; needs atheris
	$(BIN)/python -c "import atheris" || $(PIP) atheris
	for target in $$(PYTHONPATH=tests/helpers $(BIN)/python -c "import parsers; print(*parsers.TARGETS)"); do \
		PYTHONPATH=tests/helpers $(BIN)/python -W error tests/helpers/fuzz.py $$target -max_total_time=$(or $(SECONDS),60) || exit 1; \
	done

test-train: $(VENV)/training  ## run the tests of fervid.training, which need torch, of Ray, the pages of docs/ and the benchmarks
	$(BIN)/python -m pytest $(PARALLEL) tests/training
	$(BIN)/python -m pytest $(PARALLEL) -m slow --timeout=900 -rs tests/test_ray_runner.py tests/test_docs.py \
		tests/test_benchmarks.py tests/test_cli_stream.py tests/test_killed.py::test_run_resumes_after_few_kills

bench: $(VENV)/dev  ## measure speed; CLIPS names the videos
	$(BIN)/python benchmarks/speed.py $(or $(CLIPS),examples/astronaut.mp4)

examples: $(VENV)/dev  ## make the clips of examples/ anew
	PYTHONPATH=tests/helpers $(BIN)/python examples/make.py

models:  ## how each shipped model is made
	@sed -n '/^## How they are made/,$$p' models/README.md

docs: $(VENV)/docs  ## build the site into site/; its command blocks are run by `make test-train`
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(TOOLS)/pip-audit  ## renew requirements-dev.lock
	$(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' --upgrade --output-file requirements-dev.lock pyproject.toml

locked: $(VENV)/python  ## the environment of the tests from requirements-dev.lock, checked by hash: `make locked test`
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-deps -e .
	@touch $(VENV)/dev $(VENV)/user

release: $(VENV)/dev $(TOOLS)/pip-audit  ## sdist and wheel, checked, with their SBOM and SHA-256, in dist/
	rm -rf dist $(VENV)/release
	$(BIN)/python -m build --no-isolation
	$(TOOLS)/twine check --strict dist/*
	$(BIN)/python -m pytest tests/test_package.py -m "slow or not slow"
	$(PYTHON) -m venv --without-pip $(VENV)/release
	$(BIN)/python -m pip --python $(VENV)/release install --quiet --disable-pip-version-check dist/*.whl
	rm $(VENV)/release/lib/python3*/site-packages/fervid-*.dist-info/direct_url.json  # where the wheel lay on this machine
	$(TOOLS)/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json $(VENV)/release/bin/python
	cd dist && sha256sum * > SHA256SUMS

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/user: $(VENV)/python pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/user

$(VENV)/docs: $(VENV)/python pyproject.toml
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/user

# The one torch that is tested; on Linux its CPU build is enough.
$(VENV)/training: $(VENV)/dev
	$(PIP) torch==2.13.0
	$(PIP) -e '.[training,dev]'
	@touch $@

# Apart from what is tested: they bring dependencies of their own.
$(TOOLS)/pip-audit: $(VENV)/python
	$(PYTHON) -m venv $(VENV)/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7' 'pip-audit>=2.10' 'twine>=6' 'uv>=0.9'
	@touch $@

clean:
	rm -rf $(VENV) .coverage .mypy_cache .pytest_cache .ruff_cache dist site
