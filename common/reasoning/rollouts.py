"""Responses sampled from a model, and the log-probabilities of those responses under it.

The law that is sampled from is what the caller says, `temperature`, `top_p`, `top_k`, and nothing else: the model's own
generation_config (many ship temperature 0.6, top-p 0.95) is never read. By default it is softmax(logits) as it is, for a truncated
distribution is another policy than the one that is trained. Whoever samples, here or an engine, does this or refuses.
The parts, each of which a loop around `model.generate` would pay for more dearly:

    prompts   left-padded, read once each; every row starts from a copy of its prompt's key-value cache
    rows      go on while unfinished; when fewer than `compact` of a batch are, the finished ones leave it
    chance    every rollout has a random stream of its own, so that what it draws does not depend on who is beside it:
              another `rows`, `compact` or limit gives the same tokens (but where rounding decides, about one in 10^6)

`response_log_probs` reads prompt and response at once, padded on the right *without* an attention mask: pads lie behind
every token that counts, so a causal model cannot see them, and SDPA keeps its fast path.
`engine.VllmSampler` is the same `sample` by vLLM, for models and lengths at which an engine pays.

    python -m common.reasoning.rollouts --against-generate        # tokens per second beside model.generate, same work
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..benchmarks.perplexity import eval_mode
from ..errors import ModelError


@dataclass(frozen=True)
class Rollout:
    """One response: prompt is the index into the prompts, ids the response's tokens with the end token if it came.

    finished: an end token came within the limit. A response without one was cut, whatever it says.
    """

    prompt: int
    ids: tuple[int, ...]
    finished: bool


# -- sampling ----------------------------------------------------------------------------------------------
def sample(model, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, *, end: int | Collection[int],
           temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, generator: torch.Generator | None = None,
           rows: int = 256, compact: float = 0.75) -> list[Rollout]:
    """n responses to each prompt, in the order prompt 0 x n, prompt 1 x n, ...

    prompts: token ids. end: the token(s) that end a response; none, (), lets all run to max_new_tokens.
    temperature: 0 is greedy. top_p, top_k: as `truncate` has them; 1 and 0 leave the distribution whole. generator: on any device; None
    takes torch's own. It is asked once, for a seed a rollout.
    rows: sampled at a time. compact: share of unfinished rows below which finished ones are dropped (0 never, 1 at once).
    The model runs in eval mode and without a graph, and each of its parts is put back to its mode, after an error too.
    Raises ValueError for an empty prompt, a token that the model does not have, n, rows or max_new_tokens < 1,
    temperature < 0, top_p that is no share above 0, top_k < 0, compact outside 0 .. 1; ModelError for a model whose cache cannot drop
    rows, or a prompt that leaves no room for its response in the model's positions; FloatingPointError for logits that are not numbers.
    """
    ends = checked(prompts, n, max_new_tokens, end, temperature, top_p, top_k)
    if rows < 1 or not 0 <= compact <= 1:
        raise ValueError(f"sample: rows = {rows}, compact = {compact}; at least one row, and a share from 0 to 1")
    check_vocabulary(prompts, ends, model.get_input_embeddings().weight.shape[0])
    check_positions(model, max(map(len, prompts), default=0), max_new_tokens)
    device, takes = next(model.parameters()).device, forward_names(model)
    seeds, found = random_seeds(len(prompts) * n, generator).to(device), []
    with eval_mode(model), torch.inference_mode():
        for first in range(0, len(seeds), rows):
            which = range(first, min(first + rows, len(seeds)))
            owners = torch.tensor([i // n - first // n for i in which], device=device)
            read = prompts[which[0] // n : which[-1] // n + 1]
            responses = _sample_rows(model, takes, read, owners, seeds[which[0] : which[-1] + 1], max_new_tokens,
                                     torch.tensor(ends, dtype=torch.int64, device=device), (temperature, top_p, top_k), compact)
            found += [Rollout(i // n, ids, finished) for i, (ids, finished) in zip(which, responses)]
    return found


def _sample_rows(model, takes: set, prompts, owners: Tensor, seeds: Tensor, limit: int, ends: Tensor,
                 law: tuple[float, float, int], compact: float) -> list[tuple[tuple[int, ...], bool]]:
    """(ids, finished) of each row; row r answers prompts[owners[r]] with the random stream of seeds[r]."""
    cache, logits, mask = _read(model, takes, prompts, limit, owners.device)
    cache.batch_select_indices(owners)  # from a row a prompt to a row a response: copies, so nothing is rounded
    logits, mask, width = logits[owners], mask[owners], mask.shape[1] - limit
    padded = not bool(mask.all())
    position = mask[:, :width].sum(1)
    tokens = torch.zeros(len(owners), limit, dtype=torch.int64, device=owners.device)
    lengths, finished = torch.zeros_like(owners), torch.zeros_like(owners, dtype=torch.bool)
    place, alive = torch.arange(len(owners), device=owners.device), torch.ones_like(finished)  # of the rows still here
    for t in range(limit):
        token, wrong = choose(logits, law[0], uniforms(seeds, t), *law[1:])
        tokens[place, t] = token  # behind its end a row writes on, and `lengths` says how far it counts
        lengths[place] += alive
        ended = torch.isin(token, ends) & alive
        finished[place] |= ended
        wrong, alive = (wrong & alive).sum(), alive & ~ended
        n_alive, n_wrong = torch.stack([alive.sum(), wrong]).tolist()  # the only wait for the device in a step
        if n_wrong:
            raise FloatingPointError(f"sample: the logits of {n_wrong} rows are not finite at response token {t}: the model "
                                     f"has diverged, or overflows in {logits.dtype}")
        if not n_alive or t + 1 == limit:
            break
        if n_alive < compact * len(alive):
            stay = alive.nonzero()[:, 0]
            cache.batch_select_indices(stay)
            token, seeds, place, position, mask, alive = (x[stay] for x in (token, seeds, place, position, mask, alive))
        inputs = {"input_ids": token[:, None], "attention_mask": mask[:, : width + t + 1] if padded else None}
        if "position_ids" in takes:
            inputs["position_ids"] = position[:, None] + t
        logits = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]
    rows = zip(tokens.tolist(), lengths.tolist(), finished.tolist())
    return [(tuple(ids[:length]), ended) for ids, length, ended in rows]


def _read(model, takes: set, prompts, limit: int, device) -> tuple[DynamicCache, Tensor, Tensor]:
    """The prompts' cache, logits (P, V) of the first response token, mask (P, width + limit): 0 on pads, 1 elsewhere."""
    cache, width = _cache(model, takes), max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)  # 0: any id, it is masked
    mask = torch.ones(len(prompts), width + limit, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, : width - len(prompt)] = 0
    ids, mask = ids.to(device), mask.to(device)
    seen = mask[:, :width]
    inputs = {"input_ids": ids, "attention_mask": None if bool(seen.all()) else seen}
    if "position_ids" in takes:
        inputs["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in takes:  # a prompt of 1,000 tokens has a gigabyte of logits
        inputs["logits_to_keep"] = 1
    logits = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]
    if cache.get_seq_length() != width:
        raise ModelError(f"the cache is not filled: {type(model).__name__} has {cache.get_seq_length()} of {width} tokens in the one it "
                         "was given, so that sample cannot copy or drop its rows; use model.generate")
    return cache, logits, mask


def positions(model) -> int | None:
    """The most tokens that the model has positions for (of a model with pictures its text part's); None where nothing limits them."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    room = getattr(config, "max_position_embeddings", None)
    return room if isinstance(room, int) and room > 0 else None


def check_positions(model, longest: int, more: int) -> None:
    """ModelError where a prompt of `longest` tokens and `more` to come have no room."""
    room = positions(model)
    if room is not None:
        check_room(longest, more, room, f"{type(model).__name__} (config.max_position_embeddings)")


def check_room(longest: int, more: int, room: int, whose: str) -> None:
    """ModelError where they are more than `room`."""
    if longest + more > room:
        raise ModelError(f"too few positions: a prompt of {longest} tokens and {more} to come are more than the {room} of "
                         f"{whose}; leave longer prompts out (data.max_prompt_tokens), "
                         "or ask for shorter responses (max_new_tokens, cap)")


def forward_names(model) -> set[str]:
    """Names that the model's forward has; of the model inside, where adapters wrap it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


def _cache(model, takes: set) -> DynamicCache:
    """An empty cache whose rows can be chosen. ModelError where states are kept that `batch_select_indices` passes by."""
    name = type(model).__name__
    if "past_key_values" not in takes or getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"no key-value cache: {name} takes no past_key_values, or has an encoder, so that sample cannot drop its "
                         "finished rows; use model.generate")
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        # A recurrent state has its row too, and would stay behind when the keys move (or see the pads of a prompt).
        if hasattr(layer, "recurrent_states") or not hasattr(layer, "batch_select_indices"):
            raise ModelError(f"a state that is no key and value: layer {i} of {name} keeps a {type(layer).__name__}, whose rows sample "
                             "cannot copy or drop; use a model whose layers all attend, or model.generate")
    return cache


def truncate(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """Logits (..., V) with -inf but on the top k tokens and, of these, on the fewest whose mass at this temperature reaches top_p of
    the k's: the order in which transformers and vLLM cut."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p < 1:
        ranked, order = logits.sort(-1, descending=True)
        mass = (ranked.float() / temperature).softmax(-1)
        drop = mass.cumsum(-1) - mass >= top_p  # the likeliest stays: before it there is no mass
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), float("-inf"))
    return logits


def choose(logits: Tensor, temperature: float, u: Tensor, top_p: float = 1.0, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """A token for each row (B,), and where the logits (B, V) were no numbers (B,). u (B,): uniform in [0, 1), float64.

    The inverse of the cumulative softmax(logits / temperature), float32, summed in float64: with 150,000 tokens a
    float32 sum would lose the rare ones. temperature 0: the first of the largest.
    """
    logits = logits.float()
    if temperature == 0:
        largest, token = logits.max(-1)
        return token, ~largest.isfinite()
    logits = truncate(logits, temperature, top_p, top_k)
    edges = torch.softmax(logits / temperature, -1).cumsum(-1, dtype=torch.float64)
    total = edges[:, -1:]
    token = torch.searchsorted(edges, u[:, None] * total, right=True)[:, 0]  # right: no token of probability 0
    return token.clamp(max=logits.shape[-1] - 1), ~total[:, 0].isfinite()


# -- chance ------------------------------------------------------------------------------------------------
def uniforms(seeds: Tensor, t: int) -> Tensor:
    """Number t of each row's random stream: seeds (B,) int64 -> (B,) float64 in [0, 1).

    SplitMix64 (Steele, Lea & Flood 2014), whose number t is a function of seed and t alone: no state to carry, to drop
    or to rewind with a row, and the same on every device.
    """
    return ((splitmix64(seeds, t) >> 11) & (2**53 - 1)).double() * 2**-53


def splitmix64(seeds: Tensor, t: int) -> Tensor:
    """Output t (from 0) of SplitMix64 started at each seed, as int64; its arithmetic wraps, as unsigned would."""
    z = seeds + _signed((t + 1) * 0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & (2 ** (64 - bits) - 1)  # without the sign's copies


def random_seeds(count: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator, device=device)


# -- what is asked for -------------------------------------------------------------------------------------
def checked(prompts, n: int, max_new_tokens: int, end, temperature: float, top_p: float, top_k: int) -> list[int]:
    """The end tokens as a list. ValueError for what no sampler can do."""
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"sample: prompt {i} is empty; give it a token at least (bos)")
    if n < 1 or max_new_tokens < 1:
        raise ValueError(f"sample: n = {n}, max_new_tokens = {max_new_tokens}; both must be 1 or more")
    if not temperature >= 0:
        raise ValueError(f"sample: temperature {temperature}; 1 samples from the model, 0 is greedy, below 0 is nothing")
    if not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(f"sample: top_p {top_p}, top_k {top_k}; a share above 0 of the mass, 1 for all, and a number of tokens, 0 for all")
    ends = [end] if isinstance(end, int) else sorted(end)
    if any(e < 0 for e in ends):
        raise ValueError(f"sample: end tokens {ends}; an id is not negative")
    return ends


def check_vocabulary(prompts, ends: list[int], vocabulary: int) -> None:
    """ValueError for a token that the model does not have."""
    if min(map(min, prompts), default=0) < 0 or max(max(map(max, prompts), default=0), *ends, 0) >= vocabulary:
        raise ValueError(f"sample: prompts and end tokens {ends} must lie in the model's vocabulary, 0 .. {vocabulary - 1}")


# -- a copy that samples -----------------------------------------------------------------------------------
def full(value: Tensor) -> Tensor:
    """A weight as it is; of one in shards (DTensor) the whole, for which all its ranks must call."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def whole_copy(model, dtype: str, device) -> torch.nn.Module:
    """A model of the same configuration in another precision, whole where `model` is in shards. `refresh` fills it.

    dtype: "float32", "bfloat16", "float16". For models of transformers, with pictures or without; adapters must be merged: ValueError
    otherwise.
    """
    import copy

    from ..models import DTYPES

    if hasattr(model, "get_base_model"):
        raise ValueError(f"whole_copy: {type(model).__name__} wraps adapters; merge them (merge_and_unload), or sample from it as it is")
    # A model in shards has a class of its own, made from the stock one.
    stock: Any = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))
    with torch.random.fork_rng(devices=[]), torch.device(device):
        found = stock._from_config(copy.deepcopy(model.config), dtype=DTYPES[dtype], attn_implementation=model.config._attn_implementation)
    return found.eval().requires_grad_(False)


@torch.no_grad()
def refresh(copied, model):
    """`copied` with the weights that `model` has now. All ranks of a model in shards must call it together."""
    theirs = model.state_dict()
    for name, value in copied.state_dict().items():
        value.copy_(full(theirs[name]))
    return copied


# -- log-probabilities of given responses ------------------------------------------------------------------
def packed_batch(prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Prompt and response in one row, padded on the right: ids (K, T) int64, and where the response is (K, T) bool.

    pad: any id; a causal model does not look at what lies behind. No attention mask is needed, and no position ids.
    Raises ValueError for no rollouts, one without tokens, or one of a prompt that is not there.
    """
    if not rollouts:
        raise ValueError("packed_batch: no rollouts; where none were kept, skip the update")
    for k, rollout in enumerate(rollouts):
        if not rollout.ids or not 0 <= rollout.prompt < len(prompts) or not len(prompts[rollout.prompt]):
            raise ValueError(f"packed_batch: rollout {k} has {len(rollout.ids)} tokens for prompt {rollout.prompt} of "
                             f"{len(prompts)}; a response and a prompt of one token or more are needed")
    rows = [[*prompts[r.prompt], *r.ids] for r in rollouts]
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.int64)
    response = torch.zeros_like(ids, dtype=torch.bool)
    for k, (row, rollout) in enumerate(zip(rows, rollouts)):
        ids[k, : len(row)] = torch.tensor(row)
        response[k, len(row) - len(rollout.ids) : len(row)] = True
    return ids, response


def response_logits(model, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout],
                    pad: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher forcing: logits (K, C, V) of the model's dtype, the ids (K, C) that they predict, and which are response.

    C columns, from the first response token of the shortest prompt on. With a graph if there is one to be had.
    """
    ids, response = (x.to(next(model.parameters()).device) for x in packed_batch(prompts, rollouts, pad))
    first = min(len(prompts[r.prompt]) for r in rollouts)
    columns = ids.shape[1] - first
    keep = {"logits_to_keep": columns + 1} if "logits_to_keep" in forward_names(model) else {}
    logits = model(input_ids=ids, use_cache=False, **keep).logits[:, -columns - 1 : -1]  # column c predicts c + 1
    return logits, ids[:, first:], response[:, first:]


def response_log_probs(model, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout],
                       pad: int = 0) -> tuple[Tensor, Tensor]:
    """log p(o_t | q, o_<t) at temperature 1: (K, R) float32, R the longest response, and mask (K, R) bool.

    Response token t is in column t; 0 and False behind a response's end. In nats, with gradient, the model in the mode
    that it is in. The batch is run at once: its size is the caller's. Errors as `packed_batch`.
    """
    logits, ids, _ = response_logits(model, prompts, rollouts, pad)
    all_columns = logits.gather(-1, ids[..., None])[..., 0].float() - logits.float().logsumexp(-1)
    lengths, starts = (torch.tensor(x, device=ids.device)[:, None] for x in (
        [len(r.ids) for r in rollouts], [len(prompts[r.prompt]) for r in rollouts]))
    t = torch.arange(int(lengths.max()), device=ids.device)
    mask = t < lengths
    log_probs = all_columns.gather(1, (starts - starts.min() + t).clamp(max=ids.shape[1] - 1))
    return log_probs.masked_fill(~mask, 0), mask


# -- how fast ----------------------------------------------------------------------------------------------
def against_generate(device: str = "cpu", prompts: int = 16, n: int = 16, limit: int = 170, repeats: int = 3) -> dict:
    """Response tokens per second of `sample` and of model.generate (temperature 1, nothing truncated), best of repeats.

    A Llama of 64 x 2 layers; untrained, so nearly uniform over 64 tokens: its end token comes after 64 tokens on average.
    """
    from ..models import load, tiny

    model = load(tiny("llama", vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=2, head_dim=16,
                      num_key_value_heads=4, initializer_range=0.02, tie_word_embeddings=True, device=device)).model
    rng = torch.Generator().manual_seed(0)
    asked = [torch.randint(3, 64, (6 + 4 * (i % 3),), generator=rng).tolist() for i in range(prompts)]
    width = max(map(len, asked))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in asked], device=device)
    mask = (torch.arange(width) >= torch.tensor([[width - len(p)] for p in asked])).long().to(device)

    def ours(seed):
        found = sample(model, asked, n, limit, end=2, generator=torch.Generator().manual_seed(seed), rows=prompts * n)
        return sum(len(r.ids) for r in found)

    def theirs(seed):
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=limit,
                                 num_return_sequences=n, eos_token_id=2, pad_token_id=0)[:, width:]
        ended = (out == 2).cumsum(1)
        return int((ended == 0).sum() + (ended.amax(1) > 0).sum())

    speed = {}
    for name, function in (("sample", ours), ("generate", theirs)):
        function(0)  # warm
        rates = []
        for seed in range(1, repeats + 1):
            start = time.perf_counter()
            tokens = function(seed)  # both end in tolist() or int(): the device is done
            rates.append(tokens / (time.perf_counter() - start))
        speed[name] = max(rates)
    return speed | {"ratio": speed["sample"] / speed["generate"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time `sample` beside model.generate on the same work.")
    parser.add_argument("--against-generate", action="store_true", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--limit", type=int, default=170)
    options = parser.parse_args()
    found = against_generate(options.device, options.prompts, options.n, options.limit)
    print(f"sample {found['sample']:,.0f} tokens/s, model.generate {found['generate']:,.0f}: {found['ratio']:.2f} times")


if __name__ == "__main__":
    main()
