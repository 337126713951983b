"""What a model sees of a picture, layer by layer: the picture with the tokens that stay on it, and the map of layers x tokens.

    python -m papers.visipruner.look --model common/standins/llava-weights/seed0 --scenes 3 --out folder
    python -m papers.visipruner.look --model llava-hf/llava-1.5-7b-hf --pictures cat.jpg --question "What is it?" --out folder

--model is a small LLaVA of this project, or a folder or hub id of any multimodal model of transformers that can be pruned
(session.py says what is refused, and why). Beside the picture each layer's share is drawn: how far leaving out a token moves the
output of the last prompt token there, |c_j| / |O| (method.influence). --nothing draws that alone, and prunes nothing.
--settings takes boundary and threshold from a file of calibrate.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.modes import eval_mode
from common.pictures import STYLE, save
from common.vision import llava, tower

from . import own
from .analysis import Stage, Watched
from .method import VisiPrunerConfig, neutral, paper
from .session import PruningSession
from .settings import read_settings


@torch.no_grad()
def look(model: nn.Module, inputs: dict[str, Tensor], config: VisiPrunerConfig | None = None, tokens: int = 1,
         visual: Tensor | None = None) -> tuple[list[list[Stage]], Tensor, list[list[int]]]:
    """(stages of each row, ids that were written, places of each row's visual tokens in the prompt). inputs: of the model's `generate`.
    config: default `neutral`, which prunes nothing.

    Raises UserError for a model that cannot be pruned.
    """
    pruner = Watched(config or neutral())
    with eval_mode(model), PruningSession(model, pruner, visual):
        written = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=1)  # whatever its generation config says
    width = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return pruner.stages, written[:, width:], pruner.first


# -- drawn -------------------------------------------------------------------------------------------------
def draw(plt, image, stages: Sequence[Stage], side: int | None, title: str = ""):
    """A figure: the picture (H, W, 3) once a layer, dark where a token is gone, brighter the larger its share; below, layers x tokens.

    side: visual tokens along a side of a square grid; None where they do not form one, and only the map is drawn.
    """
    columns = min(len(stages), 8)
    lines = math.ceil(len(stages) / columns) if side else 0
    figure = plt.figure(figsize=(1.3 * columns + 0.6, 1.55 * lines + 2.3))
    grid = figure.add_gridspec(lines + 1, columns, height_ratios=[1.0] * lines + [1.3])
    count = 1 + max(max(stage["present"], default=0) for stage in stages)
    highest = max((max(stage["share"], default=0.0) for stage in stages), default=0.0) or 1.0
    table = torch.full((len(stages), count), float("nan"))
    for layer, stage in enumerate(stages):
        table[layer, stage["present"]] = torch.tensor(stage["share"], dtype=table.dtype)
        if side:
            axis = figure.add_subplot(grid[layer // columns, layer % columns])
            shade = torch.full((side * side,), 0.85)  # how dark a patch is
            shade[stage["present"]] = 0.55 * (1 - (torch.tensor(stage["share"]) / highest).clamp(max=1.0) ** 0.5)
            axis.imshow(image)
            axis.imshow(torch.zeros(side, side), cmap="gray", alpha=shade.view(side, side).numpy(), vmin=0, vmax=1,
                        extent=axis.get_images()[0].get_extent())
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{layer}: {len(stage['present'])}", fontsize=7)
    axis = figure.add_subplot(grid[lines, :])
    axis.imshow(table, aspect="auto", cmap="viridis", vmin=0, vmax=highest, interpolation="nearest")
    axis.set(xlabel="visual token", ylabel="layer")
    figure.suptitle(title, fontsize=8, parse_math=False)  # a price is no formula
    return figure


# -- models ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Opened:
    """model; inputs(picture, question) for its `generate`; text(ids)."""

    model: nn.Module
    inputs: Callable[[Any, str], dict[str, Tensor]]
    text: Callable[[Tensor], str]


def opened(name: str) -> Opened:
    """A small LLaVA of this project (a folder without a processor, or one of an adapter and a projector on SmolLM2), or what
    transformers makes of a folder or hub id."""
    folder = Path(name)
    if (folder / "projector.safetensors").is_file() and (folder / "adapter_config.json").is_file():
        from common.standins import llava_smollm2

        return _small(llava_smollm2.opened(folder, with_tower=True))
    if folder.is_dir() and (folder / "tokenizer.json").is_file() and not any(folder.glob("*processor_config.json")):
        _reads_pictures(folder)
        return _small(llava.load_llava(folder))
    model, processor = own.loaded(name, "auto")
    model.eval()

    def inputs(picture, question: str) -> dict[str, Tensor]:
        said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = processor.apply_chat_template(said, add_generation_prompt=True)
        found = processor(images=picture, text=prompt, return_tensors="pt", **own.begun(prompt, getattr(processor, "tokenizer", None)))
        return dict(found.to(model.device, model.dtype))

    return Opened(model, inputs, lambda ids: processor.decode(ids, skip_special_tokens=True))


def _reads_pictures(folder: Path) -> None:
    """Raises UserError for a folder whose config.json is of a language model alone: LLaVA's default sizes would be put in its place; and
    for a stock model without its processor, which a small LLaVA of this project, with DINOv2 for its eye, does not have."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # what opens it says what is wrong
    if isinstance(kind, dict) and "vision_config" not in kind:
        raise UserError(f"--model {folder}: its config.json has no vision_config, so it reads no pictures")
    if isinstance(kind, dict) and isinstance(eye := kind["vision_config"], dict) and eye.get("model_type") != "dinov2":
        raise UserError(f"--model {folder}: no processor (processor_config.json or preprocessor_config.json) is in it, and a stock model "
                        "needs its own; save it there with processor.save_pretrained")


def _small(small: llava.Llava) -> Opened:
    image = small.llava.config.image_token_id

    def inputs(picture, question: str) -> dict[str, Tensor]:
        asked = question.replace("?", " ?").split()
        if unknown := [word for word in asked if word not in small.tokenizer.get_vocab()]:
            print(f"visipruner: words that this small model does not know: {', '.join(dict.fromkeys(unknown))}", file=sys.stderr)
        words = small.tokenizer.convert_tokens_to_ids(asked)
        ids = torch.tensor([[*small.prefix, *[image] * llava.N_VISUAL, *words]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": tower.pixels([picture], llava.SHOWN)}

    return Opened(small.llava, inputs, small.tokenizer.decode)


def side_of(slots: Sequence[int]) -> int | None:
    """Tokens along a side, where those at these places of the prompt show the picture row by row as a square.

    They do in one run, or in a run for every row (Pixtral). Tiles of a picture have text between them as well, and nine tiles of 64 are
    24 x 24 tokens that stand elsewhere.
    """
    side, runs = math.isqrt(len(slots)), 1 + sum(b - a != 1 for a, b in zip(slots, slots[1:]))
    rows = all(b - a == 1 for i, (a, b) in enumerate(zip(slots, slots[1:]), 1) if side and i % side)
    return side if side > 1 and side * side == len(slots) and (runs == 1 or runs == side and rows) else None


def _asked(options: argparse.Namespace) -> list[tuple[str, Any, str]]:
    """(name, picture, question) of files, or of generated scenes with a question of theirs."""
    found = [(path.stem, own.opened(path), options.question) for path in options.pictures]
    if options.scenes:
        from PIL import Image

        from common.data import scenes

        for number in range(options.scenes):
            of = scenes.scene(number, "test")
            found.append((f"scene{number}", Image.fromarray(of.image()), options.question or of.questions()[0].text))
    if twice := sorted({name for name, _, _ in found if [other for other, _, _ in found].count(name) > 1}):
        raise UserError(f"several pictures are called {', '.join(twice)}, and what is drawn of one would take the place of another's; "
                        "rename them, or look at them one by one")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draws which layers of a model look at a picture, through which tokens.")
    parser.add_argument("--model", required=True, help="a small LLaVA's folder, or a folder or hub id of transformers")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[])
    parser.add_argument("--scenes", type=int, default=0, help="so many generated test scenes beside them")
    parser.add_argument("--question", default="")
    parser.add_argument("--boundary", type=int, default=-1, help="no layer up to it is tested")
    parser.add_argument("--threshold", type=float, default=0.05, help="tokens whose share |c_j| / |O| is above it stay")
    parser.add_argument("--settings", type=Path, help="a file of calibrate.py, in the place of --boundary and --threshold")
    parser.add_argument("--nothing", action="store_true", help="prune nothing, only look")
    parser.add_argument("--tokens", type=int, default=1, help="that the model writes")
    parser.add_argument("--out", type=Path, default=Path("looks"))
    options = parser.parse_args(argv)
    try:
        if not 0 <= options.threshold < math.inf:
            raise UserError(f"--threshold {options.threshold}: a share |c_j| / |O|, a number from 0 on")
        for name, least in (("boundary", -1), ("tokens", 1), ("scenes", 0)):
            if (value := getattr(options, name)) < least:
                raise UserError(f"--{name} {value}: a number from {least} on")
        if options.pictures and not own.asks(options.question):
            raise UserError("--pictures needs a --question: which layers look depends on what is asked")
        asked = _asked(options)
        if not asked:
            raise UserError("give --pictures FILE ... or --scenes COUNT")
        _draw_all(options, asked)
    except (UserError, ValueError) as error:
        print(f"visipruner look: {error}", file=sys.stderr)
        return 2
    return 0


def _draw_all(options: argparse.Namespace, asked: list[tuple[str, Any, str]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update(STYLE)
    import matplotlib.pyplot as plt

    own.out_of(options.out, files=[f"{name}.png" for name, _, _ in asked])
    of = opened(options.model)
    if not options.nothing and not options.settings and options.boundary >= (layers := own.depth(of.model)):
        raise UserError(f"--boundary {options.boundary}: the model has layers 0 to {layers - 1}")
    config = neutral() if options.nothing else read_settings(options.settings).check(of.model, options.settings) if options.settings else (
        paper(boundary=options.boundary, relative=True, tokens_threshold=options.threshold, shallow=None))
    for name, picture, question in asked:
        (stages, *_), written, (slots, *_) = look(of.model, of.inputs(picture, question), config, options.tokens)
        answer = of.text(written[0])
        figure = draw(plt, picture, stages, side_of(slots), f"{question}   {answer}")
        save(figure, options.out / f"{name}.png")
        plt.close(figure)
        print(f"{options.out / name}.png: {question} {answer}; tokens by layer: {' '.join(str(len(s['present'])) for s in stages)}")


if __name__ == "__main__":
    raise SystemExit(main())
