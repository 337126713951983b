"""Ways to use On-Policy SFT, each tried on a tiny model of any family: `make families`.

Nothing of a model is changed by the method, so that what a family can break is sampling (its cache, pads in front, its own
generation config) and scoring (pads behind, logits of the last tokens alone). Each way is held against the stock model reading one
row at a time, without cache, pads or mask. All in single precision, as rollouts are drawn: in double precision eager attention
of some families turns the rows of pads, which see nothing, into no numbers, for it takes its softmax in single precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.models import ModelSpec
from common.reasoning import rollouts
from common.reasoning.probe import check_model
from common.reasoning.problems import Problem
from common.reasoning.rollouts import Rollout

from .module import OnPolicySFT

LIMIT, EACH = 6, 3
HOSTILE = {"temperature": 0.2, "top_k": 1, "top_p": 0.1, "do_sample": True, "num_beams": 1, "repetition_penalty": 5.0,
           "max_length": 3, "no_repeat_ngram_size": 1, "use_cache": False}


def sampling(model: PreTrainedModel, ids: Tensor) -> None:
    """Two prompts of different lengths, two end tokens, a generation config that would draw otherwise: every token is the one that
    its random number gives under the stock distribution."""
    check_model(model.float())
    prompts = [ids[0].tolist(), ids[1, :7].tolist()]
    if getattr(model, "generation_config", None) is not None:
        for name, value in HOSTILE.items():
            setattr(model.generation_config, name, value)
    free = rollouts.sample(model, prompts, EACH, LIMIT, end=(), generator=torch.Generator().manual_seed(5))
    ends = sorted({free[0].ids[2], free[EACH].ids[3]})  # two tokens that this model writes
    found = rollouts.sample(model, prompts, EACH, LIMIT, end=ends, generator=torch.Generator().manual_seed(5), compact=1.0)
    seeds = rollouts.random_seeds(len(found), torch.Generator().manual_seed(5)).to(ids.device)
    for rollout, seed in zip(found, seeds):
        logits = _alone(model, prompts[rollout.prompt], rollout.ids)
        for t, token in enumerate(rollout.ids):
            (drawn,), _ = rollouts.choose(logits[t : t + 1], 1.0, rollouts.uniforms(seed[None], t))
            assert int(drawn) == token, f"token {t} is {token}, and the stock distribution gives {int(drawn)}"
        ended = [t for t, token in enumerate(rollout.ids) if token in ends]
        assert (ended == [len(rollout.ids) - 1]) if rollout.finished else (not ended and len(rollout.ids) == LIMIT), rollout
    assert any(r.finished for r in found), "an end token that was drawn ended nothing"


def scoring(model: PreTrainedModel, ids: Tensor) -> None:
    """Log-probabilities of responses of different lengths behind prompts of different lengths, as training and evaluation take them."""
    check_model(model.float())
    prompts, cut = [ids[0, :5].tolist(), ids[1, :8].tolist()], [ids[0, 5:].tolist(), ids[1, 8:10].tolist()]
    responses = [Rollout(i, tuple(row), True) for i, row in enumerate(cut)]
    wanted = [_alone(model, prompt, row).double().log_softmax(-1)[range(len(row)), row] for prompt, row in zip(prompts, cut)]
    with torch.no_grad():
        ours, mask = rollouts.response_log_probs(model, prompts, responses)
        _close(ours[mask], torch.cat(wanted))
        training = OnPolicySFT(ModelSpec("in memory"))
        ours, mask = training.log_probs(model, [Problem(tuple(p), "", 0) for p in prompts], responses)
        _close(ours[mask], torch.cat(wanted))


def copying(model: PreTrainedModel, ids: Tensor) -> None:
    """A whole copy of the weights that samples in the model's place (sample_dtype)."""
    copied = rollouts.refresh(rollouts.whole_copy(model.float(), "float32", ids.device), model)
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False).logits
        _close(copied(input_ids=ids, use_cache=False).logits, theirs, 1e-3)


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {"sampling": sampling, "scoring": scoring, "a copy that samples": copying}


@torch.no_grad()
def _alone(model: PreTrainedModel, prompt, response) -> Tensor:
    """(R, V) logits of the response's tokens, by the stock model on this row alone."""
    row = torch.tensor([[*prompt, *response]], device=next(model.parameters()).device)
    return model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]


def _close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    gap = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    assert gap <= tolerance, f"off by {gap:.2g} of the largest value"
