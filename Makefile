# `make demo` and `make test` set everything up by themselves; they need Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The whole files of tests/testdata, where a developer has them: tests marked full_data run on them. Empty: none.
export JAXMODELS_TEST_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test test-versions test-slow test-long test-cuda-aot lint bench clean

# The stamp is renewed when the dependencies change; the install is editable, so code changes need nothing.
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

# Trains a small GPT-2 on the Python standard library's source, saves, loads, generates. Offline, 5 to 6.5 minutes on two cores.
demo: $(VENV)/stamp
	$(BIN)/python -m experiments.gpt2_lm --config=experiments/configs/gpt2_demo.py

# A file's tests share a process; files with few but long tests, which xdist would put last, come in their order.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/stamp-test lint
	$(PYTEST) -m 'not slow' tests

# In two environments without torch: the newest packages, and the lowest that pyproject.toml allows.
test-versions:
	$(PYTHON) tests/tools/versions.py

test-slow: $(VENV)/stamp-test
	$(PYTEST) -m 'slow and not long' tests

# What CI leaves out and contributors' machines run by night: notebooks, and whole sweeps.
test-long: $(VENV)/stamp-test
	$(PYTEST) -m long tests

# Compiles the GPU kernels to an H200's machine code, without a GPU. In an environment of its own, since JAX looks for a GPU
# wherever its CUDA plugin is installed, and with the JAX whose XLA writes out the PTX that is counted. Linux, 300 MB.
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

bench: $(VENV)/stamp-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs build dist *.egg-info
