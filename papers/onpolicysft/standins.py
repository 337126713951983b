"""SmolLM2-135M-Instruct, taught to reason about sums at length: the real model that the second experiment starts from.

`make standins-onpolicysft` trains it by trl's SFTTrainer: LoRA on every linear layer,
cross-entropy on the trace alone, batches drawn without regard to length (the mean over a batch's tokens then has no length
bias worth speaking of). The adapter is committed in taught/ in bfloat16, with its card and curve; `load_taught` merges it
into the model, so that what follows trains a plain checkpoint. A killed run goes on from its last checkpoint, every 20 steps.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from common.files import cache_dir, file_sha256, write_json
from common.models import SMOLLM2, Loaded, load

from .sums import Sums, dataset, trace

FOLDER = Path(__file__).parent / "taught"
STEPS, ROWS, RATE, RANK = 110, 8, 1e-3, 4
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load_taught(folder: Path = FOLDER, dtype: str = "float32") -> Loaded:
    """The model with the adapter merged into it. Raises FileNotFoundError without the adapter."""
    from dataclasses import replace

    from peft import PeftModel

    adapter = folder / "adapter_model.safetensors"
    if not adapter.is_file():
        raise FileNotFoundError(f"{folder.name}/{adapter.name} is missing: restore it or run `make standins-onpolicysft`")
    base = load(replace(SMOLLM2, dtype=dtype))
    model = PeftModel.from_pretrained(base.model, folder, torch_dtype=torch.float32).merge_and_unload()
    model.requires_grad_(True)
    facts = {"adapter": "papers/onpolicysft/taught", "adapter_sha256": file_sha256(adapter)}
    return Loaded(model.eval(), base.tokenizer, base.source | facts)


def rows(data: Sums, count: int, seed: int) -> list[dict]:
    """Prompt and completion of each, as text; the end is part of the completion."""
    made = []
    for i, entry in enumerate(dataset("taught", count)):
        prompt = data.words.decode(data.prompt(entry["question"]))
        text = trace(entry["metadata"]["expression"], random.Random(f"{seed} {i}"))
        made.append({"prompt": prompt, "completion": text + data.words.eos_token})
    return made


def train(folder: Path = FOLDER, steps: int = STEPS, rows_a_step: int = ROWS, seed: int = 0, work: Path | None = None,
          model=None, tokenizer=None) -> Path:
    """Trains and writes the adapter. work: checkpoints. model, tokenizer: others than SmolLM2, for a try."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    source = {"name": "in memory"}
    if model is None:
        model, tokenizer, source = load(SMOLLM2)
    work = work or cache_dir() / "onpolicysft" / f"taught-{steps}-{rows_a_step}-{seed}"
    examples = rows(Sums().use(tokenizer), steps * rows_a_step, seed)
    arguments = SFTConfig(output_dir=str(work), max_steps=steps, per_device_train_batch_size=rows_a_step, learning_rate=RATE, seed=seed,
                          lr_scheduler_type="cosine", warmup_steps=min(10, steps // 4), completion_only_loss=True, max_length=256,
                          logging_steps=1, save_steps=20, save_total_limit=1, use_cpu=True, bf16=True, gradient_checkpointing=False,
                          report_to="none", weight_decay=0.0, max_grad_norm=1.0, dataloader_num_workers=0)
    adapters = LoraConfig(r=RANK, lora_alpha=4 * RANK, target_modules=LAYERS, task_type="CAUSAL_LM")
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer,
                         peft_config=adapters)
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    trainer.model.peft_config["default"].base_model_name_or_path = source["name"]  # not where the cache happens to be
    trainer.model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own card is empty; ours is beside the folder
    curve = [[entry["step"], round(entry["loss"], 4)] for entry in trainer.state.log_history if "loss" in entry]
    write_json(folder / "training.json", {"command": "make standins-onpolicysft", "seed": seed, "steps": steps, "rows": rows_a_step,
                                          "learning rate": RATE, "rank": RANK, "base": source, "loss by step": curve})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    train(seed=parser.parse_args().seed)
    print("taught/: the adapter, its configuration and its curve")


if __name__ == "__main__":
    main()
