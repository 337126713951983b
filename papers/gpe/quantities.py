"""From results of jobs to what claims measure: {claim: measured}. What decides is in claims.yaml; no number here judges.

Results are read as they are committed (measurements.<document>.json); the seeds that are there are counted. Beside each quantity
stands the same one of an arm that must not pass ("placebo") or of a pair that is known to differ ("sensitivity").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from common.claims.intervals import point, summarize
from common.seeds import seeds_of

from .experiments import exact as counts
from .reported import PHI_BLEU, gain, share_of_gap, spread

EVERY, LATE = ("1", "3", "5", "7"), ("3", "5", "7")  # k = 1 writes before it has seen what it needs: guessing
PERFECT, BATCH = {"BLEU": 100.0, "WER": 0.0}, "batch"


# -- analytic ----------------------------------------------------------------------------------------------
def exact(results: dict, size: str) -> dict[str, dict]:
    with counts.one_thread():
        ratios = {k: counts.flops_ratio(k) for k in (1, 3, 5, 7, 9)}
    return {
        "C1f": point(gain("batch_streaming", "interleaved", "en-fr", 1)),
        "C3b": point(gain("kv_reencoding", "position_reencoding", "en-fr", 1)),
        "C4": point(round(share_of_gap(), 1), baselines={"untruncated": share_of_gap()}),
        "C5b": point(spread(PHI_BLEU)),
        "C14": point(min(ratios.values()), baselines={f"k = {k}": ratio for k, ratio in ratios.items()}),
    }


# -- text --------------------------------------------------------------------------------------------------
Row = dict[str, float]  # BLEU by k: of an arm and a seed


class Text:
    """Scores of the experiment by seed and arm. steps: of the budget that is meant where none is named."""

    def __init__(self, results: dict, steps: int):
        self.results, self.steps = results, steps
        self.seeds = seeds_of(results, "text/untuned")

    def run(self, name: str, seed: int, steps: int | None = None) -> dict:
        return self.results[f"text/{name}, {steps or self.steps} steps/seed{seed}"]

    def row(self, name: str, seed: int, decoding: str = "stream", steps: int | None = None) -> Row:
        return {k: scores["bleu"] for k, scores in self.run(name, seed, steps)[decoding].items()}

    def rows(self, name: str, decoding: str = "stream", steps: int | None = None) -> list[Row]:
        """One a seed."""
        return [self.row(name, seed, decoding, steps) for seed in self.seeds]

    def untuned(self, decoding: str) -> list[Row]:
        return [{k: scores["bleu"] for k, scores in self.results[f"text/untuned/seed{seed}"][decoding].items()} for seed in self.seeds]

    def resolution(self) -> float:
        """BLEU cannot tell less apart than a word in all that was translated."""
        return 100 / self.results[f"text/untuned/seed{self.seeds[0]}"][BATCH][BATCH]["words"]

    def seeds_say(self, values: Sequence[float], **baselines: Sequence[float]) -> dict:
        shown = {"baselines": {name.replace("_", " "): fmean(v) for name, v in baselines.items()}} if baselines else {}
        return summarize(values, resolution=self.resolution()) | shown


def mean_over(rows: Sequence[Row], ks: Sequence[str] = EVERY) -> list[float]:
    return [fmean(row[k] for k in ks) for row in rows]


def at(rows: Sequence[Row], k: str) -> list[float]:
    return [row[k] for row in rows]


def less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs)]


def least(ours: Sequence[Row], theirs: Sequence[Row], ks: Sequence[str]) -> list[float]:
    """Of each seed the smallest over ks of ours - theirs."""
    return [min(a[k] - b[k] for k in ks) for a, b in zip(ours, theirs)]


def largest(ours: Sequence[Sequence[Row]], theirs: Sequence[Row], ks: Sequence[str] = EVERY) -> list[float]:
    """The differences of the seeds for that of several arms and of the ks where their mean is largest in size, with its sign.

    Taken seed by seed it would grow with chance alone: four equal arms spread by two standard deviations.
    """
    return max(([a[k] - b[k] for a, b in zip(rows, theirs)] for rows in ours for k in ks), key=lambda values: abs(fmean(values)))


def ahead_of_best(ours: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[float]:
    """Of each seed the mean over k minus that of the best other arm."""
    return less(mean_over(ours), [max(means) for means in zip(*map(mean_over, others))])


def ceiling(*arms: Sequence[Row]) -> dict:
    """Of the k at which they are worst: where even that is perfect, no difference could be seen."""
    return {"values": [min(row[k] for k in EVERY) for rows in arms for row in rows], "best": PERFECT["BLEU"]}


def text(results: dict, size: str = "cpu") -> dict[str, dict]:
    from .experiments.text import SIZES

    short, long = SIZES[size].short, SIZES[size].long
    t = Text(results, short)
    return ladder(t, long) | toggles(t) | equivalences(t) | needed(t) | both_modes(t, long) | where_it_looks(t, long)


def ladder(t: Text, long: int) -> dict[str, dict]:
    """C1a, C1b, C8a: GPE and the ways to stream that encode nothing again."""
    arms = {name: t.rows(name) for name in ("interleaved", "batch_streaming", "position_reencoding", "group")}
    later = {name: t.rows(name, steps=long) for name in ("interleaved", "batch_streaming", "group")}

    def behind(rows: dict, arm: str) -> list[float]:
        return least(rows["batch_streaming"], rows[arm], ("3", "5"))

    def ahead(arm: str) -> list[float]:
        return ahead_of_best(arms[arm], [rows for name, rows in arms.items() if name != arm])

    shown = {f"{name}_at_{k}": at(arms[name], k) for name in ("interleaved", "batch_streaming") for k in ("3", "5")}
    return {
        "C1a": t.seeds_say(behind(arms, "interleaved"), **shown) | {"placebo": t.seeds_say(behind(arms, "position_reencoding"))},
        "C1b": t.seeds_say(behind(later, "interleaved"), **{name: at(rows, "3") for name, rows in later.items()})
        | {"placebo": t.seeds_say(behind(later, "group"))},
        "C8a": t.seeds_say(ahead("group"), **{name: mean_over(rows) for name, rows in arms.items()})
        | {"placebo": t.seeds_say(ahead("batch_streaming"))},
    }


def toggles(t: Text) -> dict[str, dict]:
    """C1c, C1d, C1e: one thing changed at a time."""
    frozen, group, moved = (t.rows(name) for name in ("batch_streaming", "group", "position_reencoding"))
    frozen_seen, group_seen, by_arrival = (t.rows(name) for name in ("finished_frozen", "finished_group", "interleaved_group"))

    def paths(ours: list[Row], theirs: list[Row]) -> list[float]:
        return less(mean_over(ours, LATE), mean_over(theirs, LATE))

    return {
        "C1c": t.seeds_say(largest([frozen], frozen_seen), batch_streaming=mean_over(frozen),
                           finished_target_visible=mean_over(frozen_seen))
        | {"placebo": t.seeds_say(largest([frozen], moved))},
        "C1d": t.seeds_say(largest([group], group_seen), group=mean_over(group), finished_target_visible=mean_over(group_seen))
        | {"placebo": t.seeds_say(largest([group], frozen))},
        "C1e": t.seeds_say(paths(group_seen, by_arrival), finished=mean_over(group_seen, LATE),
                           interleaved_with_group_ids=mean_over(by_arrival, LATE))
        | {"placebo": t.seeds_say(paths(group, group_seen))},
    }


def equivalences(t: Text) -> dict[str, dict]:
    """C2a, C3a, C4a, C5a: what is said to make no difference."""
    from .experiments.text import PHIS

    interleaved, frozen, moved, group = (t.rows(name) for name in ("interleaved", "batch_streaming", "position_reencoding", "group"))
    again, trained = t.rows("batch_streaming", "kv_reencoding"), t.rows("kv_reencoding")
    offsets = [t.rows(f"group, phi {phi}") for phi in PHIS[1:]]
    none = t.rows("no_positions")
    known = {"sensitivity": t.seeds_say(largest([interleaved], frozen))}
    untuned = {"untuned": mean_over(t.untuned("kv_reencoding"))}

    def gained_over(arm: list[Row]) -> list[float]:
        """By the better of two models that encode everything again."""
        return [-x for x in ahead_of_best(arm, (again, trained))]

    return {
        "C2a": t.seeds_say(largest([moved], frozen), position_reencoding=mean_over(moved), batch_streaming=mean_over(frozen),
                           at_1=less(at(moved, "1"), at(frozen, "1"))) | known | {"ceiling": ceiling(moved, frozen)},
        "C3a": t.seeds_say(largest([again], frozen), kv_reencoding=mean_over(again), batch_streaming=mean_over(frozen),
                           at_1=less(at(again, "1"), at(frozen, "1"))) | known | {"ceiling": ceiling(again, frozen)},
        "C4a": t.seeds_say(gained_over(group), group=mean_over(group), trained_for_it=mean_over(trained),
                           weights_of_batch_streaming=mean_over(again), **untuned) | {"placebo": t.seeds_say(gained_over(interleaved))},
        "C5a": t.seeds_say(largest(offsets, group), at_1=largest(offsets, group, ("1",)), phi_0=mean_over(group),
                           **{f"phi_{phi}": mean_over(rows) for phi, rows in zip(PHIS[1:], offsets)})
        | {"sensitivity": t.seeds_say(largest([none], group)), "ceiling": ceiling(group, *offsets)},
    }


def needed(t: Text) -> dict[str, dict]:
    """C6: which positions are needed."""
    from .experiments.text import PHIS

    group, moved = t.rows("group"), t.rows(f"group, phi {PHIS[-1]}")
    none, no_source, no_target = (t.rows(f"no_{which}positions") for which in ("", "source_", "target_"))

    def lost(arm: list[Row]) -> list[float]:
        return less(at(group, "5"), at(arm, "5"))

    def costs_more(ours: list[Row], theirs: list[Row]) -> list[float]:
        return less(mean_over(theirs, LATE), mean_over(ours, LATE))

    control = {"placebo": t.seeds_say(lost(moved))}
    return {
        "C6a": t.seeds_say(lost(none), group=at(group, "5"), no_positions=at(none, "5")) | control,
        "C6b": t.seeds_say(lost(no_source), group=at(group, "5"), no_source_positions=at(no_source, "5")) | control,
        "C6c": t.seeds_say(lost(no_target), group=at(group, "5"), no_target_positions=at(no_target, "5")) | control,
        "C6d": t.seeds_say(costs_more(no_source, no_target), no_source_positions=mean_over(no_source, LATE),
                           no_target_positions=mean_over(no_target, LATE)) | {"placebo": t.seeds_say(costs_more(no_source, none))},
    }


def both_modes(t: Text, long: int) -> dict[str, dict]:
    """C9a, C9b: whole sentences, in % of what a copy gets that was tuned on whole sentences."""
    def whole(name: str) -> list[float]:
        return at(t.rows(name, BATCH, long), BATCH)

    def kept(values: list[float]) -> list[float]:
        return [100 * a / b for a, b in zip(values, tuned)]

    tuned, group, mixed, interleaved = (whole(name) for name in (BATCH, "group", "group with batch", "interleaved"))
    unlearned, contiguous = at(t.untuned("wrong ids"), BATCH), at(t.rows("group", "contiguous ids", long), "7")
    return {
        "C9a": t.seeds_say(kept(group), batch_tuned=tuned, group_in_batch_mode=group, interleaved_in_batch_mode=interleaved,
                           untuned_with_group_ids=unlearned, group_weights_with_contiguous_ids_at_7=contiguous)
        | {"placebo": t.seeds_say(kept(interleaved))},
        "C9b": t.seeds_say(kept(mixed), batch_tuned=tuned, group_in_batch_mode=mixed) | {"placebo": t.seeds_say(kept(unlearned))},
    }


def where_it_looks(t: Text, long: int) -> dict[str, dict]:
    """C12a: attention near the diagonal, against the model before tuning."""
    def share(arm: str, which: str, what: str = "share") -> list[float]:
        return [t.run(arm, seed, long)["diagonal"][which][what] for seed in t.seeds]

    def moved_there(arm: str) -> list[float]:
        return less(share(arm, "tuned"), share(arm, "batch-trained"))

    step = 1e-5  # the places that are committed
    shown = {"group": share("group", "tuned"), "batch trained": share("group", "batch-trained"), "even": share("group", "tuned", "even")}
    return {"C12a": summarize(moved_there("group"), resolution=step) | {"baselines": {name: fmean(v) for name, v in shown.items()}}
            | {"placebo": summarize(moved_there("batch_streaming"), resolution=step)}}


# -- speech ------------------------------------------------------------------------------------------------
def speech(results: dict, size: str = "cpu") -> dict[str, dict]:
    from .experiments.speech import KS, PHIS

    ks = tuple(map(str, KS))
    seeds = seeds_of(results, f"speech/phi {PHIS[0]}")

    def rows(name: str, mode: str = "stream") -> list[Row]:
        return [{k: scores["wer"] for k, scores in results[f"speech/{name}/seed{seed}"][mode].items()} for seed in seeds]

    def say(values: list[float]) -> dict:  # a word more or less
        return summarize(values, resolution=100 / results[f"speech/phi {PHIS[0]}/seed{seeds[0]}"]["stream"][ks[0]]["words"])

    offsets, by_arrival = [rows(f"phi {phi}") for phi in PHIS], rows("interleaved")
    first, whole = offsets[0], at(rows(f"phi {PHIS[0]}", BATCH), BATCH)
    worst = [max(row[k] for k in ks) for arm in offsets for row in arm]
    return {
        "C7a": say(largest(offsets[1:], first, ks)) | {
            "sensitivity": say(largest([by_arrival], first, ks)), "ceiling": {"values": worst, "best": PERFECT["WER"]},
            "baselines": {f"WER at phi {phi}, k {k}": fmean(at(arm, k)) for phi, arm in zip(PHIS, offsets) for k in ks}
            | {f"last loss at phi {phi}, worst seed": max(results[f"speech/phi {phi}/seed{seed}"]["loss"] for seed in seeds)
               for phi in PHIS}},
        "C7b": say(less(at(first, ks[0]), at(first, ks[-1]))) | {"placebo": say(less(at(first, ks[-1]), whole)), "baselines": {
            **{f"WER at k {k}": fmean(at(first, k)) for k in ks}, "WER in batch mode": fmean(whole)}},
    }


# -- timings -----------------------------------------------------------------------------------------------
def _ratio(case: dict, mode: str) -> list[float]:
    """Time of a mode over that of group, one a process; the modes went in step."""
    return [fmean(a) / fmean(b) for a, b in zip(case["modes"][mode]["seconds"], case["modes"]["group"]["seconds"])]


def _timing(case: dict) -> dict:
    ratios = sorted(_ratio(case, "kv"))
    n = len(ratios)
    return {"processes": n, "rounds": len(case["modes"]["kv"]["seconds"][0]), "estimator": "ratio of modes that go in step",
            "iqr_relative": (ratios[3 * n // 4] - ratios[n // 4]) / ratios[n // 2], "load_average": case["load_average"],
            "words": case["words"]}


def _over_processes(of: Callable[[str], list[float]], **more) -> dict:
    """A quantity of re-encoding, and as its placebo that of group, timed a second time."""
    return summarize(of("kv"), over="processes") | {"placebo": summarize(of("again"), over="processes")} | more


def _growth(document: dict) -> dict:
    """The shortest against the longest sentence at k = 3."""
    short, long = (document["cases"][document[which]] for which in ("shortest", "longest"))
    others = {f"{mode}, {case['words']} words": fmean(_ratio(case, mode)) for case in (short, long) for mode in case["modes"]}
    return _over_processes(lambda mode: less(_ratio(long, mode), _ratio(short, mode)), baselines=others, timing=_timing(long))


def speed(results: dict, size: str = "cpu") -> dict[str, dict]:
    long = results["speed"]["cases"][results["speed"]["longest"]]

    def arrived(mode: str) -> list[float]:
        return [(ratio - 1) / (long["flops_ratio"] - 1) for ratio in _ratio(long, mode)]

    share = _over_processes(arrived, timing=_timing(long), baselines={
        "FLOPs ratio": long["flops_ratio"], "time ratio": fmean(_ratio(long, "kv"))})
    return {"C15a": _growth(results["speed"]), "C15b": share, "C15c": share}


def gpu(results: dict, size: str = "gpu") -> dict[str, dict]:
    return {"C15": _growth(results["gpu"])}


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
