"""SmolLM2-135M-Instruct, trained to reason about sums at length: a real model that is longer than it needs to be, to start from.

`make standins-sums` (python -m common.standins.sums) trains it by trl's SFTTrainer: LoRA on every linear layer,
cross-entropy on the trace alone, batches drawn without regard to length (the mean over a batch's tokens then has no length
bias worth speaking of). The adapter is committed in sums-weights/ in bfloat16, with its card and curve; `load_sums_reasoner` merges it
into the model, so that what follows trains a plain checkpoint. A killed run goes on from its last checkpoint, every 20 steps.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

from ..files import cache_dir, write_json
from ..lora import WEIGHTS, LoraSpec, merged, save
from ..models import SMOLLM2, Loaded, load
from ..reasoning.sums import Sums, dataset, trace

FOLDER = Path(__file__).parent / "sums-weights"
STEPS, ROWS, RATE, RANK = 110, 8, 1e-3, 4
ADAPTER = LoraSpec(RANK, alpha=4 * RANK, dropout=0.0)  # on every linear layer of a block


def load_sums_reasoner(folder: Path = FOLDER, dtype: str = "float32") -> Loaded:
    """The model with the adapter merged into it. Raises FileNotFoundError without the adapter."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder.name}/{WEIGHTS} is missing: restore it or run `make standins-sums`")
    loaded = merged(replace(SMOLLM2, dtype=dtype), folder)
    loaded.model.requires_grad_(True)
    return loaded._replace(source=loaded.source | {"adapter": f"common/standins/{folder.name}"})


def rows(data: Sums, count: int, seed: int) -> list[dict]:
    """Prompt and completion of each, as text; the end is part of the completion."""
    made = []
    for i, entry in enumerate(dataset("traces", count)):
        prompt = data.words.decode(data.prompt(entry["question"]))
        text = trace(entry["metadata"]["expression"], random.Random(f"{seed} {i}"))
        made.append({"prompt": prompt, "completion": text + data.words.eos_token})
    return made


def train(folder: Path = FOLDER, steps: int = STEPS, rows_a_step: int = ROWS, seed: int = 0, work: Path | None = None,
          model=None, tokenizer=None) -> Path:
    """Trains and writes the adapter. work: checkpoints. model, tokenizer: others than SmolLM2, for a try."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    source = {"name": "in memory"}
    if model is None:
        model, tokenizer, source = load(SMOLLM2)
    work = work or cache_dir() / "standins-sums" / f"{steps}-{rows_a_step}-{seed}"
    examples = rows(Sums().use(tokenizer), steps * rows_a_step, seed)
    arguments = SFTConfig(output_dir=str(work), max_steps=steps, per_device_train_batch_size=rows_a_step, learning_rate=RATE, seed=seed,
                          lr_scheduler_type="cosine", warmup_steps=min(10, steps // 4), completion_only_loss=True, max_length=256,
                          logging_steps=1, save_steps=20, save_total_limit=1, use_cpu=True, bf16=True, gradient_checkpointing=False,
                          report_to="none", weight_decay=0.0, max_grad_norm=1.0, dataloader_num_workers=0)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer,
                         peft_config=ADAPTER.config())
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    save(trainer.model, folder, base=source["name"])  # not where the cache happens to be
    curve = [[entry["step"], round(entry["loss"], 4)] for entry in trainer.state.log_history if "loss" in entry]
    write_json(folder / "training.json", {"command": "make standins-sums", "seed": seed, "steps": steps, "rows": rows_a_step,
                                          "learning rate": RATE, "rank": RANK, "base": source, "loss by step": curve})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    train(seed=parser.parse_args().seed)
    print("sums-weights/: the adapter, its configuration and its curve")


if __name__ == "__main__":
    main()
