# A target for each gatemask command. A clone includes this file; `gatemask init` copies it into the project's Makefile.
FOLD ?= all
# DATA is the folder of raw files; ARGS passes other options, such as ARGS="--quick --set epochs=2".
FLAGS := $(if $(DATA),--data $(DATA)) $(ARGS)
# The options of `make new` are variables in capitals; those of the environment do not count.
option = $(if $(filter command,$(firstword $(origin $1))),--$(shell echo $1 | tr A-Z a-z) '$($1)')
.PHONY: loop new phantom download labels data folds audit records check-records train search plan augment oof-tune
.PHONY: runs compare dashboard push-dashboard ensemble package rehearse check-submission rehearse-train push status
.PHONY: wait logs fetch resume campaign submit leaderboard finalists notify report sync doctor

loop: $(READY) ## run all stages that are not current: make loop COMP=mine DATA=path/to/files
	@$(GATEMASK) loop $(COMP) $(FLAGS)

new: $(READY) ## inspect files, write experiments/COMP: make new COMP=mine IMAGES=train LABELS=train.csv ARGS=--yes
	@$(GATEMASK) new $(COMP) $(foreach name,IMAGES LABELS TEST SAMPLE GROUPS METRIC COMPETITION,$(call option,$(name))) $(ARGS)

phantom: $(READY) ## draw the phantom competition's raw files
	@$(GATEMASK) data phantom $(ARGS)

download: $(READY) ## download a competition's files with the kaggle command
	@$(GATEMASK) data download $(COMP) $(FLAGS)

labels: $(READY) ## summarize a label table and detect its RLE dialect: make labels FILE=train.csv
	@$(GATEMASK) data labels $(FILE) $(ARGS)

data: $(READY) ## raw files -> manifest and normalized masks
	@$(GATEMASK) data prepare $(COMP) $(FLAGS)

folds: $(READY) ## manifest -> stratified, grouped folds
	@$(GATEMASK) folds make $(COMP) $(ARGS)

audit: $(READY) ## measure the leaks of a fold file: make audit FILE=folds.csv ARGS="--groups patients.csv"
	@$(GATEMASK) folds audit $(or $(FILE),folds/$(COMP).csv) $(ARGS)

records: $(READY) ## manifest -> TFRecords
	@$(GATEMASK) records make $(COMP) $(ARGS)

check-records: $(READY) ## read all records and verify them
	@$(GATEMASK) records check $(COMP) $(ARGS)

train: $(READY) ## train an experiment: make train EXP=experiments/mine/unet_b0.yaml FOLD=0
	@$(GATEMASK) train $(EXP) --fold $(FOLD) $(ARGS)

search: $(READY) ## search the settings of an experiment: make search EXP=experiments/mine/unet_b0.yaml
	@$(GATEMASK) search $(EXP) $(ARGS)

plan: $(READY) ## estimate parameters, memory, steps and hours of an experiment: make plan EXP=...
	@$(GATEMASK) plan $(EXP) $(ARGS)

augment: $(READY) ## draw a contact sheet of augmented images: make augment EXP=experiments/mine/unet_b0.yaml
	@$(GATEMASK) augment show $(EXP) $(ARGS)

oof-tune: $(READY) ## tune gate and mask thresholds on out-of-fold predictions
	@$(GATEMASK) oof-tune $(COMP) $(ARGS)

runs: $(READY) ## list all experiments: folds, score, better than the best or not, hours: make runs ARGS="--where epochs>10"
	@$(GATEMASK) runs $(COMP) $(ARGS)

compare: $(READY) ## compare two experiments on the same images: make compare COMP=mine A=unet_b0 B=unetpp_b0
	@$(GATEMASK) compare $(COMP) $(A) $(B) $(ARGS)

dashboard: $(READY) ## show Optuna's study of the thresholds in a browser; ARGS="--study unet_b0" shows a search
	@$(GATEMASK) dashboard show $(COMP) $(ARGS)

push-dashboard: $(READY) ## put a workspace and a report on W&B, or bring them up to date
	@$(GATEMASK) dashboard push $(COMP) $(ARGS)

ensemble: $(READY) ## select the members that ship
	@$(GATEMASK) ensemble $(COMP) $(ARGS)

package: $(READY) ## build the dataset and the kernel for Kaggle
	@$(GATEMASK) package $(COMP) $(ARGS)

rehearse: $(READY) ## run the inference kernel without a network, on unknown images, with only the packages of Kaggle's image
	@$(GATEMASK) rehearse $(COMP) $(ARGS)

check-submission: $(READY) ## validate a submission as strictly as Kaggle: make check-submission COMP=mine FILE=submission.csv
	@$(GATEMASK) submission check $(FILE) --comp $(COMP) $(ARGS)

rehearse-train: $(READY) ## run the training kernel the same way: make rehearse-train EXP=experiments/mine/unet_b0.yaml
	@$(GATEMASK) rehearse $(EXP) --train $(ARGS)

push: $(READY) ## train on Kaggle: make push EXP=experiments/mine/unet_b0.yaml FOLD=all
	@$(GATEMASK) push $(EXP) --fold $(FOLD) $(ARGS)

status: $(READY) ## list pushed kernels and their state
	@$(GATEMASK) status $(COMP) $(ARGS)

wait: $(READY) ## wait until no kernel runs; fetch each one that ends
	@$(GATEMASK) wait $(COMP) $(ARGS)

logs: $(READY) ## print the log of the newest kernel (ARGS=--follow)
	@$(GATEMASK) logs $(COMP) $(ARGS)

fetch: $(READY) ## fetch the runs of kernels that have ended
	@$(GATEMASK) fetch $(COMP) $(ARGS)

resume: $(READY) ## push kernels again that reached their time limit
	@$(GATEMASK) resume $(COMP) $(ARGS)

campaign: $(READY) ## train all experiments and folds on Kaggle, from push to fetch
	@$(GATEMASK) campaign $(COMP) $(ARGS)

submit: $(READY) ## push the rehearsed package, submit it, wait for the score
	@$(GATEMASK) submit $(COMP) $(ARGS)

leaderboard: $(READY) ## compare local scores with the leaderboard
	@$(GATEMASK) leaderboard $(COMP) $(ARGS)

finalists: $(READY) ## choose the two submissions for the private leaderboard
	@$(GATEMASK) finalists $(COMP) $(ARGS)

notify: $(READY) ## send a test message to notify.url, or to the variable GATEMASK_NOTIFY_URL
	@$(GATEMASK) notify $(COMP) $(ARGS)

report: $(READY) ## write the HTML report, from the first epoch on
	@$(GATEMASK) report $(COMP) $(ARGS)

sync: $(READY) ## upload offline W&B runs, each row once
	@$(GATEMASK) sync $(COMP) $(ARGS)

doctor: $(READY) ## check this machine and the Kaggle account
	@$(GATEMASK) doctor $(ARGS)
