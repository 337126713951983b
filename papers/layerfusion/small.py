"""The small LLaVA that the experiments train: a decoder from nothing, a fusion, and the committed LLaVAs' recipe for them.

Beside the training loss, the loss of a question by its kind is kept step by step. Kinds that need an object found by what it is
(`LOOKED_UP`) tell the plateau that such trainings have from its end: until it ends a model knows what stands out, not what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from common.data import hard_scenes
from common.errors import ModelError
from common.files import replacing
from common.seeds import seed_of
from common.standins import llava as standins
from common.vision import llava
from common.vision.layout import IGNORED

from .data import Step
from .internal import Internal
from .method import Fusion, FusionConfig, Sizes, apart, side_by_side
from .running import hidden

DECODER: dict[str, Any] = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=4,
                               head_dim=24, max_position_embeddings=512, tie_word_embeddings=True)
LOOKED_UP = ("color", "shape", "row", "column")  # the default layer knows these, too, by the probes
WEIGHTS = "model.safetensors"


class Small:
    """A decoder and a fusion, with what `standins.accuracy` and `standins.LlavaTraining` read of a small LLaVA."""

    def __init__(self, fusion: FusionConfig, decoder: str, seed: int, sample: Tensor, layers: Sequence[int]):
        """decoder: a model type. sample (M, N, len(layers) dv): pictures that the projectors start by whitening."""
        from transformers import AutoConfig, AutoModelForCausalLM

        self.tokenizer = llava.tokenizer()
        config = AutoConfig.for_model(decoder, **DECODER, vocab_size=len(self.tokenizer), bos_token_id=1, eos_token_id=2,
                                      pad_token_id=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = AutoModelForCausalLM.from_config(config)
            torch.manual_seed(seed_of("fusion", seed))
            self.fusion = Fusion(fusion, Sizes.of(sample.shape[-1] // len(layers), config))
        self.internal = Internal(self.decoder, self.fusion).attach()
        self.projector = nn.Identity()
        self.layers = tuple(layers)
        whitened(self.fusion, apart(sample.float(), layers), seed)

    @property
    def prefix(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(["<bos>", *llava.SYSTEM.split()])

    def language_model(self) -> nn.Module:
        return self.decoder

    def hidden(self, layout: Any, features: Tensor) -> Tensor:
        return hidden(self.decoder, self.internal, self.fusion, layout, apart(features, self.layers))


def whitened(fusion: Fusion, states: dict[int, Tensor], seed: int) -> None:
    """Every projector starts by whitening what it reads (common/vision/llava.py): late states have eight times the norm of early ones."""
    of = fusion.config.layers
    direct = fusion.config.kind == "external direct"
    llava.whiten(fusion.projector.linear_1, side_by_side(states, of, fusion.config.op) if direct else states[of.main], seed)
    for number, (projector, k) in enumerate(zip(fusion.extra, of.extras)):
        llava.whiten(projector.linear_1, states[k], seed_of(seed, number))


class Training(standins.LlavaTraining):
    """The committed LLaVAs' recipe with a fusion in place of the projector. curve: a step's loss of a question, over its answer's tokens,
    over all kinds and over those that are looked up; None where none was asked."""

    def __init__(self, model: Any, learning_rate: float = 2e-3):
        super().__init__(model, learning_rate)
        self.fusion, self.small = model.fusion, [model]
        self.curve: list[tuple[float | None, float | None]] = []

    def hidden(self, layout: Any, visual: Tensor) -> Tensor:
        return self.small[0].hidden(layout, visual)

    def training_step(self, batch: Step, batch_idx: int) -> Tensor:
        scored = batch.layout.targets != IGNORED
        head: Any = self.decoder.get_output_embeddings()
        logits = head(self.hidden(batch.layout, batch.features.float())[scored]).float()
        losses = nn.functional.cross_entropy(logits, batch.layout.targets[scored], reduction="none")
        self.losses.append(round(float(losses.detach().mean()), 4))
        kinds = batch.kinds[scored]
        self.curve.append(tuple(_share(losses.detach(), kinds, batch.asked, of) for of in (hard_scenes.KINDS, LOOKED_UP)))
        return losses.mean()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.curve = checkpoint["curve"]


def _share(losses: Tensor, kinds: Tensor, asked: Tensor, of: Sequence[str]) -> float | None:
    numbers = torch.tensor([hard_scenes.KINDS.index(kind) for kind in of])
    count = int(asked[numbers].sum())
    return round(float(losses[torch.isin(kinds, numbers)].sum()) / count, 4) if count else None


def means(values: Sequence[float | None], width: int = 50) -> list[float]:
    """Of `width` steps each, without steps that have none; a last part that is shorter goes to the one before."""
    ends = [*range(width, len(values) - width + 1, width), len(values)]
    parts = [[v for v in values[a:b] if v is not None] for a, b in zip((0, *ends), ends)]
    return [round(fmean(part), 4) for part in parts if part]


# -- what a training made ----------------------------------------------------------------------------------
def save(model: Small, path: Path) -> None:
    """Decoder and fusion in half precision, 3 MB."""
    from safetensors.torch import save as as_bytes

    tied = "lm_head.weight"  # the embeddings again
    tensors = {f"{part}.{name}": value.detach().half().cpu().contiguous() for part in ("decoder", "fusion")
               for name, value in getattr(model, part).state_dict().items() if name != tied}
    with replacing(path) as file:
        file.write(as_bytes(tensors, {"format": "pt"}))


def restore(model: Small, path: Path) -> Small:
    """The weights of `save` in an untrained model of the same arm. Raises ModelError for a file that is missing or of another arm."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
        for part in ("decoder", "fusion"):
            own = {name.partition(".")[2]: value.float() for name, value in found.items() if name.startswith(f"{part}.")}
            lacking, unknown = getattr(model, part).load_state_dict(own, strict=False)
            if unknown or set(lacking) - {"lm_head.weight"}:
                raise ModelError(f"{path.name}: {part} has not the weights of this arm ({[*unknown, *lacking][0]})")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path.name} cannot be used ({str(error).splitlines()[0]})") from error
    model.decoder.eval()
    model.fusion.eval()
    return model
