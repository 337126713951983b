"""Tiny families that read pictures beside text (LLaVA and its kin), and what each of them calls its pictures.

No processor is needed: `with_pictures(model, ids)` puts a picture's places into a text and random pixels beside it, in the form that
the family's processor would give them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from .decoders import DECODERS, Family

PLACES = range(100, 112)  # ids of a picture's places and borders: inside the embedding, above every id of a text
IMAGE, BORDER, VIDEO, NEW_LINE = PLACES[0], PLACES[1], PLACES[2], PLACES[3]

Pixels = Callable[[int, torch.dtype], dict[str, torch.Tensor]]  # (pictures, type of the numbers) -> the family's arguments


def text(name: str, **settings: Any) -> dict[str, Any]:
    """The config of one of the decoders, as a part of a larger one."""
    family = DECODERS[name]
    return {"model_type": family.model_type, **family.settings, **settings}


def vision(model_type: str, size: int = 8, **settings: Any) -> dict[str, Any]:
    """A picture encoder of width 16 and two layers that cuts a picture of size × size into patches of 4 × 4."""
    return {"model_type": model_type, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": size, "patch_size": 4, "projection_dim": 16, **settings}  # fmt: skip


def noise(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """The same numbers for the same shape, in [-1, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype) * 2 - 1


def one_size(size: int) -> Pixels:
    return lambda pictures, dtype: {"pixel_values": noise(pictures, 3, size, size, dtype=dtype)}


def tiles(count: int, size: int, height: int, width: int) -> Pixels:
    """A picture of height × width, as a small whole and `count - 1` tiles of it (LLaVA-NeXT, OneVision)."""
    return lambda pictures, dtype: {
        "pixel_values": noise(pictures, count, 3, size, size, dtype=dtype),
        "image_sizes": torch.tensor([[height, width]] * pictures)}  # fmt: skip


def in_rows(size: int) -> Pixels:
    """One picture a row, with the axis of a row's pictures (Idefics3, SmolVLM)."""
    return lambda pictures, dtype: {"pixel_values": noise(pictures, 1, 3, size, size, dtype=dtype)}


def sized(size: int) -> Pixels:
    return lambda pictures, dtype: {
        "pixel_values": noise(pictures, 3, size, size, dtype=dtype), "image_sizes": torch.tensor([[size, size]] * pictures)}  # fmt: skip


def patches(rows: int, columns: int, patch: int = 4, frames: int = 2) -> Pixels:
    """A picture already cut into patches, flattened, and how many of them are side by side (Qwen-VL)."""
    return lambda pictures, dtype: {
        "pixel_values": noise(pictures * rows * columns, 3 * frames * patch * patch, dtype=dtype),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * pictures)}  # fmt: skip


def family(model_type: str, pixels: Pixels, text_config: dict[str, Any], vision_config: dict[str, Any], **settings: Any) -> Family:
    return Family(model_type, {"text_config": text_config, "vision_config": vision_config, **settings}, pixels)


CLIP, SIGLIP = vision("clip_vision_model"), vision("siglip_vision_model", vision_use_head=False)
QWEN_TEXT = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
TOKEN = {"image_token_id": IMAGE}
QWEN = {**TOKEN, "video_token_id": VIDEO, "vision_start_token_id": BORDER, "vision_end_token_id": BORDER}

PICTURES: dict[str, Family] = {
    "llava": family("llava", one_size(8), text("llama"), CLIP, vision_feature_layer=-2, image_token_index=IMAGE, image_seq_length=4),
    "llava-qwen3": family("llava", one_size(8), text("qwen3"), SIGLIP, vision_feature_layer=-1,
                              vision_feature_select_strategy="full", image_token_index=IMAGE, image_seq_length=4),
    "vipllava": family("vipllava", one_size(8), text("llama"), CLIP, vision_feature_layers=[-2, -1], image_token_index=IMAGE,
                       image_seq_length=4),
    "llava_next": family("llava_next", tiles(3, 8, 8, 16), text("mistral"), CLIP, image_grid_pinpoints=[[8, 16], [16, 8]],
                         image_token_index=IMAGE, image_seq_length=4),
    "llava_onevision": family("llava_onevision", tiles(3, 8, 8, 16), text("qwen2"), SIGLIP, image_grid_pinpoints=[[8, 16], [16, 8]],
                              vision_feature_layer=-1, vision_feature_select_strategy="full", image_token_index=IMAGE,
                              video_token_index=VIDEO),
    "idefics3": family("idefics3", in_rows(16), text("llama"), vision("idefics3_vision", 16), scale_factor=2, **TOKEN),
    "smolvlm": family("smolvlm", in_rows(16), text("llama"), vision("smolvlm_vision", 16), scale_factor=2, **TOKEN),
    "internvl": family("internvl", one_size(16), text("qwen2"), vision("internvl_vision", 16, image_size=[16, 16], patch_size=[4, 4]),
                       downsample_ratio=0.5, image_seq_length=4, **TOKEN),
    "mistral3": family("mistral3", sized(16), text("mistral"), vision("pixtral", 16, head_dim=8), spatial_merge_size=2,
                       vision_feature_layer=-1, image_token_index=IMAGE),
    "paligemma": family("paligemma", one_size(8), text("gemma"), SIGLIP, image_token_index=IMAGE, projection_dim=32),
    "gemma3": family("gemma3", one_size(16), text("gemma3_text"), vision("siglip_vision_model", 16, vision_use_head=False),
                     mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=BORDER, eoi_token_index=BORDER),
    "aya_vision": family("aya_vision", one_size(16), text("cohere2"), vision("siglip_vision_model", 16, vision_use_head=False),
                         downsample_factor=2, alignment_intermediate_size=48, vision_feature_layer=-1, image_token_index=IMAGE,
                         vision_feature_select_strategy="full"),
    "qwen2_vl": family("qwen2_vl", patches(4, 4), text("qwen2", model_type="qwen2_vl_text", **QWEN_TEXT), {
        "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}, **QWEN),
    "qwen2_5_vl": family("qwen2_5_vl", patches(4, 4), text("qwen2", model_type="qwen2_5_vl_text", **QWEN_TEXT), {
        "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [1]}, **QWEN),
    "qwen3_vl": family("qwen3_vl", patches(4, 4), text("qwen3", model_type="qwen3_vl_text", head_dim=8, **QWEN_TEXT), {
        "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24, "patch_size": 4,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 16}, **QWEN),
}  # fmt: skip


def with_pictures(model: PreTrainedModel, ids: torch.Tensor, before: int = 2) -> dict[str, torch.Tensor]:
    """Inputs of `model(**inputs)`: every row of `ids` (B, T) with a picture after its first `before` ids.

    Returns `input_ids` and `attention_mask`, both (B, T + places of a picture), and the family's own arguments for B pictures;
    `input_ids == IMAGE` are the places. Raises KeyError for a model of no family in PICTURES.
    """
    kind = next(family for family in PICTURES.values() if family.model_type == model.config.model_type)
    assert kind.pixels is not None
    pixels = kind.pixels(len(ids), model.dtype)
    with torch.no_grad():
        features: Any = model.get_image_features(**pixels)
    features = getattr(features, "pooler_output", features)
    rows = sum(part.shape[:-1].numel() for part in ([features] if isinstance(features, torch.Tensor) else features))
    places = ids.new_full((len(ids), rows // len(ids)), IMAGE)
    row = torch.cat([ids[:, :before], places, ids[:, before:]], 1)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # Qwen-VL: positions in three axes are made from it
        inputs["mm_token_type_ids"] = (row == IMAGE).long()
    return inputs
