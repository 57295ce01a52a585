# Targets of gatemask. `make help` lists the lines with ##.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAGGLE := .venv-kaggle
DOCS := .venv-docs
GATEMASK := $(BIN)/gatemask
COMP ?= phantom
READY := setup
.DEFAULT_GOAL := help
ONLY ?=
# Tracing a model keeps one core busy. The tests of a file stay on one worker, because they share expensive fixtures.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
.PHONY: help setup demo test test-unit test-all test-kaggle test-ray lint docs bench bench-device device-kit screenshots clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## create .venv and install everything, once

# The stamp is written last, so an interrupted installation is repeated.
$(VENV)/ready: requirements.txt pyproject.toml kaggle_kernels/inference/wheels.txt kaggle_kernels/inference/decoders.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "gatemask needs Python 3.11 to 3.13 (TensorFlow has no later release), but this is Python " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest $(VENV)/wheels --requirement kaggle_kernels/inference/wheels.txt
	$(BIN)/python -c 'from gatemask.kaggle.image import wheels; wheels.decoders()'
	@touch $@

demo: setup ## run all stages on phantom chest X-rays, from raw DICOM to a scored submission
	@$(GATEMASK) loop phantom $(ARGS)

test: setup ## run the tests; make test ARGS="-k rle" runs some
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-unit: setup ## run the tests that neither train nor start processes, in under 90 seconds
	@$(BIN)/python -m pytest $(WORKERS) -m "not integration and not slow" $(ARGS)

test-all: setup ## run all tests, including those that take minutes
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-kaggle: $(KAGGLE)/ready ## run the tests with the package versions of Kaggle's image, in .venv-kaggle
	@PATH="$(CURDIR)/$(KAGGLE)/bin:$$PATH" $(KAGGLE)/bin/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-ray: $(VENV)/ray ## run the loop on a Ray cluster of three nodes, with ray in .venv
	@$(BIN)/python -m pytest tests/pieces/test_on_ray.py $(ARGS)

$(VENV)/ray: requirements-ray.txt | $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-ray.txt
	@touch $@

# .venv comes first: a test loads weights across the two environments.
$(KAGGLE)/ready: requirements-kaggle.txt pyproject.toml kaggle_kernels/inference/wheels.txt | $(VENV)/ready
	$(PYTHON) -m venv $(KAGGLE)
	@echo '*' > $(KAGGLE)/.gitignore
	$(KAGGLE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-kaggle.txt
	$(KAGGLE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(KAGGLE)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest $(KAGGLE)/wheels --requirement kaggle_kernels/inference/wheels.txt
	@touch $@

lint: setup ## run ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: setup $(DOCS)/ready ## write the generated pages again and build the documentation in site/
	@$(GATEMASK) schema --page docs/reference/keys.md
	@$(GATEMASK) builders --write docs/reference/builders.md
	@$(GATEMASK) files --write docs/reference/files.md
	@$(GATEMASK) commands --write docs/reference/commands.md
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet $(ARGS)
	@echo "written: site/index.html"

$(DOCS)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

bench: setup ## measure speeds, write runs/bench.json; make bench ONLY=rle measures one
	@$(BIN)/python benchmarks/run.py $(ONLY)

bench-device: setup ## measure training on this machine's device, next to PyTorch: make bench-device ARGS="--seconds 400"
	@$(BIN)/python benchmarks/device.py $(ARGS)

device-kit: setup ## pack that benchmark for a machine without a network: make device-kit ARGS="--python 3.12"
	@$(BIN)/python benchmarks/device_kit.py $(ARGS)

screenshots: setup ## draw the pictures of the README and of docs/how_to/report.md from the runs of make demo; needs Chromium
	@$(BIN)/python -m tests.report.screenshots

include lib/gatemask/new/targets.mk

clean: ## delete what can be made again in minutes; list the rest, which CONFIRM=yes deletes too
	@$(PYTHON) -I lib/gatemask/clean.py $(if $(filter yes,$(CONFIRM)),--all)
