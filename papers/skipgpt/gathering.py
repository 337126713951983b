"""What gathering well is worth: `python -m papers.skipgpt.gathering` (five minutes on two cores).

"plain" is skipping as one writes it first: boolean indices for each projection, queries scattered back into the whole
sequence before the attention read, norms and residual sums over all tokens. `skipping.py` gathers once a module, packs
the queries, normalises only what runs and adds in place. Same gates, same weights, the same rounds; Llama layers only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from unittest import mock

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from common.models import ModelSpec, load
from common.timing.clock import interleaved_timings, paired_ratio

from . import analytic, skipping
from .experiments.timed import Case, stock_and_routed, variants


@torch.no_grad()
def plain_attention(
    layer: nn.Module, x: Tensor, gate: Tensor, *, attention_mask, past_key_values, position_embeddings, **kwargs
) -> Tensor:
    """x (B, S, d) -> x + Attn where gate (B, S) is 1."""
    attn, run = layer.self_attn, gate.bool() & layer._routing.valid
    h, heads = layer.input_layernorm(x), (*x.shape[:2], -1, layer.self_attn.head_dim)
    q = h.new_zeros(*x.shape[:2], attn.q_proj.out_features)
    q[run] = attn.q_proj(h[run])
    q, k, v = (states.view(heads).transpose(1, 2) for states in (q, attn.k_proj(h), attn.v_proj(h)))
    q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, attn.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attn.config._attn_implementation, eager_attention_forward)
    out, _ = attend(attn, q, k, v, attention_mask, dropout=0.0, scaling=attn.scaling)
    update = torch.zeros_like(x)
    update[run] = attn.o_proj(out.reshape(*x.shape[:2], -1)[run])
    return x + update


@torch.no_grad()
def plain_mlp(layer: nn.Module, y: Tensor, gate: Tensor, x: Tensor | None = None) -> Tensor:
    """y (B, S, d) -> y + MLP where gate is 1."""
    run, update = gate.bool() & layer._routing.valid, torch.zeros_like(y)
    update[run] = layer.mlp(layer.post_attention_layernorm(y)[run])
    return y + update


def plainly(fn):
    """fn() with plain skipping in place of skipping.py."""
    with mock.patch.multiple(skipping, skipping_attention=plain_attention, skipping_mlp=plain_mlp):
        return fn()


def compare(cases: Sequence[Case], sparsity: float, rounds: int, config: dict, log=print) -> list[dict]:
    """Per case: median seconds of dense, and the median ratios dense/plain, dense/skip and plain/skip of its rounds."""
    model = load(ModelSpec("random", config=config)).model
    shape, models, rows = analytic.Shape.of(model.config), stock_and_routed(model, 0), []
    for case in cases:
        fns, _ = variants(*models, shape, case, (sparsity,), 0)
        skip = fns[f"skip {sparsity:.2f}"]
        timed = {"dense": fns["dense"], "plain": partial(plainly, skip), "skip": skip}
        timings = interleaved_timings(timed, 2, rounds, "cpu")
        ratio = {
            f"{a} / {b}": paired_ratio(timings, a, b)["median"]
            for a, b in (("dense", "plain"), ("dense", "skip"), ("plain", "skip"))
        }
        rows.append({"case": case.name, "dense_seconds": timings["dense"]["median"] / case.steps, **ratio})
        ratios = "  ".join(f"{name} {value:.2f}x" for name, value in ratio.items())
        log(f"{case.name:<22s} dense {1000 * rows[-1]['dense_seconds']:7.1f} ms   {ratios}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.40)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not 0 <= options.sparsity < 1 or options.rounds < 2:
        parser.error("--sparsity is a share from 0 to below 1, --rounds a number from 2 on, since one value has no spread")
    cases = [Case("prefill", b, n) for b, n in ((1, 128), (1, 512), (4, 128), (8, 128))]
    cases += [Case("decode", b, 256, 4) for b in (1, 4)]
    config = analytic.SMOLLM2_135M.config(max_position_embeddings=8192)
    print(json.dumps(compare(cases, options.sparsity, options.rounds, config, lambda text: print(text, flush=True))))


if __name__ == "__main__":
    main()
