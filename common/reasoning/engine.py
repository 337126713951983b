"""The `sample` of rollouts.py by vLLM: the same arguments and the same law, or a refusal.

    sampler = VllmSampler(folder, gpu_memory_utilization=0.5)
    sampler.load(model)                            # the weights as they are now
    sampler.sample(prompts, n, max_new_tokens, end=..., temperature=..., top_p=..., top_k=...)

What a SamplingParams leaves open an engine fills from its options or from the checkpoint, so all is written down, and the options
that change what is drawn are refused. What vLLM does silently otherwise is refused, too: it cuts a response at its max_model_len,
takes a temperature below 0.01 for 0.01, and goes on sampling from weights that it was not given.

vLLM's kernels round otherwise than transformers', so the same seed gives other tokens, and log-probabilities must come from the model
that is trained (`rollouts.response_log_probs`). Logits that are no numbers are not seen here; the training's loss shows them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import torch

from ..errors import ModelError, SetupError
from .rollouts import Rollout, check_room, check_vocabulary, checked, full, random_seeds

COLDEST = 0.01  # vLLM takes temperatures between 0 and this for this
# Options of vllm.LLM that change what is drawn behind the caller's back.
OURS = ("model", "generation_config", "override_generation_config", "logits_processors")


class VllmSampler:
    """`sample` by vLLM, in this process: VllmSampler(folder).sample(prompts, n, ...) gives what sample(model, ...) gives.

    name: hub id or folder. options: vllm.LLM's (gpu_memory_utilization, max_model_len, dtype, revision, ...). Raises SetupError for
    those of OURS, ImportError where vllm is not installed.
    """

    def __init__(self, name: str, **options):
        if wrong := [option for option in OURS if option in options]:
            raise SetupError(f"engine.{wrong[0]}: vLLM would sample from another law than it is asked for; leave it out, and set "
                             "temperature, top_p and top_k of the training")
        # One process, so that `load` can hand weights over as they are. Read when vllm starts its engine.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ImportError("VllmSampler needs vllm, which is not installed here: install it on the GPU machine, or sample "
                              "with transformers (common.reasoning.rollouts.sample)") from error
        self.engine = LLM(model=str(name), generation_config="vllm", **options)  # not the checkpoint's top-p
        self._params = SamplingParams

    def sample(self, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, *, end: int | Collection[int],
               temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0,
               generator: torch.Generator | None = None) -> list[Rollout]:
        """As `sample`, and the generator is asked for as many numbers. ValueError and ModelError as there; SetupError for a temperature
        that vLLM would change, RuntimeError for an engine that gives fewer responses than were asked for."""
        ends = checked(prompts, n, max_new_tokens, end, temperature, top_p, top_k)
        if 0 < temperature < COLDEST:
            raise SetupError(f"temperature {temperature}: vLLM takes temperatures between 0 and {COLDEST} for {COLDEST}; take 0, which is "
                             f"greedy, or {COLDEST} or more")
        config = self.engine.llm_engine.model_config
        check_vocabulary(prompts, ends, config.get_vocab_size())
        check_room(max(map(len, prompts), default=0), max_new_tokens, config.max_model_len, "the engine (max_model_len)")
        if not prompts:
            return []
        # A seed a prompt, of which vLLM makes one a response: with one for all, equal prompts would get equal responses.
        seeds = (random_seeds(len(prompts) * n, generator)[::n] & (2**31 - 1)).tolist()
        drawn = 1 if temperature == 0 else n  # it refuses several greedy responses, which are all the same
        params = [self._params(n=drawn, temperature=temperature, top_p=top_p, top_k=top_k or -1, min_p=0.0, repetition_penalty=1.0,
                               presence_penalty=0.0, frequency_penalty=0.0, max_tokens=max_new_tokens, min_tokens=0, seed=seed,
                               stop=None, stop_token_ids=ends, ignore_eos=True, detokenize=False) for seed in seeds]
        answers = self.engine.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False)
        found = []
        for i, answer in enumerate(answers):
            outputs = sorted(answer.outputs, key=lambda out: out.index)
            found += [(i, tuple(out.token_ids)) for out in (outputs * n if drawn < n else outputs)]
        if len(answers) != len(prompts) or len(found) != len(prompts) * n:
            raise RuntimeError(f"VllmSampler: {len(found)} responses of {len(prompts)} x {n} that were asked for")
        return [Rollout(i, ids, bool(ids) and ids[-1] in ends) for i, ids in found]

    def load(self, model) -> None:
        """Takes the model's weights, after an update; forgets the prompts that were read with the old ones.

        Raises ModelError for a model that wraps adapters, and where the engine has weights that it was not given.
        """
        if hasattr(model, "get_base_model"):
            raise ModelError(f"engine: {type(model).__name__} wraps adapters, whose names vLLM does not have; merge them "
                             "(merge_and_unload), or set engine to null")
        weights = ((name, full(p.detach())) for name, p in model.named_parameters())  # one at a time: shards are gathered

        def take(inner) -> list[str]:
            loaded = inner.load_weights(weights)
            return [] if loaded is None else sorted({name for name, _ in inner.named_parameters()} - set(loaded))

        if old := [name for names in self.engine.apply_model(take) for name in names]:
            raise ModelError(f"engine: {len(old)} of its weights are not in the {type(model).__name__} that is trained ({old[0]}), so "
                             "that it would sample from old ones; set engine to null")
        self.engine.reset_prefix_cache()
