"""The dimensions of a decoder: its parameters, the bytes of its cache, its multiply-adds a token, in closed form and exactly.

A `Shape` is eight numbers and what varies between the families beside them (biases, norms). `Shape.of(config)` reads one
off a `transformers` config; the model is built without memory and compared, so that what a shape cannot describe is
refused and never miscounted. Known models stand below as data. Symbols as in `flops.py`: width d, MLP width f, L layers, H
query and KV key heads of size dh, vocabulary V. A paper adds formulas with its own symbols in its analytic.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Shape:
    """L layers of grouped-query attention and a gated MLP (gate, up, down), RMSNorms, a last norm, embedding and head.

    tied: the head is the embedding. qkv_bias, o_bias, mlp_bias: biases of these projections. norms: a layer's norms of width d.
    head_norm: norms of size dh over each query and each key head. name: for people; two shapes are equal without it.
    """

    d: int
    f: int
    L: int
    H: int
    KV: int
    dh: int
    V: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    norms: int = 2
    head_norm: bool = False
    name: str = field(default="", compare=False)

    @property
    def dq(self) -> int:
        """Width of a token's queries, H dh."""
        return self.H * self.dh

    @property
    def dk(self) -> int:
        """Width of a token's keys, and of its values, KV dh."""
        return self.KV * self.dh

    @property
    def linear(self) -> int:
        """Weights of a layer's projections and MLP, which are its multiply-adds a token: 2 d dq + 2 d dk + 3 d f."""
        return 2 * self.d * self.dq + 2 * self.d * self.dk + 3 * self.d * self.f

    def parameters(self) -> int:
        """All of them, those of a tied head once."""
        layer = self.linear + self.norms * self.d + 2 * self.dh * self.head_norm
        layer += (self.dq + 2 * self.dk) * self.qkv_bias + self.d * self.o_bias + (2 * self.f + self.d) * self.mlp_bias
        return self.L * layer + self.d + (1 if self.tied else 2) * self.V * self.d

    def kv_bytes(self, tokens: int = 1, bytes_each: int = 2) -> int:
        """Keys and values of so many tokens in all layers; bytes_each: of a number, 2 in bfloat16."""
        return tokens * 2 * self.L * self.dk * bytes_each

    def visual_flops(self, visual: int, text: int) -> int:
        """FLOPs that so many visual tokens cost in one layer: their projections, the MLP, attention among them and of `text` tokens to
        them. Two per multiply-add; no causal half is taken off (the way ViCA's paper counts, supplementary C)."""
        return 2 * visual * self.linear + 4 * visual * (visual + text) * self.dq

    def config(self, **entries: Any) -> dict[str, Any]:
        """A config with "model_type" for `ModelSpec("random", ...)`: of Llama, of Qwen2 with its biases, of Qwen3 with norms over
        the heads. entries: more of it. Raises ValueError for a shape that none of them has."""
        kinds = {"llama": replace(self, qkv_bias=False, o_bias=False, mlp_bias=False, norms=2, head_norm=False)}
        kinds |= {"qwen2": replace(kinds["llama"], qkv_bias=True), "qwen3": replace(kinds["llama"], head_norm=True)}
        kind = next((kind for kind, shape in kinds.items() if shape == self), None)
        if kind is None:
            raise ValueError(f"{self} is the shape of no Llama, Qwen2 or Qwen3: write its config")
        own_size = {} if self.dh * self.H == self.d else {"head_dim": self.dh}
        return dict(model_type=kind, hidden_size=self.d, intermediate_size=self.f, num_hidden_layers=self.L, num_attention_heads=self.H,
                    num_key_value_heads=self.KV, vocab_size=self.V, tie_word_embeddings=self.tied) | own_size | entries

    @classmethod
    def of(cls, config: Any) -> Self:
        """Of a `transformers` config. Raises ValueError naming what it lacks, or what it has that a shape cannot describe."""
        config = config.get_text_config()
        kind, need = type(config).__name__, ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        if missing := [name for name in need if not isinstance(getattr(config, name, None), int)]:
            raise ValueError(f"{kind} has no {', '.join(missing)}: a shape is of a decoder whose layers are all alike (Llama, Qwen, "
                             "Mistral)")
        d, f, L, H, V = (getattr(config, name) for name in need)
        bare = cls(d, f, L, H, getattr(config, "num_key_value_heads", None) or H, getattr(config, "head_dim", None) or d // H, V,
                   bool(getattr(config, "tie_word_embeddings", False)), name=config.model_type)
        return bare._as_in(config, kind)

    def _as_in(self, config: Any, kind: str) -> Self:
        """With the biases and norms that the model of the config has."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        layers = [{name: tuple(p.shape) for name, p in layer.named_parameters()} for layer in model.get_decoder().layers]
        if odd := [i for i, layer in enumerate(layers) if layer != layers[0]]:
            raise ValueError(f"{kind}: layer {odd[0]} is not like layer 0, and a shape has one kind of layer")
        d, f, dq, dk = self.d, self.f, self.dq, self.dk
        weights = {"q_proj": (dq, d), "k_proj": (dk, d), "v_proj": (dk, d), "o_proj": (d, dq), "qkv_proj": (dq + 2 * dk, d),
                   "gate_proj": (f, d), "up_proj": (f, d), "gate_up_proj": (2 * f, d), "down_proj": (d, f)}
        biases, norms, over_heads = set(), 0, 0
        for name, size in layers[0].items():
            owner, _, part = name.rpartition(".")
            owner = owner.rpartition(".")[2]
            if part == "weight" and weights.get(owner) == size:
                continue
            elif part == "bias" and owner in weights and size == weights[owner][:1]:
                biases.add(owner)
            elif part == "weight" and owner in ("q_norm", "k_norm") and size == (self.dh,):
                over_heads += 1
            elif part == "weight" and owner.endswith("norm") and size == (d,):
                norms += 1
            else:
                raise ValueError(f"{kind} has layers with {name} {size}, which a shape does not describe")
        found = replace(self, qkv_bias=bool(biases & {"q_proj", "qkv_proj"}), o_bias="o_proj" in biases, mlp_bias="down_proj" in biases,
                        norms=norms, head_norm=over_heads == 2)
        if (count := sum(p.numel() for p in model.parameters())) != found.parameters():
            raise ValueError(f"{kind} has {count:,} parameters, and a shape of its dimensions {found.parameters():,}: it is built "
                             "otherwise")
        return found


# -- known models ------------------------------------------------------------------------------------------
LLAMA2_7B = Shape(4096, 11008, 32, 32, 32, 128, 32000, name="Llama-2-7B")
LLAMA2_13B = Shape(5120, 13824, 40, 40, 40, 128, 32000, name="Llama-2-13B")
LLAMA31_8B = Shape(4096, 14336, 32, 32, 8, 128, 128256, name="Llama-3.1-8B")
SMOLLM2_135M = Shape(576, 1536, 30, 9, 3, 64, 49152, tied=True, name="SmolLM2-135M")
QWEN25_3B = Shape(2048, 11008, 36, 16, 2, 128, 151936, tied=True, qkv_bias=True, name="Qwen2.5-3B")
QWEN25_7B = Shape(3584, 18944, 28, 28, 4, 128, 152064, qkv_bias=True, name="Qwen2.5-7B")
R1_1P5B = Shape(1536, 8960, 28, 12, 2, 128, 151936, qkv_bias=True, name="DeepSeek-R1-Distill-Qwen-1.5B")
R1_7B = replace(QWEN25_7B, name="DeepSeek-R1-Distill-Qwen-7B")
QWEN3_0_6B = Shape(1024, 3072, 28, 16, 8, 128, 151936, tied=True, head_norm=True, name="Qwen3-0.6B")
QWEN3_1_7B = Shape(2048, 6144, 28, 16, 8, 128, 151936, tied=True, head_norm=True, name="Qwen3-1.7B")
QWEN3_4B = Shape(2560, 9728, 36, 32, 8, 128, 151936, tied=True, head_norm=True, name="Qwen3-4B")
QWEN3_8B = Shape(4096, 12288, 36, 32, 8, 128, 151936, head_norm=True, name="Qwen3-8B")
GEMMA2_2B = Shape(2304, 9216, 26, 8, 4, 256, 256000, tied=True, norms=4, name="Gemma-2-2B")
PHI3_MINI = Shape(3072, 8192, 32, 32, 32, 96, 32064, name="Phi-3-mini")
LLAVA_3B = Shape(2560, 6912, 32, 32, 32, 80, 32000, name="LLaVA-1.5-3B")
LLAVA_7B = replace(LLAMA2_7B, name="LLaVA-1.5-7B")
LLAVA_13B = replace(LLAMA2_13B, name="LLaVA-1.5-13B")
KNOWN = {shape.name: shape for shape in (
    LLAMA2_7B, LLAMA2_13B, LLAMA31_8B, SMOLLM2_135M, QWEN25_3B, QWEN25_7B, R1_1P5B, R1_7B, QWEN3_0_6B, QWEN3_1_7B, QWEN3_4B, QWEN3_8B,
    GEMMA2_2B, PHI3_MINI, LLAVA_3B, LLAVA_7B, LLAVA_13B)}  # fmt: skip
