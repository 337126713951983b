"""From results of jobs to what claims measure: {claim: measured}. The rules and verdicts are in claims.yaml and common/."""

from __future__ import annotations

from statistics import fmean

from common.claims.intervals import summarize
from common.runs.reproduce import point

from .experiments import exact as counts
from .reported import PHI_BLEU, gain, share_of_gap, spread

LATE = ("3", "5", "7")  # k = 1 writes before it has seen what it needs: guessing, reported and left out of the rules


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    with counts.one_thread():
        growth = {mode: counts.growth(mode) for mode in ("group", "kv")}
        ratios = {k: counts.flops_ratio(k) for k in (1, 3, 5, 7, 9)}
        added, wrong, fed = counts.added_entries(), counts.wrong_delays(), counts.counted(counts.EXAMPLE, 1, "group").fed
    steps = [b - a for a, b in zip(growth["kv"], growth["kv"][1:])]
    return {
        "C1f": point(gain("batch_streaming", "interleaved", "en-fr", 1)),
        "C3b": point(gain("kv_reencoding", "position_reencoding", "en-fr", 1)),
        "C4": point(round(share_of_gap(), 1), baselines={"untruncated": share_of_gap()}),
        "C5b": point(spread(PHI_BLEU)),
        "C10": point(added),
        "C13": point(wrong),
        "C14": point(round(ratios[1], 3), baselines={f"k = {k}": ratios[k] for k in (3, 5, 7, 9)}),
        "C14a": point(fed),
        "C14b": point(max(growth["group"]) - min(growth["group"])),
        "C14c": point(fmean(steps), baselines={"largest": max(steps), "smallest": min(steps)}),
    }


# -- text --------------------------------------------------------------------------------------------------
def bleu(results: dict, name: str, seed: int, k: str, decoding: str = "stream") -> float:
    """BLEU of job text/<name> of a seed, streamed in one way at k ("1" ... "7", "batch")."""
    return results[f"text/{name}/seed{seed}"][decoding][k]["bleu"]


def text(results: dict, size: str = "cpu") -> dict[str, dict]:
    from .experiments.text import PHIS, SIZES

    s = SIZES[size]

    def row(name: str, k: str, decoding: str = "stream", steps: int = s.short) -> list[float]:
        return [bleu(results, f"{name}, {steps} steps", seed, k, decoding) for seed in s.seeds]

    def late(name: str, decoding: str = "stream", steps: int = s.short) -> list[float]:
        return [fmean(values) for values in zip(*(row(name, k, decoding, steps) for k in LATE))]

    def less(ours: list[float], theirs: list[float]) -> list[float]:
        return [a - b for a, b in zip(ours, theirs)]

    def seeds(values: list[float], **baselines: list[float]) -> dict:
        return summarize(values) | {"baselines": {name.replace("_", " "): fmean(v) for name, v in baselines.items()}}

    def largest(*differences: list[float]) -> list[float]:
        """Of each seed the difference that is largest in size, with its sign."""
        return [max(values, key=abs) for values in zip(*differences)]

    def spread_of(k: str) -> list[float]:
        by_phi = [row(f"group, phi {phi}", k, steps=s.long) for phi in PHIS]
        return [max(values) - min(values) for values in zip(*by_phi)]

    gap = {steps: {k: less(row("batch_streaming", k, steps=steps), row("interleaved", k, steps=steps)) for k in ("3", "5")}
           for steps in (s.short, s.long)}
    smaller = {steps: [min(pair) for pair in zip(*by_k.values())] for steps, by_k in gap.items()}
    both = {k: row("batch_streaming", k) for k in ("1", *LATE)}
    kv = {k: row("batch_streaming", k, "kv_reencoding") for k in ("1", *LATE)}
    group5 = row("group", "5")
    batch = [bleu(results, f"batch, {s.long} steps", seed, "batch", "batch") for seed in s.seeds]
    group0, mixed = f"group, phi 0, {s.long} steps", f"group with batch, {s.long} steps"
    kept = [bleu(results, group0, seed, "batch", "batch") for seed in s.seeds]
    kept_mixed = [bleu(results, mixed, seed, "batch", "batch") for seed in s.seeds]
    contiguous = [bleu(results, group0, seed, "7", "contiguous ids") for seed in s.seeds]
    diagonal = [results[f"text/{group0}/seed{seed}"]["diagonal"] for seed in s.seeds]
    return {
        "C1a": seeds(smaller[s.short], interleaved_at_3=row("interleaved", "3"), batch_streaming_at_3=both["3"],
                     interleaved_at_5=row("interleaved", "5"), batch_streaming_at_5=both["5"]),
        "C1b": seeds(smaller[s.long], interleaved_at_3=row("interleaved", "3", steps=s.long),
                     batch_streaming_at_3=row("batch_streaming", "3", steps=s.long)),
        "C1c": seeds(less(late("batch_streaming"), late("finished_frozen")), batch_streaming=late("batch_streaming"),
                     finished_target_visible=late("finished_frozen")),
        "C1d": seeds(less(late("group"), late("finished_group")), group=late("group"),
                     finished_target_visible=late("finished_group")),
        "C1e": seeds(less(late("finished_group"), late("interleaved_group")), finished=late("finished_group"),
                     interleaved_with_group_ids=late("interleaved_group")),
        "C2a": seeds(largest(*(less(row("position_reencoding", k), both[k]) for k in LATE)),
                     position_reencoding=late("position_reencoding"), batch_streaming=late("batch_streaming"),
                     at_1=less(row("position_reencoding", "1"), both["1"])),
        "C3a": seeds([2 - max(values) for values in zip(*(less(kv[k], both[k]) for k in LATE))],
                     kv_reencoding=late("batch_streaming", "kv_reencoding"),
                     batch_streaming=late("batch_streaming"), at_1=less(kv["1"], both["1"])),
        "C4a": seeds(less(late("group"), late("kv_reencoding")), group=late("group"), kv_reencoding=late("kv_reencoding"),
                     untuned_kv_reencoding=[fmean(bleu(results, "untuned", seed, k, "kv_reencoding") for k in LATE)
                                            for seed in s.seeds]),
        "C5a": seeds([max(values) for values in zip(*map(spread_of, LATE))], at_1=spread_of("1"),
                     **{f"phi_{phi}": late(f"group, phi {phi}", steps=s.long) for phi in PHIS}),
        "C6a": seeds(less(group5, row("no_positions", "5")), group=group5, no_positions=row("no_positions", "5")),
        "C6b": seeds(less(group5, row("no_source_positions", "5")), group=group5,
                     no_source_positions=row("no_source_positions", "5")),
        "C6c": seeds(less(group5, row("no_target_positions", "5")), group=group5,
                     no_target_positions=row("no_target_positions", "5")),
        "C6d": seeds(less(late("no_target_positions"), late("no_source_positions")),
                     no_source_positions=late("no_source_positions"), no_target_positions=late("no_target_positions")),
        "C8a": seeds(less(late("group"), late("contiguous", "frozen ids")), group=late("group"),
                     contiguous_streamed=late("contiguous", "frozen ids"), contiguous_with_known_length=late("contiguous")),
        "C9a": seeds([100 * a / b - 95 for a, b in zip(kept, batch)], batch_tuned=batch, group_in_batch_mode=kept,
                     group_weights_with_contiguous_ids_at_7=contiguous),
        "C9b": seeds([100 * a / b - 95 for a, b in zip(kept_mixed, batch)], batch_tuned=batch,
                     group_in_batch_mode=kept_mixed),
        "C12a": seeds([d["group"]["share"] - d["group"]["even"] for d in diagonal],
                      group=[d["group"]["share"] for d in diagonal], even=[d["group"]["even"] for d in diagonal],
                      batch_trained=[d["batch-trained"]["share"] for d in diagonal]),
    }


def speech(results: dict, size: str = "cpu") -> dict[str, dict]:
    from .experiments.speech import KS, PHIS, SIZES

    seeds = SIZES[size].seeds

    def wer(phi, seed, k) -> float:
        return results[f"speech/phi {phi}/seed{seed}"]["stream"][str(k)]["wer"]

    spreads = {k: [max(v) - min(v) for v in zip(*([wer(phi, seed, k) for seed in seeds] for phi in PHIS))] for k in KS}
    first = {k: [wer(PHIS[0], seed, k) for seed in seeds] for k in KS}
    batch = [results[f"speech/phi {PHIS[0]}/seed{seed}"]["batch"]["batch"]["wer"] for seed in seeds]
    return {
        "C7a": summarize([max(v) for v in zip(*spreads.values())])
        | {"baselines": {f"WER at phi {phi}, k {k}": fmean(wer(phi, s, k) for s in seeds) for phi in PHIS for k in KS}},
        "C7b": summarize([a - b for a, b in zip(first[KS[0]], first[KS[-1]])])
        | {"baselines": {f"WER at k {k}": fmean(first[k]) for k in KS} | {"WER in batch mode": fmean(batch)}},
    }


# -- timings -----------------------------------------------------------------------------------------------
def _ratio(case: dict, mode: str) -> list[float]:
    """Time of a mode over that of group, one a round: the rounds are interleaved."""
    return [a / b for a, b in zip(case["modes"][mode]["seconds"], case["modes"]["group"]["seconds"])]


def _timing(case: dict) -> dict:
    ratios = sorted(_ratio(case, "kv"))
    n = len(ratios)
    middle = ratios[n // 2]
    return {"rounds": n, "estimator": "ratio of interleaved rounds", "iqr_relative": (ratios[3 * n // 4] - ratios[n // 4]) / middle,
            "load_average": case["load_average"], "words": case["words"]}


def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    """The shortest against the longest sentence at k = 3."""
    document = results["speed"]
    short, long = (document["cases"][name] for name in (document["shortest"], document["longest"]))
    ratios, bound = [_ratio(case, "kv") for case in (short, long)], long["flops_ratio"]
    return {
        "C15a": summarize([b - a for a, b in zip(*ratios)]) | {"baselines": _others(short, long), "timing": _timing(long)},
        "C15b": summarize([(r - 1) / (bound - 1) - 0.5 for r in ratios[1]])
        | {"baselines": {"FLOPs ratio": bound, "time ratio": fmean(ratios[1])}, "timing": _timing(long)},
    }


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    document = results["gpu"]
    short, long = (document["cases"][name] for name in (document["shortest"], document["longest"]))
    differences = [b - a for a, b in zip(_ratio(short, "kv"), _ratio(long, "kv"))]
    return {"C15": summarize(differences) | {"baselines": _others(short, long), "timing": _timing(long)}}


def _others(short: dict, long: dict) -> dict[str, float]:
    return {f"{mode}, {case['words']} words": fmean(_ratio(case, mode)) for case in (short, long) for mode in case["modes"]}


# -- paper scale -------------------------------------------------------------------------------------------
def paper(results: dict, size: str = "paper") -> dict[str, dict]:
    """{run name: {"k": ..., "stream": {"bleu": ...}}} of finished trainings -> measured; what is missing stays not-run."""
    scores = results["paper"]

    def of(name: str) -> float | None:
        return scores[name]["stream"]["bleu"] if name in scores else None

    wanted = {
        "C1": ("gemma2-2b_en-fr_batch_streaming_k1", "gemma2-2b_en-fr_interleaved_k1"),
        "C3": ("gemma2-2b_en-fr_kv_reencoding_k1", "gemma2-2b_en-fr_position_reencoding_k1"),
        "C6": ("gemma2-2b_en-fr_group_k3", "gemma2-2b_en-fr_no_positions_k3"),
    }
    return {claim: point(of(a) - of(b), baselines={a: of(a), b: of(b)})
            for claim, (a, b) in wanted.items() if a in scores and b in scores}


