"""Where the batch translators of captions are: committed of seed 0, and of further seeds made in the cache when they are asked for.

    python -m papers.gpe.captioners --seeds 0 1 2 --languages de fr      trains those that are not there; --anew also the others

Some twenty minutes of one core each; NINEFOLD_DATA is needed. The recipe is `captions.py`'s, alone: a base in the cache is named
by what made it, and committing another changes no name. A killed training goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from common.claims.machine import git_state, start_run
from common.errors import ModelError
from common.files import building, cache_dir, data_file, write_json
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job

from .captions import LANGUAGES, names, train_captioner

CAPTIONERS = Path(__file__).parent / "standins-captions"
COMMITTED = (0,)  # seeds


def key(language: str, seed: int) -> str:
    """The hash of all that a base is made of: the recipe's code and arguments, the captions, the versions of what computes.

    Raises DataError where NINEFOLD_DATA lacks the captions.
    """
    data = tuple(str(data_file(name)) for name in names(language))
    return Job("standin", "papers.gpe.captions:train_captioner", {"language": language, "seed": seed}, data).key()


def folder_of(language: str, seed: int) -> Path:
    """Where the base of a seed is: committed, or in the cache. Raises as `key`, for what is in the cache."""
    if seed in COMMITTED:
        return CAPTIONERS / f"en-{language}-seed{seed}"
    return cache_dir() / "standins-gpe" / f"captioner-en-{language}-seed{seed}-{key(language, seed)}"


def ready() -> None:
    """Raises ModelError where a committed base is missing."""
    for seed in COMMITTED:
        for language in LANGUAGES:
            if not (folder_of(language, seed) / "model.safetensors").is_file():
                raise ModelError(f"en-{language}-seed{seed} of papers/gpe/standins-captions is missing: restore it or run "
                                 "`python -m papers.gpe.standins --captions`")


def captioner(language: str, seed: int) -> Loaded:
    """Raises ModelError where a committed one is missing; of another seed, which is trained where it is not there, as `made`."""
    if seed in COMMITTED:
        ready()
    else:
        made(language, seed)
    return load(ModelSpec(str(folder_of(language, seed))))


def made(language: str, seed: int, anew: bool = False, bar: bool = False, code: tuple[str, bool] | None = None) -> dict:
    """Trains the base of a seed where there is none, or anew; returns its card. A killed call goes on from its last checkpoint.

    code: commit and whether the tree differs from it, where a command makes several, for each leaves files that no commit holds yet.
    """
    folder = folder_of(language, seed)
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        run = start_run(f"python -m papers.gpe.captioners --languages {language} --seeds {seed}")
        run |= dict(zip(("commit", "dirty"), code or ()))
        work = cache_dir() / "standins-gpe" / f"training-en-{language}-seed{seed}-{key(language, seed)}"
        with building(folder) as new:
            write_json(new / "training.json", train_captioner(language, seed, new, work, bar=bar) | {"run": run})
        shutil.rmtree(work, ignore_errors=True)
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=list(LANGUAGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(COMMITTED))
    parser.add_argument("--anew", action="store_true", help="train those that are there, too")
    options = parser.parse_args(argv)
    code = git_state()
    for seed in options.seeds:
        for language in options.languages:
            card = made(language, seed, options.anew, bar=True, code=code)
            print(json.dumps({name: card[name] for name in ("language", "seed", "steps", "bleu", "bleu before rounding")}), flush=True)


if __name__ == "__main__":
    main()
