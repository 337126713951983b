"""From made-up results to words: each claim from both sides, with arms exchanged, with placebos that pass, dull measures and ceilings."""

import pytest

from common.claims.effects import DULL
from common.claims.intervals import MIN_RUNS
from common.claims.records import load_claims, make_record, start_run
from common.claims.rules import FAILS, HOLDS

from .. import eval as harness
from .. import quantities
from ..experiments import speech, text

CLAIMS = load_claims(harness.HERE / "claims.yaml")
S, L = text.SIZES["cpu"].short, text.SIZES["cpu"].long
SEEDS, WORDS = (0, 1, 2), 1500
SHIFT = (-0.1, 0.0, 0.1)  # of the seeds, alike in all arms


def judged(name, measured):
    measured = dict(measured)
    timing = measured.pop("timing", None)
    facts = start_run("test") | {"seconds": 0.0}
    return make_record(CLAIMS.find(name), CLAIMS.sha256, measured, facts, seeds=SEEDS, timing=timing)["verdict"]


# -- text --------------------------------------------------------------------------------------------------
def made(changes=None, seeds=SEEDS):
    """Results as the jobs give them: BLEU 90 at every k, or what `changes` says of "job" or "job|decoding": a number, or {k: number}."""
    usual = {"untuned|wrong ids": 30.0, f"interleaved, {L} steps|batch": 70.0, f"interleaved, {S} steps": 40.0,
             f"interleaved_group, {S} steps": 40.0, f"no_positions, {S} steps": 70.0}
    changes = usual | (changes or {})
    names = {job.name.removeprefix("text/").rpartition("/")[0] for job in text.jobs()} - {"standin"}

    def scores(value, seed):
        by_k = value if isinstance(value, dict) else dict.fromkeys(("1", "3", "5", "7", "batch"), value)
        return {k: {"bleu": bleu + SHIFT[seed % 3], "words": WORDS} for k, bleu in by_k.items()}

    found = {}
    for name in names:
        for seed in seeds:
            ways = ("stream", "batch", "kv_reencoding", "contiguous ids", "wrong ids")
            entry = {way: scores(changes.get(f"{name}|{way}", changes.get(name, 90.0)), seed) for way in ways}
            share = changes.get(f"{name}|share", 0.5) + SHIFT[seed % 3] / 10
            entry["diagonal"] = {"tuned": {"share": share, "even": 0.4}, "batch-trained": {"share": 0.5, "even": 0.4}}
            found[f"text/{name}/seed{seed}"] = entry
    return found


def word(name, changes=None):
    return judged(name, quantities.text(made(changes))[name])["word"]


def short(name, value):
    return {f"{name}, {S} steps": value}


def long(name, value):
    return {f"{name}, {L} steps": value}


SAYS = [
    ("C1a", {}, "supports"),  # interleaved is at 40
    ("C1a", short("interleaved", 85.0), "opposes"),
    ("C1a", short("interleaved", {"1": 40, "3": 40, "5": 85, "7": 40}), "opposes"),  # the smaller gap counts
    ("C1b", long("interleaved", 85.0), "supports"),
    ("C1b", long("interleaved", 95.0), "opposes"),
    ("C1b", {}, "inconclusive"),
    ("C1c", short("finished_frozen", 85.0), "supports"),
    ("C1c", {}, "opposes"),
    ("C1c", short("finished_frozen", {"1": 85, "3": 90, "5": 90, "7": 90}), "supports"),  # at k = 1 alone
    ("C1d", short("finished_group", 85.0), "supports"),
    ("C1d", short("finished_group", 95.0), "opposes"),
    ("C1e", {}, "supports"),
    ("C1e", short("interleaved_group", 85.0), "opposes"),
    ("C2a", short("position_reencoding", 91.0), "supports"),
    ("C2a", short("position_reencoding", 95.0), "opposes"),
    ("C2a", short("position_reencoding", {"1": 85, "3": 90, "5": 90, "7": 90}), "opposes"),
    ("C3a", {f"batch_streaming, {S} steps|kv_reencoding": 91.0}, "supports"),
    ("C3a", {f"batch_streaming, {S} steps|kv_reencoding": 95.0}, "opposes"),
    ("C3a", {f"batch_streaming, {S} steps|kv_reencoding": 85.0}, "opposes"),  # both sides
    ("C4a", short("kv_reencoding", 80.0), "supports"),
    ("C4a", short("kv_reencoding", 95.0), "opposes"),
    ("C4a", {f"batch_streaming, {S} steps|kv_reencoding": 95.0}, "opposes"),  # the better of the two
    ("C5a", short("group, phi 256", 89.0), "supports"),
    ("C5a", short("group, phi 16", 80.0), "opposes"),
    ("C5a", short("group, phi 0.5", {"1": 85, "3": 90, "5": 90, "7": 90}), "opposes"),
    ("C6a", short("no_positions", 80.0), "supports"),
    ("C6a", short("no_positions", 88.0), "opposes"),
    ("C6b", short("no_source_positions", 80.0), "supports"),
    ("C6b", {}, "opposes"),
    ("C6c", short("no_target_positions", 80.0), "supports"),
    ("C6c", {}, "opposes"),
    ("C6d", short("no_source_positions", 80.0) | short("no_positions", 75.0), "supports"),
    ("C6d", short("no_target_positions", 80.0), "opposes"),
    ("C8a", short("group", 93.0), "supports"),
    ("C8a", short("position_reencoding", 95.0), "opposes"),
    ("C8a", {}, "inconclusive"),
    ("C9a", {}, "supports"),
    ("C9a", {f"group, {L} steps|batch": 80.0}, "opposes"),
    ("C9b", {}, "supports"),
    ("C9b", {f"group with batch, {L} steps|batch": 80.0}, "opposes"),
    ("C12a", {f"group, {L} steps|share": 0.7}, "supports"),
    ("C12a", {f"group, {L} steps|share": 0.4}, "opposes"),
]  # fmt: skip


@pytest.mark.parametrize("claim, changes, expected", SAYS)
def test_a_word_follows_from_the_scores(claim, changes, expected):
    assert word(claim, changes) == expected


def test_every_claim_on_text_is_said_from_both_sides():
    asked = {claim for experiment in harness.EXPERIMENTS for claim in experiment.claims}
    others = asked | {"C15a", "C15b", "C15c"}  # timings
    small = {claim["id"].partition("/")[2] for claim in CLAIMS if claim["rung"] == "cpu-small"} - others
    for sides in (HOLDS, FAILS):
        assert {claim for claim, _, said in SAYS if said in sides} == small


# A claim, the jobs whose results are exchanged (the method and what it is held against), and results that support it.
EXCHANGED = [
    ("C1a", ("interleaved", "batch_streaming"), S, {}),
    ("C1b", ("interleaved", "batch_streaming"), L, long("interleaved", 85.0)),
    ("C1c", ("finished_frozen", "batch_streaming"), S, short("finished_frozen", 85.0)),
    ("C1d", ("finished_group", "group"), S, short("finished_group", 85.0)),
    ("C1e", ("interleaved_group", "finished_group"), S, {}),
    ("C4a", ("group", "interleaved"), S, {}),
    ("C6a", ("group", "no_positions"), S, short("no_positions", 80.0)),
    ("C6b", ("group", "no_source_positions"), S, short("no_source_positions", 80.0)),
    ("C6c", ("group", "no_target_positions"), S, short("no_target_positions", 80.0)),
    ("C6d", ("no_source_positions", "no_target_positions"), S, short("no_source_positions", 80.0) | short("no_positions", 75.0)),
    ("C8a", ("group", "interleaved"), S, short("group", 93.0)),
    ("C8a", ("group", "batch_streaming"), S, short("group", 93.0)),
    ("C9a", ("group", "batch"), L, {f"group, {L} steps|batch": 100.0}),
    ("C9a", ("group", "interleaved"), L, {}),
    ("C12a", ("group", "batch_streaming"), L, {f"group, {L} steps|share": 0.7}),
]


@pytest.mark.parametrize("claim, arms, steps, changes", EXCHANGED)
def test_arms_exchanged_support_it_no_more(claim, arms, steps, changes):
    assert word(claim, changes) == "supports"
    found = made(changes)
    for seed in SEEDS:
        a, b = (f"text/{arm}, {steps} steps/seed{seed}" for arm in arms)
        found[a], found[b] = found[b], found[a]
    assert judged(claim, quantities.text(found)[claim])["word"] in ("opposes", "inconclusive")


PLACEBOS = [
    ("C1a", short("position_reencoding", 40.0)),
    ("C1b", long("interleaved", 85.0) | long("group", 80.0)),
    ("C1c", short("finished_frozen", 85.0) | short("position_reencoding", 80.0)),
    ("C1d", short("finished_group", 85.0) | short("batch_streaming", 80.0)),
    ("C1e", short("interleaved_group", 40.0) | short("finished_group", 70.0)),
    ("C4a", short("interleaved", 89.0)),
    ("C6a", short("no_positions", 80.0) | short("group, phi 256", 80.0)),
    ("C6b", short("no_source_positions", 80.0) | short("group, phi 256", 80.0)),
    ("C6c", short("no_target_positions", 80.0) | short("group, phi 256", 80.0)),
    ("C6d", short("no_source_positions", 80.0) | short("no_positions", 85.0)),
    ("C9a", {f"interleaved, {L} steps|batch": 89.0}),
    ("C9b", {"untuned|wrong ids": 89.0}),
    ("C12a", {f"group, {L} steps|share": 0.7, f"batch_streaming, {L} steps|share": 0.7}),
]


@pytest.mark.parametrize("claim, changes", PLACEBOS)
def test_a_placebo_that_passes_leaves_it_open(claim, changes):
    said = judged(claim, quantities.text(made(changes))[claim])
    assert said["word"] == "inconclusive" and DULL in said["reason"]


def test_the_placebo_of_c8a_is_of_the_other_arm():
    """Two arms cannot both be ahead of the best of the others: it fails whenever the claim holds, and says by how much."""
    measured = quantities.text(made(short("group", 93.0)))["C8a"]
    assert (round(measured["value"], 6), round(measured["placebo"]["value"], 6)) == (3.0, -3.0)


@pytest.mark.parametrize("claim, dull", [
    ("C2a", short("interleaved", 90.0)), ("C3a", short("interleaved", 90.0)), ("C5a", short("no_positions", 90.0)),
])  # fmt: skip
def test_an_equivalence_needs_a_pair_that_is_told_apart_and_room_above(claim, dull):
    assert word(claim) == "supports"
    said = judged(claim, quantities.text(made(dull))[claim])
    assert said["word"] == "inconclusive" and said["reason"].count("insensitive") == 1
    arms = ("batch_streaming", "position_reencoding", "group", *(f"group, phi {phi}" for phi in text.PHIS[1:]))
    perfect = {f"{arm}, {S} steps": 100.0 for arm in arms}
    said = judged(claim, quantities.text(made(perfect))[claim])
    assert said["word"] == "inconclusive" and "all that is possible" in said["reason"]
    room = {name: {"1": 50, "3": 100, "5": 100, "7": 100} for name in perfect}
    assert word(claim, room) == "supports"  # k = 1 counts


def test_equal_trainings_have_the_width_of_a_word_and_two_decide_nothing():
    found = made()
    for name in found:
        found[name] = found[name.rpartition("/")[0] + "/seed1"]
    measured = quantities.text(found)["C9b"]
    low, high = measured["ci95"]
    assert measured["value"] == 100 and low < 100 < high and measured["stderr"] == 100 / WORDS
    two = quantities.text(made(seeds=(0, 1)))["C9b"]
    assert judged("C9b", two)["word"] == "inconclusive" and len(two["per_seed"]) < MIN_RUNS


def test_the_largest_difference_is_one_of_means_and_not_of_single_seeds():
    """Seeds that differ in either direction are no effect."""
    found = made()
    for seed, shift in zip(SEEDS, (1.5, -1.5, 0.0)):
        found[f"text/position_reencoding, {S} steps/seed{seed}"]["stream"]["1"]["bleu"] += shift
    assert abs(quantities.text(found)["C2a"]["value"]) < 0.01
    assert round(quantities.text(made(short("group, phi 16", {"1": 90, "3": 89, "5": 93, "7": 90})))["C5a"]["value"], 6) == 3


def test_seeds_are_those_of_the_results():
    measured = quantities.text(made(seeds=range(8)))
    assert {each["n_runs"] for each in measured.values()} == {8}
    assert {each[c]["n_runs"] for each in measured.values() for c in ("placebo", "sensitivity") if c in each} == {8}


# -- speech ------------------------------------------------------------------------------------------------
def heard(changes=None, shift=SHIFT):
    """WER in %: 10, 6, 4 at k = 1, 3, 5 and 4 in batch mode, interleaved far off; or what `changes` says of a job."""
    usual = {"1": 10.0, "3": 6.0, "5": 4.0, "batch": 4.0}
    changes = {"interleaved": dict.fromkeys(usual, 60.0)} | (changes or {})

    def result(name, seed):
        scores = {k: {"wer": wer + shift[seed], "words": 1000} for k, wer in changes.get(name, usual).items()}
        return {"stream": scores, "batch": scores, "loss": 0.1}

    names = (*(f"phi {phi}" for phi in speech.PHIS), "interleaved")
    return {f"speech/{name}/seed{seed}": result(name, seed) for name in names for seed in SEEDS}


@pytest.mark.parametrize("claim, changes, expected", [
    ("C7a", {}, "supports"),
    ("C7a", {"phi 512": {"1": 20.0, "3": 6.0, "5": 4.0}}, "opposes"),
    ("C7a", {"interleaved": {"1": 10.0, "3": 6.0, "5": 4.0}}, "inconclusive"),  # the known pair is not told apart
    ("C7b", {}, "supports"),
    ("C7b", {"phi 0": {"1": 4.0, "5": 10.0, "3": 6.0, "batch": 10.0}}, "opposes"),
    ("C7b", {"phi 0": {"1": 10.0, "5": 4.0, "3": 6.0, "batch": 1.0}}, "inconclusive"),  # so does hearing everything
])  # fmt: skip
def test_words_about_speech_follow_its_errors(claim, changes, expected):
    assert judged(claim, quantities.speech(heard(changes))[claim])["word"] == expected


def test_where_nothing_is_misheard_offsets_cannot_differ():
    without = {f"phi {phi}": {"1": 0.0, "3": 0.0, "5": 0.0, "batch": 0.0} for phi in speech.PHIS}
    said = judged("C7a", quantities.speech(heard(without, shift=(0.0, 0.0, 0.0)))["C7a"])
    assert said["word"] == "inconclusive" and "all that is possible" in said["reason"]


# -- timings -----------------------------------------------------------------------------------------------
def timed(kv=(1.2, 1.5), again=(1.0, 1.0), processes=3, bound=12.0, spread=0.001):
    """Two sentences; kv, again: times over group's, at the short and at the long one."""
    def case(words, i):
        seconds = {"group": 1.0, "kv": kv[i], "interleaved": 0.7, "again": again[i]}
        return {"words": words, "load_average": 0.1, "flops_ratio": bound, "modes": {
            mode: {"seconds": [[time * (1 + spread * (p - 1) * (1 + i) * (mode != "group"))] for p in range(processes)]}
            for mode, time in seconds.items()}}

    return {"speed": {"shortest": "20 words", "longest": "60 words", "cases": {"20 words": case(20, 0), "60 words": case(60, 1)}}}


@pytest.mark.parametrize("claim, found, expected", [
    ("C15a", timed(), "supports"),
    ("C15a", timed(kv=(1.5, 1.2)), "opposes"),
    ("C15a", timed(processes=2), "inconclusive"),
    ("C15a", timed(again=(1.0, 1.3)), "inconclusive"),  # the clock alone grows as much
    ("C15a", timed(spread=0.4), "inconclusive"),
    ("C15b", timed(kv=(4.0, 9.0)), "supports"),
    ("C15b", timed(), "opposes"),
    ("C15c", timed(kv=(4.0, 9.0)), "opposes"),  # 8 of 11
    ("C15c", timed(kv=(4.0, 11.0)), "supports"),
    ("C15b", timed(kv=(4.0, 9.0), again=(1.0, 9.0)), "inconclusive"),
])  # fmt: skip
def test_words_about_time_follow_the_clock(claim, found, expected):
    assert judged(claim, quantities.speed(found)[claim])["word"] == expected


def test_processes_are_counted_and_not_their_rounds():
    found = timed()
    for case in found["speed"]["cases"].values():
        for mode in case["modes"].values():
            mode["seconds"] = [[seconds, seconds] for (seconds,) in mode["seconds"]]
    measured = quantities.speed(found)["C15a"]
    assert (measured["n_runs"], measured["stderr_kind"], measured["timing"]["rounds"]) == (3, "across-processes", 2)
    assert "C15" in quantities.gpu({"gpu": found["speed"]})
