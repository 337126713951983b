"""What a model does with pictures, layer by layer: the paper's analysis of a model of one's own, as a table and a picture.

    python -m papers.visipruner.survey --model llava-hf/llava-1.5-7b-hf --prompts mine.jsonl --out survey
    python -m papers.visipruner.survey --model common/standins/llava-weights/seed0 --scenes 8 --ranges 0-1,2-5 --out survey

    knockouts   text-to-picture attention gone in one layer: zero behind the softmax, hidden before it, merged into one token
    ranges      the same in a layer and all before, in a layer and all behind, in ranges of one's own; and the picture gone behind a layer
    sinks       what the last token gives to the picture, and how large the value is that it attends to most
    lens        what it would answer behind each layer, by the model's own norm and head
    oracle      each visual token left out alone behind a layer, beside what value and attention say of it

No labels: a way is judged by the model's own answer. "nats" is what the log-probability of its first token loses, "stays" the share of
prompts for which it is still the likeliest. What a model cannot do is a sentence in the table under "refused", and the other parts go on.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.attention import Rows
from common.errors import ModelError, UserError
from common.files import write_json
from common.modes import eval_mode
from common.pictures import draw_all
from common.probe import change
from common.progress import progress

from . import analysis, own
from .analysis import Knockout, Mode
from .baselines import ExitBehind
from .experiments.oracle import Without, correlation
from .own import Prompt
from .pruners import scored
from .session import Pruner, PruningSession, View

FORMAT = "visipruner survey, 1"
MODES: tuple[Mode, ...] = ("after", "before", "merge")
PARTS = ("knockouts", "ranges", "sinks", "lens", "oracle")
NEAR = 1e-3  # of the largest log-probability: the lens behind the last layer is the model itself


@dataclass(frozen=True)
class Asked:
    """The prompts of a survey with the model's own answers: first (B,) ids, logs (B,) their log-probabilities, of each prompt."""

    model: nn.Module
    prompts: Sequence[Prompt]
    first: list[Tensor]
    logs: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module, prompts: Sequence[Prompt]) -> Asked:
        """Raises ModelError for a model that cannot be looked into, UserError for a prompt with a row that holds no picture."""
        look = analysis.Looking(lambda layer, view, rows: bool(view.visual.any(1).all()))
        first, logs = [], []
        for prompt in prompts:
            of = behind(model, prompt, look)
            if not look.by_layer:
                raise ModelError(f"{type(model).__name__}: no layer's attention can be looked into")
            if not all(look.by_layer.values()):
                raise UserError(f"prompt {prompt.name or '(no name)'} holds no picture: there is nothing to survey")
            first.append(of.argmax(-1))
            logs.append(of.amax(-1))
        return cls(model, prompts, first, logs)

    @property
    def layers(self) -> int:
        return len(self.model.get_decoder().layers)

    def under(self, pruner: Pruner) -> dict[str, Any]:
        """{"nats": mean, "stays": share, "by prompt": nats of each row} of a way to run the model."""
        nats, stays = [], []
        for prompt, first, logs in zip(self.prompts, self.first, self.logs):
            of = behind(self.model, prompt, pruner)
            nats += (logs - of.gather(1, first[:, None])[:, 0]).tolist()
            stays += (of.argmax(-1) == first).tolist()
        return {"nats": sum(nats) / len(nats), "stays": sum(stays) / len(stays), "by prompt": [round(x, 4) + 0.0 for x in nats]}


@torch.no_grad()
def behind(model: nn.Module, prompt: Prompt, pruner: Pruner) -> Tensor:
    """(B, V) log-probabilities behind the last token, in fp32. Raises ModelError where they are NaN: no loss follows from such."""
    with PruningSession(model, pruner, prompt.visual):
        logs = forward(model, prompt).logits[:, -1].float().log_softmax(-1)
    own.finite(model, prompt, [logs])
    return logs


def forward(model: nn.Module, prompt: Prompt, **more: Any) -> Any:
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        more["logits_to_keep"] = 1
    with eval_mode(model):  # dropout would be taken for what a way of running it costs
        return model(**prompt.inputs, use_cache=False, **more)


# -- the parts ---------------------------------------------------------------------------------------------
def knockouts(of: Asked, modes: Collection[Mode] = MODES) -> dict[str, dict[str, dict]]:
    """{mode: {layer: what is lost without the picture's attention in it alone}}."""
    ways = [(mode, layer) for mode in modes for layer in range(of.layers)]
    found: dict[str, dict[str, dict]] = {mode: {} for mode in modes}
    for mode, layer in progress(ways, "knock-outs"):
        found[mode][str(layer)] = of.under(Knockout((layer,), mode))
    return found


def ranges(of: Asked, modes: Collection[Mode] = ("after",), given: Iterable[tuple[int, int]] = ()) -> dict[str, Any]:
    """{"up to", "from": {mode: {layer: ...}}, "gone behind": {layer: ...}, "given": {"2-5": {mode: ...}}}; the last in all three modes.

    given: first and last layer, counted from 0. Raises UserError for a range that the model does not have. A model whose layers cannot
    hold different tokens has no "gone behind", and "refused" says why.
    """
    n, given = of.layers, in_range(given, of.layers)
    found: dict[str, Any] = {"up to": {}, "from": {}, "gone behind": {}, "given": {}}
    for mode, layer in progress([(mode, layer) for mode in modes for layer in range(n)], "ranges"):
        found["up to"].setdefault(mode, {})[str(layer)] = of.under(Knockout(range(layer + 1), mode))
        found["from"].setdefault(mode, {})[str(layer)] = of.under(Knockout(range(layer, n), mode))
    for first, last in given:
        found["given"][f"{first}-{last}"] = {mode: of.under(Knockout(range(first, last + 1), mode)) for mode in MODES}
    try:
        found["gone behind"] = {str(layer): of.under(ExitBehind(layer)) for layer in range(n - 1)}
    except ModelError as error:
        found["refused"] = str(error)
    return found


def in_range(given: Iterable[tuple[int, int]], layers: int) -> list[tuple[int, int]]:
    for first, last in (given := list(given)):
        if not 0 <= first <= last < layers:
            raise UserError(f"range {first}-{last}: the model has layers 0 to {layers - 1}")
    return given


def sinks(of: Asked) -> dict[str, dict[str, float]]:
    """{layer: {"attention": share of the last token's that the picture gets, "most": that the most attended visual token gets, "value":
    its |v|_1 / mean |v|_1 of the picture's tokens}}, means over prompts."""
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for prompt in of.prompts:
        look = analysis.sinks()
        behind(of.model, prompt, look)
        for layer, (attention, size, visual) in look.by_layer.items():
            attention, size = attention.masked_fill(~visual, 0), size.float().masked_fill(~visual, 0)
            most, where = attention.max(1)
            value = size.gather(1, where[:, None])[:, 0] / (size.sum(1) / visual.sum(1))
            rows.setdefault(layer, []).extend(zip(attention.sum(1).tolist(), most.tolist(), value.tolist()))
    return {str(layer): dict(zip(("attention", "most", "value"), (sum(column) / len(column) for column in zip(*found))))
            for layer, found in sorted(rows.items())}


@torch.no_grad()
def lens(of: Asked, word: Callable[[Tensor], str] | None = None, count: int = 3) -> dict[str, dict]:
    """{layer: {"answer": share of prompts whose likeliest word behind it is the answer, "nats": mean log-probability that it lacks,
    "words": the `count` likeliest of each prompt, as word(ids) writes them}}.

    Raises ModelError where the model's norm and head on its last state are not the model's own logits.
    """
    found: dict[str, dict] = {str(layer): {"answer": [], "nats": [], "words": []} for layer in range(of.layers)}
    for prompt, first in zip(of.prompts, of.first):
        out = forward(of.model, prompt, output_hidden_states=True)
        own_logs = out.logits[:, -1].float().log_softmax(-1)
        try:
            logs = analysis.logit_lens(of.model, out.hidden_states)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{type(of.model).__name__} has no logit lens: no final norm and head that take a state by itself "
                             f"({type(error).__name__})") from error
        if len(logs) != of.layers or not change(logs[-1], own_logs) < NEAR:
            raise ModelError(f"{type(of.model).__name__} has no logit lens: its norm and head on its last state are not its own logits")
        for layer, each in enumerate(logs):
            row = found[str(layer)]
            row["answer"] += (each.argmax(-1) == first).tolist()
            row["nats"] += (-each.gather(1, first[:, None])[:, 0]).tolist()
            if word is not None:
                row["words"] += [[word(token[None]) for token in top] for top in each.topk(count).indices]
    return {layer: {"answer": sum(r["answer"]) / len(r["answer"]), "nats": sum(r["nats"]) / len(r["nats"]), "words": r["words"]}
            for layer, r in found.items()}


def oracle(of: Asked, layer: int | None = None, stride: int = 1, prompts: int = 1) -> dict[str, Any]:
    """{"behind": layer, "tokens": numbers, "prompts": [{"nats", "value", "attention": of these tokens, "rank": {score: Spearman's}}]}.

    Each stride-th visual token of the first so many prompts (their first row) goes alone behind a layer, half of the depth where it is
    None: a pass a token. Raises UserError for a layer behind which nothing comes.
    """
    layer, found = left_out_behind(layer, stride, of.layers, prompts), []
    for prompt, first, logs in list(zip(of.prompts, of.first, of.logs))[:prompts]:
        look = analysis.Looking(scores)
        behind(of.model, prompt, look)
        by_score = look.by_layer[layer]
        numbers = list(range(0, len(by_score["value"]), stride))
        nats = [float(logs[0] - behind(of.model, prompt, Without(layer, number))[0, first[0]])
                for number in progress(numbers, f"oracle, tokens of {prompt.name or 'a prompt'}")]
        kept = {name: [score[i] for i in numbers] for name, score in by_score.items()}
        rank = {name: _rank(score, nats) for name, score in kept.items()}
        found.append({"tokens": numbers, "nats": nats, **kept, "rank": rank})
    return {"behind": layer, "prompts": found}


def left_out_behind(layer: int | None, stride: int, layers: int, prompts: int) -> int:
    layer = (layers - 1) // 2 if layer is None else layer
    if not 0 <= layer < layers - 1:
        raise UserError(f"the oracle leaves tokens out behind layer {layer}: of {layers} layers it can be 0 to {layers - 2}")
    if stride < 1:
        raise UserError(f"stride is {stride}: every token is 1")
    if prompts < 1:
        raise UserError(f"the oracle is asked of {prompts} prompts: 1 is the least; --parts without oracle leaves it out")
    return layer


def scores(layer: int, view: View, rows: Rows) -> dict[str, list[float]]:
    """Of the first row's visual tokens."""
    return {name: scored(name, rows)[0][view.visual[0]].tolist() for name in ("value", "attention")}


def _rank(ours: list[float], theirs: list[float]) -> float | None:
    """None where ranks mean nothing."""
    if len(ours) < 2 or len(set(theirs)) == 1:
        return None
    return float(correlation(torch.tensor([ours]), torch.tensor([theirs]))[0])


# -- all of them -------------------------------------------------------------------------------------------
def survey(model: nn.Module, prompts: Sequence[Prompt], parts: Collection[str] = PARTS, *, given: Iterable[tuple[int, int]] = (),
           modes: Collection[Mode] = MODES, word: Callable[[Tensor], str] | None = None, oracle_behind: int | None = None,
           oracle_stride: int = 1, oracle_prompts: int = 1) -> dict[str, Any]:
    """{"layers", "prompts": names, part: its table, "refused": {part: why not}}.

    Raises UserError for a part that there is none of, and ModelError for a model that can be asked nothing.
    """
    known(parts)
    if not prompts:
        raise UserError("no prompts to survey a model by")
    of = Asked.of(model, prompts)
    given = in_range(given, of.layers)
    left_out_behind(oracle_behind, oracle_stride, of.layers, oracle_prompts)  # before any work
    ways: dict[str, Callable[[], Any]] = {
        "knockouts": lambda: knockouts(of, modes), "ranges": lambda: ranges(of, modes, given), "sinks": lambda: sinks(of),
        "lens": lambda: lens(of, word), "oracle": lambda: oracle(of, oracle_behind, oracle_stride, oracle_prompts)}
    found: dict[str, Any] = {"layers": of.layers, "prompts": [prompt.name for prompt in prompts]}
    refused = {}
    for part in (part for part in PARTS if part in parts):
        try:
            found[part] = ways[part]()
        except ModelError as error:
            refused[part] = str(error)
    if "refused" in found.get("ranges", {}):
        refused["ranges, gone behind"] = found["ranges"].pop("refused")
    return found | {"refused": refused}


def known(parts: Collection[str]) -> None:
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"no part {', '.join(unknown)}; there is: {', '.join(PARTS)}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Asks a model in which layers it needs a picture, and writes a table and a picture.")
    own.arguments(parser)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--modes", default=",".join(MODES), help="of knock-outs and range curves")
    parser.add_argument("--ranges", default="", help="layer ranges besides, as 0-6,8-14")
    parser.add_argument("--oracle-behind", type=int, help="a layer; default half of the depth")
    parser.add_argument("--oracle-stride", type=int, default=1, help="each so many-th visual token")
    parser.add_argument("--oracle-prompts", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("survey"))
    options = parser.parse_args(argv)
    try:
        modes, given, parts = _modes(options.modes), _ranges(options.ranges), [p.strip() for p in options.parts.split(",")]
        known(parts)
        own.out_of(options.out, files=("survey.json", "survey.svg"))
        asked = own.questions(options)
        from .look import opened
        from .survey_picture import survey as drawn

        of = opened(options.model)
        found = survey(of.model, own.prompts(asked, of.inputs), parts, given=given, modes=modes, word=of.text,
                       oracle_behind=options.oracle_behind, oracle_stride=options.oracle_stride, oracle_prompts=options.oracle_prompts)
        found = {"format": FORMAT, "model": own.name_of(options.model), "questions": [q.text for q in asked]} | found
        write_json(options.out / "survey.json", found)
        draw_all((drawn,), found, options.out)
    except (UserError, ValueError) as error:
        print(f"visipruner survey: {error}", file=sys.stderr)
        return 2
    for part, why in found["refused"].items():
        print(f"{part}: not done. {why}")
    print(f"{options.out / 'survey.json'}, {options.out / 'survey.svg'}")
    return 0


def _modes(text: str) -> list[Mode]:
    asked = [mode.strip() for mode in text.split(",")]
    if unknown := [mode for mode in asked if mode not in MODES]:
        raise UserError(f"--modes {', '.join(unknown)}: there is {', '.join(MODES)}")
    return [mode for mode in MODES if mode in asked]


def _ranges(text: str) -> list[tuple[int, int]]:
    found = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not (first.strip().isdecimal() and (last if dash else first).strip().isdecimal()):
            raise UserError(f"--ranges {part}: a range is written 2-5, a layer 3, counted from 0")
        found.append((int(first), int(last or first)))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
