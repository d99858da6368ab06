# Everything runs in .venv, which each target first makes, or brings up to date with the pins, as far as it needs it.
PYTHON ?= python3
# what `make report` compares the working tree with
BASE ?= HEAD
# what `make rivals` compares: a trained model, the data that it answers and the metrics that have its thresholds
MODEL = models/deebert
DATA = data/glue
METRICS = metrics
OUT = rivals

BIN := .venv/bin
# The stages call plain `python`, which has to be .venv's. The script .venv/bin/dvc ends with a rename of this folder.
DVC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m dvc
INSTALL = @echo "Installing what $< pins, into .venv; the first time this may take minutes" >&2; \
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $<

# DVC is told where there is no git, and told otherwise once there is.
NO_SCM := grep -qs no_scm .dvc/config.local

.PHONY: help setup scm repro test lint plots seeds report docs smaller paper submission checkpoints rivals watched result results lock-check

help: ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/for-repro ## make .venv from the exact pins

scm: .venv/for-report
	@if git rev-parse --git-dir >/dev/null 2>&1; then ! $(NO_SCM) || $(DVC) config --local --unset core.no_scm; \
	else $(NO_SCM) || $(DVC) config --local core.no_scm true; fi

repro: setup scm ## run the stages whose inputs changed
	$(DVC) repro

# As many processes as there are cores, each with one thread; a file stays in one process, for what its tests share. They
# start hundreds of others, which need not compile the code each anew, whatever the caller's environment says.
test: .venv/for-tests ## run all tests
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/for-tests ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

plots: .venv/for-report scm ## write the page of plots, dvc_plots/index.html
	$(DVC) plots show

seeds: .venv/for-repro scm ## compare the runs that differ in the seed alone; draws seeds.svg
	@PYTHONPATH=src $(BIN)/python tools/seeds.py seeds.svg

report: .venv/for-report scm ## show changed metrics and parameters as Markdown, against BASE=HEAD
	@echo "### Metrics"; $(DVC) metrics diff --md --precision 4 $(BASE)
	@echo; echo "### Parameters"; $(DVC) params diff --md $(BASE)

docs: .venv/for-repro ## write the committed run's numbers into README.md and docs/
	@PYTHONPATH=src $(BIN)/python tools/docs_numbers.py README.md docs/*.md

smaller: .venv/for-repro scm ## take in the scores of smaller models fine-tuned alone, for the next `dvc repro plot`
	@PYTHONPATH=src $(BIN)/python tools/smaller_models.py baselines/smaller_models.json

paper: .venv/for-repro scm ## hold the experiments that exist against the paper's table and figures
	@PYTHONPATH=src $(BIN)/python tools/compare_with_paper.py

submission: .venv/for-repro ## write the GLUE server's files at THRESHOLD=0.3 nats into submission/
	@$(if $(THRESHOLD),,echo "error: name a threshold in nats: make submission THRESHOLD=0.3" >&2; exit 1;) \
	PYTHONPATH=src $(BIN)/python tools/glue_submission.py '$(THRESHOLD)'

checkpoints: .venv/for-repro ## show what broken-off trainings go on from; CLEAR=all or the start of a key removes it
	@PYTHONPATH=src $(BIN)/python tools/checkpoints.py $(if $(CLEAR),--clear '$(CLEAR)')

rivals: .venv/for-rivals ## race MODEL on DATA against what people deploy; draws rivals.svg; CUT=folder,folder: cut models
	@PYTHONPATH=src $(BIN)/python benchmarks/rivals.py '$(MODEL)' '$(DATA)' --metrics '$(METRICS)' --out '$(OUT)' \
	$(if $(CUT),--cut '$(CUT)') $(if $(SAMPLES),--samples $(SAMPLES)) $(if $(ROUNDS),--rounds $(ROUNDS))

watched: .venv/for-repro ## draw where samples left between a monitor's saved STATES='a.json b.json'; draws watched.svg
	@$(if $(STATES),,echo "error: name the states, the oldest first: make watched STATES='a.json b.json'" >&2; exit 1;) \
	PYTHONPATH=src $(BIN)/python tools/watched.py watched.svg $(STATES)

result: .venv/for-repro ## keep the working tree's run as results/NAME.json
	@$(if $(NAME),,echo "error: name the result: make result NAME=sst2-mpnet-42" >&2; exit 1;) \
	PYTHONPATH=src $(BIN)/python tools/results.py --keep '$(NAME)'

results: .venv/for-repro ## draw all that results/ keeps, write docs/results.md anew, list what is missing; QUEUE=folders queues it
	@PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=src $(BIN)/python tools/results.py $(if $(QUEUE),--queue '$(QUEUE)')
	@PYTHONPATH=src $(BIN)/python tools/docs_numbers.py docs/results.md

# A stage that would run, but whose input is not here, is one that DVC fails to reproduce.
lock-check: .venv/for-report scm ## fail unless dvc.lock fits the code and the parameters; needs no data
	@plan=$$($(DVC) repro --allow-missing --dry 2>&1); status=$$?; \
	if echo "$$plan" | grep -E "Running stage|failed to reproduce"; then \
	echo "error: dvc.lock is out of date: run dvc repro and commit what it changes" >&2; exit 1; fi; \
	[ $$status -eq 0 ] || { echo "$$plan"; echo "error: DVC cannot tell whether dvc.lock is up to date" >&2; exit 1; }

# One environment in three steps, and a fourth for `make rivals` alone, each with a file that says it was taken.
.venv/for-report: requirements-report.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL)
	@touch $@

.venv/for-repro: requirements.txt .venv/for-report
	$(INSTALL)
	@touch $@

.venv/for-tests: requirements-dev.txt .venv/for-repro
	$(INSTALL)
	@touch $@

.venv/for-rivals: requirements-rivals.txt .venv/for-repro
	$(INSTALL)
	@touch $@
