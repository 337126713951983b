"""Training ViCA, and the models it is compared with, by Lightning: what of it is this project's and not the paper's.

    cross_layers [0, 1, 7, ...]    ViCA: text reads visual keys in these layers, visual tokens never change
    cross_layers []                the text alone
    cross_layers null              dense: a stock LLaVA

stage "pretrain" trains the projector, "finetune" projector and decoder; the vision tower is frozen in both. A loss is the
sum of cross-entropies over the scored tokens of the whole optimiser step, divided by their number: batch 1 x accumulate 8
= batch 8, two processes = one.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from common.jobs import write_json
from common.llava import dense_hidden
from common.multimodal import IGNORED
from common.steps import SetupError, seed_of

from . import method
from .parts import LlavaSpec, Parts, load_parts, save_projector


class ViCATraining(L.LightningModule):
    """llava: the parts to start from. warmup: steps, or a share of all steps if below 1. lora_rank: above 0, stage 2
    trains adapters (peft) on all linear layers of a decoder that stays as it is. Other names as in torch.

    Raises SetupError, when the model is built, for layers that it does not have or an attention that the method refuses.
    """

    def __init__(self, llava: LlavaSpec, cross_layers: list[int] | None, stage: Literal["pretrain", "finetune"] = "finetune",
                 prefix_update: Literal["full", "frozen"] = "full", learning_rate: float = 2e-5, weight_decay: float = 0.0,
                 beta2: float = 0.999, warmup: float = 0.03, schedule: Literal["constant", "cosine", "linear"] = "cosine",
                 gradient_checkpointing: bool = False, lora_rank: int = 0, seed: int = 1):
        super().__init__()
        self.llava, self.stage, self.seed = llava, stage, seed
        self.config = None if cross_layers is None else method.ViCAConfig(tuple(cross_layers), prefix_update)
        self.learning_rate, self.weight_decay, self.beta2 = learning_rate, weight_decay, beta2
        self.warmup, self.schedule, self.gradient_checkpointing = warmup, schedule, gradient_checkpointing
        self.lora_rank = lora_rank
        self.given: Parts | None = None  # set it to train parts that are in memory already
        self.parts: Parts | None = None
        self.decoder: nn.Module | None = None
        self.projector: nn.Module | None = None
        self._sum: Tensor | float = 0.0

    # -- building --------------------------------------------------------------------------------
    @property
    def tokenizer(self):
        return self.parts.tokenizer

    def configure_model(self) -> None:
        if self.decoder is not None:
            return
        parts = self.given or load_parts(self.llava, seed_of("projector", self.seed))
        if parts.source.get("kind") == "hub" and parts.source.get("revision") is None:
            warnings.warn(f"{parts.source['name']}: no revision in the config; pin the commit that the record names", stacklevel=1)
        try:
            if self.config is not None:
                method.check_model(parts.decoder, self.config)
        except (TypeError, ValueError) as error:
            raise SetupError(f"model.cross_layers {list(self.config.cross_layers)}: {error}") from error
        self.parts, self.decoder, self.projector = parts, parts.decoder, parts.projector
        self.decoder.requires_grad_(self.stage == "finetune" and not self.lora_rank)
        if self.stage == "finetune" and self.lora_rank:
            adapt(self.decoder, self.lora_rank, seed_of("lora", self.seed))
        self.projector.requires_grad_(True)
        self.decoder.train()
        if self.gradient_checkpointing:
            self.decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if self.device_mesh is not None:
            self._shard()

    def _shard(self) -> None:
        """FSDP2: the decoder's blocks in shards. Embeddings, head, last norm and projector stay whole on every rank: their
        gradients are averaged in `on_before_optimizer_step`."""
        from torch.distributed.fsdp import fully_shard

        for layer in self.decoder.get_decoder().layers:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    # -- one micro-batch -------------------------------------------------------------------------
    def loss_sum(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(sum of cross-entropies, number of scored tokens) of a micro-batch."""
        layout = batch["layout"]
        features = batch.get("features")
        if features is None and batch.get("pixels") is not None:
            self.parts.tower.to(self.device)
            features = self.parts.features(batch["pixels"])
        visual = self.parts.visual(layout, features)
        embeds = self.decoder.get_input_embeddings()(layout.ids)
        if features is None and self.training:  # text alone: other processes wait for the projector's gradients all the same
            width = self.projector.linear_1.in_features
            nothing = self.projector(embeds.new_zeros(1, 1, width, dtype=self.projector.linear_1.weight.dtype)).sum() * 0
            embeds = embeds + nothing.to(embeds.dtype)
        if self.config is None:
            hidden = dense_hidden(self.decoder, layout, visual, embeds)
        else:
            hidden = method.hidden_states(self.decoder, self.config, embeds, layout.positions, layout.real, visual,
                                          layout.visual_positions, layout.visual_real, layout.segments)
        scored = layout.targets != IGNORED  # logits there alone: the vocabulary is the largest of all widths
        return method.loss_sum(self.decoder.lm_head(hidden[scored]), layout.targets[scored])

    def transfer_batch_to_device(self, batch: dict, device, dataloader_idx: int) -> dict:
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        loss, _ = self.loss_sum(batch)
        loss = loss / batch["step_targets"]
        self._sum = self._sum + loss.detach()
        # Lightning divides by the accumulation, DDP by the world; the parts are shares of a sum.
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer) -> None:
        for parameter in self.parameters() if self.device_mesh is not None else ():
            if parameter.grad is not None and not sharded(parameter):  # whole: FSDP reduces its shards alone
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.trainer.world_size  # as DDP does
        total = self.trainer.strategy.reduce(torch.as_tensor(self._sum, device=self.device), reduce_op="sum")
        self.log("train/loss", total, batch_size=1)
        self._sum = 0.0

    def configure_optimizers(self):
        from transformers import get_scheduler

        steps = self.trainer.max_steps
        if steps < 1:
            raise SetupError("trainer.max_steps is not set: the learning rate follows the number of optimiser steps")
        trained = [p for p in self.parameters() if p.requires_grad]
        # One group on any number of processes, or a checkpoint of two could not be resumed on one; AdamW must not take shards and
        # whole parameters of a group in one go.
        one_by_one = False if self.device_mesh is not None else None
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, betas=(0.9, self.beta2),
                                      foreach=one_by_one)
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        kind = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        return {"optimizer": optimizer,
                "lr_scheduler": {"scheduler": get_scheduler(kind, optimizer, warmup, steps), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """The norm is that of all gradients; torch's own clipping does not take shards and whole ones together."""
        if self.device_mesh is None or not gradient_clip_val:
            return self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        found = [p.grad for p in self.parameters() if p.grad is not None]
        shards = torch.stack([g.to_local().float().pow(2).sum() for g in found if sharded(g)])
        square = self.trainer.strategy.reduce(shards.sum(), reduce_op="sum")
        square = square + sum(g.float().pow(2).sum() for g in found if not sharded(g))
        factor = (gradient_clip_val / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for g in found:
            (g.to_local() if sharded(g) else g).mul_(factor)
        return None

    # -- validation ------------------------------------------------------------------------------
    def on_validation_start(self) -> None:
        self._held_out = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        loss, count = self.loss_sum(batch)
        self._held_out += torch.stack([loss.double(), count.double()])

    def on_validation_epoch_end(self) -> None:
        loss, count = self.trainer.strategy.reduce(self._held_out.clone(), reduce_op="sum")
        self.log("val/loss", (loss / count.clamp(min=1)).float(), prog_bar=True, batch_size=1)

    # -- files -----------------------------------------------------------------------------------
    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Trained parameters only: of stage 1, the projector."""
        trained = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k in trained}

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """Counterpart of `state_dict`. Raises SetupError naming the first tensor that differs."""
        own = self.state_dict()
        for name in sorted(own.keys() | state_dict.keys()):
            shapes = [tuple(d[name].shape) if name in d else "absent" for d in (state_dict, own)]
            if shapes[0] != shapes[1]:
                raise SetupError(f"This checkpoint is of another training: {name} is {shapes[0]} in the file and {shapes[1]} here. "
                                 "Use the config that it was made with.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def _run(self) -> dict[str, Any]:
        """What makes this run this run: a checkpoint of another one is not taken up."""
        data, simple = self.trainer.datamodule, (str, int, float, bool, list, tuple, type(None))
        run = {"module": type(self).__name__, "seed": self.seed, "max_steps": self.trainer.max_steps, "stage": self.stage,
               "cross_layers": None if self.config is None else list(self.config.cross_layers),
               "prefix_update": None if self.config is None else self.config.prefix_update,
               "accumulate_grad_batches": self.trainer.accumulate_grad_batches,
               "base": self.parts.source.get("weights_sha256") or self.parts.source.get("recipe_sha256")}
        run |= {k: getattr(self, k) for k in ("learning_rate", "weight_decay", "beta2", "warmup", "schedule", "lora_rank")}
        ours = set(inspect.signature(type(data).__init__).parameters) - {"self", "num_workers"}
        return run | {f"data.{k}": v for k, v in vars(data).items() if k in ours and isinstance(v, simple)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["vica"] = self._run()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuses to go on with another run's checkpoint: it would not be the unbroken run."""
        stored, here = checkpoint.get("vica"), self._run()
        if stored is None:
            raise SetupError("This checkpoint was not written by a ViCA training.")
        for key, value in here.items() if self.trainer.state.fn == "fit" else ():
            if stored.get(key) != value:
                raise SetupError(f"This checkpoint was made with {key} = {stored.get(key)}; the config says {value}. "
                                 "Resume with the old value, or start anew without --ckpt_path.")

    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model. Shards are gathered by all ranks, and one writes."""
        if not (self.trainer.default_root_dir and self.trainer.checkpoint_callbacks):
            return
        if self.device_mesh is not None:
            for name, p in list(self.decoder.named_parameters()):
                if sharded(p):
                    owner, _, short = name.rpartition(".")
                    setattr(self.decoder.get_submodule(owner), short, nn.Parameter(p.detach().full_tensor().cpu(), p.requires_grad))
        if self.trainer.is_global_zero:
            save_product(Path(self.trainer.default_root_dir) / "model", self.parts, self.config, self.stage,
                         self._run() | {"steps": self.global_step, "trained_from": self.parts.source.get("name")})


def sharded(parameter: Tensor) -> bool:
    """Whether FSDP2 keeps it in shards."""
    return hasattr(parameter, "full_tensor")


def adapt(decoder: nn.Module, rank: int, seed: int) -> None:
    """Puts LoRA (alpha = 2 rank) into every linear layer of the decoder's blocks, in place; only they are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    names = sorted({name.split(".")[-1] for name, m in decoder.get_decoder().layers.named_modules() if isinstance(m, nn.Linear)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), decoder)
    for name, p in decoder.named_parameters():
        p.requires_grad_("lora_" in name)


def save_product(folder: Path, parts: Parts, config: method.ViCAConfig | None, stage: str, run: dict) -> None:
    """projector.safetensors and training.json; vica.json unless dense; after stage 2 decoder and tokenizer in the hub's format,
    or the adapter alone."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = save_projector(parts.projector, folder / "projector.safetensors")
    if config is not None:
        config.save(folder)
    if stage == "finetune" and run.get("lora_rank"):
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        save_file({k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(parts.decoder).items()},
                  folder / "adapter_model.safetensors", {"format": "pt"})
    elif stage == "finetune":
        parts.decoder.save_pretrained(folder / "decoder")
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(folder / "decoder")
    write_json(folder / "training.json", run | {"projector_sha256": sha256})
