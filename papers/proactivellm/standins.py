"""The small models that the experiments start from, committed: read everything, then answer; trained on whole streams alone.

    standins/qa/seed0 ...     165,000 parameters, question answering; mt: translation. Two CPU-minutes each
    standins/words, spoken    recognition and questions, behind a causal encoder

`make standins-proactivellm` trains them again; it ends where one has not learned its task. Those of further seeds (SEEDS=n) are trained by
the same functions where the cache lacks them. Nothing here has seen a prefix: that is what the arms learn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from common.errors import ModelError
from common.files import building, cache_dir, write_json
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.streaming.audio import CausalEncoder
from common.training.fit import fit

from .baselines import Always
from .data import Generated
from .decoding import decode
from .module import ProactiveTraining
from .scoring import quality
from .tasks import FEATURES, Task

FOLDER = Path(__file__).parent / "standins"
COMMITTED = {"qa": (0, 1, 2), "mt": (0, 1, 2), "words": (0,), "spoken": ()}  # seeds; of others they are made in the cache
STEPS = {"qa": 1100, "mt": 1400, "words": 700, "spoken": 1800}
LEAST = {"qa": 95.0, "mt": 97.0, "words": 90.0, "spoken": 85.0}  # quality that a stand-in must have
TASK_OF = {"revised": "qa"}  # what a task starts from, if not its own
FROM = {"spoken": "words"}  # questions are learnt by a model that knows the words
CONFIG = dict(model_type="llama", hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
              tie_word_embeddings=True, max_position_embeddings=2048, initializer_range=0.08, bos_token_id=None, eos_token_id=None,
              pad_token_id=None)


def folder_of(task: str, seed: int) -> Path:
    """Where a stand-in is: committed, or in the cache, named by all that its training depends on."""
    if seed in COMMITTED[task]:
        return FOLDER / task / f"seed{seed}"
    key = Job("standin", f"{__name__}:train", {"task": task, "seed": seed}).key()
    return cache_dir() / "standins-proactivellm" / f"{task}-seed{seed}-{key}"


def standin(task: str, seed: int) -> tuple[Loaded, CausalEncoder | None]:
    """(model, encoder or None) that a task starts from. Raises ModelError where the one of a new seed has not learnt its task."""
    from safetensors.torch import load_file

    task = TASK_OF.get(task, task)
    folder = folder_of(task, seed)
    if not folder.is_dir():
        if seed in COMMITTED[task]:
            raise FileNotFoundError(f"standins/{task}/{folder.name} is missing: restore it or run `make standins-proactivellm`")
        with building(folder) as made:  # one that has not learnt its task leaves nothing
            learnt(task, seed, train(task, seed, made))
    loaded, encoder = load(ModelSpec(str(folder))), None
    if (folder / "encoder.safetensors").is_file():
        encoder = CausalEncoder(FEATURES, loaded.model.config.hidden_size)
        encoder.load_state_dict({name: t.float() for name, t in load_file(folder / "encoder.safetensors").items()})
        encoder.eval()
    return loaded, encoder


def learnt(task: str, seed: int, result: dict) -> None:
    """Raises ModelError for a stand-in below its bar: what was tuned from it would show how badly it answers, and not when."""
    if result["quality"] < LEAST[task]:
        raise ModelError(f"the stand-in of {task}, seed {seed}, answers {result['quality']:.1f} of 100 right with everything read, and "
                         f"needs {LEAST[task]:g}: it did not learn its task in {STEPS[task]} steps; run other seeds, or train it longer "
                         "(standins.STEPS)")


def train(task: str, seed: int, folder: Path | None = None, steps: int | None = None, test: int = 128) -> dict:
    """The stand-in of a seed: L_batch alone, AdamW 2e-3, betas .9 and .98, 100 steps of warm-up, cosine, 32 streams a step; from random
    weights, or from those of the task that it builds on."""
    from safetensors.torch import save_file

    of, steps = Task(task, seed), steps or STEPS[task]
    module = ProactiveTraining(ModelSpec("random", config=CONFIG | {"vocab_size": of.vocabulary}, seed=seed), batch=1, stream=0, lam=0,
                               learning_rate=2e-3, weight_decay=0.01, beta2=0.98, warmup_steps=100, schedule="cosine",
                               features=FEATURES if of.spoken else None, seed=seed)
    if task in FROM:
        module.loaded, known = standin(FROM[task], seed)
        module.configure_model()
        module.encoder.load_state_dict(known.state_dict())
    losses = fit(module, Generated(task, train_samples=32 * steps, law="batch", seed=seed), steps)
    items = of.items(test, "test")
    with torch.no_grad():
        streams = decode(module.model.eval(), [i.example for i in items], Always(False), of.boundary, of.longest,
                         module.encoder.eval().join if module.encoder else None)
    result = {"task": task, "seed": seed, "steps": steps, "quality": quality(of, streams, items)["quality"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, steps, 50)]}
    folder = folder or FOLDER / task / f"seed{seed}"
    module.model.half().save_pretrained(folder)  # half precision on disk: 0.3 MB
    if module.encoder:
        save_file({name: t.half().contiguous() for name, t in module.encoder.state_dict().items()}, folder / "encoder.safetensors")
    write_json(folder / "training.json", result)
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args(argv)
    for task in options.tasks:
        for seed in options.seeds:
            result = train(task, seed)
            print(json.dumps({key: result[key] for key in ("task", "seed", "steps", "quality")}), flush=True)
            learnt(task, seed, result)


if __name__ == "__main__":
    main()
