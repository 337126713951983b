# The user's entry. What follows "##" is what `make help` says about a target.
# All paths are relative, so that the folder's name may hold spaces.

PYTHON ?= python3
RUNG ?= cpu
ENV_PYTHON ?= .venv/bin/python
export STRICT NINEFOLD_DATA NINEFOLD_CACHE

PAPERS := $(sort $(patsubst papers/%/eval.py,%,$(wildcard papers/*/eval.py)))
REPRODUCE := $(addprefix reproduce-,$(PAPERS))
COPY := $(addprefix copy-,$(PAPERS))
# Every target that runs Python needs the environment, unless the user brings one.
ENVIRONMENT := $(if $(filter .venv/bin/python,$(ENV_PYTHON)),setup)

.DEFAULT_GOAL := help
.PHONY: help setup doctor test lint lock reproduce report train-skipgpt-smollm2 standin-skipgpt standin-gpe standin-llava standin-reasoner speech-gpe multi30k-gpe scratch-vica patches-vica pretrained-vica sums-onpolicysft taught-onpolicysft clean $(REPRODUCE) $(COPY)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-24s %s\n", $$1, $$2}' Makefile
	@for p in $(PAPERS); do \
	  printf '  %-24s %s\n' "reproduce-$$p" "a verdict for every claim of $$p" \
	    "copy-$$p" "DEST=folder: $$p and what it uses of common/, able to run alone"; done
	@echo 'Settings (make TARGET NAME=value):'
	@printf '  %-24s %s\n' \
	  RUNG 'cpu (default), gpu or paper: how large the runs are' \
	  STRICT '1: exit non-zero also when a required claim is contradicted' \
	  SCRATCH '1: the report also shows what ran on this machine (results/.scratch), marked as such' \
	  NINEFOLD_DATA 'folder of real benchmark data, see README (default: none)' \
	  NINEFOLD_CACHE 'where unpacked models and finished work are kept (default: .cache/ninefold)' \
	  PYTHON 'the Python, 3.11 or newer, that .venv is made from (default: python3)' \
	  ENV_PYTHON 'run with this Python as it is and set nothing up, e.g. on a GPU image'

setup: ## make .venv what uv.lock says; every target does this by itself
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "setup: there is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make setup PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" .ci/setup $(if $(filter setup,$(MAKECMDGOALS)),,--quiet)

# Needs nothing installed; looks at the environment where there is one.
DOCTOR := $(if $(filter .venv/bin/python,$(ENV_PYTHON)),$(if $(wildcard $(ENV_PYTHON)),$(ENV_PYTHON),$(PYTHON)),$(ENV_PYTHON))

doctor: ## what this machine can run; HUB=1 also asks whether the model hub answers
	@"$(DOCTOR)" -m common.doctor $(if $(HUB),--hub)

# Files of tests are shared out to a process a core where pytest-xdist is there, at most four: each needs up to 2 GB.
SHARED_OUT = import importlib.util as i, os; print(f"-n {min(os.cpu_count() or 1, 4)} --dist loadfile" if i.find_spec("xdist") else "")

test: $(ENVIRONMENT) ## all tests, without network
	@"$(ENV_PYTHON)" -m pytest $$("$(ENV_PYTHON)" -c '$(SHARED_OUT)')

lint: $(ENVIRONMENT) ## ruff over the tree
	@"$(ENV_PYTHON)" -m ruff check .

lock: ## renew uv.lock after a change of pyproject.toml (needs a package index)
	@"$(PYTHON)" .ci/lock

reproduce: $(ENVIRONMENT) ## every paper that is here, one after the other, past one that fails
	@"$(ENV_PYTHON)" -m common.reproduce_all --rung "$(RUNG)"

$(REPRODUCE): reproduce-%: $(ENVIRONMENT)
	@echo "$@: rung $(RUNG)"
	@"$(ENV_PYTHON)" -m papers.$*.eval --rung "$(RUNG)"

train-skipgpt-smollm2: $(ENVIRONMENT) ## train SkipGPT's committed routers for SmolLM2-135M anew (about an hour of CPU)
	@"$(ENV_PYTHON)" -m papers.skipgpt.train_smollm2

standin-skipgpt: $(ENVIRONMENT) ## train SkipGPT's three small base models anew (about two minutes of CPU each)
	@"$(ENV_PYTHON)" -m papers.skipgpt.tier_a --train-bases

standin-gpe: $(ENVIRONMENT) ## train GPE's small translators and recognisers anew (about eight minutes of CPU)
	@"$(ENV_PYTHON)" -m papers.gpe.text_experiment --train-bases

standin-llava: $(ENVIRONMENT) ## train the three small LLaVAs that ViCA and others start from anew (half an hour of CPU each)
	@"$(ENV_PYTHON)" -m common.standins

standin-reasoner: $(ENVIRONMENT) ## train the three small reasoners anew (about four minutes of CPU each)
	@"$(ENV_PYTHON)" -m common.reasoner

speech-gpe: $(ENVIRONMENT) ## GPE on spoken words (about six minutes; with NINEFOLD_DATA recorded digits, too)
	@"$(ENV_PYTHON)" -m papers.gpe.eval --speech

multi30k-gpe: $(ENVIRONMENT) ## GPE on real translations, Multi30k from NINEFOLD_DATA (about 40 minutes)
	@"$(ENV_PYTHON)" -m papers.gpe.eval --multi30k

scratch-vica: $(ENVIRONMENT) ## ViCA trained from nothing, as long as the dense stand-in was (half an hour)
	@"$(ENV_PYTHON)" -m papers.vica.eval --scratch

pretrained-vica: $(ENVIRONMENT) ## ViCA and dense on SmolLM2-135M with LoRA and a new projector (hours on two cores)
	@"$(ENV_PYTHON)" -m papers.vica.pretrained

patches-vica: $(ENVIRONMENT) ## ViCA on an encoder without layers, where it should fail (about twenty minutes)
	@"$(ENV_PYTHON)" -m papers.vica.eval --patches

sums-onpolicysft: $(ENVIRONMENT) ## On-Policy SFT on SmolLM2-135M that reasons in English (an hour)
	@"$(ENV_PYTHON)" -m papers.onpolicysft.eval --sums

taught-onpolicysft: $(ENVIRONMENT) ## teach SmolLM2-135M to reason at length anew (half an hour)
	@"$(ENV_PYTHON)" -m papers.onpolicysft.taught

report: $(ENVIRONMENT) ## report.html: every claim, record and figure on one page
	@"$(ENV_PYTHON)" -m common.report $(if $(filter 1,$(SCRATCH)),--scratch)

$(COPY): copy-%: $(ENVIRONMENT)
	@"$(ENV_PYTHON)" -m common.copy_paper $* "$(DEST)"

clean: ## remove caches, finished work and the report (keeps .venv and committed results)
	@rm -rf .cache .pytest_cache .ruff_cache .hypothesis lightning_logs report.html papers/*/results/.scratch
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"

# A misspelt or planned paper gets an answer, not "No rule to make target".
reproduce-% copy-%:
	@echo "$@: there is no such paper here yet; implemented: $(PAPERS)" >&2; exit 2
