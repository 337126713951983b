"""What a copy of a paper says of itself: its Makefile and its README, of the whole paper or of its training."""

from __future__ import annotations

import ast
from pathlib import Path

from .copy_selection import TRAINING, WHOLE, is_command, markdown, own_files, parts

MAKEFILE = """\
# Copied from Ninefold. The environment is made from requirements.txt, with pip's own settings, unless the user brings one:
# make test ENV_PYTHON=python3
ifeq ($(filter Makefile ./Makefile,$(lastword $(MAKEFILE_LIST))),)
ifneq ($(strip $(MAKEFILE_LIST)),$(strip $(CURDIR)/Makefile))
$(error This works in the Makefile's own folder only: cd to it, or make -C FOLDER TARGET)
endif
endif

# What a user may set goes to Python through the environment, as it was typed: neither make nor a shell looks into it.
SETTINGS := RUNG ONLY SEEDS STRICT NINEFOLD_DATA NINEFOLD_CACHE PYTHON ENV_PYTHON
GIVEN :=
$(foreach name,$(SETTINGS),$(if $(filter-out undefined,$(origin $(name))),$(if $(value $(name)),\\
  $(eval GIVEN += $(name))$(eval override $(name) := $$(value $(name)))$(eval export $(name)))))

# Without this a Python that was told not to look into the folder that it stands in finds nothing of this one.
unexport PYTHONSAFEPATH
# Whatever the locale, files are UTF-8; a sign that the user's own encoding of the output lacks is printed as "?".
ENCODING := $(if $(filter :%,$(PYTHONIOENCODING)),,$(firstword $(subst :, ,$(PYTHONIOENCODING))))
override PYTHONIOENCODING := $(ENCODING):replace
override PYTHONUTF8 := 1
export PYTHONUTF8 PYTHONIOENCODING

ENVIRONMENT := .venv/.done
ifneq ($(filter ENV_PYTHON,$(GIVEN)),)
ifneq ($(ENV_PYTHON),.venv/bin/python)
ENVIRONMENT := .own-python
endif
endif
RUN = "$${{ENV_PYTHON:-.venv/bin/python}}"
IS_NEW = 'import sys; print(sys.version_info >= (3, 11))'
MUST_RUN = [ "$$("$$python" -c $(IS_NEW) 2>/dev/null </dev/null)" = True ] || {{ printf '%s\\n' >&2 \\
  "$$python is no Python, 3.11 or newer, that runs here: name one by PYTHON=... (or ENV_PYTHON=...)"; exit 2; }}

.PHONY: {targets}
{reproduce}test: $(ENVIRONMENT)
\t@unset RUNG ONLY SEEDS STRICT; $(RUN) -m pytest

smoke: $(ENVIRONMENT)
\t@$(RUN) -m papers.{paper}.train fit --config papers/{paper}/configs/cpu/rehearsal.yaml --trainer.max_steps 2

.own-python:
\t@python=$$ENV_PYTHON; $(MUST_RUN)

# torch first and with what it needs, which differs between its builds; the rest exactly as listed.
.venv/.done: requirements.txt
\t@python=$${{PYTHON:-python3}}; $(MUST_RUN); "$$python" -m venv .venv
\t@.venv/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
\t@.venv/bin/python -m pip install --quiet --no-deps -r requirements.txt
\t@touch $@
"""

REPRODUCE = """\
reproduce: $(ENVIRONMENT)
\t@$(RUN) -m papers.{paper}.eval

"""

README = """\
# {paper}, copied from Ninefold

Copied at {commit}. `papers/{paper}/README.md` is the paper's own page: the claims, the map from
equations to functions, the deviations. Links in it to other folders lead to the repository.

    make reproduce      # a verdict for every claim, on two CPU cores
    make test           # the paper's tests, without network
    make smoke          # a training of two steps, in seconds

Change `papers/{paper}/method.py`; `common/` holds only what this paper uses. Python 3.11 or newer.
Apache-2.0, see LICENSE; to cite, see CITATION.cff.

## What came along of common

Every file that the paper's own files import, or that these import in turn, with the data beside it.

{table}
"""

OF_TRAINING = """\
# {paper}: its method and its training, copied from Ninefold

Copied at {commit}. Here are the method, what it is compared with as far as that needs no more of `common`, its training, the
configs, and the tests of these. The claims, the experiments and their verdicts are not: `make copy-{paper} DEST=folder` without
`ONLY` brings all, with `make reproduce`. `papers/{paper}/README.md` is the paper's own page; what it links to may have stayed behind.

    make smoke          # a training of two steps, in seconds
    make test           # {tests}, without network
    .venv/bin/python -m papers.{paper}.train fit --config papers/{paper}/configs/cpu/rehearsal.yaml    # or another config

Change `papers/{paper}/method.py` and train it. Python 3.11 or newer. Apache-2.0, see LICENSE; to cite, see CITATION.cff.

| command | what it is |
|---|---|
{commands}

## What came along of common

Every file that the paper's copied files import, or that these import in turn, with the data that code or configs name.

{table}
"""

NOTE = """\
> Copied from Ninefold for training: what this page says of claims, experiments, `make reproduce` and figures is of the whole
> repository, and links to what is not here lead nowhere.

"""


def makefile(paper: str, only: str = WHOLE) -> str:
    whole = only == WHOLE
    return MAKEFILE.format(paper=paper, targets="reproduce test smoke" if whole else "test smoke",
                           reproduce=REPRODUCE.format(paper=paper) if whole else "")


def readme(root: Path, paper: str, commit: str, only: str = WHOLE) -> str:
    """The copy's own README. commit: what to call the state that is copied."""
    table = markdown(parts(root, paper, only))
    if only == WHOLE:
        return README.format(paper=paper, commit=commit, table=table)
    files = own_files(root, paper, TRAINING)
    commands = [f"| `python -m papers.{paper}.{file.stem}` | {first_sentence(file)} |" for file in files if is_command(file)]
    tests = sum(file.name.startswith("test_") for file in files)
    return OF_TRAINING.format(paper=paper, commit=commit, table=table, commands="\n".join(commands),
                              tests=f"{tests} file{'s' * (tests != 1)} of tests")


def first_sentence(file: Path) -> str:
    """Of a module's docstring, for a cell of a table."""
    words = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return words.replace("|", r"\|")
