# `make demo` and `make test` set everything up by themselves; all they need is Python 3.10+.
PYTHON ?= python3
PORT ?= 7860
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage lint format wheel clean

demo: $(VENV)/.installed-space  ## serve the web app on $(PORT); MODEL= names another model
	$(BIN)/fcn-hub demo --port $(PORT) $(if $(MODEL),--model $(MODEL))

test: $(VENV)/.installed-dev  ## pass the tests
	$(BIN)/python -m pytest

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .coverage

$(VENV)/.installed-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@
