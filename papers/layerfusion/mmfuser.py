"""MMFuser in plain torch: the main layer's patches look at other layers around their own place (3.4, arXiv 2410.11829).

    A = Cross(LN q; levels)      A = A + g2 * Self(LN A)      output q + g1 * A        g1, g2 (dv) start at zero

Both are deformable attention: a patch reads a few places of each level, at learned offsets from its own, and mixes them by learned
weights. The authors ship a compiled operator; here the reading is `grid_sample`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, POINTS, EPS = 16, 4, 1e-6


def square(n: int) -> tuple[int, int]:
    """(rows, columns) of n patches that fill a square. Raises ValueError where they do not."""
    side = math.isqrt(n)
    if side * side != n:
        raise ValueError(f"{n} patches fill no square; give their grid (rows, columns)")
    return side, side


def centres(grid: tuple[int, int], like: Tensor) -> Tensor:
    """(N, 2): x and y of each patch's centre, in 0 .. 1, row by row."""
    rows, columns = grid
    y, x = torch.meshgrid(*((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (rows, columns)), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).to(like)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention over `levels` maps of one grid (Deformable DETR's). All levels have the query's patches."""

    def __init__(self, dv: int, levels: int, heads: int = HEADS, points: int = POINTS):
        super().__init__()
        if dv % heads:
            raise ValueError(f"width {dv} does not divide by {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dv, heads * levels * points * 2)
        self.weights = nn.Linear(dv, heads * levels * points)
        self.value, self.output = nn.Linear(dv, dv), nn.Linear(dv, dv)
        self.reset()

    def reset(self) -> None:
        """Offsets start on a circle, a direction a head, the p-th point p steps of one patch away; weights start even."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        around = torch.stack([angle.cos(), angle.sin()], -1)
        around = around / around.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = around[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).reshape(-1))
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, maps: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """(M, N, dv) from query (M, N, dv) and a map (M, N, dv) a level; grid: rows and columns of the N patches."""
        m, n, dv = query.shape
        rows, columns = grid
        shape = (m, n, self.heads, self.levels, self.points)
        wide = torch.promote_types(query.dtype, torch.float32)
        offsets = self.offsets(query).to(wide).view(*shape, 2) / query.new_tensor([columns, rows], dtype=wide)
        weights = self.weights(query).to(wide).view(m, n, self.heads, -1).softmax(-1).view(shape)
        where = 2 * (centres(grid, offsets)[None, :, None, None, None] + offsets) - 1  # grid_sample's -1 .. 1
        read = query.new_zeros(m * self.heads, dv // self.heads, n, dtype=wide)
        for level, values in enumerate(maps):
            image = self.value(values).to(wide).view(m, rows, columns, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
            places = where[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (M heads, N, points, 2)
            sampled = F.grid_sample(image, places, mode="bilinear", padding_mode="zeros", align_corners=False)
            read = read + (sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        return self.output(read.view(m, self.heads, -1, n).permute(0, 3, 1, 2).reshape(m, n, dv).to(query.dtype))


class MMFuser(nn.Module):
    """q + g1 * A, the identity at first: see the head of this file. heads: the paper's 16, or what a narrow tower allows."""

    def __init__(self, dv: int, levels: int, heads: int = HEADS):
        super().__init__()
        heads = math.gcd(dv, heads)
        self.of_query, self.of_levels, self.of_own = (nn.LayerNorm(dv, eps=EPS) for _ in range(3))
        self.cross, self.own = DeformableAttention(dv, levels, heads), DeformableAttention(dv, 1, heads)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.zeros(dv)), nn.Parameter(torch.zeros(dv))

    def forward(self, query: Tensor, levels: list[Tensor], grid: tuple[int, int] | None = None) -> Tensor:
        """(M, N, dv). Raises ValueError for patches that are no square and come without their grid."""
        grid = square(query.shape[1]) if grid is None else grid
        found = self.cross(self.of_query(query), [self.of_levels(level) for level in levels], grid)
        own = self.of_own(found)
        found = found + self.gamma_2 * self.own(own, [own], grid)
        return query + self.gamma_1 * found
