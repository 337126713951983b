# The user's entry. What follows "##" is what `make help` says about a target.
# All paths are relative, so that the folder's name may hold spaces; so it is refused from another folder.
ifeq ($(filter Makefile ./Makefile,$(lastword $(MAKEFILE_LIST))),)
ifneq ($(strip $(MAKEFILE_LIST)),$(strip $(CURDIR)/Makefile))
$(error This works in the Makefile's own folder only: cd to it, or make -C FOLDER TARGET)
endif
endif

# What a user may set. A setting goes to Python through the environment, as it was typed: neither make nor a shell looks
# into it ($$(value) does not expand, "override" reaches what is given on the command line). One that is not set is not
# exported, so that a make below this one is not taken to have been given it.
SETTINGS := DEST RUNG ONLY SEEDS MARK MINUTES STRICT SCRATCH HUB NINEFOLD_DATA NINEFOLD_CACHE PYTHON ENV_PYTHON
GIVEN :=
$(foreach name,$(SETTINGS),$(if $(filter-out undefined,$(origin $(name))),$(if $(value $(name)),\
  $(eval GIVEN += $(name))$(eval override $(name) := $$(value $(name)))$(eval export $(name)))))

# Without this a Python that was told not to look into the folder that it stands in finds nothing of this repository.
unexport PYTHONSAFEPATH
# Whatever the locale, files are UTF-8; a sign that the user's own encoding of the output lacks is printed as "?".
ENCODING := $(if $(filter :%,$(PYTHONIOENCODING)),,$(firstword $(subst :, ,$(PYTHONIOENCODING))))
override PYTHONIOENCODING := $(ENCODING):replace
override PYTHONUTF8 := 1
export PYTHONUTF8 PYTHONIOENCODING

PAPERS := $(sort $(patsubst papers/%/eval.py,%,$(wildcard papers/*/eval.py)))
REPRODUCE := $(addprefix reproduce-,$(PAPERS))
COPY := $(addprefix copy-,$(PAPERS))
# Whoever has small models of its own: a paper, or common for several.
STANDINS := $(addprefix standins-,$(sort $(patsubst papers/%/standins.py,%,$(wildcard papers/*/standins.py)) \
  $(patsubst common/standins/%.py,%,$(filter-out %/__init__.py,$(wildcard common/standins/*.py)))))
# The Python of a target is .venv's, which is set up before, or one that the user brings, which is only looked at.
VENV_PYTHON := .venv/bin/python
ENVIRONMENT := setup
ifneq ($(filter ENV_PYTHON,$(GIVEN)),)
ifneq ($(ENV_PYTHON),$(VENV_PYTHON))
ENVIRONMENT := .own-python
endif
endif
RUN = "$${ENV_PYTHON:-$(VENV_PYTHON)}"

# Shell: $$version is that of the Python $$python, "3.11"; what is no Python (true, ls) has none, and ends the recipe.
VERSION = version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)
MUST_RUN = case "$$version" in 3.*) ;; *) printf '%s\n' >&2 \
  "$$python is no Python 3 that runs here. Install Python 3.11 or newer, or name one: PYTHON=... (or ENV_PYTHON=...)"; \
  exit 2 ;; esac

.DEFAULT_GOAL := help
.PHONY: help setup doctor test mutants lint lock reproduce experiments report swaps families clean $(REPRODUCE) $(COPY) $(STANDINS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-27s %s\n", $$1, $$2}' Makefile
	@for p in $(PAPERS); do \
	  printf '  %-27s %s\n' "reproduce-$$p" "a verdict for every claim of $$p" \
	    "copy-$$p" "DEST=folder: $$p and what it uses of common/, able to run alone (ONLY=training: less)"; done
	@for s in $(STANDINS); do printf '  %-27s %s\n' "$$s" "train the committed small models of $${s#standins-} anew"; done
	@echo 'Settings (make TARGET NAME=value):'
	@printf '  %-27s %s\n' \
	  RUNG 'smoke, cpu (default), gpu or paper: how large the runs are' \
	  ONLY 'reproduce-<paper>: these experiments alone, e.g. ONLY=speech (names: make experiments); copy-<paper>: training' \
	  SEEDS 'how many seeds a default experiment runs (default 3)' \
	  MINUTES 'make mutants: how long, all papers together (default 15)' \
	  MARK 'make test: only the tests of this pytest mark, e.g. numerics (default: all)' \
	  STRICT '1: exit non-zero also when a required claim is missed, dull or of older code' \
	  SCRATCH '1: the report also shows what ran on this machine (results/.scratch), marked as such' \
	  NINEFOLD_DATA 'folder of real benchmark data, see docs/data.md (default: none)' \
	  NINEFOLD_CACHE 'where unpacked models and finished work are kept (default: .cache/ninefold)' \
	  PYTHON 'the Python, 3.11 or newer, that .venv is made from (default: python3)' \
	  ENV_PYTHON 'run with this Python as it is and set nothing up, e.g. on a GPU image'

# Asked of .venv's own Python, which starts faster than many a python3; prints a line if there is nothing to do.
QUIET := $(if $(filter setup,$(MAKECMDGOALS)),,--quiet)
IS_MADE = made=$$($(VENV_PYTHON) .ci/setup --check $(1) 2>/dev/null); \
  case "$$made" in setup:*) $(if $(QUIET),,echo "$$made";) exit 0 ;; esac

setup: ## make .venv what uv.lock says; every target does this by itself
ifneq ($(filter PYTHON,$(GIVEN)),) # then .venv must be of that Python; else one of any supported Python will do
	@python=$$PYTHON; $(VERSION); $(MUST_RUN); $(call IS_MADE,--of "$$version"); \
	  "$$python" .ci/setup $(QUIET) --of "$$version"
else
	@$(call IS_MADE); python=python3; $(VERSION); $(MUST_RUN); "$$python" .ci/setup $(QUIET)
endif

.own-python:
	@python=$$ENV_PYTHON; $(VERSION); $(MUST_RUN); case "$$version" in 3.?|3.10) \
	  printf '%s\n' "$$ENV_PYTHON is Python $$version; Ninefold needs 3.11 or newer" >&2; exit 2 ;; esac

# Needs nothing installed; looks at the environment where there is one that works.
doctor: ## what this machine can run; HUB=1 also asks whether the model hub answers
	@python=$(RUN); $(VERSION); [ -n "$$ENV_PYTHON$$version" ] || { python=$${PYTHON:-python3}; $(VERSION); }; \
	  $(MUST_RUN); "$$python" -m common.doctor $(if $(filter 1,$(HUB)),--hub)

# Files of tests are shared out to a process a core where pytest-xdist is there, at most four: each needs up to 2 GB.
SHARED_OUT = import importlib.util as i, os; print(f"-n {min(os.cpu_count() or 1, 4)} --dist loadfile" if i.find_spec("xdist") else "")

test: $(ENVIRONMENT) ## all tests, without network; MARK=numerics: those of that mark
	@unset RUNG ONLY SEEDS STRICT; $(RUN) -m pytest $$($(RUN) -c '$(SHARED_OUT)') $${MARK:+-m "$$MARK"}

mutants: $(ENVIRONMENT) ## which breaks of experiments and quantities does no test notice? ONLY=gpe,vica/llava MINUTES=15
	@unset RUNG SEEDS STRICT; $(RUN) -m tests.mutants

lint: $(ENVIRONMENT) ## ruff over the tree, then mypy over common/ and every method.py
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

lock: ## renew uv.lock after a change of pyproject.toml (needs a package index)
	@python=$${PYTHON:-python3}; $(VERSION); $(MUST_RUN); "$$python" .ci/lock

reproduce: $(ENVIRONMENT) ## every paper that is here, one after the other, past one that fails
	@$(RUN) -m common.runs.reproduce_all

$(REPRODUCE): reproduce-%: $(ENVIRONMENT)
	@printf '%s\n' "$@: rung $${RUNG:-cpu}"
	@$(RUN) -m papers.$*.eval

experiments: $(ENVIRONMENT) ## every experiment of every paper: its minutes, what it needs, when it was last recorded
	@$(RUN) -m common.runs.catalogue

$(STANDINS): standins-%: $(ENVIRONMENT)
	@$(RUN) -m $(if $(wildcard papers/$*/standins.py),papers.$*.standins,common.standins.$*)

report: $(ENVIRONMENT) ## report.html: every claim, record and figure on one page
	@$(RUN) -m common.report $(if $(filter 1,$(SCRATCH)),--scratch)

swaps: $(ENVIRONMENT) ## the word of every supported or required claim when method and placebo change places
	@$(RUN) -m common.report.swaps

$(COPY): copy-%: $(ENVIRONMENT)
	@$(RUN) -m common.copy_paper $*

families: $(ENVIRONMENT) ## docs/families.md: which method works on which model family (ONLY=llama,qwen3: these, to the terminal)
	@$(RUN) -m common.families

clean: ## remove caches, finished work and the report (keeps .venv and committed results)
	@rm -rf .cache .pytest_cache .ruff_cache .hypothesis lightning_logs report.html papers/*/results/.scratch
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"

# A misspelt or planned paper gets an answer, not "No rule to make target".
reproduce-% copy-%:
	@$(error $@: there is no such paper here yet; implemented: $(PAPERS))

standins-%:
	@$(error $@: nothing of that name has small models; there is: $(STANDINS))

# Nothing makes this file anew: else make -B asks the rule below for it.
Makefile: ;

# Anything else that is no target, and no file either.
.DEFAULT:
	@$(error $@: there is no such target and no such file; make help lists the targets. One experiment: make reproduce-<paper> ONLY=<name>)
