"""From made-up results to words: each claim from both sides, and with a placebo that passes, too."""

import pytest

from .. import quantities
from .made_up import POINTS, of_speech, of_speed, of_text, verdict

TEXT, SPEED = quantities.text(of_text()), quantities.speed(of_speed())
SPEECH = quantities.words(of_speech()) | quantities.spoken(of_speech())


def word(name, measured):
    return verdict(name, measured)[0]


@pytest.mark.parametrize("claim", [*TEXT, *SPEECH, *SPEED])
def test_what_the_claim_says_supports(claim):
    measured = TEXT | SPEECH | SPEED
    assert verdict(claim, measured)[0] == "supports", verdict(claim, measured)


def test_one_training_supports_nothing():
    one = quantities.text(of_text(seeds=1)) | quantities.speed(of_speed(processes=1))
    one |= quantities.words(of_speech(seeds=1)) | quantities.spoken(of_speech(seeds=1))
    assert {word(name, one) for name in one} == {"inconclusive"}


def but(task, arm, **values):
    names = ("quality", "rco", "ail", "auroc", "whole")
    return {task: {arm: tuple(values.get(name, value) for name, value in zip(names, POINTS[task][arm]))}}


@pytest.mark.parametrize("claim, changes", [
    ("C1s", but("qa", "full", auroc=0.89)), ("C1t", but("qa", "batch only", quality=95)), ("C4s", but("qa", "full", quality=90)),
    ("C4r", but("qa", "full", rco=0.9)), ("C6s", but("qa", "full", quality=50)), ("C20a", but("qa", "full", quality=65)),
    ("C9s", but("qa", "full", quality=85)), ("C14s", but("qa", "no MSLM", quality=97)),
    ("C14t", but("qa", "no distillation", quality=102)),
    ("C14u", but("qa", "MSLM only", quality=102)), ("C16s", but("qa", "full", quality=104)), ("C2s", but("mt", "full", quality=90)),
    ("C2r", but("mt", "full", ail=5.5)), ("C16t", but("mt", "full", quality=80)), ("C3s", but("qa", "full", whole=120))])
def test_the_opposite_opposes(claim, changes):
    found = verdict(claim, quantities.text(of_text(changes)))
    assert found[0] == "opposes", found


@pytest.mark.parametrize("claim, changes", [
    ("C10s", but("spoken", "full", quality=80)), ("C10t", but("spoken", "full", quality=37)), ("C11s", but("words", "full", quality=50))])
def test_the_opposite_opposes_in_speech(claim, changes):
    found = verdict(claim, (quantities.words(of_speech(changes)) | quantities.spoken(of_speech(changes))))
    assert found[0] == "opposes", found


@pytest.mark.parametrize("claim, changes", [
    ("C1s", but("qa", "start", auroc=0.99)), ("C4s", but("qa", "batch only", quality=98.8)), ("C9s", but("qa", "batch only", quality=98)),
    ("C14t", but("qa", "start", quality=99)), ("C20a", but("qa", "batch only", quality=98))])
def test_a_placebo_that_passes_leaves_nothing_decided(claim, changes):
    found = verdict(claim, quantities.text(of_text(changes)))
    assert found[0] == "inconclusive" and "does not discriminate" in found[1], found


def test_speed_from_both_sides():
    slow = quantities.speed(of_speed(probe=1.5, late=1.8))
    assert (word("C19a", slow), word("C19b", slow)) == ("opposes", "opposes")
    assert slow["C19a"]["value"] == pytest.approx(1.5, abs=0.01) and slow["C19b"]["placebo"]["value"] == pytest.approx(10, abs=0.1)


def test_wait_k_is_the_best_that_reads_no_more():
    runs = quantities.Runs(of_text(), "qa")
    assert runs.over_wait(0, "full") == pytest.approx(98.9 - 45)  # wait-16 reads .7, more than .62
    early = quantities.Runs(of_text(but("qa", "full", rco=0.05)), "qa")
    assert early.over_wait(0, "full") == pytest.approx(98.9 - 20)  # none reads so little: the one that reads least


def test_translation_waits_as_little_as_calibration_allows():
    found = of_text()
    found["mt/full/seed0"]["entropy"]["early"] = 1
    runs = quantities.Translation(found, "mt")
    assert runs.early(0, "full") is found["mt/full/seed0"]["entropy"]["test"][1]
    assert runs.lag_ratio(0, "full") == pytest.approx(0.5 / 5.6) and runs.early_kept(0, "full") == pytest.approx(94.8)
    for row in found["mt/full/seed0"]["wait"].values():
        row["quality"] = 50  # no wait-k keeps it: the best that waits is reading everything
    assert runs.lag_ratio(0, "full") == pytest.approx(0.5 / 18)
    found["mt/full/seed0"]["entropy"]["keeps"] = False  # no threshold either: it has to read everything
    assert runs.lag_ratio(0, "full") == 1


def test_pairs_that_are_saved_and_those_that_probes_cost():
    runs = quantities.Runs(of_text(), "qa")
    assert runs.saved(0, "full", False) == pytest.approx(100 * (1 - 50000 / 60000)) and runs.saved(0, "full", True) == pytest.approx(-50)
