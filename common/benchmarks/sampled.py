"""A model for lm-eval that samples by common.reasoning.rollouts and knows what it sampled.

lm-eval's own models hand on text. The text does not say how many tokens it was made of (it can be encoded in several
ways), nor whether it ended or was cut. `sampling_lm` gives `Response`s, texts that know both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

from ..errors import TaskError, needed
from ..progress import progress


class Response(str):
    """A response that knows its length in tokens, the end token included, and whether that one came."""

    tokens: int
    finished: bool

    def __new__(cls, text: str, tokens: int, finished: bool):
        self = super().__new__(cls, text)
        self.tokens, self.finished = tokens, finished
        return self


def sampling_lm(model, tokenizer, *, rows: int = 64, generator=None):
    """An lm_eval.api.model.LM around a transformers decoder; its texts are `Response`s.

    rows: sampled at a time. generator: torch's; None takes the global one, which lm-eval seeds. Special tokens stay in
    the text, but for the end: </think> may be one. ModelError for a model that check_model refuses, and for a prompt that leaves no room
    for its response; TaskError for what `common.reasoning.rollouts.sample` does not do (top-p, top-k,
    stop strings, likelihoods).
    """
    with needed("lm-eval", "benchmarks.sampled"):
        from lm_eval.api.model import LM

    from ..reasoning.probe import check_model
    from ..reasoning.rollouts import check_positions, sample
    from ..reasoning.verifiers import response_text

    of_model = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])} - {None}
    check_model(model)

    class SamplingLM(LM):
        tokenizer_name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__

        def apply_chat_template(self, chat_history, add_generation_prompt: bool = True) -> str:
            return tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt)

        def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
            if add_special_tokens is None:  # a chat template has written its own beginning
                add_special_tokens = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)

        def generate_until(self, requests, disable_tqdm: bool = False) -> list[Response]:
            asked = [(request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests]
            runs: dict[tuple[int, str], list[int]] = {}  # (n, kwargs) -> where n equal requests begin
            start = 0
            for (_, kwargs), same in itertools.groupby(asked):
                n = len(list(same))
                runs.setdefault((n, kwargs), []).append(start)
                start += n
            found: dict[int, Response] = {}
            for (n, kwargs), starts in runs.items():
                cap, temperature = _plain(json.loads(kwargs))
                prompts = [self.tok_encode(asked[i][0]) for i in starts]
                check_positions(model, max(map(len, prompts)), cap)  # before the first of them is answered
                each, drawn = max(1, rows // n), []  # prompts that fill a batch: the same draws as all at once
                for first in progress(range(0, len(prompts), each), f"sampling {n} responses to {len(prompts)} prompts, batches"):
                    drawn += sample(model, prompts[first : first + each], n, cap, end=ends, temperature=temperature, rows=rows,
                                    generator=generator)  # fmt: skip
                for i, rollout in enumerate(drawn):
                    text = response_text(tokenizer, rollout.ids, ends)
                    found[starts[i // n] + i % n] = Response(text, len(rollout.ids), rollout.finished)
            return [found[i] for i in range(len(requests))]

        def loglikelihood(self, requests, disable_tqdm: bool = False):
            raise TaskError("sampling_lm samples; for likelihoods use common.benchmarks.language.")

        loglikelihood_rolling = loglikelihood

    return SamplingLM()


def _plain(asked: Mapping) -> tuple[int, float]:
    """(max_gen_toks, temperature) of generation_kwargs that ask for nothing but sampling, else TaskError."""
    plain = {"until": [], "top_p": 1.0, "top_k": 0}
    others = {"do_sample", "temperature", "max_gen_toks"}
    odd = {k: v for k, v in asked.items() if k not in others and (k not in plain or v != plain[k])}
    if odd or "max_gen_toks" not in asked:
        raise TaskError(f"sampling_lm draws from the model's whole distribution and stops at its end token or max_gen_toks; "
                        f"it cannot take {odd or asked}. Use lm-eval's own models.")  # fmt: skip
    return int(asked["max_gen_toks"]), float(asked.get("temperature", 0)) if asked.get("do_sample") else 0.0
