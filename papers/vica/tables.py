"""The tables behind the claims, as text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, stdev

from common.data.scenes import KINDS

from .experiments import llava as small
from .experiments import patches as raw_patches
from .experiments import scratch as from_nothing

ARMS = {"dense": "dense", "all layers": "ViCA, all 8 layers", "wide": "ViCA, greedy 4", "greedy": "ViCA, greedy 2",
        "top": "ViCA, top 2 by score",
        "bottom": "ViCA, bottom 2",
        "last": "ViCA, last 2", "drawn": "ViCA, drawn 2", "text": "the text alone"}
SHORT = {"color": "color", "shape": "shape", "shade": "shade", "count": "count", "exists": "exist", "relation": "relat", "row": "row",
         "column": "colum", "digit": "digit"}


def llava(results: dict, size: str = "cpu") -> Iterator[str]:
    seeds = small.SIZES[size].seeds
    yield ""
    yield (f"Accuracy in %, mean of {len(seeds)} seeds (spread between them for all); trained: tuned for the same steps, the rest is "
           "training-free")
    yield f"{'':<36s}{'all':>13s}{'open':>7s}{'yes/no':>7s}" + "".join(f"{SHORT[k]:>6s}" for k in KINDS) + f"{'easy-VQA':>9s}{'open':>6s}"
    for name, scores_of, trained in rows(results[f"pruned/seed{seeds[0]}"]):
        scores = [scores_of(results, seed) for seed in seeds]
        mean = {key: 100 * fmean(s[key] for s in scores) for key in scores[0]}
        spread = 100 * stdev(s["all"] for s in scores) if len(seeds) > 1 else float("nan")  # one seed has none
        yield (f"{name + (' *' if trained else ''):<36s}{mean['all']:7.1f} +-{spread:4.1f}{mean['open']:7.1f}{mean['yes/no']:7.1f}" +
               "".join(f"{mean[k]:6.0f}" for k in KINDS) +
               (f"{mean['easy all']:9.1f}{mean['easy open']:6.1f}" if "easy all" in mean else ""))
    yield "* trained"
    yield from layer_table(results, seeds)


def rows(pruned: dict) -> Iterator[tuple[str, Callable[[dict, int], dict], bool]]:
    """(name, (results, seed) -> scores, whether it was trained). pruned: a result of that job, for its numbers of tokens."""
    def of(job: str, *way: str) -> Callable[[dict, int], dict]:
        return lambda results, seed: functools.reduce(lambda inside, name: inside[name], way, results[f"{job}/seed{seed}"])

    yield "blind optimum", of("all layers", "blind"), False
    for arm, name in ARMS.items():
        yield name, of(arm, "all layers" if arm == "all layers" else "test"), True
    for keep in small.KEEPS:
        yield f"ViCA, greedy 4, PyramidDrop {keep}", of("wide", f"PyramidDrop {keep}", "ranked"), False
        yield f"ViCA, greedy 4, random drop {keep}", of("wide", f"PyramidDrop {keep}", "random"), False
    yield "dense, not tuned", of("all layers", "dense"), False
    for what, name in (("ffn", "no FFN on visual tokens"), ("attention", "visual tokens read nothing"), ("all", "visual tokens frozen")):
        yield f"dense, then {name}", of("dense", "frozen", what), False
    for count in sorted((k for k in pruned if k.isdigit()), key=int):
        yield f"dense, {count} tokens by attention", of("pruned", count, "attention"), False
        yield f"dense, {count} random tokens", of("pruned", count, "random"), False


def layer_table(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    """What each layer's look at the picture is worth, and the best and worst pairs without training."""
    yield ""
    yield "Leave-one-out, nats at the answer when one layer does not look (all-layer model; in brackets the dense stand-in's weights)"
    layers = results[f"all layers/seed{seeds[0]}"]["layers"]
    yield f"{'':<10s}" + "".join(f"{'layer ' + str(k):>18s}" for k in range(layers))
    for seed in seeds:
        of = results[f"all layers/seed{seed}"]
        cells = [f"{of['leave-one-out'][str(k)]:.4f} ({of['dense, leave-one-out'][str(k)]:.4f})" for k in range(layers)]
        yield f"{'seed ' + str(seed):<10s}" + "".join(f"{c:>18s}" for c in cells)
    for seed in seeds:
        of = results[f"all layers/seed{seed}"]
        order = sorted(of["pairs"], key=lambda name: -of["pairs"][name]["all"])
        shown = ", ".join(f"{{{p.replace('-', ', ')}}} {100 * of['pairs'][p]['all']:.1f}" for p in (*order[:3], *order[-2:]))
        chosen = "; ".join(f"{arm} {{{', '.join(map(str, results[f'{arm}/seed{seed}']['layers']))}}}"
                           for arm in ("greedy", "top", "bottom", "drawn", "wide"))
        yield (f"seed {seed}: pairs without training, best three and worst two: {shown}; greedy elimination keeps "
               f"{{{', '.join(map(str, of['greedy']['kept']))}}}; arms: {chosen}")


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    settings = results["speed"]["settings"]
    yield ""
    yield f"Prefill, {settings['shape']}, {settings['device']}, {settings['dtype']}, {len(settings['layers'])} layers look"
    for case in results["speed"]["cases"].values():
        yield from prefill(case)


def scratch(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    layers = ", ".join(map(str, from_nothing.LAYERS))
    yield f"From nothing, both stages, the dense stand-in's recipe; layers {{{layers}}} look; accuracy in %"
    for seed in from_nothing.SIZES[size].seeds:
        for which, name in (("dense", "dense"), ("test", "ViCA")):
            scores = results[f"scratch/seed{seed}"][which]
            shown = "  ".join(f"{kind} {100 * scores[kind]:.1f}" for kind in ("all", "open", "yes/no", *KINDS, "easy all"))
            yield f"seed {seed}, {name:<6s}{shown}"


def patches(results: dict, size: str = "cpu") -> Iterator[str]:
    seeds = raw_patches.SIZES[size].seeds
    yield ""
    yield f"Raw patches (no layer of the tower), from nothing, accuracy in %, mean of {len(seeds)} seeds"
    for arm in raw_patches.ARMS:
        scores = [results[f"patches/{arm}/seed{seed}"]["test"] for seed in seeds]
        yield f"{arm:<12s}" + "  ".join(f"{k} {100 * fmean(s[k] for s in scores):.1f}" for k in ("all", "open", "yes/no", *KINDS))


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "DINOv2-S and SmolLM2-135M-Instruct, new projector, LoRA, both stages; accuracy in %"
    for name, of in results.items():
        if name.startswith("smollm2/"):
            yield (f"{name.removeprefix('smollm2/'):<16s}" + "  ".join(f"{k} {100 * of['test'][k]:.1f}" for k in ("all", *KINDS))
                   + f"; blind {100 * of['blind']['all']:.1f}")


def gpu(results: dict, size: str = "gpu") -> Iterator[str]:
    """Every case, what was not run, flags, the paper's speed-ups."""
    document = results["gpu"]
    of = document["settings"]
    yield f"Prefill, {of['shape']}'s dimensions, {len(of['layers'])} layers look, {of['dtype']}, random weights, {of['device']}"
    for case in document["cases"].values():
        yield from prefill(case)
    for entry in document["not_run"]:
        yield f"  not run: {entry['case']}: {entry['reason']}"
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
