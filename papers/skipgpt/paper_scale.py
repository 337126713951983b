"""The paper's own table: its models, its seven tasks, the routers that you trained with configs/cuda.

    SKIPGPT_ROUTERS=runs make reproduce-skipgpt RUNG=paper

looks in `runs/` for the folders that the cuda configs leave (`llama2-7b_rt_25/` and so on, each with its routers, and
lora/ after stage 2), scores the dense model first and each of them after it, and refuses a score at another budget.
A model without a folder is left out, and its claims stay "not run".
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from common.benchmarks import language
from common.models import ModelSpec, load

from .lora import merge_lora
from .router_files import load_routers
from .tier_b import check_budget

MODELS = {
    "7B": ("llama2-7b", "meta-llama/Llama-2-7b-hf"),
    "13B": ("llama2-13b", "meta-llama/Llama-2-13b-hf"),
    "8B": ("llama31-8b", "meta-llama/Llama-3.1-8B"),
}
RUNS = {
    "rt_25": ("routers at 0.25", 0.25),
    "rt_40": ("routers at 0.40", 0.40),
    "joint_25": ("joint at 0.25", 0.25),
    "rt-lora_25": ("routers + LoRA at 0.25", 0.25),
}


def measure_paper(
    say=print,
    models=MODELS,
    device: str = "cuda",
    tasks=tuple(language.TASKS),
    limit: int | None = None,
) -> dict:
    """{model: {run: {task: score}}}. Raises RuntimeError, with what is needed, without a GPU or without trained routers."""
    folder = Path(os.environ.get("SKIPGPT_ROUTERS", "runs"))
    present = {
        label: [run for run in RUNS if (folder / f"{prefix}_{run}").is_dir()] for label, (prefix, _) in models.items()
    }
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "rung paper needs a GPU with 80 GB (none is visible), the hub, and routers trained with configs/cuda; "
            "see papers/skipgpt/README.md, section Run"
        )
    if not any(present.values()):
        raise RuntimeError(
            f"rung paper found no trained routers in {folder.name}/: train them with configs/cuda, "
            "e.g. llama2-7b_rt_25, and set SKIPGPT_ROUTERS to the folder that holds the runs"
        )
    scores: dict = {}
    for label, runs in present.items():
        for run in ["dense", *runs] if runs else []:
            prefix, name = models[label]
            loaded = load(ModelSpec(name, dtype="bfloat16" if device == "cuda" else "float32", device=device))
            model, state, title = loaded.model, None, "dense"
            if run != "dense":
                title, target = RUNS[run]
                where = folder / f"{prefix}_{run}"
                state = load_routers(model, where).set_mode("skip").start_recording()
                if (where / "lora").is_dir():
                    model = merge_lora(model, where / "lora")
            found = language.evaluate(model, loaded.tokenizer, tasks, limit=limit, batch_size=8)["tasks"]
            if state is not None:
                check_budget(state.stats().sparsity, target, f"{label}, {run}")
            scores.setdefault(label, {})[title] = {task: found[task]["value"] for task in tasks}
            say(f"{label} {title}: " + ", ".join(f"{task} {value:.3f}" for task, value in scores[label][title].items()))
    return scores
