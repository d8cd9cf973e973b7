# All targets create the environments that they need; Python 3.11 or newer and make are required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Folder with the complete files of tests/testdata, for tests marked full_data. Empty: these tests do not run.
export JAXMODELS_TEST_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test test-versions test-slow test-long test-cuda-aot lint docs notebooks package bench clean

# The stamp is updated when the dependencies change; the installation is editable, so code changes do not matter.
$(VENV)/stamp: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[experiments]'
	touch $@

$(VENV)/stamp-test: $(VENV)/stamp
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/stamp-bench: $(VENV)/stamp-test
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

# Trains a small GPT-2 on the Python standard library, saves, loads and generates. Offline, 5 to 6.5 minutes on two cores.
demo: $(VENV)/stamp
	$(BIN)/jaxmodels run gpt2_lm --config=gpt2_demo

# All tests of a file run in one process; files run in their order, since xdist would put those with few tests last.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/stamp-test lint
	$(PYTEST) -m 'not slow' tests

# In two environments without torch: with the newest packages, and with the oldest that pyproject.toml allows.
test-versions:
	$(PYTHON) tests/tools/versions.py

test-slow: $(VENV)/stamp-test
	$(PYTEST) -m 'slow and not long' tests

# Nightly tests that CI leaves out: full sweeps.
test-long: $(VENV)/stamp-test
	$(PYTEST) -m long tests

# Compiles the GPU kernels to machine code for H200, without a GPU. In a separate environment, since JAX requires a GPU if its
# CUDA plugin is installed, and with the version of JAX that can dump PTX for the counts. Linux, 300 MB.
CUDA := $(VENV)/cuda-aot
CUDA_JAX := 0.10.2
$(CUDA)/stamp: pyproject.toml
	$(PYTHON) -m venv $(CUDA)
	$(CUDA)/bin/pip install --quiet --upgrade pip
	$(CUDA)/bin/pip install --quiet --editable . pytest jax==$(CUDA_JAX) \
	  jax-cuda12-plugin==$(CUDA_JAX) jax-cuda12-pjrt==$(CUDA_JAX) nvidia-cuda-nvcc-cu12
	touch $@

test-cuda-aot: $(CUDA)/stamp
	$(CUDA)/bin/python -m pytest -q -s -m cuda_aot tests/pallas_kernels/test_cuda_compiled.py

lint: $(VENV)/stamp-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/stamp-package: $(VENV)/stamp
	$(BIN)/pip install --quiet --editable '.[package]'
	touch $@

# The sdist, and the wheel that is built from it, with the checks of a package index.
package: $(VENV)/stamp-package
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/pyroma --min 10 dist/*.tar.gz

# The documentation as a site, in site/; warnings are errors.
docs: $(VENV)/stamp-test
	$(BIN)/python -m mkdocs build --quiet

# Runs the notebooks and stores their outputs.
notebooks: $(VENV)/stamp-test
	$(BIN)/python tests/tools/notebooks.py

bench: $(VENV)/stamp-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs site build dist *.egg-info
