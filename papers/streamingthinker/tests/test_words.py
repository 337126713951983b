"""From made-up results to words: each claim from both sides, and with a placebo that passes, too."""

import pytest

from .. import quantities, quantities_real
from . import made_up
from .made_up import ARMS, arms, attention, clock, encoders, gate, gated, gold, realtext, speed, variants, verdict

MAKERS = {"arms": (quantities.arms, arms), "clock": (quantities.clock, clock), "gold": (quantities.gold, gold),
          "gate": (quantities.gate, gate), "speed": (quantities.speed, speed), "realtext": (quantities.realtext, realtext),
          "variants": (quantities.variants, variants), "gated": (quantities.gated, gated), "attention": (quantities.attention, attention),
          "encoders": (quantities.encoders, encoders), "aligned": (quantities_real.aligned, made_up.aligned),
          "symbolic": (quantities_real.symbolic, made_up.symbolic), "paced": (quantities_real.paced, made_up.paced)}
IN = {claim: name for name, (read, make) in MAKERS.items() for claim in read(make())}


def word(claim, **changes):
    read, make = MAKERS[IN[claim]]
    return verdict(claim, read(make(**changes)))


@pytest.mark.parametrize("claim", IN)
def test_what_the_claim_says_supports(claim):
    assert word(claim)[0] == "supports", word(claim)


@pytest.mark.parametrize("claim", [c for c, name in IN.items() if name in ("arms", "attention", "gated", "symbolic")
                                   and c not in ("C10e", "C18w")])
def test_one_training_never_decides(claim):
    assert word(claim, seeds=1)[0] == "inconclusive"


def but(arm, **values):
    names = ("unit", "D1", "D2", "D3", "early", "late")
    return {"changes": {arm: tuple(values.get(name, value) for name, value in zip(names, ARMS[arm]))}}


@pytest.mark.parametrize("claim, changes", [
    ("C1s", but("streaming", D2=76)), ("C1r", but("streaming", D2=76)), ("C6s", {"changes": {"batch spe": (0.2, 0.15, 0.38)}}),
    ("C15e", {"changes": {"streaming": (0.7, 0.2, 0.3)}}), ("C14s", {"changes": {"gated": (0.8, 0.9)}}),
    ("C14u", {"changes": {"gated": (0.8, 0.9)}}), ("C14m", {"dropped": [100, 200]}), ("C18a", {"survives": (300, 1500)}),
    ("C18s", {"changes": {"streaming": (0.1, 0.63, 0.43)}}), ("C18n", {"changes": {"streaming": (0.33, 0.3, 0.43)}}),
    ("C18u", {"changes": {"streaming": (0.33, 0.63, 0.2)}}), ("C18d", {"delays": {"streaming": 2.5}}), ("C18w", {"waited": 76.0}),
    ("C18c", {"streaming": (2.1, 2.12, 2.13, 2.11, 2.14)}), ("C18e", {"streaming": (2.1, 2.12, 2.13, 2.11, 2.14)}),
    ("C3k", {"late": 0.07}), ("C14q", {"dropped": {"quoted": [50, 100]}}), ("C1d", but("streaming far", D2=76)),
    ("C3s", {"saved": {"streaming": [70, 50, 40.8]}}),
    ("C3t", {"saved": {"streaming": [50, 50, 40.8]}}), ("C4s", but("streaming", D1=95)), ("C4t", but("streaming", D3=80)),
    ("C5s", but("batch spe", D2=80)), ("C7s", but("streaming", D2=80)), ("C10e", {"equal": 120}), ("C12s", but("untuned", D2=90)),
    ("C8s", {"changes": {"context/streaming": (0.8, 0.5)}}), ("C17s", {"changes": {"places/streaming": (0.8, 0.5)}}),
    ("C13s", {"changes": {"ahead/streaming": (0.9, 0.4)}}),
    ("C15s", but("streaming", early=90)), ("C10s", {"views": (1.2, 1.21, 1.22)}), ("C3w", {"streaming": (1.5, 1.51, 1.52)}),
    ("C14k", {"kept": (300, 500)}), ("C14c", {"dropped": {"merged": [50, 100]}}), ("C14o", {"dropped": {"ahead": [30, 100]}})])
def test_the_contrary_opposes(claim, changes):
    assert word(claim, **changes)[0] == "opposes", word(claim, **changes)


@pytest.mark.parametrize("claim, changes", [
    ("C1s", but("untuned", D2=96)), ("C3s", {"saved": {"blocking": [70, 65, 62]}}), ("C4s", but("untuned", D1=5, D2=40)),
    ("C5s", but("untuned", D2=96)), ("C7s", but("untuned", D2=95)), ("C10e", {"hasty": 200}), ("C12s", but("streaming", D2=20)),
    ("C3w", {"batch": (1.0, 1.01, 1.02)}), ("C1r", but("untuned", D2=96)), ("C6s", {"changes": {"batch spe": (0.5, 0.4, 0.38)}}),
    ("C15e", {"changes": {"batch spe": (0.5, 0.15, 0.6)}}), ("C14s", {"changes": {"lot": (0.95, 0.97)}}),
    ("C14u", {"changes": {"lot": (0.95, 0.97)}}), ("C14m", {"random": [200, 200]}),
    ("C18a", {"swapped": 1400}), ("C18s", {"changes": {"untuned": (0.31, 0.05, 0.01)}}),
    ("C18n", {"changes": {"untuned": (0.02, 0.62, 0.01)}}), ("C18u", {"changes": {"untuned": (0.02, 0.05, 0.42)}}),
    ("C18d", {"delays": {"blocking": 1.4}}), ("C18e", {"batch": 1.5}), ("C14q", {"kept": (5, 500)}),
    ("C3k", {"streaming": (1.0,) * 20, "batch": (3.0,) * 20, "held": 5.0}), ("C18w", {"half": 83.0}),
    ("C18c", {"streaming": (1.5,) * 20, "held": 100.0}),
    ("C14k", {"dropped": dict.fromkeys(("merged", "summary", "delayed", "ahead", "quoted"), [1, 100])}),
    ("C14c", {"kept": (5, 500)}), ("C10s", {"joined": (1.0, 1.01, 1.02)}), ("C15s", but("interleaved", early=80))])
def test_a_placebo_that_passes_leaves_it_open(claim, changes):
    found, why = word(claim, **changes)
    assert found == "inconclusive" and ("discriminate" in why or "insensitive" in why), (found, why)
