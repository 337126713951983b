"""Stage 2's adapters: LoRA r = 16, alpha = 32, dropout 0.1 on q, v, gate; by peft."""

from __future__ import annotations

from pathlib import Path

from torch import nn

LORA_TARGETS = ("q_proj", "v_proj", "gate_proj")  # the official lora()
JOINT_TARGETS = ("q_proj", "v_proj")  # the official joint training


def add_lora(model: nn.Module, targets: tuple[str, ...], rank: int, alpha: int, dropout: float):
    """The model as a PeftModel with LoRA on `targets`, no bias; nothing else trains.

    Raises TypeError naming the projection that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    names = [name for name, _ in model.named_modules()]
    absent = [t for t in targets if not any(name.endswith(f".{t}") for name in names)]
    if absent:
        raise TypeError(f"{type(model).__name__} has no {', '.join(absent)}, which LoRA adapts")
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none",
                        target_modules=list(targets), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def merge_lora(model: nn.Module, folder: str | Path) -> nn.Module:
    """Loads lora/ of a stage-2 run onto a base model and merges it: W += (alpha / r) B A.

    model: stock or routed; routers must be loaded *before* (they are tied to the unmerged base).
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()

