# Every target sets up what it needs and is quick the second time. `make bench BENCH=--quick` takes a few minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test test-slow test-docs test-tasks test-formats test-trackers cluster-test slurm-test chaos fuzz check audit format bench bench-accuracy gpu-check compose-test kubernetes-test screenshots clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the .venv with everything that demo, test and check need.

# torch's pin is in constraints.txt, in the same install as what needs it: otherwise pip fetches CUDA builds.
$(STAMP): pyproject.toml constraints.txt examples/small-cnn/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e examples/small-cnn
	touch $(STAMP)

demo: $(STAMP) ## Train a small CNN on real digits, then let Ladle average its checkpoints.
	$(BIN)/python examples/digits/demo.py

docs: $(STAMP) ## Build the documentation as a site that needs no network, into .cache/docs/html. A warning is an error.
	$(BIN)/python -m docs.site.build

# For the tests of the dashboard, which are skipped where there is none.
CHROMIUM = test -x /usr/bin/chromium || { test "$$(id -u)" = 0 && apt-get update -q && \
  apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } || echo "Chromium cannot be installed here."

# Ranks may not write what Python has compiled, nor does anybody where PYTHONDONTWRITEBYTECODE is set.
SUITE = $(BIN)/python -m compileall -q client service worker examples && \
  $(BIN)/python -m pytest -n auto --dist loadfile --durations 20 --ignore tests/tasks --ignore tests/formats \
  --ignore tests/docs/long --ignore tests/trackers --ignore tests/cluster --ignore tests/slurm --ignore tests/kubernetes

test: $(STAMP) ## Run the tests (under 30 minutes on 2 cores), in three processes for every two cores that are idle.
	@$(CHROMIUM)
	$(SUITE) -m 'not slow'

test-slow: $(STAMP) ## Run the others: jobs over several nodes, faults, far stores, launchers. Half an hour or more.
	@$(CHROMIUM)
	$(SUITE) -m slow

test-docs: $(STAMP) ## Follow the first and the how-to pages with real tools and jobs, and run the notebook. Some minutes.
	$(BIN)/python -m pytest --durations 20 tests/docs/long

# In a folder of their own, for the child processes of some tests: beside a CPU torch, torchvision breaks transformers.
VISION := .cache/vision/.installed
$(VISION): constraints.txt $(STAMP)
	rm -rf .cache/vision
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .cache/vision \
	  timm==1.0.31 torchvision==0.28.0
	touch $(VISION)

test-tasks: $(STAMP) $(VISION) ## Every task from end to end: models trained by the real tools, through every door. Up to half an hour.
	$(BIN)/python -m pytest --durations 20 tests/tasks

# A folder for each group of tools. Without what they depend on, because pip would fetch CUDA builds of torch for it: what
# they do need is listed. fairseq is taken from its sources as they are: what it would compile, its saving code never uses.
TOOLS := $(patsubst tests/formats/tools/%.txt,.cache/tools/%/.installed,$(wildcard tests/formats/tools/*.txt))
INSTALL_TOOLS = rm -rf $(@D) && $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(@D) -r $<
.cache/tools/%/.installed: tests/formats/tools/%.txt $(STAMP)
	$(INSTALL_TOOLS)
	touch $@
.cache/tools/fairseq/.installed: tests/formats/tools/fairseq.txt tests/formats/tools/sources.py $(STAMP)
	$(INSTALL_TOOLS)
	$(BIN)/python tests/formats/tools/sources.py fairseq==0.12.2 $(@D) fairseq fairseq_cli
	touch $@

test-formats: $(STAMP) $(TOOLS) ## Folders as real tools leave them, and results that those tools load. A quarter of an hour.
	$(BIN)/python -m pytest --durations 20 tests/formats

# A folder for each tracker's library, with all that it needs, because their needs contradict each other's.
TRACKERS := $(patsubst tests/trackers/libraries/%.txt,.cache/trackers/%/.installed,$(wildcard tests/trackers/libraries/*.txt))
.cache/trackers/%/.installed: tests/trackers/libraries/%.txt $(STAMP)
	rm -rf $(@D) && $(BIN)/pip install --quiet --disable-pip-version-check --target $(@D) -r $<
	touch $@

test-trackers: $(STAMP) $(TRACKERS) ## What jobs tell TensorBoard, MLflow, W&B and Trackio, with the real libraries. Five minutes.
	$(BIN)/python -m pytest --durations 20 tests/trackers

cluster-test: $(STAMP) ## Jobs over several hosts: network namespaces on this machine. Needs root and iproute2. Ten minutes; LONG=1: longer.
	LADLE_LONG_TESTS=$(LONG) $(BIN)/python -m pytest --durations 20 -rs tests/cluster

# The packages are small, and what their services would do by themselves is switched off: the tests start their own.
slurm-test: $(STAMP) ## Jobs handed over to a real Slurm of two machines, on this machine. Needs root and Debian's packages. Six minutes.
	@test "$$(id -u)" != 0 || command -v slurmctld >/dev/null || { apt-get update -q && apt-get install -qq -y --no-install-recommends \
	  slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge iproute2; } || echo "Slurm cannot be installed here."
	$(BIN)/python -m pytest --durations 20 -rs tests/slurm

kubernetes-test: $(STAMP) ## Jobs as pods of a stand-in for Kubernetes, on hosts of their own. Needs root and iproute2. Some minutes.
	$(BIN)/python -m pytest --durations 20 -rs tests/kubernetes

screenshots: $(STAMP) ## Make the pictures of the README anew, from a real job. Needs Debian's chromium. Two minutes.
	@test "$$(id -u)" != 0 || command -v chromium >/dev/null || { apt-get update -q && \
	  apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; }
	$(BIN)/python -m docs.pictures

chaos: $(STAMP) ## Random faults over the whole stack for 15 minutes. CHAOS="--seed 7 --minutes 5" repeats a seed.
	$(BIN)/python -m tests.chaos $(CHAOS)

fuzz: $(STAMP) ## Read hostile files for some minutes; prints a seed. FUZZ='--seed 7 --minutes 20' repeats and lasts longer.
	$(BIN)/python -m tests.fuzz $(FUZZ)

check: $(STAMP) ## Format, lint, types, Dockerfiles and compose files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --explicit-package-bases $(wildcard benchmarks/*.py benchmarks/gpu/*.py)
	docker/check.sh

audit: ## Look for known vulnerabilities in the pinned packages. Needs an index that has PyPI's advisories.
	test -x .cache/audit/bin/pip-audit || { $(PYTHON) -m venv .cache/audit && \
	  .cache/audit/bin/pip install --quiet --disable-pip-version-check pip-audit -c constraints.txt; }
	.cache/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

format: $(STAMP) ## Format the code and mend what the linter can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Print the five tables of speed and memory; JSON goes to benchmarks/results/. Up to an hour.
	$(BIN)/python benchmarks/step_overhead.py $(BENCH)
	$(BIN)/python benchmarks/rows.py $(BENCH)
	$(BIN)/python benchmarks/wire.py $(BENCH)
	$(BIN)/python benchmarks/averaging.py $(BENCH)
	$(BIN)/python benchmarks/whole_job.py $(BENCH)

bench-accuracy: $(STAMP) ## Test losses: every method, the defaults against the published recipe, rules of choice.
	$(BIN)/python benchmarks/fashion_mnist.py
	$(BIN)/python benchmarks/defaults.py
	$(BIN)/python benchmarks/regret.py

gpu-check: $(STAMP) ## Check Ladle on a GPU and measure it, in under ten minutes; see docs/gpu.md. GPU=--quick is shorter.
	$(BIN)/python benchmarks/gpu_check.py $(GPU)

compose-test: $(STAMP) ## Build both images, bring the stack up, on one machine and on several, run jobs, take it down. 5 minutes or more.
	docker/compose-test.sh

clean: ## Remove everything that the targets made.
	rm -rf $(VENV) .cache build dist demo-output ladle-results .pytest_cache .mypy_cache .ruff_cache .hypothesis fuzz-found
