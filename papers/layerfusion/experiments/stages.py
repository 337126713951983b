"""Whether the layers of a real tower fall into stages: cuts and score of DINOv2-S beside 200 random orders of its layers.

The cuts are found on the mean similarity of the first half of the pictures; each picture of the second half gives the score of
these cuts on its own similarities, and the 99th percentile of what 200 random orders of its layers reach by the best cuts of their
own. Beside them the same of a tower with random weights: whether stages are of what was learnt, or of any stack of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.data import scenes
from common.data.hard_scenes import _whole as photograph
from common.runs.jobs import Job
from common.seeds import seed_of
from common.vision import tower

from ..method import Stages, find_stages, layer_similarity, permuted_scores, stage_score


@dataclass(frozen=True)
class Size:
    """pictures: generated scenes, half to find the cuts; crops: of the two photographs, for the cuts alone. orders: of the layers."""

    pictures: int
    crops: int
    orders: int


SIZES = {"smoke": Size(8, 2, 20), "cpu": Size(80, 16, 200)}
SEED, QUANTILE = 20, 0.99


def jobs(size: str = "cpu") -> list[Job]:
    return [Job(f"stages/{weights}", f"{__name__}:found", {"weights": weights, "size": size}, seconds=40)
            for weights in ("pretrained", "random")]


def random_tower() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("random tower"))
        return Dinov2Model(Dinov2Config(**tower.CONFIG)).eval()


@torch.no_grad()
def similarities(model: nn.Module, images: list[np.ndarray], size: int) -> list[Tensor]:
    """(layers, layers) of each picture; layers 1 and on, class token dropped."""
    found = []
    for image in images:
        states = model(tower.pixels([image], size), output_hidden_states=True).hidden_states[1:]
        found.append(layer_similarity(torch.stack([state[:, 1:] for state in states])))
    return found


def found(weights: str, size: str = "cpu") -> dict:
    """{"cuts", "medoids", "score": of the mean similarity; "photographs": the same of crops; "similarity": rows; "scores",
    "permuted": of each picture of the second half; "one order": scores of one random order each; "norms": mean token norm by layer}."""
    s = SIZES[size]
    model = tower.dinov2() if weights == "pretrained" else random_tower()
    each = similarities(model, [scenes.scene(i, "train", SEED).image() for i in range(s.pictures)], 112)
    draw = np.random.default_rng(SEED)
    crops = similarities(model, [crop(i % 2, draw) for i in range(s.crops)], 224)
    half = s.pictures // 2
    mean = torch.stack(each[:half]).mean(0)
    stages, photos = find_stages(mean), find_stages(torch.stack(crops).mean(0))
    edges = [0, *(last for _, last in stages.ranges)]
    scores, permuted, ones, cuts = [], [], [], []
    for number, of in enumerate(each[half:]):
        null = permuted_scores(of, s.orders, seed_of("orders", number))
        scores.append(stage_score(of, edges))
        permuted.append(float(np.quantile(null, QUANTILE)))
        ones.append(permuted_scores(of, 1, seed_of("one order", number))[0])
        cuts.append(cuts_of(find_stages(of)))
    order = torch.randperm(len(mean), generator=torch.Generator().manual_seed(SEED))
    return {"cuts": cuts_of(stages), "medoids": list(stages.medoids), "score": stages.score, "cuts by picture": cuts,
            "photographs": {"cuts": cuts_of(photos), "medoids": list(photos.medoids), "score": photos.score},
            "cuts of one order": cuts_of(find_stages(mean[order][:, order])),
            "similarity": [[round(value, 4) for value in row] for row in mean.tolist()],
            "scores": scores, "permuted": permuted, "one order": ones, "norms": norms(model, SEED)}


def cuts_of(stages: Stages) -> list[int]:
    """The last layer of each stage but the last."""
    return [last for _, last in stages.ranges[:-1]]


def crop(which: int, draw: np.random.Generator) -> np.ndarray:
    """(168, 168, 3) of a photograph at half its size."""
    whole, side = photograph(which), 168
    top, left = int(draw.integers(whole.shape[0] - side + 1)), int(draw.integers(whole.shape[1] - side + 1))
    return whole[top : top + side, left : left + side]


@torch.no_grad()
def norms(model: nn.Module, seed: int) -> list[float]:
    images = [scenes.scene(i, "train", seed).image() for i in range(4)]
    states = model(tower.pixels(images, 112), output_hidden_states=True).hidden_states[1:]
    return [round(state[:, 1:].norm(dim=-1).mean().item(), 3) for state in states]
