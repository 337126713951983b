"""Ways to use the method on tiny models of families whose properties matter here; a wrong one is caught (all: `make families`)."""

import pytest
import torch

from common.errors import ModelError
from common.families import build, text_ids
from common.reasoning import rollouts

from .. import families


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "bloom", "mistral-window"])
@pytest.mark.parametrize("way", list(families.METHODS))
def test_a_family(family, way):
    """Soft caps and windows, learned positions, ALiBi: against the stock model alone."""
    families.METHODS[way](build(family), text_ids())


def test_a_recurrent_state_is_refused_by_its_property():
    with pytest.raises(ModelError, match="^(a state|no key-value cache)"):
        families.sampling(build("mamba"), text_ids())


def test_a_sampler_that_reads_the_models_own_config_is_wrong(monkeypatch):
    """What the oracle is for: rollouts at another temperature, and log-probabilities of the neighbour, are seen."""
    choose = rollouts.choose
    monkeypatch.setattr(rollouts, "sample", lambda *a, **k: _warmer(choose, *a, **k))
    with pytest.raises(AssertionError, match="the stock distribution gives"):
        families.sampling(build("llama"), text_ids())
    monkeypatch.undo()
    monkeypatch.setattr(rollouts, "response_log_probs", _shifted(rollouts.response_log_probs))
    with pytest.raises(AssertionError, match="off by"):
        families.scoring(build("llama"), text_ids())


def _warmer(choose, model, prompts, n, limit, *, end, generator, **how):
    seeds = rollouts.random_seeds(len(prompts) * n, generator)
    found = []
    for i, seed in enumerate(seeds):
        ids = []
        while len(ids) < limit and not (ids and ids[-1] in end):
            logits = model(input_ids=torch.tensor([[*prompts[i // n], *ids]]), use_cache=False).logits[:, -1]
            ids.append(int(choose(logits, 3.0, rollouts.uniforms(seed[None], len(ids)))[0]))
        found.append(rollouts.Rollout(i // n, tuple(ids), bool(end) and ids[-1] in end))
    return found


def _shifted(scored):
    def function(*arguments):
        found, mask = scored(*arguments)
        return found.roll(1, 1), mask

    return function
