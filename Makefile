# The same commands for people and for CI. `make demo` and `make test` need nothing before them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-full unit-no-torch lint docs bench clean

demo: $(VENV)/.installed
	$(BIN)/stepwell demo

test: $(VENV)/.tested
	$(BIN)/python -m pytest -q
	$(MAKE) --no-print-directory unit-no-torch

# Slow campaigns too, and new random examples: minutes to an hour.
test-full: $(VENV)/.tested
	STEPWELL_EXAMPLES=new $(BIN)/python -m pytest -q -m "slow or not slow"
	$(MAKE) --no-print-directory unit-no-torch

# The brain and the nouns must work where torch is not installed.
unit-no-torch: $(VENV)-no-torch/.installed
	$(VENV)-no-torch/bin/python -m pytest -q tests/unit tests/plan tests/doctor tests/knowledge

lint: $(VENV)/.tested
	$(BIN)/ruff format --check src tests house
	$(BIN)/ruff check src tests house
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.tested
	$(BIN)/stepwell bench serve --quick

# torch first and by its exact version: a plain `torch` would bring gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[engine,server,knowledge]'
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[engine,server,knowledge,bench,dev]'
	touch $@

$(VENV)-no-torch/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-no-torch
	$(VENV)-no-torch/bin/pip install --quiet --disable-pip-version-check -e '.[server,knowledge]' \
		pytest pytest-timeout hypothesis
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-no-torch build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
