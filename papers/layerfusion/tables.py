"""The tables behind the claims, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from common.claims.intervals import interval, summarize
from common.seeds import seeds_of

from . import analytic, reported
from .quantities import Probes, behind
from .quantities_trained import ANOTHER, EASY, HOLDS, LOOK, Runs

WIDTH = 46
ORDER = ("default", "default three times", "single", "double", "triple", "medoids", "first region", "middle region", "late region",
         "last region", "former", "former, means", "latter", "all", "all, means")
POINTS = 3  # within so many of the best on every kind, a single layer leaves nothing to fuse (papers-next 4.3)


def exact(results: dict, size: str = "analytic") -> Iterator[str]:
    yield ""
    yield f"Added by three layers, MobileLLaMA-1.4B and CLIP-L{'':<4s}" + "parameters       of the prefill's multiply-adds, %"
    for position, pattern in analytic.KINDS:
        of = analytic.triple(position, pattern)
        yield f"{of.kind:<{WIDTH}s}{analytic.added(of):>16,d}{analytic.share_of_prefill(of):>14.2f}"
    yield ""
    yield "A third party's runs with the authors' code (batch of pretraining/finetuning) beside the paper's rows"
    yield f"{'':<{WIDTH}s}{'TextVQA':>9s}{'POPE':>7s}{'GQA':>7s}"
    for name, row in reported.TABLE.items():
        yield f"{'paper: ' + name:<{WIDTH}s}{row.textvqa:9.1f}{row.pope:7.1f}{row.gqa:7.1f}"
    for run in reported.THIRD_PARTY:
        yield f"{run.setting + ', ' + run.batch:<{WIDTH}s}{run.textvqa:9.1f}{run.pope:7.1f}{run.gqa:7.1f}"
    ranges = ", ".join(f"{setting} {gqa:.1f}" for setting, (_, gqa) in analytic.ranges().items())
    yield f"Range of GQA within a setting: {ranges}; between runs of known and equal batch {analytic.equal_batch_range():.1f}"


def probes(results: dict, size: str = "cpu") -> Iterator[str]:
    for look in ("easy", "hard"):
        rows = Probes(results, look).rows
        kinds = sorted(rows[0]["chance"])
        yield ""
        fitted, tested = rows[0]["counts"]
        yield (f"Probes, {look} scenes: right, % ({fitted} pictures to fit, {tested} to test, {len(rows)} seeds)"
               + ("; behind the bar: in another look" if look == "hard" else ""))
        yield f"{'':<{WIDTH}s}" + "".join(f"{kind:>7s}" for kind in kinds)
        yield f"{'commonest class':<{WIDTH}s}" + "".join(f"{100 * fmean(r['chance'][k] for r in rows):7.1f}" for k in kinds)
        for group, prefix in (("layers", "layer "), ("sets", ""), ("controls", "")):
            for name in sorted(rows[0][group], key=lambda n: (int(n) if n.isdigit() else 0, ORDER.index(n) if n in ORDER else 99, n)):
                line = f"{prefix + name:<{WIDTH}s}" + "".join(f"{100 * fmean(r[group][name][k] for r in rows):7.1f}" for k in kinds)
                if name in rows[0]["shifted"]:
                    line += "  |" + "".join(f"{100 * fmean(r['shifted'][name][k] for r in rows):7.1f}" for k in kinds)
                yield line
        yield precondition([behind(r) for r in rows], 100 / tested)


def precondition(gaps: list[float], one: float) -> str:
    """Whether sets of layers can matter, as far as draws of the pictures establish it. gaps: of each draw, in points; one: a picture's."""
    found = summarize(gaps, one)
    ends = interval(found)
    draws = ", ".join(f"{gap:.1f}" for gap in gaps)
    text = f"The most even layer is {found['value']:.1f} points behind the best layer on its worst kind (by draw of pictures {draws}): "
    if ends is None or ends[0] <= POINTS <= ends[1]:
        return text + f"whether a single layer knows all to {POINTS} points is not established"
    return text + ("no single layer knows all" if ends[0] > POINTS else "a single layer knows nearly all, and sets cannot matter here")


def looked_first(folder: Path) -> None:
    """Prints, before hours of training, what the probes of the default run say of it. folder: of committed results."""
    path = folder / "measurements.cpu-small.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else {}
    hard = [row for name, row in sorted(rows.items()) if name.startswith("probes/hard/")]
    said = precondition([behind(row) for row in hard], 100 / hard[0]["counts"][1]) if hard else (
        "No results of these probes are committed yet: `make reproduce-layerfusion` measures them.")
    print(f"Before any training, hard scenes by probes (C17a). {said}", flush=True)


def stages(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for weights in ("pretrained", "random"):
        of = results[f"stages/{weights}"]
        null = of["permuted"]
        yield (f"Stages of DINOv2-S, {weights} weights: end behind layers {of['cuts']}, medoids {of['medoids']}, score {of['score']:.3f} "
               f"(by picture {fmean(of['scores']):.3f}; 99 % of random orders {fmean(null):.3f}); photographs {of['photographs']['cuts']}, "
               f"{of['photographs']['score']:.3f}")
        yield f"  mean token norm by layer: {' '.join(f'{norm:.1f}' for norm in of['norms'])}"


def llava(results: dict, size: str = "cpu") -> Iterator[str]:
    seeds = seeds_of(results, "llava")
    rows = [results[f"llava/seed{seed}"] for seed in seeds]

    def share(bits: list[str]) -> float:
        return 100 * sum(of.count("1") for of in bits) / sum(map(len, bits))

    yield ""
    yield f"The committed LLaVAs (external direct, layers 2, 9, 11), {len(seeds)} models: right, %"
    yield f"{'test scenes':<{WIDTH}s}{share([r['test'] for r in rows]):7.1f}"
    yield f"{'hard scenes, not trained on':<{WIDTH}s}{share([r['hard'] for r in rows]):7.1f}"
    for way in ("another picture", "drawn again"):
        for layer in rows[0][way]:
            yield f"{f'layer {layer} from {way}':<{WIDTH}s}{share([r[way][layer] for r in rows]):7.1f}"
    for which in ("test", "hard"):
        kinds = results["llava/features"][which]["kinds"]
        by_kind = {k: share(["".join(b for b, kind in zip(r[which], kinds) if kind == k) for r in rows]) for k in dict.fromkeys(kinds)}
        yield f"{which}: " + ", ".join(f"{k} {v:.1f}" for k, v in by_kind.items())


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    found = [results[name] for name in sorted(results) if name.startswith("speed/process")]
    yield ""
    yield f"Time of a prefill over that with one layer ({found[0]['settings']['shape']}; median of each process; by FLOPs)"
    for name in found[0]["ratios"]:
        medians = ", ".join(f"{of['ratios'][name]['median']:.3f}" for of in found)
        yield f"{name:<{WIDTH}s}{medians}; {found[0]['ratios'][name]['bound']:.3f}"


def committed(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    for seed in seeds_of(results, "committed"):
        row = results[f"committed/seed{seed}"]
        swaps = "; ".join(f"layer {layer} from {way} {100 * bits.count('1') / len(bits):.1f}" for way in ("another picture", "drawn again")
                          for layer, bits in row[way].items())
        yield f"{row['model']['name']}: right, % {100 * row['test'].count('1') / len(row['test']):.1f}; {swaps}"


def own(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "The four small LLaVAs of this paper on hard scenes: right, %; with a layer of another picture"
    for name in (name for name in results if name.startswith("own/") and name != "own/features"):
        row = results[name]
        swaps = ", ".join(f"{layer}: {100 * of_bits(bits):.1f}" for layer, bits in row["another picture"].items())
        yield f"{name.removeprefix('own/'):<{WIDTH}s}{100 * of_bits(row['test']):7.1f}; {swaps}"


def long(results: dict, size: str = "cpu") -> Iterator[str]:
    return trained(results, "long")


def more(results: dict, size: str = "cpu") -> Iterator[str]:
    return trained(results, "long-more")


def variants(results: dict, size: str = "cpu") -> Iterator[str]:
    return trained(results, "variants")


def trained(results: dict, name: str) -> Iterator[str]:
    """Every arm of an experiment: shares right at half of the steps, at the end, in another look, with added layers of another picture, on
    easy-VQA; when the plateau ended, and how many have converged."""
    of = Runs(results, name, first="triple, Qwen3" if name == "variants" else "default")
    yield ""
    yield f"{name + ': right on hard scenes, %':<{WIDTH}s}   half    end  looks other  easy  exit  converged"
    for arm in dict.fromkeys(key.split("/")[1] for key in results if key.split("/")[0] in HOLDS[name] and "/seed" in key):
        rows = [of.run(seed, arm) for seed in of.seeds]
        end, look, other, easy = (100 * fmean(of_bits(row["end"][where]) for row in rows) for where in ("test", LOOK, ANOTHER, EASY))
        out = [step for seed in of.seeds if (step := of.exit(seed, arm)) is not None]
        yield (f"{arm:<{WIDTH}s}{100 * fmean(row['half']['test'] for row in rows):7.1f}{end:7.1f}{look:7.1f}{other:6.1f}{easy:6.1f}"
               f"{f'{fmean(out):6.0f}' if out else '     -'}{len(of.settled(arm)):5d} of {len(rows)}")
    yield f"{'no picture':<{WIDTH}s}{'':7s}{of.blind('test'):7.1f}{'':13s}{of.blind(EASY):6.1f}"


def of_bits(right: str) -> float:
    return right.count("1") / len(right)


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    of = Runs(results, "smollm2")
    yield ""
    yield f"SmolLM2 with DINOv2-S on hard scenes, right, %{'':<3s}   test  another look  converged"
    for arm in dict.fromkeys(name.split("/")[1] for name in results if name.startswith("smollm2/") and "/seed" in name):
        shares = [100 * fmean(of_bits(of.run(seed, arm)["end"][where]) for seed in of.seeds) for where in ("test", "shifted")]
        yield f"{arm:<{WIDTH}s}{shares[0]:7.1f}{shares[1]:14.1f}{len(of.settled(arm)):8d} of {len(of.seeds)}"
    yield f"{'no picture':<{WIDTH}s}{of.blind('test'):7.1f}"
