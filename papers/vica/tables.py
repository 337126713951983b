"""The tables behind the claims, as text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median, stdev

from common.data.scenes import KINDS
from common.seeds import seeds_of

from .experiments import llava as small
from .experiments import patches as raw_patches
from .experiments import scratch as from_nothing

ARMS = {"dense": "dense", "all layers": "ViCA, all 8 layers", "greedy": "ViCA, greedy 2", "top": "ViCA, top 2 by score",
        "drawn": "ViCA, drawn 2", "few": "dense on as few pooled tokens", "text": "the text alone"}
SHORT = {"color": "color", "shape": "shape", "shade": "shade", "count": "count", "exists": "exist", "relation": "relat", "row": "row",
         "column": "colum", "digit": "digit"}


def llava(results: dict, size: str = "cpu") -> Iterator[str]:
    seeds = seeds_of(results, "all layers")
    yield ""
    yield (f"Accuracy in %, mean of {len(seeds)} seeds (spread between them for all); trained: tuned for the same steps, the rest is "
           "training-free")
    yield f"{'':<36s}{'all':>13s}{'open':>7s}{'yes/no':>7s}" + "".join(f"{SHORT[k]:>6s}" for k in KINDS) + f"{'easy-VQA':>9s}{'open':>6s}"
    for name, scores_of, trained in rows(results[f"untuned/seed{seeds[0]}"]):
        scores = [scores_of(results, seed) for seed in seeds]
        mean = {key: 100 * fmean(s[key] for s in scores) for key in scores[0]}
        spread = 100 * stdev(s["all"] for s in scores) if len(seeds) > 1 else float("nan")  # one seed has none
        yield (f"{name + (' *' if trained else ''):<36s}{mean['all']:7.1f} +-{spread:4.1f}{mean['open']:7.1f}{mean['yes/no']:7.1f}" +
               "".join(f"{mean[k]:6.0f}" for k in KINDS) +
               (f"{mean['easy all']:9.1f}{mean['easy open']:6.1f}" if "easy all" in mean else ""))
    yield "* trained"
    yield from layer_table(results, seeds)


def rows(untuned: dict) -> Iterator[tuple[str, Callable[[dict, int], dict], bool]]:
    """(name, (results, seed) -> scores, whether it was trained). untuned: a result of that job, for its number of tokens."""
    def of(job: str, *way: str) -> Callable[[dict, int], dict]:
        return lambda results, seed: functools.reduce(lambda inside, name: inside[name], way, results[f"{job}/seed{seed}"])

    yield "blind optimum", lambda results, seed: results["blind"], False
    for arm, name in ARMS.items():
        if arm == "all layers":
            yield name, of(arm, "all layers"), True
        else:
            yield name, lambda results, seed, arm=arm: small.result_of(results, arm, seed)["test"], True
    for way, name in (("whole", "all tokens"), ("ranked", f"PyramidDrop {small.KEEP}"), ("random", f"random drop {small.KEEP}")):
        yield f"ViCA 8, half of test, {name}", of("all layers", f"PyramidDrop {small.KEEP}", way), False
    yield "dense, not tuned", of("untuned", "whole"), False
    for what, name in (("ffn", "no FFN on visual tokens"), ("all", "visual tokens frozen")):
        yield f"  and {name}", of("untuned", "frozen", what), False
    for way, name in (("attention", "tokens by attention"), ("random", "random tokens")):
        yield f"  and on {untuned['equivalent tokens']} {name}", of("untuned", way), False


def layer_table(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    """What each layer's look at the picture is worth, and the best and worst pairs without training."""
    yield ""
    yield "Leave-one-out, nats at the answer when one layer of the all-layer model does not look"
    layers = results[f"all layers/seed{seeds[0]}"]["layers"]
    yield f"{'':<10s}" + "".join(f"{'layer ' + str(k):>9s}" for k in range(layers))
    for seed in seeds:
        of = results[f"all layers/seed{seed}"]
        yield f"{'seed ' + str(seed):<10s}" + "".join(f"{of['leave-one-out'][str(k)]:9.4f}" for k in range(layers))
    for seed in seeds:
        of = results[f"all layers/seed{seed}"]
        order = sorted(of["pairs"], key=lambda name: -of["pairs"][name]["all"])
        shown = ", ".join(f"{{{p.replace('-', ', ')}}} {100 * of['pairs'][p]['all']:.1f}" for p in (*order[:3], *order[-2:]))
        chosen = "; ".join(f"{arm} {{{', '.join(map(str, layers))}}}" for arm, layers in small.arms(results, seed).items())
        yield f"seed {seed}: pairs without training, best three and worst two: {shown}; tuned: {chosen}"


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    """Of the first process everything, of the others what the claims read."""
    names = sorted(name for name in results if name.startswith("speed/process"))
    settings = results[names[0]]["settings"]
    yield ""
    yield f"Prefill, {settings['shape']}, {settings['device']}, {settings['dtype']}, {len(settings['layers'])} layers look"
    yield from of_processes([results[name] for name in names])


def of_processes(documents: list[dict]) -> Iterator[str]:
    for name, case in documents[0]["cases"].items():
        yield from prefill(case)
        if others := [of["cases"][name]["ratios"]["dense / vica"]["median"] for of in documents[1:] if name in of["cases"]]:
            yield "    dense / vica in other processes: " + ", ".join(f"{ratio:.2f}" for ratio in others)


def scratch(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "From nothing, both stages, the dense stand-in's recipe; accuracy in %"
    for seed in seeds_of(results, "scratch"):
        for job, which in (("scratch", "dense"), *((arm, "test") for arm in from_nothing.ARMS)):
            of = results[f"{job}/seed{seed}"]
            name = "dense" if which == "dense" or of["layers"] is None else (
                f"{{{', '.join(map(str, of['layers']))}}} look" if of["layers"] else "text alone")
            name += ", short" * ("short" in job)
            shown = "  ".join(f"{kind} {100 * of[which][kind]:.1f}" for kind in ("all", "open", "yes/no", *KINDS, "easy all"))
            yield f"seed {seed}, {name:<13s}{shown}"


def draws(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Two layers chosen and two drawn, tuned for the same steps; accuracy in %"
    for seed in seeds_of(results, "draws"):
        of = results[f"draws/seed{seed}"]
        yield f"seed {seed}, dense {100 * of['dense']['test']['all']:.1f}: " + ", ".join(
            f"{name} {{{', '.join(map(str, arm['layers']))}}} {100 * arm['test']['all']:.1f}" for name, arm in of["arms"].items())


def patches(results: dict, size: str = "cpu") -> Iterator[str]:
    seeds = seeds_of(results, "patches/dense")
    yield ""
    yield f"Raw patches (no layer of the tower; \"mixed\": all of it), from nothing, accuracy in %, mean of {len(seeds)} seeds"
    for arm in raw_patches.ARMS:
        scores = [results[f"patches/{arm}/seed{seed}"]["test"] for seed in seeds]
        yield f"{arm:<12s}" + "  ".join(f"{k} {100 * fmean(s[k] for s in scores):.1f}" for k in ("all", "open", "yes/no", *KINDS))


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    """One model a seed: its arms' open questions right, and what the layers are worth."""
    for seed in seeds_of(results, "smollm2/untuned"):
        was, every = (results[f"smollm2/{job}/seed{seed}"] for job in ("untuned", "all layers"))
        arms = {"as it is": was["whole"], "no FFN on visual tokens": was["ffn"], "visual tokens frozen": was["all"]}
        arms |= {f"retuned, {arm}": results[f"smollm2/{arm}/seed{seed}"]["right"] for arm in ("dense", "all layers")}
        arms |= {f"all layers, then {name} alone": bits for name, bits in every["untrained"].items()}
        yield ""
        yield f"A LLaVA on SmolLM2-135M (common/standins), seed {seed}: open questions right, %"
        yield from (_right(name, bits) for name, bits in arms.items())
        yield "sets: " + "; ".join(f"{name} {', '.join(map(str, layers))}" for name, layers in every["sets"].items())
        yield "worth of each layer, nats: " + ", ".join(f"{layer}: {nats:.3f}" for layer, nats in every["worth"].items())


def few(results: dict, size: str = "cpu") -> Iterator[str]:
    for seed in seeds_of(results, "smollm2/untuned"):
        yield ""
        yield f"A LLaVA on SmolLM2-135M (common/standins), seed {seed}, retuned in a few layers: open questions right, %"
        yield from (_right(arm, results[f"smollm2/{arm}/seed{seed}"]["right"]) for arm in ("dense", "top", "lot 0"))


def _right(name: str, bits: str) -> str:
    return f"{name:<34s}{100 * bits.count('1') / len(bits):8.1f}"


def gpu(results: dict, size: str = "gpu") -> Iterator[str]:
    """Every case, what was not run, flags, the paper's speed-ups."""
    documents = results["gpu"]["processes"]
    of = documents[0]["settings"]
    yield f"Prefill, {of['shape']}'s dimensions, {len(of['layers'])} layers look, {of['dtype']}, random weights, {of['device']}"
    yield from of_processes(documents)
    for document in documents:
        yield from (f"  not run: {entry['case']}: {entry['reason']}" for entry in document["not_run"])
        yield from (f"  FLAG: {flag}" for flag in document["flags"])
        yield from (f"  {text}" for text in document["met"])


def prefill(case: dict) -> Iterator[str]:
    """One case: times and KV bytes, speed-ups with their bounds, decoding."""
    rows = case["variants"]
    yield (f"  B={case['batch']} P={case['prefix']} N={case['visual']} Q={case['suffix']}, {case['rounds']} rounds, ms: " +
           ", ".join(f"{name} {1e3 * row['median']:.1f}" for name, row in rows.items()))
    yield "    times faster (of at most, by FLOPs): " + ", ".join(
        f"{pair} {r['median']:.2f} ({r['bound']:.2f})" for pair, r in case["ratios"].items())
    yield "    KV cache, MiB: " + ", ".join(f"{name} {row['kv_bytes'] / 2**20:.1f}" for name, row in rows.items()
                                           if "kv_bytes" in row and "warm" not in name)
    if case["decoding"]:
        yield "    decoding, ms a token: " + "; ".join(
            f"{name} " + ", ".join(f"{1e3 * t['median']:.1f} over {n}" for n, t in by_length.items())
            for name, by_length in case["decoding"].items())
    if case["no_graph"]:
        yield "    no CUDA graph: " + "; ".join(f"{name}: {why}" for name, why in case["no_graph"].items())


def ratios(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "A picture over the text alone: medians of each process, s a prefill, ms a token of decoding"
    found = [results[name] for name in sorted(results) if name.startswith("ratios/process")]
    for what, scale in (("prefill", 1.0), ("decoding", 1e3)):
        for batch, ways in found[0][what].items():
            cells = (f"{way} " + " ".join(f"{scale * median(of[what][batch][way]):.3g}" for of in found) for way in ways)
            yield f"{what:<9s} batch {batch:<4s}" + "   ".join(cells)
