"""Have the teacher answer every training problem beforehand, by vLLM: python -m papers.decouplingkl.write_trajectories --config FILE.

A training on teacher's prefixes reads a file of the teacher's responses, and samples by transformers what the file lacks
(trajectories.py). This command writes the file by the family's engine: problems, teacher, ends and the law that is sampled from
are those of the training's own config, and so are the facts in the file's first line; the training then samples nothing. Other
keys of the config may be given as options, `--engine` has vllm.LLM's, as JSON.

Problems are answered in blocks, each with random numbers of its own. A killed run goes on with the block that the file does not
have whole: the block is sampled again, and what the file lacks is added.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch

from common.errors import SetupError, UserError
from common.reasoning.engine import VllmSampler
from common.seeds import seed_of
from common.training.cli import settings_in_json

from .module import Distilling
from .train import cli
from .trajectories import TrajectoryCache

ROWS = 1024  # problems of a block: what a kill may cost


def opened(read) -> tuple[Distilling, list]:
    """(the training, its problems) of a command line that was only read. Both models are loaded, on the CPU: a cache's facts are of
    their weights and ends. Raises SetupError for a config without a file of trajectories."""
    training, data = read.model, read.datamodule
    if not isinstance(training, Distilling) or training.trajectories is None:
        raise SetupError("this config trains without a file of the teacher's responses; give model.init_args.trajectories, which goes "
                         "with the prefix teacher")
    training.trainer, read.trainer.datamodule = read.trainer, data
    training.configure_model()
    data.trainer = SimpleNamespace(lightning_module=training, datamodule=data, world_size=1, global_rank=0)
    data.setup()
    training.find_ends(training.model, training.teacher)
    return training, data.rows(0).problems


def engine_of(training: Distilling, options: dict[str, Any]) -> VllmSampler:
    """The teacher in vLLM, in the config's precision and revision. SetupError without vllm."""
    spec = training.teacher_spec
    pinned = {"revision": spec.revision} if spec.revision else {}
    try:
        return VllmSampler(spec.name, **{"dtype": spec.dtype} | pinned | options)
    except ImportError as error:
        raise SetupError(str(error)) from error


def cache_of(training: Distilling) -> TrajectoryCache:
    """The training's own. A new file also names its sampler, which no training asks for."""
    cache = TrajectoryCache(training.trajectories or "", training.trajectory_facts())
    if not cache.found:
        cache.facts["sampler"] = f"vllm {_version('vllm')}"
    return cache


def fill(cache: TrajectoryCache, sampler, training: Distilling, problems: Sequence, rows: int = ROWS,
         log: Callable[[str], None] = print) -> int:
    """Adds to the cache what it lacks of `rollouts_per_prompt` responses to each problem; returns how many. sampler: as VllmSampler."""
    config, added = training.config, 0
    count, prompts = config.rollouts_per_prompt, list(dict.fromkeys(tuple(p.prompt) for p in problems))
    for first in range(0, len(prompts), rows):
        block = prompts[first : first + rows]
        if all(cache.get(prompt, count) for prompt in block):
            continue
        drawn = sampler.sample(block, count, config.max_new_tokens, end=training.ends or (), temperature=config.temperature,
                               top_p=config.top_p, top_k=config.top_k,
                               generator=torch.Generator().manual_seed(seed_of("trajectories", training.seed, first)))
        new = [(prompt, r.ids, r.finished) for i, prompt in enumerate(block)
               for r in drawn[i * count : (i + 1) * count][len(cache.found.get(prompt, ())) :]]
        cache.add(new)
        added += len(new)
        log(f"{min(first + rows, len(prompts)):,} of {len(prompts):,} problems answered")
    return added


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--engine", type=settings_in_json, default={}, help="more of vllm.LLM's options, as JSON")
    options, others = parser.parse_known_args(argv)
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")  # ours, with one option more
    read = cli(["--config", options.config, *others], run=False)
    try:
        training, problems = opened(read)
        cache = cache_of(training)  # which refuses another's file before an engine starts
        added = fill(cache, engine_of(training, options.engine), training, problems)
    except UserError as error:
        print(f"decouplingkl: {error}", file=sys.stderr)
        return 2
    print(f"{cache.path.name}: {added:,} responses added")
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of no known version"


if __name__ == "__main__":
    raise SystemExit(main())
