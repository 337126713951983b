"""Tiny random models of many decoder families, with the properties that set a family apart switched on.

A method is tried on these before anybody gives it weights of that family. Width is 32, there are two to four layers, at most 128
tokens. What real weights have and a default config lacks is switched on: Granite's multipliers, Cohere's logit scale, layers with
a window beside layers without (Gemma 2 and 3), layers without rotary positions (SmolLM3), norms of queries and keys, ALiBi, rotary
positions that are scaled. Weights are drawn so that every part of a layer changes what it writes; at the usual initial scale
(0.02) attention is nearly uniform, and a wrong mask or position hardly shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig

MANY = 128  # the size of the embedding
WORDS = range(3, 96)  # the ids that a text is drawn from; pictures have theirs above

PLAIN: dict[str, Any] = {
    "vocab_size": MANY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": MANY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A model type of transformers and the settings of its tiny config. `pixels`: its pictures (None: it reads text alone)."""

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    pixels: Callable[[int, torch.dtype], dict[str, torch.Tensor]] | None = None

    def config(self) -> Any:
        return AutoConfig.for_model(self.model_type, **copy.deepcopy(self.settings))


def plain(model_type: str, **settings: Any) -> Family:
    """A decoder whose config has Llama's names; a setting that is `...` is left to the family's default."""
    return Family(model_type, {name: value for name, value in {**PLAIN, **settings}.items() if value is not ...})


def rotary(kind: str, **settings: Any) -> dict[str, Any]:
    """`rope_parameters` of a scaled kind."""
    return {"rope_type": kind, "rope_theta": 10000.0, **settings}


FULL_AND_WINDOW = ["sliding_attention", "sliding_attention", "full_attention"]
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 3.0, 4.0], "original_max_position_embeddings": 64}

DECODERS: dict[str, Family] = {
    # the plain ones: rotary positions, RMSNorm before each part, gated MLP
    "llama": plain("llama"),
    "llama-biases": plain("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-linear": plain("llama", rope_parameters=rotary("linear", factor=4.0)),
    "llama-dynamic": plain("llama", rope_parameters=rotary("dynamic", factor=2.0)),
    "llama-yarn": plain("llama", rope_parameters=rotary("yarn", factor=4.0, original_max_position_embeddings=64)),
    "llama-llama3": plain("llama", rope_parameters=rotary(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
    "llama-longrope": plain("llama", rope_parameters=rotary("longrope", factor=4.0, **LONG)),
    "mistral": plain("mistral", head_dim=8, sliding_window=None),
    "mistral-window": plain("mistral", head_dim=8, sliding_window=5),
    "ministral": plain("ministral", head_dim=8, sliding_window=5, layer_types=FULL_AND_WINDOW),
    "qwen2": plain("qwen2"),
    "qwen2-window": plain("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": plain("qwen3", head_dim=16),
    "seed_oss": plain("seed_oss", head_dim=8),
    "arcee": plain("arcee"),
    "hunyuan_v1_dense": plain("hunyuan_v1_dense", head_dim=8),
    "ernie4_5": plain("ernie4_5", head_dim=8),
    "helium": plain("helium", head_dim=8),
    "apertus": plain("apertus"),
    "nanochat": plain("nanochat", num_key_value_heads=4),
    # multipliers and scales
    "granite": plain("granite", embedding_multiplier=6.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=4.0),
    "cohere": plain("cohere", logit_scale=0.25, use_qk_norm=False),
    "cohere-qk-norm": plain("cohere", logit_scale=0.25, use_qk_norm=True),
    "cohere2": plain("cohere2", logit_scale=0.25, head_dim=8, sliding_window=5, layer_types=FULL_AND_WINDOW),
    "gemma": plain("gemma", head_dim=8),
    "gemma2": plain("gemma2", head_dim=8, sliding_window=5, query_pre_attn_scalar=16, attn_logit_softcapping=20.0,
                    final_logit_softcapping=10.0),
    "gemma3_text": plain("gemma3_text", head_dim=8, sliding_window=5, query_pre_attn_scalar=16, layer_types=FULL_AND_WINDOW),
    # norms in other places
    "olmo": plain("olmo", clip_qkv=2.0),
    "olmo2": plain("olmo2"),
    "olmo3": plain("olmo3", sliding_window=5, layer_types=FULL_AND_WINDOW),
    "exaone4": plain("exaone4", sliding_window=5, layer_types=FULL_AND_WINDOW),
    "glm": plain("glm", head_dim=8),
    "glm4": plain("glm4", head_dim=8),
    "stablelm": plain("stablelm", partial_rotary_factor=0.5),
    "stablelm-qk-norm": plain("stablelm", qk_layernorm=True, use_qkv_bias=True),
    "stablelm-parallel": plain("stablelm", use_parallel_residual=True),
    # other projections, biases, activations
    "phi": plain("phi", partial_rotary_factor=0.5),
    "phi-qk-norm": plain("phi", qk_layernorm=True),
    "phi3": plain("phi3"),
    "phi3-longrope": plain("phi3", original_max_position_embeddings=64, rope_parameters=rotary("longrope", **LONG)),
    "starcoder2": plain("starcoder2", use_bias=True),
    "persimmon": plain("persimmon", num_key_value_heads=..., qk_layernorm=True),
    "nemotron": plain("nemotron"),
    "diffllama": plain("diffllama"),
    "bitnet": plain("bitnet"),
    # layers without rotary positions, attention in chunks
    "smollm3": plain("smollm3", no_rope_layers=[1, 0, 1]),
    "llama4_text": plain("llama4_text", head_dim=8, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1,
                         no_rope_layers=[1, 1, 0], attention_chunk_size=6, moe_layers=[1]),
    # older ones: learned positions, ALiBi, interleaved pairs, fused projections
    "gpt2": Family("gpt2", GPT2),
    "gpt_neo": Family("gpt_neo", {
        "vocab_size": MANY, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 256, "window_size": 5,
        "attention_types": [[["global", "local"], 2]], "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}),
    "gptj": Family("gptj", {**GPT2, "rotary_dim": 4}),
    "codegen": Family("codegen", {**GPT2, "rotary_dim": 4}),
    "gpt_bigcode": Family("gpt_bigcode", GPT2),
    "gpt_neox": plain("gpt_neox", num_key_value_heads=..., rotary_pct=0.25),
    "opt": plain("opt", num_key_value_heads=..., intermediate_size=..., ffn_dim=48, word_embed_proj_dim=32, pad_token_id=1),
    "biogpt": plain("biogpt", num_key_value_heads=..., pad_token_id=1),
    "bloom": plain("bloom", num_key_value_heads=..., intermediate_size=...),
    "mpt": Family("mpt", {"vocab_size": MANY, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 256, "expansion_ratio": 2,
                          "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}),
    "falcon": plain("falcon", num_key_value_heads=..., multi_query=True, parallel_attn=True, alibi=False),
    "falcon-alibi": plain("falcon", num_key_value_heads=..., multi_query=False, parallel_attn=False, alibi=True, bias=True),
    "falcon-new": plain("falcon", num_key_value_heads=..., num_kv_heads=2, new_decoder_architecture=True, alibi=False),
    "openai-gpt": Family("openai-gpt", {name: GPT2[name] for name in ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")}),
    "ctrl": Family("ctrl", {**GPT2, "dff": 48}),
    # compressed keys and values
    "deepseek_v2": plain("deepseek_v2", num_key_value_heads=4, kv_lora_rank=12, q_lora_rank=None, qk_rope_head_dim=4,
                         qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1,
                         n_group=1, topk_group=1, **EXPERTS),
    "deepseek_v3": plain("deepseek_v3", num_key_value_heads=4, kv_lora_rank=12, q_lora_rank=16, qk_rope_head_dim=4,
                         qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1,
                         n_group=2, topk_group=1, **EXPERTS),
    # mixtures of experts
    "mixtral": plain("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": plain("qwen2_moe", num_experts=4, shared_expert_intermediate_size=24, **EXPERTS),
    "qwen3_moe": plain("qwen3_moe", head_dim=16, num_experts=4, **EXPERTS),
    "olmoe": plain("olmoe", num_experts=4, num_experts_per_tok=2),
    "granitemoe": plain("granitemoe", num_local_experts=4, num_experts_per_tok=2, embedding_multiplier=6.0,
                        attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=4.0),
    "phimoe": plain("phimoe", num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": plain("gpt_oss", head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
                     rope_parameters=rotary("default"), layer_types=FULL_AND_WINDOW),
    # layers with a state of their own: convolutions, state spaces, linear attention
    "lfm2": plain("lfm2", layer_types=["conv", "full_attention", "conv"]),
    "jamba": plain("jamba", num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
                   expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False),
    "bamba": plain("bamba", mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4, attn_layer_indices=[1],
                   mamba_chunk_size=8),
    "qwen3_next": plain("qwen3_next", head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2,
                        linear_num_value_heads=4, num_experts=4, shared_expert_intermediate_size=24,
                        layer_types=["linear_attention", "full_attention", "linear_attention"], **EXPERTS),
    "zamba2": plain("zamba2", num_key_value_heads=4, mamba_d_state=4, mamba_headdim=8, n_mamba_heads=8, mamba_ngroups=1,
                    hybrid_layer_ids=[1], layers_block_type=["mamba", "hybrid", "mamba"], chunk_size=8, use_mem_rope=True),
    "granitemoehybrid": plain("granitemoehybrid", num_local_experts=2, num_experts_per_tok=1, shared_intermediate_size=24,
                              layer_types=["mamba", "attention", "mamba"], mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1,
                              mamba_d_state=4, mamba_chunk_size=8, embedding_multiplier=6.0, residual_multiplier=0.22,
                              attention_multiplier=0.3, logits_scaling=4.0, position_embedding_type="rope"),
    "falcon_h1": plain("falcon_h1", head_dim=8, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4,
                       mamba_chunk_size=8),
    "recurrent_gemma": plain("recurrent_gemma", num_key_value_heads=1, lru_width=32, attention_window_size=5,
                             block_types=["recurrent", "attention"]),
    "mamba": Family("mamba", {"vocab_size": MANY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, "time_step_rank": 4,
                              "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}),
    "mamba2": Family("mamba2", {"vocab_size": MANY, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, "num_heads": 8,
                                "head_dim": 8, "n_groups": 1, "chunk_size": 8, "pad_token_id": None, "bos_token_id": None,
                                "eos_token_id": None}),
}  # fmt: skip
