"""The tables behind the claims, as text."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from common.seeds import seeds_of

from . import analytic, reported
from .quantities import Probes, behind

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
        gap = fmean(behind(r) for r in rows)
        yield (f"The most even layer is {gap:.1f} points behind the best layer on its worst kind: " +
               ("no single layer knows all" if gap > POINTS else "a single layer knows nearly all, and sets cannot matter here"))


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


def trained(results: dict, size: str = "cpu") -> Iterator[str]:
    """Every arm of the long run and of its variants: at half of the steps, at the end, in another look, on easy-VQA."""
    names = [name for name in results if name.startswith(("long/", "variants/")) and "/seed" in name]
    arms = list(dict.fromkeys(name.rpartition("/seed")[0] for name in names))
    yield ""
    yield f"Trained on hard scenes, mean over kinds, %{'':<5s}   half    end  looks  easy  exit   seeds"
    for arm in arms:
        rows = [results[f"{arm}/seed{seed}"] for seed in seeds_of(results, arm)]

        def mean(when: str, where: str, rows=rows) -> float:
            return 100 * fmean(fmean(r[when][where].values()) for r in rows)

        yield (f"{arm:<{WIDTH}s}{mean('half', 'test'):7.1f}{mean('end', 'test'):7.1f}{mean('end', 'shifted'):7.1f}"
               f"{100 * fmean(r['end']['easy-VQA'] for r in rows):6.1f}{fmean(r['exit'] for r in rows):6.0f}{len(rows):8d}")


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield f"SmolLM2 with DINOv2-S on hard scenes, right, %{'':<3s}   test  another look"
    for arm in dict.fromkeys(name.rpartition("/seed")[0] for name in results if name.startswith("smollm2/") and "/seed" in name):
        rows = [results[f"{arm}/seed{seed}"] for seed in seeds_of(results, arm)]
        means = [100 * fmean(fmean(r[where].values()) for r in rows) for where in ("test", "shifted")]
        yield f"{arm:<{WIDTH}s}{means[0]:7.1f}{means[1]:14.1f}"
