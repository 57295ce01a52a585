# gatemask's front door. `make help` prints the lines that carry ##.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAGGLE := .venv-kaggle
GATEMASK := $(BIN)/gatemask
COMP ?= phantom
FOLD ?= all
# DATA=folder names the raw files; ARGS passes anything else on, e.g. ARGS="--quick --set epochs=2"
FLAGS := $(if $(DATA),--data $(DATA)) $(ARGS)
.DEFAULT_GOAL := help
ONLY ?=
# Tracing a model keeps one core busy; a file's tests stay together, since they share what took long to make.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
.PHONY: help setup demo test test-unit test-all lint bench loop phantom download labels data folds audit records check-records train plan augment oof-tune compare dashboard ensemble package rehearse rehearse-train check-submission push status wait logs fetch resume campaign submit leaderboard report sync doctor test-kaggle clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## create .venv and install everything, once

# The stamp is written last, so that an interrupted installation is taken up again.
$(VENV)/ready: requirements.txt pyproject.toml kaggle_kernels/inference/wheels.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest $(VENV)/wheels --requirement kaggle_kernels/inference/wheels.txt
	@touch $@

demo: setup ## the whole loop on phantom chest X-rays, from raw DICOM to a scored submission
	@$(GATEMASK) loop phantom $(ARGS)

test: setup ## the tests (make test ARGS="-k rle" for some)
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-unit: setup ## the tests that train nothing and start no process: under 90 seconds
	@$(BIN)/python -m pytest $(WORKERS) -m "not integration and not slow" $(ARGS)

test-all: setup ## the tests, the long ones too
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-kaggle: $(KAGGLE)/ready ## the tests on the versions of Kaggle's image, in .venv-kaggle
	@PATH="$(CURDIR)/$(KAGGLE)/bin:$$PATH" $(KAGGLE)/bin/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

# .venv is made first: weights are tried across the two.
$(KAGGLE)/ready: requirements-kaggle.txt pyproject.toml kaggle_kernels/inference/wheels.txt | $(VENV)/ready
	$(PYTHON) -m venv $(KAGGLE)
	@echo '*' > $(KAGGLE)/.gitignore
	$(KAGGLE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-kaggle.txt
	$(KAGGLE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(KAGGLE)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest $(KAGGLE)/wheels --requirement kaggle_kernels/inference/wheels.txt
	@touch $@

lint: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: setup ## side-by-side speed tables (make bench ONLY=rle for some); rows go to runs/bench.json
	@$(BIN)/python benchmarks/run.py $(ONLY)

loop: setup ## everything that is not done yet: make loop COMP=nuclei DATA=path/to/nuclei
	@$(GATEMASK) loop $(COMP) $(FLAGS)

phantom: setup ## write the phantom competition's raw files
	@$(GATEMASK) data phantom $(ARGS)

download: setup ## fetch a competition's files with the kaggle command
	@$(GATEMASK) data download $(COMP) $(FLAGS)

labels: setup ## what a label table holds, and its flavour: make labels FILE=train.csv
	@$(GATEMASK) data labels $(FILE) $(ARGS)

data: setup ## raw files -> manifest and normalised masks
	@$(GATEMASK) data prepare $(COMP) $(FLAGS)

folds: setup ## manifest -> stratified, grouped folds
	@$(GATEMASK) folds make $(COMP) $(ARGS)

audit: setup ## how much a fold file leaks: make audit FILE=folds.csv ARGS="--groups patients.csv"
	@$(GATEMASK) folds audit $(or $(FILE),folds/$(COMP).csv) $(ARGS)

records: setup ## manifest -> TFRecords
	@$(GATEMASK) records make $(COMP) $(ARGS)

check-records: setup ## read every record again
	@$(GATEMASK) records check $(COMP) $(ARGS)

train: setup ## one experiment: make train EXP=experiments/phantom/unet_b0.yaml FOLD=0
	@$(GATEMASK) train $(EXP) --fold $(FOLD) $(ARGS)

plan: setup ## parameters, memory, steps and hours of an experiment: make plan EXP=...
	@$(GATEMASK) plan $(EXP) $(ARGS)

augment: setup ## a contact sheet of what augmentation does: make augment EXP=experiments/phantom/unet_b0.yaml
	@$(GATEMASK) augment show $(EXP) $(ARGS)

oof-tune: setup ## tune gate and mask thresholds on out-of-fold predictions
	@$(GATEMASK) oof-tune $(COMP) $(ARGS)

compare: setup ## two experiments, paired: make compare COMP=phantom A=unet_b0 B=unetpp_b0
	@$(GATEMASK) compare $(COMP) $(A) $(B) $(ARGS)

dashboard: setup ## Optuna's study of the thresholds in a browser
	@$(GATEMASK) dashboard $(COMP) $(ARGS)

ensemble: setup ## choose the folds that are shipped
	@$(GATEMASK) ensemble $(COMP) $(ARGS)

package: setup ## weights, wheels and kernel for Kaggle
	@$(GATEMASK) package $(COMP) $(ARGS)

rehearse: setup ## run the kernel as the hidden rerun will: no network, only Kaggle's packages, unknown images
	@$(GATEMASK) rehearse $(COMP) $(ARGS)

check-submission: setup ## a file as strictly as Kaggle will: make check-submission COMP=phantom FILE=submission.csv
	@$(GATEMASK) submission check $(FILE) --comp $(COMP) $(ARGS)

rehearse-train: setup ## run the training kernel so: make rehearse-train EXP=experiments/phantom/unet_b0.yaml
	@$(GATEMASK) rehearse $(EXP) --train $(ARGS)

push: setup ## train on Kaggle: make push EXP=experiments/phantom/unet_b0.yaml FOLD=all
	@$(GATEMASK) push $(EXP) --fold $(FOLD) $(ARGS)

status: setup ## what was pushed, and how it is doing
	@$(GATEMASK) status $(COMP) $(ARGS)

wait: setup ## until no kernel runs any more; fetches what ends
	@$(GATEMASK) wait $(COMP) $(ARGS)

logs: setup ## what the newest kernel printed (ARGS=--follow)
	@$(GATEMASK) logs $(COMP) $(ARGS)

fetch: setup ## bring home the runs of kernels that have ended
	@$(GATEMASK) fetch $(COMP) $(ARGS)

resume: setup ## push again what was stopped by its time limit
	@$(GATEMASK) resume $(COMP) $(ARGS)

campaign: setup ## all experiments x folds on Kaggle, from push to fetch
	@$(GATEMASK) campaign $(COMP) $(ARGS)

submit: setup ## push the rehearsed package, submit its version, wait for the score
	@$(GATEMASK) submit $(COMP) $(ARGS)

leaderboard: setup ## local scores against the leaderboard's
	@$(GATEMASK) leaderboard $(COMP) $(ARGS)

report: setup ## one HTML page
	@$(GATEMASK) report $(COMP) $(ARGS)

sync: setup ## upload offline W&B runs, each row once
	@$(GATEMASK) sync $(COMP) $(ARGS)

doctor: setup ## what this machine and this Kaggle account lack
	@$(GATEMASK) doctor $(ARGS)

clean: ## delete what the tool made (data, runs, dist); .venv stays
	rm -rf data runs dist folds/phantom*.csv folds/*-quick.csv
