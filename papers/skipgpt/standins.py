"""The small models and the routers that SkipGPT's experiments start from, committed, and how they were trained.

    standins/    three Llamas of six layers that know the language of difficulty.py, two minutes of one CPU core each
    routers/     routers for SmolLM2-135M-Instruct at 25 and 40 % (routers_smollm2.py), an hour of two cores

`make standins-skipgpt` trains the first again, and ends where one diverges; `python -m papers.skipgpt.standins --routers`
trains the second. Who only loads them asks `difficulty.base_model` and `router_files.committed`: a result then depends on
the weights, and not on the code that made them.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from torch import nn

from common.files import building, write_json
from common.progress import progress

from . import routers_smollm2
from .difficulty import BASES, VOCABULARY, base_folder, batches, sequences
from .tuning import Rate, evaluate, tune

SEEDS = (0, 1, 2)
STEPS, BATCH, TEST = 900, 32, 512  # of the training; sequences a step; unseen ones that are scored


def new_base(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=176, num_hidden_layers=6, num_attention_heads=4,
                         num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=512, bos_token_id=None,
                         eos_token_id=None)
    return LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()


def train_base(seed: int, steps: int = STEPS, folder: Path | None = None) -> dict:
    """Dense training: AdamW 2e-3, 100 steps of warm-up, linear decay, batch 32 of 64 tokens (spec 8)."""
    model = new_base(seed)
    optimiser = torch.optim.AdamW(list(model.parameters()), lr=2e-3, weight_decay=0.01)
    training = tune(model, batches("base", seed, steps, BATCH), optimiser, steps, rate=Rate(warmup=100, decay=1.0), seed=seed)
    curve = list(progress(training, f"seed {seed}: training, steps", total=steps))
    test, _ = sequences("test", seed, TEST)
    result = {"seed": seed, "steps": steps, "test_ce": evaluate(model, test).mean().item(),
              "curve": [[row["step"], round(row["ce"], 4)] for row in curve[::25]]}
    folder = folder or BASES / f"seed{seed}"
    # Half precision on disk: the file is 0.6 MB, and the rounding is far below what is measured.
    model.half().save_pretrained(folder)
    write_json(folder / "training.json", result)
    return result


def base_of_run(seed: int, size: str = "cpu") -> dict:
    """A job: the base model of a seed beyond the committed ones, by the same recipe, kept in the cache."""
    folder = base_folder(seed)
    shutil.rmtree(folder, ignore_errors=True)  # this job runs when there is none, or one of an older recipe
    with building(folder) as work:
        return {name: value for name, value in train_base(seed, folder=work).items() if name != "curve"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--routers", action="store_true", help="train the routers of SmolLM2 instead of the small models (an hour)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: those that are committed")
    options = parser.parse_args(argv)
    if options.routers:
        return routers_smollm2.main([])
    for seed in options.seeds:
        result = train_base(seed) if seed in SEEDS else base_of_run(seed)
        print(json.dumps({name: result[name] for name in ("seed", "test_ce")}), flush=True)
        if not math.isfinite(result["test_ce"]):
            raise SystemExit(f"seed {seed} diverged")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
