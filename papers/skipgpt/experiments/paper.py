"""The paper's own table: its models, its seven tasks, the routers that you trained with configs/cuda.

    make reproduce-skipgpt RUNG=paper

looks in `lightning_logs/skipgpt/` (another folder: SKIPGPT_RUNS) for what the cuda configs leave, `llama2-7b_rt_25/routers`
and so on, with `lora` beside it after stage 2, and scores the dense model first and each of them after it. A run whose
realised sparsity is off its target gets no score, and the log names it; a model without a run is left out. Those claims stay
"not run".
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from common.benchmarks import language
from common.errors import SetupError
from common.lora import merge
from common.models import Loaded, ModelSpec, load
from common.progress import progress

from ..method import RoutingState
from ..router_files import CARD, load_routers
from .smollm2 import BudgetMissed, check_budget

MODELS = {"7B": "llama2-7b", "13B": "llama2-13b", "8B": "llama31-8b"}
RUNS = {
    "rt_25": ("routers at 0.25", 0.25),
    "rt_40": ("routers at 0.40", 0.40),
    "joint_25": ("joint at 0.25", 0.25),
    "rt-lora_25": ("routers + LoRA at 0.25", 0.25),
}


def measure_paper(log=print, device: str = "cuda", tasks=tuple(language.TASKS),
                  limit: int | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {run: {task: score}, "errors": {run: {task: [standard error, items]}}}}.

    Raises SetupError, with what is needed, without a GPU or without trained routers."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError("rung paper needs a GPU with 80 GB (none is visible), the hub, and routers trained with configs/cuda; "
                         "see papers/skipgpt/README.md, section Run")
    scores: dict = {}
    for label, runs in trained_routers().items():
        # The dense model is the base that the routers were trained on, in that very revision.
        for run, folder in ({"dense": next(iter(runs.values()))} | runs).items():
            title, target = RUNS.get(run, ("dense", None))
            loaded, state = open_run(folder, device, routed=target is not None)
            values = {}
            for task in progress(tasks, f"{label} {title}: tasks"):
                values |= language.evaluate(loaded.model, loaded.tokenizer, [task], limit=limit, batch_size=8)["tasks"]
            try:
                if state is not None:
                    check_budget(state.stats().sparsity, target, f"{label}, {run}")
            except BudgetMissed as refused:
                log(f"{label} {title}: no score. {refused}")
                continue
            scores.setdefault(label, {})[title] = {task: values[task]["value"] for task in tasks}
            if all(values[task].get("stderr") for task in tasks):
                scores[label].setdefault("errors", {})[title] = {task: [values[task]["stderr"], values[task]["n"]] for task in tasks}
            log(f"{label} {title}: " + ", ".join(f"{task} {value:.3f}" for task, value in scores[label][title].items()))
    return scores


def measure_for_claims(folder: Path, log) -> dict[str, dict[str, dict[str, float]]]:
    """What the rung runs. folder: of the run, which this needs nothing in."""
    return measure_paper(log)


def trained_routers() -> dict[str, dict[str, Path]]:
    """{model: {run: its folder of routers}}, of models that have any. Raises SetupError if none has."""
    folder = Path(os.environ.get("SKIPGPT_RUNS", "lightning_logs/skipgpt"))
    present = {label: {run: path for run in RUNS if (path := folder / f"{name}_{run}" / "routers").is_dir()}
               for label, name in MODELS.items()}
    if not any(present.values()):
        raise SetupError(f"rung paper found no trained routers in {folder.name}/: train them with configs/cuda, "
                         "e.g. llama2-7b_rt_25, and set SKIPGPT_RUNS to the folder that holds the runs")
    return {label: runs for label, runs in present.items() if runs}


def open_run(folder: Path, device: str, routed: bool) -> tuple[Loaded, RoutingState | None]:
    """The base that the routers in `folder` belong to; routed: with them, skipping and recording, and the adapters of stage 2."""
    base = json.loads((folder / CARD).read_text())["base"]
    dtype = "bfloat16" if device == "cuda" else "float32"
    loaded = load(ModelSpec(base["name"], revision=base.get("revision"), dtype=dtype, device=device))
    if not routed:
        return loaded, None
    state = load_routers(loaded.model, folder).set_mode("skip").start_recording()
    if (folder.parent / "lora").is_dir():
        loaded = loaded._replace(model=merge(loaded.model, folder.parent / "lora"))
    return loaded, state
