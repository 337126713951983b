"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from common.data.scenes import KINDS

ARMS = {"dense": "dense", "all layers": "ViCA, all 8 layers", "wide": "ViCA, greedy 4", "greedy": "ViCA, greedy 2",
        "top": "ViCA, top 2 by score",
        "bottom": "ViCA, bottom 2",
        "last": "ViCA, last 2", "drawn": "ViCA, drawn 2", "text": "the text alone"}
SHORT = {"color": "color", "shape": "shape", "shade": "shade", "count": "count", "exists": "exist", "relation": "relat", "row": "row",
         "column": "colum", "digit": "digit"}


def rows(results: dict, seeds: Sequence[int]) -> Iterator[tuple[str, list[dict], bool]]:
    """(name, scores by seed, whether it was trained)."""
    def every(get):
        return [get(seed) for seed in seeds]

    yield "blind optimum", every(lambda s: results[f"all layers/seed{s}"]["blind"]), False
    for arm, name in ARMS.items():
        yield name, every(lambda s, a=arm: results[f"{a}/seed{s}"]["all layers" if a == "all layers" else "test"]), True
    for keep in ("0.5", "0.35"):
        yield f"ViCA, greedy 4, PyramidDrop {keep}", every(lambda s, k=keep: results[f"wide/seed{s}"][f"PyramidDrop {k}"]["ranked"]), False
        yield f"ViCA, greedy 4, random drop {keep}", every(lambda s, k=keep: results[f"wide/seed{s}"][f"PyramidDrop {k}"]["random"]), False
    yield "dense, not tuned", every(lambda s: results[f"all layers/seed{s}"]["dense"]), False
    for what, name in (("ffn", "no FFN on visual tokens"), ("attention", "visual tokens read nothing"), ("all", "visual tokens frozen")):
        yield f"dense, then {name}", every(lambda s, w=what: results[f"dense/seed{s}"]["frozen"][w]), False
    for count in sorted((k for k in results[f"pruned/seed{seeds[0]}"] if k.isdigit()), key=int):
        yield f"dense, {count} tokens by attention", every(lambda s, c=count: results[f"pruned/seed{s}"][c]["attention"]), False
        yield f"dense, {count} random tokens", every(lambda s, c=count: results[f"pruned/seed{s}"][c]["random"]), False


def cpu_tables(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    yield ""
    yield (f"Accuracy in %, mean of {len(seeds)} seeds (spread between them for all); trained: tuned for the same steps, the rest is "
           "training-free")
    yield f"{'':<36s}{'all':>13s}{'open':>7s}{'yes/no':>7s}" + "".join(f"{SHORT[k]:>6s}" for k in KINDS) + f"{'easy-VQA':>9s}{'open':>6s}"
    for name, scores, trained in rows(results, seeds):
        mean = {key: 100 * fmean(s[key] for s in scores) for key in scores[0]}
        spread = 100 * stdev(s["all"] for s in scores) if len(seeds) > 1 else float("nan")  # one seed has none
        yield (f"{name + (' *' if trained else ''):<36s}{mean['all']:7.1f} +-{spread:4.1f}{mean['open']:7.1f}{mean['yes/no']:7.1f}" +
               "".join(f"{mean[k]:6.0f}" for k in KINDS) +
               (f"{mean['easy all']:9.1f}{mean['easy open']:6.1f}" if "easy all" in mean else ""))
    yield "* trained"
    yield from layer_table(results, seeds)
    if "speed" in results:
        from .speed import lines

        settings = results["speed"]["settings"]
        yield ""
        yield f"Prefill, {settings['shape']}, {settings['device']}, {settings['dtype']}, {len(settings['layers'])} layers look"
        for case in results["speed"]["cases"].values():
            yield from lines(case)


def layer_table(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    """What each layer's look at the picture is worth, and the best and worst pairs without training."""
    yield ""
    yield "Leave-one-out, nats at the answer when one layer does not look (all-layer model; in brackets the dense stand-in's weights)"
    layers = results[f"all layers/seed{seeds[0]}"]["layers"]
    yield f"{'':<10s}" + "".join(f"{'layer ' + str(k):>18s}" for k in range(layers))
    for seed in seeds:
        found = results[f"all layers/seed{seed}"]
        cells = [f"{found['leave-one-out'][str(k)]:.4f} ({found['dense, leave-one-out'][str(k)]:.4f})" for k in range(layers)]
        yield f"{'seed ' + str(seed):<10s}" + "".join(f"{c:>18s}" for c in cells)
    for seed in seeds:
        found = results[f"all layers/seed{seed}"]
        order = sorted(found["pairs"], key=lambda name: -found["pairs"][name]["all"])
        shown = ", ".join(f"{{{p.replace('-', ', ')}}} {100 * found['pairs'][p]['all']:.1f}" for p in (*order[:3], *order[-2:]))
        chosen = "; ".join(f"{arm} {{{', '.join(map(str, results[f'{arm}/seed{seed}']['layers']))}}}"
                           for arm in ("greedy", "top", "bottom", "drawn", "wide"))
        yield (f"seed {seed}: pairs without training, best three and worst two: {shown}; greedy elimination keeps "
               f"{{{', '.join(map(str, found['greedy']['kept']))}}}; arms: {chosen}")


def scratch_table(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    yield ""
    layers = ", ".join(map(str, results[f"scratch/seed{seeds[0]}"]["layers"]))
    yield f"From nothing, both stages, the dense stand-in's recipe; layers {{{layers}}} look; accuracy in %"
    for seed in seeds:
        for arm, name in (("dense", "dense"), ("test", "ViCA")):
            found = results[f"scratch/seed{seed}"][arm]
            yield f"seed {seed}, {name:<6s}" + "  ".join(f"{k} {100 * found[k]:.1f}" for k in ("all", "open", "yes/no", *KINDS, "easy all"))


def patch_table(results: dict, seeds: Sequence[int]) -> Iterator[str]:
    yield ""
    yield f"Raw patches (no layer of the tower), from nothing, accuracy in %, mean of {len(seeds)} seeds"
    for arm in ("dense", "vica"):
        scores = [results[f"patches/{arm}/seed{s}"]["test"] for s in seeds]
        yield f"{arm:<12s}" + "  ".join(f"{k} {100 * fmean(s[k] for s in scores):.1f}" for k in ("all", "open", "yes/no", *KINDS))
