"""The tables behind the claims, as text: means over the models, and each model's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean

from . import analytic, reported
from .experiments import llava as small
from .experiments import smollm2 as deep
from .quantities import Small

WIDTH = 34
WAYS = {"after": "zero behind the softmax", "before": "hidden before the softmax", "merge": "merged into the first visual token",
        "up to": "zero in this block and all before", "from": "zero in this block and all behind"}
WHICH = {"before": "all hidden", "merge": "all merged into one", "highest": "the highest tenth hidden", "lowest": "the lowest tenth hidden",
         "random": "a tenth by lot hidden", "random again": "another tenth by lot hidden",
         "all but highest": "all but the highest tenth hidden",
         "before, picture apart": "all hidden, also from the picture",
         "merge, picture apart": "all merged, also within the picture"}
ARMS = ("dense", "VisiPruner", "no exit", "attention at its K", "lot at its K", "another lot at its K", "FastV", "PyramidDrop",
        "no boundary", "paper's shallow stage", "code's shallow stage", "shallow, not the first")


def llava(results: dict, size: str = "cpu") -> Iterator[str]:
    of, how = Small(results), small.SIZES[size]
    blocks = sorted(results[f"knocked/seed{of.seeds[0]}"]["after"], key=int)
    yield ""
    yield (f"Open questions about {how.looked} test pictures answered right, %, mean of {len(of.seeds)} models; "
           f"dense {fmean(of.at('knocked', 'dense')):.1f}")
    yield f"{'text-to-picture attention in block':<{WIDTH}s}" + "".join(f"{b:>7s}" for b in blocks)
    for way, name in WAYS.items():
        yield row(name, (fmean(of.at("knocked", way, b)) for b in blocks))
    yield row("the picture gone behind the block", (fmean(of.at("looked", "exit", b)) for b in blocks[:-1]))
    for score in ("attention", "value", "lot"):
        yield row(f"{small.KEPT} kept behind it, by {score}", (fmean(of.at("looked", "kept", score, b)) for b in blocks[:-1]))
    yield row("the logit lens has the answer", (fmean(of.at("looked", "lens", "right", b)) for b in blocks))
    for what, name in (("attention", "attention of the last token, %"), ("ratio", "|v|_1 of the most attended, %")):
        yield row(name, (100 * fmean(results[f"looked/seed{s}"]["sinks"][what][b] for s in of.seeds) for b in blocks))
    for seed in of.seeds:
        yield row(f"zero behind the softmax, seed {seed}", (share(results[f"knocked/seed{seed}"]["after"][b]) for b in blocks))
    yield ""
    yield f"{'':<{WIDTH}s}" + "".join(f"{f'blocks {where}':>16s}" for where in ("0, 1", "2 to 5"))
    for which, name in WHICH.items():
        yield f"{name:<{WIDTH}s}" + "".join(f"{fmean(of.at('knocked', where, which)):16.1f}" for where in ("shallow", "middle"))
    yield "merged in block 0 into visual token " + ", ".join(f"{k}: {fmean(of.at('knocked', 'onto', str(k))):.1f}" for k in small.ONTO)
    yield ""
    yield f"Pruned: {how.test} test pictures, settings chosen on {how.validation} validation pictures; visual pairs left, %, and right, %"
    yield f"{'':<{WIDTH}s}{'pairs':>8s}{'right':>8s}   by seed"
    for arm in ARMS:
        of_seeds = [results[f"pruned/seed{seed}"] for seed in of.seeds]
        yield (f"{arm:<{WIDTH}s}{100 * fmean(r['pairs'][arm] for r in of_seeds):8.1f}{fmean(of.at('pruned', 'test', arm)):8.1f}   " +
               ", ".join(f"{100 * r['pairs'][arm]:.0f}: {share(r['test'][arm]):.1f}" for r in of_seeds))
    for seed in of.seeds:
        r = results[f"pruned/seed{seed}"]
        config = r["config"]
        means = ", ".join(f"{name} {r[name]:.1f}" if r[name] is not None else f"no {name}" for name in ("filter", "kept", "exit"))
        yield (f"seed {seed}: boundary {config['boundary']}, threshold {config['threshold']:g}, filtered {100 * r['filtered']:.0f} % of "
               f"questions; means: {means}; FastV {config['FastV']}, PyramidDrop {config['PyramidDrop']}")


def row(name: str, values: Iterable[float]) -> str:
    return f"{name:<{WIDTH}s}" + "".join(f"{value:7.1f}" for value in values)


def share(bits: str) -> float:
    return 100 * bits.count("1") / len(bits)


def exact(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Visual attention saved, %, by pairs k^2 + 74 k, and what table 6 prints"
    for case in analytic.pair_cases():
        yield f"{case.name:<{WIDTH + 12}s}{case.saved:8.2f}{'' if case.paper is None else f'{case.paper:8.1f}'}"
    yield "averages of table 5 that do not follow from their cells: " + "; ".join(
        f"{name}: {printed}, cells {computed:.1f}" for name, (printed, computed) in reported.wrong().items())
    yield "better than VisiPruner in table 6: " + ", ".join(reported.better_than_visipruner())


def speed(results: dict, size: str = "cpu") -> Iterator[str]:
    found = [results[name] for name in sorted(results) if name.startswith("speed/process")]
    first = found[0]
    yield ""
    yield (f"Prefill at the dimensions of {first['settings']['shape']}, fp32, {first['settings']['threads']} threads: median of the "
           f"first process; {first['rounds']} rounds; logits pruned and masked {first['difference']:.1e} of the largest apart")
    for name, times in first["times"].items():
        yield f"{name:<{WIDTH}s}{1000 * sorted(times)[len(times) // 2]:9.0f} ms  {first['flops'][name] / 1e9:8.1f} GFLOP"
    for pair, ratio in first["ratios"].items():
        yield f"{pair:<{WIDTH}s}" + ", ".join(f"{of['ratios'][pair]['median']:.2f}" for of in found) + f"; FLOPs {ratio['bound']:.2f}"


def guideline(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "Trained with the picture in some blocks alone: open questions right, %, by seed; seconds a step, dense and so"
    for arm in ("dense", "middle", "last"):
        rows = [results[name] for name in sorted(results) if name.startswith(f"guideline/{arm}/seed")]
        times = [of["seconds"] for of in rows if "seconds" in of]
        yield (f"{arm:<{WIDTH}s}" + ", ".join(f"{share(of['right']):.1f}" for of in rows) + ("; " if times else "") +
               ", ".join(f"{fmean(of['dense']):.2f} {fmean(of['staged']):.2f}" for of in times))


# -- asked for ---------------------------------------------------------------------------------------------
def qwen3(results: dict, size: str = "cpu") -> Iterator[str]:
    yield ""
    yield "A LLaVA with a Qwen3 decoder, as the others:"
    own = {name.removeprefix("qwen3/"): of for name, of in results.items() if name.startswith("qwen3/")}
    yield from llava(own, size)
    yield from _equal({name.replace("pruned", "equal"): of["equal"] for name, of in own.items() if name.startswith("pruned/")})


def smollm2(results: dict, size: str = "cpu") -> Iterator[str]:
    """One model of thirty layers: every layer alone, all else at its stops."""
    own = {name.removeprefix("smollm2/"): of for name, of in results.items() if name.startswith("smollm2/")}
    (found, seen, pruned, spoken), how = (own[f"{job}/seed0"] for job in ("knocked", "looked", "pruned", "recognised")), deep.SIZES[size]
    layers, stops = sorted(seen["lens"]["right"], key=int), sorted(found["up to"], key=int)
    yield ""
    yield f"A LLaVA on SmolLM2, one model: open questions about {how.looked} test pictures right, %; dense {share(found['dense']):.1f}"
    for start in range(0, len(layers), 15):
        some = layers[start : start + 15]
        yield f"{'layer':<{WIDTH}s}" + "".join(f"{b:>7s}" for b in some)
        yield row("zero behind the softmax, validation", (100 * found["validation"][b] for b in some))
        yield row("the logit lens has the answer", (share(seen["lens"]["right"][b]) for b in some))
        yield row("likeliest answering word of its kind", (
            100 * fmean(spoken["words"][letter][1] == kind for letter, kind in zip(spoken["said"][b], spoken["kinds"])) for b in some))
        yield row("|v|_1 of the most attended, %", (100 * seen["sinks"]["ratio"][b] for b in some))
        yield row("attention of the last token, %", (100 * seen["sinks"]["attention"][b] for b in some))
    for way in ("after", "before", "merge"):
        yield f"{WAYS[way]}, one layer: " + ", ".join(f"{b}: {share(bits):.1f}" for b, bits in found[way].items())
    yield f"{'layer':<{WIDTH}s}" + "".join(f"{b:>7s}" for b in stops)
    for way in ("up to", "from"):
        yield row(WAYS[way], (share(found[way][b]) for b in stops))
    behind = [b for b in stops if b in seen["exit"]]
    yield row("the picture gone behind the layer", (share(seen["exit"][b]) for b in behind))
    for score in ("attention", "value", "lot"):
        yield row(f"{small.KEPT} kept behind it, by {score}", (share(seen["kept"][score][b]) for b in behind))
    yield f"{'':<{WIDTH}s}{'layers 0 to 6':>16s}{'layers 8 to 21':>16s}"
    for which, name in WHICH.items():
        yield f"{name:<{WIDTH}s}" + "".join(f"{share(found[where][which]):16.1f}" for where in ("shallow", "middle"))
    yield ""
    yield f"Pruned: {how.test} test pictures, settings chosen on {how.validation} validation pictures; visual pairs left, %, and right, %"
    for arm in ARMS:
        yield f"{arm:<{WIDTH}s}{100 * pruned['pairs'][arm]:8.1f}{share(pruned['test'][arm]):8.1f}"
    means = ", ".join(f"{name} {pruned[name]:.1f}" if pruned[name] is not None else f"no {name}" for name in ("filter", "kept", "exit"))
    config = pruned["config"]
    yield (f"boundary {config['boundary']}, threshold {config['threshold']:g}, filtered {100 * pruned['filtered']:.0f} % of questions; "
           f"means: {means}")
    yield from _equal({"equal/seed0": pruned["equal"]})


def equal(results: dict, size: str = "cpu") -> Iterator[str]:
    yield from _equal(results)


def _equal(results: dict) -> Iterator[str]:
    rows = [results[name] for name in sorted(results) if name.startswith("equal/seed")]
    yield ""
    yield "Rivals with no fewer pairs than VisiPruner on the test questions: pairs left, %, and right, %; by seed"
    for arm in rows[0]["test"]:
        yield (f"{arm:<{WIDTH}s}{100 * fmean(r['pairs'][arm] for r in rows):8.2f}{fmean(share(r['test'][arm]) for r in rows):8.1f}   " +
               ", ".join(f"{100 * r['pairs'][arm]:.1f}: {share(r['test'][arm]):.1f}" for r in rows))
    yield "settings: " + "; ".join(", ".join(f"{name} {of}" for name, of in r["settings"].items()) for r in rows)


def budget(results: dict, size: str = "cpu") -> Iterator[str]:
    rows = [results[name] for name in sorted(results) if name.startswith("budget/seed")]
    yield ""
    yield "Few tokens: right, %, of the test questions that keep twenty or fewer, at their own number behind their own layer; by seed"
    there = [[i for i, bit in enumerate(r["few"]) if bit == "1"] for r in rows]
    for name in rows[0]["right"]:
        found = ["".join(r["right"][name][i] for i in of) for r, of in zip(rows, there)]
        yield f"{name:<{WIDTH}s}" + ", ".join(f"{share(bits):.1f}" if bits else "-" for bits in found)
    yield "; ".join(f"threshold {r['threshold']:g}, {len(of)} of {len(r['few'])} questions, " +
                    (f"{fmean(r['kept'][i] for i in of):.1f} tokens" if of else "no tokens") for r, of in zip(rows, there))
    yield from _equal({name.replace("budget/", "equal/"): of for name, of in results.items() if name.startswith("budget/")})


def precision(results: dict, size: str = "cpu") -> Iterator[str]:
    rows = [results[name] for name in sorted(results) if name.startswith("precision/seed")]
    yield ""
    yield "As in fp32 by SDPA, % of questions: filter layer, number of tokens, the tokens, answer; mean overlap of the kept sets; by seed"
    for way in ("eager", "bfloat16", "bfloat16, influence too"):
        yield f"{way:<{WIDTH}s}" + "; ".join(
            " ".join(f"{share(r[way][what]):6.1f}" for what in ("layer", "number", "tokens", "answer")) +
            f" {fmean(r[way]['overlap'] or [1.0]):6.3f}" for r in rows)


def oracle(results: dict, size: str = "cpu") -> Iterator[str]:
    rows = [results[name] for name in sorted(results) if name.startswith("oracle/seed")]
    yield ""
    yield (f"{small.KEPT} tokens kept behind block 3: right, %; rank correlation with leaving each one out, and the share of its "
           f"{small.KEPT} that are kept, too; by seed")
    for name in rows[0]["right"]:
        line = f"{name:<{WIDTH}s}" + ", ".join(f"{share(r['right'][name]):.1f}" for r in rows)
        if name in rows[0]["rank"]:
            line += "; " + ", ".join(f"{fmean(r['rank'][name]):.3f}" for r in rows) + "; " + ", ".join(
                f"{fmean(r['shared'][name]):.3f}" for r in rows)
        yield line
