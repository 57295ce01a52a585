# Targets of gatemask. `make help` lists the lines with ##.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAGGLE := .venv-kaggle
DOCS := .venv-docs
GATEMASK := $(BIN)/gatemask
COMP ?= phantom
FOLD ?= all
# DATA is the folder of raw files; ARGS passes other options, such as ARGS="--quick --set epochs=2".
FLAGS := $(if $(DATA),--data $(DATA)) $(ARGS)
.DEFAULT_GOAL := help
ONLY ?=
# The options of `make new` are variables in capitals; those of the environment do not count.
option = $(if $(filter command,$(firstword $(origin $1))),--$(shell echo $1 | tr A-Z a-z) '$($1)')
# Tracing a model keeps one core busy. The tests of a file stay on one worker, because they share expensive fixtures.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
.PHONY: help setup demo test test-unit test-all lint docs bench bench-device device-kit new loop phantom download labels data folds audit records check-records train search plan augment oof-tune runs compare dashboard push-dashboard ensemble package rehearse rehearse-train check-submission push status wait logs fetch resume campaign submit leaderboard finalists notify report screenshots sync doctor test-kaggle clean

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

loop: setup ## run all stages that are not current: make loop COMP=mine DATA=path/to/files
	@$(GATEMASK) loop $(COMP) $(FLAGS)

new: setup ## inspect files, write experiments/COMP: make new COMP=mine IMAGES=train LABELS=train.csv ARGS=--yes
	@$(GATEMASK) new $(COMP) $(foreach name,IMAGES LABELS TEST SAMPLE GROUPS METRIC,$(call option,$(name))) $(ARGS)

phantom: setup ## draw the phantom competition's raw files
	@$(GATEMASK) data phantom $(ARGS)

download: setup ## download a competition's files with the kaggle command
	@$(GATEMASK) data download $(COMP) $(FLAGS)

labels: setup ## summarize a label table and detect its RLE dialect: make labels FILE=train.csv
	@$(GATEMASK) data labels $(FILE) $(ARGS)

data: setup ## raw files -> manifest and normalized masks
	@$(GATEMASK) data prepare $(COMP) $(FLAGS)

folds: setup ## manifest -> stratified, grouped folds
	@$(GATEMASK) folds make $(COMP) $(ARGS)

audit: setup ## measure the leaks of a fold file: make audit FILE=folds.csv ARGS="--groups patients.csv"
	@$(GATEMASK) folds audit $(or $(FILE),folds/$(COMP).csv) $(ARGS)

records: setup ## manifest -> TFRecords
	@$(GATEMASK) records make $(COMP) $(ARGS)

check-records: setup ## read all records and verify them
	@$(GATEMASK) records check $(COMP) $(ARGS)

train: setup ## train an experiment: make train EXP=experiments/phantom/unet_b0.yaml FOLD=0
	@$(GATEMASK) train $(EXP) --fold $(FOLD) $(ARGS)

search: setup ## search the settings of an experiment: make search EXP=experiments/phantom/unet_b0.yaml
	@$(GATEMASK) search $(EXP) $(ARGS)

plan: setup ## estimate parameters, memory, steps and hours of an experiment: make plan EXP=...
	@$(GATEMASK) plan $(EXP) $(ARGS)

augment: setup ## draw a contact sheet of augmented images: make augment EXP=experiments/phantom/unet_b0.yaml
	@$(GATEMASK) augment show $(EXP) $(ARGS)

oof-tune: setup ## tune gate and mask thresholds on out-of-fold predictions
	@$(GATEMASK) oof-tune $(COMP) $(ARGS)

runs: setup ## list all experiments: folds, score, better than the best or not, hours: make runs ARGS="--where epochs>10"
	@$(GATEMASK) runs $(COMP) $(ARGS)

compare: setup ## compare two experiments on the same images: make compare COMP=phantom A=unet_b0 B=unetpp_b0
	@$(GATEMASK) compare $(COMP) $(A) $(B) $(ARGS)

dashboard: setup ## show Optuna's study of the thresholds in a browser; ARGS="--study unet_b0" shows a search
	@$(GATEMASK) dashboard show $(COMP) $(ARGS)

push-dashboard: setup ## put a workspace and a report on W&B, or bring them up to date
	@$(GATEMASK) dashboard push $(COMP) $(ARGS)

ensemble: setup ## select the members that ship
	@$(GATEMASK) ensemble $(COMP) $(ARGS)

package: setup ## build the dataset and the kernel for Kaggle
	@$(GATEMASK) package $(COMP) $(ARGS)

rehearse: setup ## run the inference kernel without a network, on unknown images, with only the packages of Kaggle's image
	@$(GATEMASK) rehearse $(COMP) $(ARGS)

check-submission: setup ## validate a submission as strictly as Kaggle: make check-submission COMP=phantom FILE=submission.csv
	@$(GATEMASK) submission check $(FILE) --comp $(COMP) $(ARGS)

rehearse-train: setup ## run the training kernel the same way: make rehearse-train EXP=experiments/phantom/unet_b0.yaml
	@$(GATEMASK) rehearse $(EXP) --train $(ARGS)

push: setup ## train on Kaggle: make push EXP=experiments/phantom/unet_b0.yaml FOLD=all
	@$(GATEMASK) push $(EXP) --fold $(FOLD) $(ARGS)

status: setup ## list pushed kernels and their state
	@$(GATEMASK) status $(COMP) $(ARGS)

wait: setup ## wait until no kernel runs; fetch each one that ends
	@$(GATEMASK) wait $(COMP) $(ARGS)

logs: setup ## print the log of the newest kernel (ARGS=--follow)
	@$(GATEMASK) logs $(COMP) $(ARGS)

fetch: setup ## fetch the runs of kernels that have ended
	@$(GATEMASK) fetch $(COMP) $(ARGS)

resume: setup ## push kernels again that reached their time limit
	@$(GATEMASK) resume $(COMP) $(ARGS)

campaign: setup ## train all experiments and folds on Kaggle, from push to fetch
	@$(GATEMASK) campaign $(COMP) $(ARGS)

submit: setup ## push the rehearsed package, submit it, wait for the score
	@$(GATEMASK) submit $(COMP) $(ARGS)

leaderboard: setup ## compare local scores with the leaderboard
	@$(GATEMASK) leaderboard $(COMP) $(ARGS)

finalists: setup ## choose the two submissions for the private leaderboard
	@$(GATEMASK) finalists $(COMP) $(ARGS)

notify: setup ## send a test message to notify.url, or to the variable GATEMASK_NOTIFY_URL
	@$(GATEMASK) notify $(COMP) $(ARGS)

report: setup ## write the HTML report, from the first epoch on
	@$(GATEMASK) report $(COMP) $(ARGS)

screenshots: setup ## draw the pictures of the README and of docs/how_to/report.md from the runs of make demo; needs Chromium
	@$(BIN)/python -m tests.report.screenshots

sync: setup ## upload offline W&B runs, each row once
	@$(GATEMASK) sync $(COMP) $(ARGS)

doctor: setup ## check this machine and the Kaggle account
	@$(GATEMASK) doctor $(ARGS)

clean: ## delete what can be made again in minutes; list the rest, which CONFIRM=yes deletes too
	@$(PYTHON) -I lib/gatemask/clean.py $(if $(filter yes,$(CONFIRM)),--all)
