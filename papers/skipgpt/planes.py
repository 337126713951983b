"""SkipGPT's points on the plane of text pruning: loss against executed FLOPs, and measured time against executed FLOPs.

FLOPs are those of a prefill of one test sequence at the rates that a method really skipped at, in % of dense (analytic.py): a router's
own cost is counted, keys and values are computed for every token where tokens choose, and for none where a module is gone for good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

from common.claims.intervals import paired, point, summarize
from common.claims.processes import over_processes
from common.report.planes import Axis, Bench, Document, Recorded

from .analytic import SMOLLM2_135M, Shape, prefill_flops

SEQUENCE, WINDOW, REAL = 64, 128, 512  # tokens: of the small models' sequences, of SmolLM2's windows, of those of real texts
EXECUTED = Axis("executed FLOPs of a prefill, % of dense", "less")
# Arms that were trained: shown name -> (job, fields, whether tokens choose, the family's method that it is).
TRAINED: dict[str, tuple[str, tuple[str, ...], bool, str]] = {
    "SkipGPT, routers": ("routers at 0.40", ("held",), True, "SkipGPT"),
    "SkipGPT, routers then LoRA": ("routers at 0.40", ("lora", "routed held"), True, "SkipGPT"),
    "routers and LoRA at once": ("joint", ("held",), True, ""),
    "one gate a layer": ("coupled", ("held",), True, ""),
    "token-blind routers": ("token-blind", ("held",), False, "token-blind routing"),
    "MoD-D": ("MoD-D", (), True, "mixture of depths"),
    "the routers' rates at random": ("routers at 0.40", ("held random", "matched"), True, "random routing"),
    "their mean rate at random": ("routers at 0.40", ("held random", "uniform"), True, "random routing"),
}
SWEPT = {"SkipGPT, routers": ("ce", "SkipGPT"), "the routers' rates at random": ("matched", "random routing"),
         "their mean rate at random": ("uniform", "random routing")}
AT_SMOLLM2 = {"SkipGPT, routers": ("skip", "SkipGPT"), "the routers' rates at random": ("matched", "random routing"),
              "their mean rate at random": ("uniform", "random routing")}
TARGETS = ("0.25", "0.40")


def planes(recorded: Recorded) -> Iterator[Bench]:
    scratch, smollm2, speed = recorded["scratch"], recorded["smollm2"], recorded["speed"]
    yield from_scratch(scratch)
    yield swept(scratch)
    yield real_model(smollm2, recorded["blind"])
    yield wikitext(recorded["real"])
    yield prefill(speed)


# -- what is executed --------------------------------------------------------------------------------------
def executed(shape: Shape, length: int, row: dict, tokens_choose: bool) -> float:
    """In % of dense, at the rates of a row; one without rates skips nothing."""
    skips = float(row.get("attn_skip", 0.0)), float(row.get("mlp_skip", 0.0))
    some = any(skips)
    return 100 * prefill_flops(shape, length, *skips, kv_dense=tokens_choose or not some,
                               router="linear" if tokens_choose and some else None) / prefill_flops(shape, length)


def small_shape() -> Shape:
    """Of the six-layer model that is trained from scratch, by the configuration beside its weights."""
    config = json.loads((Path(__file__).parent / "standins" / "seed0" / "config.json").read_text(encoding="utf-8"))
    return Shape(d=config["hidden_size"], f=config["intermediate_size"], L=config["num_hidden_layers"], H=config["num_attention_heads"],
                 KV=config["num_key_value_heads"], dh=config["head_dim"], V=config["vocab_size"], tied=config["tie_word_embeddings"])


# -- from scratch ------------------------------------------------------------------------------------------
def from_scratch(of: Document) -> Bench:
    bench = Bench("pruning", "scratch", "A six-layer Llama with known hard tokens, a quarter to a half of its modules skipped",
                  "One model trained from scratch a seed, the same 256 unseen sequences. Static plans need no training; routers and "
                  "what is compared with them were tuned for the same steps, and are held at 5/12 of the modules.", EXECUTED,
                  Axis("test cross-entropy, nats a token", "less", shown=(1.45, 1.85)))
    shape, job = small_shape(), "routers at 0.40"

    def row(seed: int, start: str, fields: tuple[str, ...]) -> dict:
        return of.at(f"tier_a/{start}/seed{seed}", *fields)

    def add(name: str, start: str, fields: tuple[str, ...], tokens_choose: bool, method: str) -> None:
        def over(read: Callable[[dict], float]) -> dict:
            return summarize([read(row(seed, start, fields)) for seed in of.seeds(f"tier_a/{start}")])

        bench.add(of, name, lambda: over(lambda found: executed(shape, SEQUENCE, found, tokens_choose)),
                  lambda: over(lambda found: found["ce"]), stands_for=method)

    add("dense", "static", ("dense",), False, "dense")
    add("dense with the same LoRA", job, ("lora", "dense"), False, "")
    for name, (start, fields, tokens_choose, method) in TRAINED.items():
        add(name, start, fields, tokens_choose, method)
    plans = [name for name in of.at("tier_a/static/seed0") if name != "dense"] if "tier_a/static/seed0" in of else ["static plans"]
    for name in plans:
        add(name, "static", (name,), False, "static pruning")
    return bench


def swept(of: Document) -> Bench:
    bench = Bench("pruning", "swept", "A six-layer Llama with known hard tokens, as the routers' threshold moves",
                  "One model trained from scratch a seed and its routers; only the one threshold moves, nothing is trained again; the same "
                  "128 unseen sequences at every threshold.", EXECUTED, Axis("test cross-entropy, nats a token", "less"))
    shape, start = small_shape(), "tier_a/routers at 0.40"
    first = f"{start}/seed0"
    asked = [each["asked"] for each in of.at(first, "sweep", "rows")] if first in of else [0.4]

    def over(place: int, read: Callable[[dict], float]) -> dict:
        return summarize([read(of.at(f"{start}/seed{seed}", "sweep", "rows")[place]) for seed in of.seeds(start)])

    def work(found: dict) -> float:
        return executed(shape, SEQUENCE, found, True)

    for name, (field, method) in SWEPT.items():
        bench.curve(of, name, [(f"{100 * share:g} % asked for", partial(over, place, work), partial(over, place, itemgetter(field)))
                               for place, share in enumerate(asked)], method)
    bench.add(of, "dense", partial(point, 100.0), partial(of.over, start, "sweep", "dense"), stands_for="dense")
    return bench


# -- SmolLM2 -----------------------------------------------------------------------------------------------
def real_model(of: Document, blind: Document) -> Bench:
    bench = Bench("pruning", "smollm2", "SmolLM2-135M-Instruct, held-out prose",
                  "One real pretrained model, the same 32 windows of 128 tokens, each of another document. The routers are trained "
                  "once for each target with 0.8 million tokens, so that the intervals are over documents and say nothing of "
                  "another training; static plans are calibrated on other text.", EXECUTED, Axis("cross-entropy, nats a token", "less"))

    def documents(row: dict) -> dict:
        windows = row["windows"]
        return paired(windows, [0.0] * len(windows), clusters=of.at("tier_b/dense", "documents"))

    def add(name: str, read: Callable[[], Sequence[dict]], tokens_choose: bool, method: str, setting: str = "") -> None:
        """read: a row a training; of several, they are the sample and not the documents."""
        def loss() -> dict:
            rows = read()
            return documents(rows[0]) if len(rows) == 1 else summarize([row["ce"] for row in rows])

        def work() -> dict:
            return summarize([executed(SMOLLM2_135M, WINDOW, row, tokens_choose) for row in read()])

        bench.add(of, name, work, loss, setting, method)

    add("dense", lambda: [of.at("tier_b/dense")], False, "dense")
    for target in TARGETS:
        start, setting = f"tier_b/routers at {target}", f"target {float(target):.0%}"
        for name, (field, method) in AT_SMOLLM2.items():
            add(name, partial(_trainings, of, start, field), True, method, setting)
    for target in TARGETS:
        job, setting = f"tier_b/static at {target}", f"target {float(target):.0%}"
        for plan in (of.at(job) if job in of else {"static plans": {}}):
            add(plan.partition(",")[0] if ", modules" not in plan else "Shortened-PPL by modules",
                lambda job=job, plan=plan: [of.at(job, plan)], False, "static pruning", f"{setting}, {plan.rpartition(', ')[2]}")
    for target in TARGETS:
        start = f"blind/token-blind at {target}"
        bench.add(blind, "token-blind routers", partial(_work, blind, start), partial(blind.over, start, "ce"),
                  f"target {float(target):.0%}", "token-blind routing")
    bench.lacks("MoD-D", "no experiment trains it on SmolLM2", "hours on two cores", "mixture of depths")
    return bench


def _trainings(of: Document, start: str, field: str) -> list[dict]:
    return [of.at(f"{start}/seed{seed}", field) for seed in of.seeds(start)]


def _work(of: Document, start: str) -> dict:
    """Of trainings whose decisions are one for all tokens."""
    return summarize([executed(SMOLLM2_135M, WINDOW, of.at(f"{start}/seed{seed}"), False) for seed in of.seeds(start)])


def wikitext(of: Document) -> Bench:
    bench = Bench("pruning", "wikitext2", "SmolLM2-135M-Instruct, WikiText-2",
                  "The same model, routers and plans, 48 windows of 512 tokens of WikiText-2's test text. Sums over all windows are "
                  "committed and not the windows, so that there is no "
                  "interval.", EXECUTED, Axis("cross-entropy, nats a token", "less"))

    def loss(job: str) -> dict:
        found = of.at(job, "perplexity", "wikitext2")
        return {"value": found["nll_sum"] / found["n_tokens"], "n_runs": 1}

    for name, job, tokens_choose, method, setting in (
            ("dense", "real/dense", False, "dense", ""), *((name, f"real/{kind} at {target}", choose, method, f"target {float(target):.0%}")
            for name, kind, choose, method in (("SkipGPT, routers", "routers", True, "SkipGPT"),
                                               ("the routers' rates at random", "matched random", True, "random routing"),
                                               ("the best static plan", "static", False, "static pruning")) for target in TARGETS)):
        bench.add(of, name, lambda job=job, choose=tokens_choose: point(executed(SMOLLM2_135M, REAL, of.at(job), choose)),
                  partial(loss, job), setting, method)
    return bench


# -- time --------------------------------------------------------------------------------------------------
def prefill(of: Document) -> Bench:
    bench = Bench("pruning", "prefill", "Time of a prefill at SmolLM2-135M's dimensions, one row of 128 tokens",
                  "Random weights, fp32, two threads; each share is of the dense prefill in the same interleaved rounds. Which "
                  "tokens skip is drawn, for random weights decide nothing: this says what of a counted saving arrives as time, "
                  "and nothing of quality. Below the dotted line, time falls by more than the count.", EXECUTED,
                  Axis("time of a prefill, % of dense", "less"))

    def variants() -> list[dict]:
        names = sorted(name for name in of.results or {} if name.startswith("speed/process")) or ["speed/process0"]
        return [next(iter(of.at(name, "cases").values()))["variants"] for name in names]

    def time(name: str) -> dict:
        pairs = [zip(each[name]["times"], each["dense"]["times"], strict=True) for each in variants()]
        return over_processes([[100 * a / b for a, b in rounds] for rounds in pairs])

    def flops(name: str) -> dict:
        here = variants()[0]
        return point(100 * here[name]["flops"] / here["dense"]["flops"])

    for name, variant, method in (("dense", "dense", "dense"), ("SkipGPT, 40 % of modules skipped", "skip 0.40", "SkipGPT"),
                                  ("the same, computed and masked", "mask 0.40", "")):
        bench.add(of, name, partial(flops, variant), partial(time, variant), stands_for=method)
    bench.lacks("static pruning, timed", "no experiment times a plan of whole modules; its bound is its share of FLOPs",
                "a variant more in papers/skipgpt/experiments/timed.py, a minute", "static pruning")
    bench.lacks("loss against measured time", "no experiment times the trained model whose loss it measures",
                "SmolLM2 with its committed routers as a case of the timings, minutes")
    return bench
