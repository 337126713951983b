"""Three small LLaVAs as they are: in which blocks the picture is needed, through which tokens, and what may be left out.

Nothing is trained. One question a row, open kinds alone (a guess between yes and no tells little), about pictures that no
training saw. Three jobs a model:

    knocked    attention to the picture knocked out block by block, over ranges, of the highest, lowest and random tokens
    looked     tokens kept behind each block by three scores, vision ended behind each block, sinks, the logit lens
    pruned     boundary and threshold calibrated, and the rivals' settings chosen, on validation pictures; then the test

A result says of every question whether it was answered, as a text of 0 and 1 in the order of `asked`, so that whoever reads it
can compare two ways question by question and cluster by picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.runs.jobs import Job
from common.seeds import asked as seeds_asked
from common.seeds import seed_of
from common.shapes import Shape
from common.standins.llava import SEEDS, stand_in
from common.vision.llava import N_VISUAL
from common.vision.parts import Parts

from .. import analysis, analytic, scoring
from ..baselines import RIVALS, Chosen, ExitBehind, Rival, settings
from ..method import ShallowConfig, VisiPrunerConfig
from ..pruners import VisiPruner
from ..scoring import Asked, Run

TENTH, KEPT = 6, 16  # of 64 visual tokens
ONTO = (0, 31, 63)  # numbers of the visual token that merging goes to
CURVE = (0.2, 0.07, 0.02)  # thresholds of VisiPruner's own curve; its rivals' are at its pairs


@dataclass(frozen=True)
class Depth:
    """Which blocks of a decoder are asked about. shallow, middle: the paper's layers 1-7 and 9-23 of 32, by depth. stops: where ranges end,
    tokens are chosen and the picture goes. alone: blocks that lose the picture by themselves on test pictures, every one where it is
    None, else these and the two inner ones that cost most and least on validation pictures. hidden: those of `alone` that are hidden
    and merged, too. half: the block behind which a second lot is drawn. sinks: the block whose sinks are kept question by question, the
    paper's index 3 of 32."""

    shallow: tuple[int, ...]
    middle: tuple[int, ...]
    stops: tuple[int, ...]
    half: int
    sinks: int
    hidden: tuple[int, ...]
    alone: tuple[int, ...] | None = None


EIGHT = Depth((0, 1), (2, 3, 4, 5), tuple(range(8)), half=3, sinks=1, hidden=tuple(range(8)))


@dataclass(frozen=True)
class Size:
    """test: pictures that claims about pruning rest on. looked: the first so many of them, for what takes many runs."""

    seeds: tuple[int, ...]
    test: int
    looked: int
    validation: int


SIZES = {"smoke": Size((0,), 4, 2, 2), "cpu": Size(seeds_asked(), 150, 40, 32)}


def jobs(size: str = "cpu") -> list[Job]:
    s, needed = SIZES[size], ("features/val", "features/test")
    made = [Job(f"features/{split}", f"{__name__}:features", {"split": split, "size": size}, seconds=10) for split in ("val", "test")]
    for seed in s.seeds:
        if seed not in SEEDS:
            made.append(Job(f"stand-in/seed{seed}", "common.standins.llava:made", {"seed": seed}, seconds=3600))
        after = (*needed, f"stand-in/seed{seed}")
        made += [Job(f"{name}/seed{seed}", f"{__name__}:{name}", {"seed": seed, "size": size}, seconds=90, after=after)
                 for name in ("knocked", "looked", "pruned")]
    return made


# -- questions ---------------------------------------------------------------------------------------------
def asked(split: str, count: int) -> tuple[Asked, ...]:
    """The open questions about the first pictures of a split, those of equal length beside each other."""
    return tuple(q for q in scoring.questions(split, count) if q.kind not in scoring.YES_NO)


def features(split: str, size: str = "cpu") -> dict:
    """Features of a split, kept in the cache; {"pictures": of each question of `asked`, "kinds"} of test: what intervals cluster by."""
    s = SIZES[size]
    scoring.features(split, s.test if split == "test" else s.validation)
    if split == "val":
        return {"pictures": len({q.picture for q in asked("val", s.validation)})}
    return {name: {"pictures": [q.picture for q in asked("test", count)], "kinds": [q.kind for q in asked("test", count)]}
            for name, count in (("test", s.test), ("looked", s.looked))}


@dataclass(frozen=True)
class Set:
    """Questions of a split with the features of its pictures."""

    parts: Parts
    asked: tuple[Asked, ...]
    shown: Tensor

    @classmethod
    def of(cls, parts: Parts, split: str, count: int) -> Set:
        return cls(parts, asked(split, count), scoring.features(split, count))

    def run(self, pruner=None) -> Run:
        return scoring.run(self.parts, self.asked, self.shown, pruner)

    def right(self, pruner=None) -> str:
        return bits(self.run(pruner).right)

    def share(self, run: Run) -> float:
        return sum(run.right) / len(run.right)

    def pairs(self, run: Run) -> float:
        """The picture's (query, key) pairs that were computed, of all (analytic.pairs)."""
        text = [len(self.parts.prefix) + len(q.text.split()) for q in self.asked]
        left = sum(analytic.pairs(k, t) for layers, t in zip(run.visual, text) for k in layers)
        whole = sum(analytic.pairs(max(layers), t) * len(layers) for layers, t in zip(run.visual, text))
        return left / whole

    def flops(self, run: Run) -> float:
        """FLOPs that the picture's tokens cost in the decoder, of those of all tokens in every layer (Shape.visual_flops)."""
        shape = Shape.of(self.parts.decoder.config)
        text = [len(self.parts.prefix) + len(q.text.split()) for q in self.asked]
        left = sum(shape.visual_flops(k, t) for layers, t in zip(run.visual, text) for k in layers)
        return left / sum(shape.visual_flops(max(layers), t) * len(layers) for layers, t in zip(run.visual, text))

    def planned(self, layers: list[int]) -> float:
        """`pairs` where every question has so many visual tokens, layer by layer."""
        return self.pairs(Run([], [layers] * len(self.asked), []))


def lot(rows: Sequence[Asked], number: int = 0) -> int:
    """A seed for a batch of questions: each batch draws its own lots, and every model and way the same."""
    return seed_of("lot", number, rows[0].picture, rows[0].text)


def bits(right: Iterable[bool]) -> str:
    return "".join("01"[hit] for hit in right)


def _blocks(parts: Parts) -> range:
    return range(parts.decoder.config.num_hidden_layers)


def _there(parts: Parts, wanted: Iterable[int]) -> list[int]:
    return sorted({b for b in wanted if b in _blocks(parts)})


# -- knocked out -------------------------------------------------------------------------------------------
def knocked(seed: int, size: str = "cpu") -> dict:
    return knocked_out(stand_in(seed), SIZES[size])


def knocked_out(parts: Parts, s: Size, depth: Depth = EIGHT) -> dict:
    """{"dense": bits, mode: {block: bits}, "up to", "from": {block: bits} behind the softmax, "onto": {number: bits} in the first
    block, "shallow", "middle": {which tokens, or a mode: bits} before the softmax, "validation": {block: share}}."""
    of, val = Set.of(parts, "test", s.looked), Set.of(parts, "val", s.validation)
    blocks, stops = _blocks(parts), _there(parts, depth.stops)
    done: dict[tuple, str] = {}

    def out(layers: Iterable[int], mode: analysis.Mode = "after", onto: int = 0, number: int = 0, **which) -> str:
        key = (*layers, mode, onto, number, *sorted(which.items()))
        if key not in done:  # curves share their ends
            done[key] = of.right(lambda rows: analysis.Knockout(tuple(layers), mode, onto=onto, seed=lot(rows, number), **which))
        return done[key]

    found: dict = {"model": parts.source, "dense": of.right(), "validation": {
        str(b): val.share(val.run(analysis.Knockout((b,)))) for b in blocks} | {"dense": val.share(val.run())}}
    inner = sorted(blocks[1:-1], key=lambda b: found["validation"][str(b)])
    alone = blocks if depth.alone is None else _there(parts, (*depth.alone, *inner[:1], *inner[-1:]))
    found["after"] = {str(b): out((b,)) for b in alone}
    for mode in ("before", "merge"):
        found[mode] = {str(b): out((b,), mode) for b in _there(parts, depth.hidden)}
    found["up to"] = {str(b): out(range(b + 1)) for b in stops}
    found["from"] = {str(b): out(range(b, len(blocks))) for b in stops}
    found["onto"] = {str(k): out((0,), "merge", onto=k) for k in ONTO}
    for name, layers in (("shallow", depth.shallow), ("middle", depth.middle)):
        here = tuple(b for b in layers if b in blocks)
        found[name] = {mode: out(here, mode) for mode in ("before", "merge")}
        found[name] |= {which: out(here, "before", which=which, count=TENTH)
                        for which in ("highest", "lowest", "random", "all but highest")}
        found[name]["random again"] = out(here, "before", which="random", count=TENTH, number=1)
        found[name]["merge, picture apart"] = out(here, "merge", among=True)
        found[name]["before, picture apart"] = out(here, "before", among=True)
    return found


# -- looked at ---------------------------------------------------------------------------------------------
def looked(seed: int, size: str = "cpu") -> dict:
    return looked_at(stand_in(seed), SIZES[size])


def looked_at(parts: Parts, s: Size, depth: Depth = EIGHT) -> dict:
    """{"kept": {score: {block: bits}} of KEPT tokens behind a block, "exit": {block: bits} behind which the picture is gone,
    "sinks", "lens": see these}."""
    of, behind = Set.of(parts, "test", s.looked), _there(parts, depth.stops)
    behind = [b for b in behind if b < _blocks(parts)[-1]]

    def choice(score, block: int, number: int = 0) -> str:
        return of.right(lambda rows: Chosen(score, block, KEPT, seed=lot(rows, number)))

    kept = {score: {str(b): choice(score, b) for b in behind} for score in ("attention", "value", "lot")}
    kept["another lot"] = {str(depth.half): choice("lot", depth.half, 1)}
    return {"kept": kept, "exit": {str(b): of.right(ExitBehind(b)) for b in behind}, "sinks": sinks(of, depth.sinks), "lens": lens(of)}


@torch.no_grad()
def sinks(of: Set, kept_in: int) -> dict:
    """{"ratio": {block: mean of |v|_1 of the visual token that the last one attends to most / mean |v|_1 of the picture's}, "attention":
    {block: mean share of the last token's attention that the picture gets}, "items", "by lot": the ratio in block `kept_in` question
    by question, and of a token drawn by lot}."""
    ratios: dict[int, list[float]] = {}
    mass: dict[int, list[float]] = {}
    drawn: list[float] = []
    draw = torch.Generator().manual_seed(0)
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        look = analysis.sinks()
        scoring.answers(of.parts, batch, look)
        for layer, (attention, size, visual) in look.by_layer.items():
            size = size.float().where(visual, torch.zeros(()))
            mean = size.sum(1) / visual.sum(1)
            most = attention.masked_fill(~visual, -1).argmax(1, keepdim=True)
            ratios.setdefault(layer, []).extend((size.gather(1, most)[:, 0] / mean).tolist())
            mass.setdefault(layer, []).extend(attention.where(visual, torch.zeros(())).sum(1).tolist())
            if layer == kept_in:
                lot = torch.rand(visual.shape, generator=draw).masked_fill(~visual, -1).argmax(1, keepdim=True)
                drawn += (size.gather(1, lot)[:, 0] / mean).tolist()
    return {"ratio": {str(k): sum(v) / len(v) for k, v in ratios.items()}, "attention": {str(k): sum(v) / len(v) for k, v in mass.items()},
            "items": [round(r, 3) for r in ratios[kept_in]], "by lot": [round(r, 3) for r in drawn]}


@torch.no_grad()
def lens(of: Set) -> dict:
    """{"right", "another": {block: bits}}: whether the likeliest word behind a block, through the model's own norm and head, is the
    answer, or that of the next question of the kind (what a guess within the kind gets)."""
    next_of: dict[int, str] = {}
    for kind in {q.kind for q in of.asked}:
        those = [q for q in of.asked if q.kind == kind]
        next_of |= {id(q): those[(i + 1) % len(those)].answer for i, q in enumerate(those)}
    right: dict[int, list[bool]] = {}
    another: dict[int, list[bool]] = {}
    ids = of.parts.tokenizer.convert_tokens_to_ids
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        out = of.parts.decoder(inputs_embeds=batch.embeds, use_cache=False, logits_to_keep=1, output_hidden_states=True)
        top = analysis.logit_lens(of.parts.decoder, out.hidden_states).argmax(-1)
        for layer, words in enumerate(top.tolist()):
            right.setdefault(layer, []).extend(word == ids(q.answer) for word, q in zip(words, batch.asked))
            another.setdefault(layer, []).extend(word == ids(next_of[id(q)]) for word, q in zip(words, batch.asked))
    return {"right": {str(k): bits(v) for k, v in right.items()}, "another": {str(k): bits(v) for k, v in another.items()}}


# -- pruned ------------------------------------------------------------------------------------------------
def pruned(seed: int, size: str = "cpu") -> dict:
    return pruned_by(stand_in(seed), SIZES[size])


def pruned_by(parts: Parts, s: Size, rivals: Mapping[str, Rival] = RIVALS, curve_at: Sequence[float] = CURVE,
              thresholds: Sequence[float] = analysis.THRESHOLDS) -> dict:
    """{"config", "tried": calibration and rivals' sweeps on validation; "test": {arm: bits}; "pairs", "flops": {arm: share left};
    "saved": percent of pairs question by question; "filter", "kept", "exit": means; "curve": {method: [[pairs, share right]]}}.

    All that is chosen is chosen on validation pictures: VisiPruner's numbers without labels, its rivals' by right answers."""
    val, test, few = Set.of(parts, "val", s.validation), Set.of(parts, "test", s.test), Set.of(parts, "test", s.looked)
    n, own = len(_blocks(parts)), val.run().chosen

    def outcome(config: VisiPrunerConfig) -> tuple[float, float]:
        run = val.run(VisiPruner(config))
        return sum(a == b for a, b in zip(run.chosen, own)) / len(own), val.pairs(run)

    config, tried = analysis.calibrate(outcome, n, thresholds=thresholds)
    runs = {"dense": test.run(), "VisiPruner": test.run(VisiPruner(config)), "no exit": test.run(VisiPruner(config.with_(exit_cos=2)))}
    ways = [config, *(config.with_(tokens_threshold=t) for t in curve_at)]
    budgets = [val.pairs(val.run(VisiPruner(way))) for way in ways]
    curve = {"VisiPruner": [measured(few, VisiPruner(way)) for way in ways[1:]]}
    swept, best = {}, {}
    for name, rival in rivals.items():
        swept[name] = [[(*measured(val, rival.make(*setting)), setting) for setting in settings(rival, N_VISUAL, n, budget, val.planned)]
                       for budget in budgets]
        chosen = [max(sweep, key=lambda row: row[1::-1])[2] for sweep in swept[name]]  # of equal ones that with more pairs
        best[name] = chosen[0]
        runs[name] = test.run(rival.make(*chosen[0]))
        curve[name] = [measured(few, rival.make(*setting)) for setting in chosen[1:]]
    layers = max(1, config.boundary + 1)
    shallow = {"paper's shallow stage": ShallowConfig(layers, "before"), "code's shallow stage": ShallowConfig(layers, "after", True),
               "shallow, not the first": ShallowConfig(layers, "before", first="none")}
    runs |= {name: test.run(VisiPruner(config.with_(shallow=of))) for name, of in shallow.items()}
    runs["no boundary"] = test.run(VisiPruner(config.with_(boundary=-1)))
    runs |= {f"{name} at its K": test.run(at_own_k(test.asked, runs["no exit"], score, number)) for name, score, number in (
        ("attention", "attention", 0), ("lot", "lot", 0), ("another lot", "lot", 1))}
    whens = [when(layers) for layers in runs["no exit"].visual]
    few_left = next((i for i, (f, k) in enumerate(whens) if f is not None and 0 < k <= KEPT), None)
    text = [len(parts.prefix) + len(q.text.split()) for q in test.asked]
    return {"config": {"boundary": config.boundary, "threshold": config.tokens_threshold} | {k: _plain(v) for k, v in best.items()},
            "tried": {"VisiPruner": tried, "pairs": budgets,
                      **{k: [[[round(p, 4), round(a, 4), _plain(s)] for p, a, s in sweep] for sweep in v] for k, v in swept.items()}},
            "test": {name: bits(run.right) for name, run in runs.items()}, "pairs": {name: test.pairs(run) for name, run in runs.items()},
            "flops": {name: test.flops(run) for name, run in runs.items()},
            "saved": [round(saved(v, t), 1) for v, t in zip(runs["VisiPruner"].visual, text)],
            "filtered": sum(f is not None for f, _ in whens) / len(whens), "filter": _mean(f for f, _ in whens),
            "kept": _mean(k for _, k in whens), "curve": curve,
            "exit": _mean(ended(*both) for both in zip(runs["VisiPruner"].visual, runs["no exit"].visual)),
            "shown": None if few_left is None else one_of(test, few_left, config)}


def one_of(of: Set, number: int, config: VisiPrunerConfig) -> dict:
    """A question whose tokens were filtered, for a picture: its scene, and what each block held of it (analysis.Stage)."""
    q, pruner = of.asked[number], analysis.Watched(config)
    (batch,) = scoring.prompts(of.parts, (q,), of.shown)
    logs, _ = scoring.answers(of.parts, batch, pruner)
    return {"picture": q.picture, "text": q.text, "answer": of.parts.tokenizer.decode(logs.argmax(-1)), "stages": pruner.stages[0]}


def measured(of: Set, pruner) -> tuple[float, float]:
    """(share of pairs left, share right)."""
    run = of.run(pruner)
    return of.pairs(run), of.share(run)


def when(visual: Sequence[int]) -> tuple[int | None, int]:
    """(filter layer, tokens kept behind it) from visual tokens layer by layer, without exit; None where nothing went."""
    filtered = next((layer for layer in range(len(visual) - 1) if visual[layer + 1] < visual[layer]), None)
    return filtered, visual[-1]


def ended(visual: Sequence[int], without: Sequence[int]) -> int | None:
    """The exit layer, from visual tokens layer by layer with exit and without."""
    return next((layer for layer in range(len(visual) - 1) if visual[layer + 1] < without[layer + 1]), None)


def at_own_k(asked: Sequence[Asked], run: Run, score, number: int) -> Callable[[list[Asked]], Chosen]:
    """Another score in the place of the value, with the layer and the number of tokens that VisiPruner came to for each question."""
    of = {id(q): when(visual) for q, visual in zip(asked, run.visual)}
    last = len(run.visual[0]) - 1

    def pruner(rows: list[Asked]) -> Chosen:
        layers = [last if of[id(q)][0] is None else of[id(q)][0] for q in rows]
        return Chosen(score, layers, [of[id(q)][1] for q in rows], seed=lot(rows, number))

    return pruner


def saved(visual: Sequence[int], text: int) -> float:
    """Percent of a question's picture pairs that were not computed."""
    return analytic.pairs_saved(list(visual), max(visual), text)


def _mean(values: Iterable) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def _plain(setting: tuple) -> list:
    return [list(part) if isinstance(part, tuple) else part for part in setting]
