# `make train` and `make test` build .venv first if need be; ARGS="..." goes to the plain command they echo.
# `make test ARGS="-m slow"` runs the slow tests.

.PHONY: train test constraints

train: .venv/installed
	.venv/bin/python training/train.py --fmb --activation sigmoid $(ARGS)

test: .venv/installed
	.venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

FITS = import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))

NO_TFLM = echo "No tflite-micro of the tested build: --runtime tflm and its tests are left out."

.venv/installed: setup.py constraints.txt
	@set -e; \
	if command -v uv >/dev/null; then \
		set -x; \
		uv venv --quiet --clear --seed --python ">=3.10,<3.13" .venv; \
		uv pip install --quiet --python .venv/bin/python -c constraints.txt setuptools; \
		uv pip install --quiet --python .venv/bin/python -c constraints.txt --no-build-isolation -e ".[dev]"; \
		uv pip install --quiet --python .venv/bin/python -c constraints.txt --no-build-isolation -e ".[tflm]" || $(NO_TFLM); \
	else \
		for python in python3.12 python3.11 python3.10 python3 none; do \
			$$python -c "$(FITS)" 2>/dev/null && break; \
		done; \
		[ $$python != none ] || { echo "No Python 3.10, 3.11 or 3.12 with venv found, and no uv: install one."; exit 1; }; \
		set -x; \
		$$python -m venv --clear .venv; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[tflm]" || $(NO_TFLM); \
	fi
	@touch $@

# Pins anew what setup.py asks for; needs uv and Python 3.10, the oldest that is supported.
constraints:
	uv pip compile setup.py --extra dev --universal --upgrade --python 3.10 --no-header --no-annotate --output-file constraints.txt
