"""vLLM as a sampler: what it is asked, word by word, by a stand-in that refuses and changes what vLLM refuses and changes."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from common.errors import ModelError, SetupError
from common.models import load, tiny
from common.reasoning.engine import VllmSampler
from common.reasoning.rollouts import Rollout

ROOM, VOCABULARY = 32, 96


class Params:
    """vllm.SamplingParams, as far as it refuses and changes."""

    def __init__(self, **asked):
        self.__dict__ |= asked
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")
        self.temperature = max(self.temperature, 0.01) if self.temperature else 0


class Inner:
    """The engine's own copy: named otherwise, and with one weight more where `more` says so."""

    def __init__(self, more=()):
        self.weights, self.more = {}, more

    def named_parameters(self):
        return [(name, None) for name in (*self.weights, *self.more)]

    def load_weights(self, weights):
        self.weights |= {f"inner.{name}": value.clone() for name, value in weights}
        return set(self.weights)


class LLM:
    """Answers a prompt by its first token and the number of the response, last one first; ends every other one."""

    def __init__(self, **options):
        self.options, self.asked, self.forgotten, self.inner, self.lost = options, [], 0, Inner(), 0
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=ROOM, get_vocab_size=lambda: VOCABULARY))

    def generate(self, prompts, params, use_tqdm):
        self.asked = [(p["prompt_token_ids"], p_.__dict__) for p, p_ in zip(prompts, params, strict=True)]
        return [SimpleNamespace(outputs=[SimpleNamespace(index=k, token_ids=[ids[0], 50 + k] + [2] * (k % 2 == 0))
                                         for k in reversed(range(asked["n"] - self.lost))]) for ids, asked in self.asked]

    def apply_model(self, function):
        return [function(self.inner)]

    def reset_prefix_cache(self):
        self.forgotten += 1


@pytest.fixture
def sampler(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, Params
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VllmSampler("somewhere", dtype="bfloat16")


def test_the_law_is_the_callers_and_all_of_it_is_written_down(sampler):
    assert sampler.engine.options == {"model": "somewhere", "generation_config": "vllm", "dtype": "bfloat16"}
    whole = dict(temperature=1.0, top_p=1.0, top_k=-1)
    for law, asked in (({}, whole), (dict(temperature=0.6, top_p=0.95, top_k=20), dict(temperature=0.6, top_p=0.95, top_k=20))):
        found = sampler.sample([[5, 6], [7]], 2, 9, end=[3, 2], generator=torch.Generator().manual_seed(1), **law)
        assert found == [Rollout(0, (5, 50, 2), True), Rollout(0, (5, 51), False), Rollout(1, (7, 50, 2), True), Rollout(1, (7, 51), False)]
        (first, told), (second, other) = sampler.engine.asked
        assert (first, second) == ([5, 6], [7]) and told.pop("seed") != other.pop("seed")
        assert told == other == asked | dict(
            n=2, min_p=0.0, min_tokens=0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, max_tokens=9,
            stop=None, stop_token_ids=[2, 3], ignore_eos=True, detokenize=False)


def test_two_processes_ask_for_what_one_would(sampler):
    """The second skips as many numbers as the first one's responses take (common/reasoning/sampled.py)."""
    def seeds(prompts, first):
        generator = torch.Generator().manual_seed(4)
        torch.randint(-(2**63), 2**63 - 1, (3 * first,), generator=generator)
        sampler.sample(prompts, 3, 4, end=2, generator=generator)
        return [told["seed"] for _, told in sampler.engine.asked], torch.rand(1, generator=generator)

    whole, after = seeds([[5], [6], [7], [8]], 0)
    left, right = seeds([[5], [6]], 0), seeds([[7], [8]], 2)
    assert left[0] + right[0] == whole and len(set(whole)) == 4 and right[1] == after


def test_greedy_is_asked_for_once_and_what_vllm_would_change_is_refused(sampler):
    found = sampler.sample([[5], [6]], 3, 9, end=2, temperature=0)
    assert found == [Rollout(0, (5, 50, 2), True)] * 3 + [Rollout(1, (6, 50, 2), True)] * 3
    assert sampler.sample([], 3, 9, end=2) == []
    with pytest.raises(SetupError, match="temperature 0.005: vLLM takes"):
        sampler.sample([[5]], 1, 9, end=2, temperature=0.005)
    sampler.sample([[5] * 20], 1, 12, end=2)
    with pytest.raises(ModelError, match="prompt of 20 tokens and 13 to come are more than the 32 of the engine"):
        sampler.sample([[5], [5] * 20], 1, 13, end=2)
    for prompts, end in (([[96]], 2), ([[5]], 96)):
        with pytest.raises(ValueError, match="vocabulary, 0 .. 95"):
            sampler.sample(prompts, 1, 9, end=end)
    for law in ({"top_p": 0.0}, {"top_k": -1}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(law))):
            sampler.sample([[5]], 1, 9, end=2, **law)
    sampler.engine.lost = 1
    with pytest.raises(RuntimeError, match="4 responses of 2 x 3"):
        sampler.sample([[5], [6]], 3, 9, end=2)


@pytest.mark.parametrize("option", ["generation_config", "override_generation_config", "logits_processors", "model"])
def test_options_that_change_what_is_drawn_are_refused(sampler, option):
    with pytest.raises(SetupError, match=f"^engine.{option}: "):
        VllmSampler("somewhere", **{option: "auto"})


def test_weights_are_handed_over_and_an_engine_that_keeps_old_ones_is_refused(sampler):
    model = load(tiny()).model
    sampler.load(model)
    assert sampler.engine.forgotten == 1 and sampler.engine.inner.weights.keys() == {f"inner.{n}" for n, _ in model.named_parameters()}
    assert all(torch.equal(sampler.engine.inner.weights[f"inner.{n}"], p) for n, p in model.named_parameters())
    sampler.engine.inner.more = ("inner.router",)
    with pytest.raises(ModelError, match=r"1 of its weights are not in .* \(inner.router\)"):
        sampler.load(model)
    with pytest.raises(ModelError, match="wraps adapters"):
        sampler.load(SimpleNamespace(get_base_model=None))


def test_without_vllm_the_engine_says_so():
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="needs vllm"):
            VllmSampler("somewhere")
