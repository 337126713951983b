"""Every quantity on real captions, worked out again: equal latency by hand, each claim from results in which no two numbers are equal."""

from statistics import fmean, stdev

import pytest

from common.claims.intervals import t_quantile
from common.errors import RecordError
from tests.numerics import drawn

from .. import pictures, quantities_real, tables
from ..eval import EXPERIMENTS
from ..experiments import multi30k

SEEDS, KS, LATE = (0, 1, 3, 4), ("1", "3", "5", "7"), ("3", "5", "7")
LANGUAGES = ("de", "fr")
WORDS = 5417


def curve(*points):
    return {str(k): {"LAAL": x, "bleu": y} for k, (x, y) in enumerate(points)}


@pytest.mark.parametrize("ours, theirs, expected", [
    (curve((1, 10), (3, 30)), curve((1, 4), (3, 24)), 6.0),
    (curve((1, 10), (3, 30)), curve((2, 15), (4, 35)), 5.0),  # at equal latency, of 2 to 3, and not at equal k (-5)
    (curve((1, 10), (3, 30)), curve((0, 0), (2, 0), (4, 0)), 20.0),
    (curve((1, 10), (2, 20), (3, 0)), curve((1, 0), (3, 0)), 12.5),  # (15 + 10) / 2: each part by its width
    (curve((1, 10), (2, 20), (4, 20)), curve((1, 0), (4, 0)), 55 / 3),
    (curve((3, 30), (1, 10)), curve((1, 4), (3, 24)), 6.0),  # in order of latency
])
def test_equal_latency_by_hand(ours, theirs, expected):
    assert quantities_real.at_equal_latency(ours, theirs) == pytest.approx(expected, rel=1e-12)
    assert quantities_real.at_equal_latency(theirs, ours) == pytest.approx(-expected, rel=1e-12)


def test_without_a_common_latency_there_is_no_comparison():
    for ours in (curve((1, 10), (2, 20)), curve((3, 10), (3, 20)), curve((4, 10))):
        with pytest.raises(RecordError, match="no latency at which both arms have points"):
            quantities_real.at_equal_latency(ours, curve((2, 0), (4, 0)))


# -- the claims --------------------------------------------------------------------------------------------
def results():
    """As the jobs give them. Interleaved streaming is best on validation captions at another rate in each pair of languages."""
    names = {job.partition("/seed")[0].partition("/en-")[2][3:] for job in jobs()}
    found = {}
    for language in LANGUAGES:
        for name in sorted(names):
            for seed in SEEDS:
                path = f"multi30k/en-{language}/{name}/seed{seed}"
                found[path] = {way: {k: {"bleu": drawn(path, way, k, low=10.0, high=35.0), "LAAL": int(k) + drawn(path, way, k, "late"),
                                         "words": WORDS, "statistics": [[1] * 10] * 3} for k in KS}
                               for way in ("stream", "kv_reencoding", "validation")}
                found[path]["batch"] = {"batch": {"bleu": drawn(path, "batch", low=10.0, high=35.0), "words": WORDS}}
                found[path] |= {"test sentences": 3, "model": {"name": path}}
        best = {"de": "0.003", "fr": "0.0003"}[language]
        for seed in SEEDS[1:]:  # of the first seed alone another is better
            for k in LATE:
                found[f"multi30k/en-{language}/interleaved, {best}/seed{seed}"]["validation"][k]["bleu"] += 30
    return found


def jobs():
    """Names of the jobs without the files that they read."""
    return [f"multi30k/en-{language}/{name}/seed0" for language in LANGUAGES for name in (
        "untuned", *(f"interleaved, {rate:g}" for rate in multi30k.RATES), *multi30k.ARMS,
        *(f"group, phi {phi}" for phi in multi30k.PHIS[1:]), "batch")]


@pytest.fixture(scope="module")
def found():
    return results()


@pytest.fixture(scope="module")
def measured(found):
    return quantities_real.multi30k(found)


@pytest.fixture(scope="module")
def of(found):
    """of(language, arm, way): scores of every seed; "interleaved" is that at its best rate."""
    def get(language, arm, way="stream"):
        arm = f"interleaved, {({'de': '0.003', 'fr': '0.0003'})[language]}" if arm == "interleaved" else arm
        return [found[f"multi30k/en-{language}/{arm}/seed{seed}"][way] for seed in SEEDS]

    return get


def late(curves):
    return [fmean(curve[k]["bleu"] for k in LATE) for curve in curves]


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def interval(values):
    half = t_quantile(0.975, len(values) - 1) * max(stdev(values) / len(values) ** 0.5, 100 / WORDS)
    return fmean(values) - half, fmean(values) + half


def low(values):
    return interval(values)[0]


def high(values):
    return interval(values)[1]


def away(values):
    return max(map(abs, interval(values)))


def apart(values):
    return max(low(values), -high(values))


def same(measured, control, choose, values, choose_control, values_control):
    """values(language), one a seed: of the pair that `choose` takes; and those of the control."""
    def chosen(how, of):
        take, key = how
        return take([of(language) for language in LANGUAGES], key=key)

    assert measured["per_seed"] == pytest.approx(chosen(choose, values), rel=1e-12), "the quantity"
    assert measured[control]["per_seed"] == pytest.approx(chosen(choose_control, values_control), rel=1e-12), control
    assert {"placebo", "sensitivity"} & measured.keys() == {control} and measured["n_runs"] == len(SEEDS)
    assert measured["resolution"] == measured[control]["resolution"] == 100 / WORDS and measured["stderr_kind"] == "across-seeds"
    for language in LANGUAGES:
        assert measured["baselines"][f"en-{language}, this"] == pytest.approx(fmean(values(language)), rel=1e-12)


ABOVE, BELOW = ((min, low), (max, low)), ((max, high), (min, high))  # (of the claim, of its placebo)


def ahead(of, language, ours, theirs, ours_way="stream", theirs_way="stream"):
    return [quantities_real.at_equal_latency(a, b) for a, b in zip(of(language, ours, ours_way), of(language, theirs, theirs_way))]


def test_ways_to_stream(measured, of):
    def gap(ours, theirs):
        return lambda language: ahead(of, language, ours, theirs)

    for claim, ours, theirs, placebo in (("C1g", "group", "interleaved", "batch_streaming"),
                                         ("C1h", "batch_streaming", "finished_frozen", "group"),
                                         ("C1i", "group", "interleaved_group", "batch_streaming")):
        same(measured[claim], "placebo", ABOVE[0], gap(ours, theirs), ABOVE[1], gap(ours, placebo))

    def again(language, arm):
        return [max(both) for both in zip(ahead(of, language, "batch_streaming", arm, "kv_reencoding"),
                                          ahead(of, language, "untuned", arm, "kv_reencoding"))]

    same(measured["C4b"], "placebo", BELOW[0], lambda language: again(language, "group"), BELOW[1],
         lambda language: again(language, "interleaved"))

    def nearest(language, arm, *others):
        return [min(gaps) for gaps in zip(*(ahead(of, language, arm, other) for other in others))]

    same(measured["C8b"], "placebo", ABOVE[0], lambda language: nearest(language, "group", "interleaved", "batch_streaming"), ABOVE[1],
         lambda language: nearest(language, "batch_streaming", "interleaved", "group"))
    assert measured["C1g"]["baselines"]["en-de, rate of interleaved"] == 3e-3
    assert measured["C1g"]["baselines"]["en-fr, interleaved"] == pytest.approx(fmean(late(of("fr", "interleaved"))))
    assert measured["C4b"]["baselines"]["en-fr, untuned"] == pytest.approx(fmean(late(of("fr", "untuned", "kv_reencoding"))))


def test_positions(measured, of):
    def moved(language, names):
        return max([minus(late(of(language, name)), late(of(language, "group"))) for name in names], key=lambda v: abs(fmean(v)))

    offsets = [f"group, phi {phi}" for phi in (0.5, 64, 256)]
    same(measured["C5c"], "sensitivity", (max, away), lambda language: moved(language, offsets), (min, apart),
         lambda language: moved(language, ["no_positions"]))
    assert sorted(measured["C5c"]["ceiling"]["values"]) == pytest.approx(sorted(
        min(curve[k]["bleu"] for k in KS) for language in LANGUAGES for name in ("group", *offsets) for curve in of(language, name)))
    assert measured["C5c"]["ceiling"]["best"] == 100.0
    first = max([minus(*([curve["1"]["bleu"] for curve in of("fr", name)] for name in (offset, "group"))) for offset in offsets],
                key=lambda v: abs(fmean(v)))
    assert measured["C5c"]["baselines"]["en-fr, at 1"] == pytest.approx(fmean(first))
    def lost(arm, against="group"):
        return lambda language: minus(late(of(language, against)), late(of(language, arm)))

    for claim, arm in (("C6e", "no_positions"), ("C6f", "no_source_positions"), ("C6g", "no_target_positions")):
        same(measured[claim], "placebo", ABOVE[0], lost(arm), ABOVE[1], lost("group, phi 256"))
    source, target, both = (f"no_{which}positions" for which in ("source_", "target_", ""))
    same(measured["C6h"], "placebo", ABOVE[0], lost(source, target), ABOVE[1], lost(source, both))


def test_both_modes(measured, of):
    def whole(language, arm):
        return [scores["batch"]["bleu"] for scores in of(language, arm, "batch")]

    def kept(language, arm):
        return [100 * a / b for a, b in zip(whole(language, arm), whole(language, "batch"))]

    def short(language, arm):
        return minus(whole(language, "batch"), [curve["7"]["bleu"] for curve in of(language, arm)])

    same(measured["C9c"], "placebo", ABOVE[0], lambda language: kept(language, "group"), ABOVE[1],
         lambda language: kept(language, "interleaved"))
    same(measured["C9d"], "placebo", BELOW[0], lambda language: short(language, "group"), BELOW[1],
         lambda language: short(language, "interleaved"))
    assert measured["C9c"]["baselines"]["en-de, batch trained"] == pytest.approx(fmean(whole("de", "untuned")))


def test_a_claim_is_as_good_as_its_worse_pair_of_languages():
    def pair(values):
        class Few:
            def summary(self, measure):
                return quantities_real.summarize(measure(self), resolution=0.01)

        made = Few()
        made.values, made.start = values, f"multi30k/en-{values[0]}"
        return made

    few = [pair(values) for values in ((3.0, 5.0, 7.0), (4.0, 4.1, 4.2))]  # the higher mean has the lower end
    negative, zero = (lambda of: [-v for v in of.values]), (lambda of: [0.0 * v for v in of.values])

    def own(of):
        return list(of.values)

    above = quantities_real.above(few, own, own)
    assert above["per_seed"] == [3.0, 5.0, 7.0] and above["placebo"]["per_seed"] == [4.0, 4.1, 4.2]
    below = quantities_real.below(few, own, own)
    assert below["per_seed"] == [3.0, 5.0, 7.0] and below["placebo"]["per_seed"] == [4.0, 4.1, 4.2]
    within = quantities_real.within(few, negative, own, lambda of: [[dict.fromkeys(KS, 30.0)]])
    assert within["per_seed"] == [-3.0, -5.0, -7.0] and within["sensitivity"]["per_seed"] == [3.0, 5.0, 7.0]
    assert quantities_real.within(few, zero, negative, lambda of: [[dict.fromkeys(KS, 30.0)]])["sensitivity"]["value"] == -5.0
    one = quantities_real.above([pair((2.0,)), pair((1.0,))], own, own)
    assert one["value"] == 1.0 and one["placebo"]["value"] == 2.0


def test_the_claims_are_those_that_eval_promises_and_an_older_record_measures_none(measured, found):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "multi30k")
    assert set(experiment.claims) == set(measured) and experiment.quantities is quantities_real.multi30k
    assert quantities_real.multi30k({"multi30k/en-de": {"group": {}}}) == {}
    assert quantities_real.multi30k({name: of for name, of in found.items() if "/en-de/" in name}) == {}, "not both pairs of languages"
    assert experiment.facts(found)[0] == [
        {"name": f"multi30k/en-{language}/untuned/seed{seed}"} for language in LANGUAGES for seed in SEEDS]


# -- what is shown -----------------------------------------------------------------------------------------
def test_the_table_and_the_picture(found, of, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "paired_bootstrap", lambda ours, theirs, resamples: {"low": ours.shape[0], "high": theirs.shape[1]})
    lines = list(tables.multi30k(found))
    rows = [line for line in lines if line.startswith("interleaved, rate 0.003")]
    at_3 = fmean(curve["3"]["bleu"] for curve in of("de", "interleaved")), fmean(curve["3"]["LAAL"] for curve in of("de", "interleaved"))
    assert f"{at_3[0]:5.1f} at {at_3[1]:4.1f} [ +4.0,  +3.0]" in rows[0] and len(rows) == 2
    assert len([line for line in lines if line.startswith("group (GPE)") and "[" not in line]) == 2
    assert sum(line.startswith("whole captions: batch-trained ") for line in lines) == 2
    assert "Multi30k en-fr, 3 captions: BLEU at LAAL, mean of 4 seeds" in "\n".join(lines)
    assert [path.name for path in pictures.real(found, "cpu", tmp_path)] == ["multi30k.svg"]
