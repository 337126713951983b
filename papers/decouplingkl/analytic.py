"""What of this paper is arithmetic: headline differences, which k its tables can have, and the FLOPs of an update (spec 7).

Compute is counted in multiply-adds of matrix products, 2 FLOPs each, attention causal, in TFLOP of an optimiser step: B
responses of `prompt` + `response` tokens. A generation counts as one forward pass, which is what an engine that is bound by
compute would need; decoding is bound by memory, so by the clock fresh trajectories cost more. An update reads the responses
with the teacher (1 forward pass T) and trains the student (a forward and a backward pass, 3 S):

    student's prefixes                      S to sample, T + 3 S               T + 4 S
    teacher's, sampled now                  T to sample, whose logits are kept T + 3 S
    teacher's trajectories from a cache     or the data's                      T + 3 S
    teacher's logits from a cache                                                  3 S

Nothing here needs weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.shapes import QWEN3_0_6B, QWEN3_1_7B, QWEN3_4B, QWEN3_8B, Shape

from . import reported
from .method import log_softmax, sequence_kl_by_enumeration

FAMILY = {"0.6B": QWEN3_0_6B, "1.7B": QWEN3_1_7B, "4B": QWEN3_4B, "8B": QWEN3_8B}
TERA = 10**12
BATCH, PROMPT = 32, 128  # of the paper's runs, in the comparison of cells


# -- headline differences ----------------------------------------------------------------------------------
def gained(teacher: str) -> tuple[float, float, float]:
    """(points of Avg@k, points of Pass@k, times shorter) of the curriculum over a fixed 4,096 tokens, from table 3."""
    fixed, ours = reported.FIXED[teacher], reported.CURRICULUM[teacher]
    return ours.avg - fixed.avg, ours.passed - fixed.passed, fixed.tokens / ours.tokens


# -- what a table can have been made of --------------------------------------------------------------------
def nearest_share(value: float, outcomes: int) -> float:
    """The multiple of 100 / outcomes that is nearest to a share in %."""
    return 100 * round(value * outcomes / 100) / outcomes


def is_share(value: float, outcomes: int, decimals: int = 2) -> bool:
    """Whether some whole number of `outcomes`, in %, rounds to `value` at so many decimals (a half may go either way). All are tried
    in whole numbers: |10^(decimals + 2) c - value outcomes| <= outcomes / 2 in units of the last decimal."""
    unit = 10**decimals
    written = round(value * unit)  # 2.67 -> 267
    return any(2 * abs(100 * unit * c - written * outcomes) <= outcomes for c in range(outcomes + 1))


def possible_ks(ks: Sequence[int], problems: Mapping[str, int] | None = None) -> dict[int, list[str]]:
    """{k: cells of table 1's Avg@k that no count of correct answers among problems x k gives}; an empty list: k is possible."""
    sizes = reported.PROBLEMS | dict(problems or {})
    return {k: [f"{row} {name} {cell.avg}" for row, cells in reported.TABLE_1.items() for name, cell in cells.items()
                if not is_share(cell.avg, sizes[name] * k)] for k in ks}


def impossible_passes(problems: Mapping[str, int] | None = None) -> list[str]:
    """Cells of table 1's Pass@k that no count of problems gives."""
    sizes = reported.PROBLEMS | dict(problems or {})
    return [f"{row} {name} {cell.passed}" for row, cells in reported.TABLE_1.items() for name, cell in cells.items()
            if not is_share(cell.passed, sizes[name])]


# -- compute -----------------------------------------------------------------------------------------------
def forward_as_reported(shape: Shape, batch: int, tokens: int) -> int:
    """FLOPs of a forward pass without head by the sibling's formula, B L (4 S d^2 + 4 S d d_kv + 2 S^2 d + 6 S d m): it takes the
    queries' width as d, and Qwen3's is heads x 128."""
    d, S = shape.d, tokens
    return batch * shape.L * (4 * S * d**2 + 4 * S * d * shape.dk + 2 * S**2 * d + 6 * S * d * shape.f)


def forward(shape: Shape, batch: int, tokens: int) -> int:
    """The same with the queries' own width."""
    return batch * shape.L * (2 * tokens * shape.linear + 2 * tokens**2 * shape.dq)


def head(shape: Shape, batch: int, tokens: int) -> int:
    """FLOPs of logits for so many tokens of each response."""
    return 2 * batch * tokens * shape.d * shape.V


def sibling(student: Shape = QWEN3_0_6B, teacher: Shape = QWEN3_4B, batch: int = 32, prompt: int = 128,
            response: int = 1024) -> dict[str, float]:
    """The sibling paper's table in TFLOP, and what its formula leaves out: `exact` forward passes."""
    T, S = (forward_as_reported(shape, batch, prompt + response) / TERA for shape in (teacher, student))
    heads = head(teacher, batch, response) / TERA, 3 * head(student, batch, response) / TERA
    sampled, full = T + 3 * S, T + 3 * S + sum(heads)
    return {"teacher": T, "student": S, "sampled": sampled, "teacher's head": heads[0], "student's head": heads[1], "full": full,
            "saved %": 100 * (1 - sampled / full), "exact teacher": forward(teacher, batch, prompt + response) / TERA,
            "exact student": forward(student, batch, prompt + response) / TERA}


def update_flops(student: Shape, teacher: Shape, batch: int, prompt: int, response: int, prefix: str, cached: str | None = None) -> int:
    """FLOPs of an optimiser step, heads on all tokens. prefix: "student", "teacher" or "dataset". cached: None, "trajectories" or
    "logits" of a teacher's prefixes. ValueError for a cache of what is sampled anew in every step."""
    T, S = (forward(shape, batch, prompt + response) + head(shape, batch, prompt + response) for shape in (teacher, student))
    if prefix == "student":
        if cached is not None:
            raise ValueError(f"update_flops: the student's own prefixes are new in every step; nothing of them is cached ({cached})")
        return T + 4 * S
    if prefix not in ("teacher", "dataset") or cached not in (None, "trajectories", "logits"):
        raise ValueError(f"update_flops: prefix {prefix!r}, cached {cached!r}")
    return 3 * S if cached == "logits" else T + 3 * S


def cells(teacher: str, response: int, student: str = "0.6B") -> dict[str, float]:
    """TFLOP of a step of 32 responses by prefix source, and how often the dearest costs the cheapest."""
    shapes = FAMILY[student], FAMILY[teacher], BATCH, PROMPT, response
    ways = {"student": ("student", None), "teacher, online": ("teacher", None), "teacher, cached": ("teacher", "logits")}
    found = {name: update_flops(*shapes, *way) / TERA for name, way in ways.items()}
    return found | {"student / cached": found["student"] / found["teacher, cached"]}


def cached_logits_bytes(tokens: int, vocabulary: int = QWEN3_0_6B.V, bytes_each: int = 2) -> int:
    """A teacher's whole distributions on disk."""
    return tokens * vocabulary * bytes_each


# -- the objective is not the sequence's -------------------------------------------------------------------
class Tabular:
    """A policy of V tokens and responses of `length`: logits of its own for every prefix, in double precision."""

    def __init__(self, seed: int, V: int = 3, length: int = 3):
        self.V, self.length, self.seed = V, length, seed
        prefixes = [p for t in range(length) for p in _prefixes(V, t)]
        draw = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(len(prefixes), V, generator=draw, dtype=torch.float64, requires_grad=True)
        self.place = {p: i for i, p in enumerate(prefixes)}

    def __call__(self, prefix: tuple[int, ...]) -> Tensor:
        return log_softmax(self.logits[self.place[prefix]])

    def chance(self, prefix: tuple[int, ...]) -> Tensor:
        """That a response begins so."""
        return torch.stack([torch.zeros((), dtype=torch.float64), *(self(prefix[:t])[v] for t, v in enumerate(prefix))]).sum().exp()


def objective(student: Tabular, prefixes_of: Tabular, token_kl: Callable[[Tensor, Tensor], Tensor], teacher: Tabular) -> Tensor:
    """sum over prefixes of their chance under a policy, held fixed, x token_kl(student's logits, teacher's): a cell, exactly."""
    return sum((prefixes_of.chance(p).detach() * token_kl(student.logits[i], teacher.logits[i].detach())
                for p, i in student.place.items()), torch.zeros((), dtype=torch.float64))


def left_out(seed: int = 0) -> float:
    """|gradient of SR - gradient of the sequence's reverse KL| / |that|: what the cell's fixed prefixes leave out (spec 3.3)."""
    from .method import reverse_kl

    q, p = Tabular(2 * seed), Tabular(2 * seed + 1)
    (cell,) = torch.autograd.grad(objective(q, q, reverse_kl, p), q.logits)
    (whole,) = torch.autograd.grad(sequence_kl_by_enumeration(q, p, q.length), q.logits)
    return float((cell - whole).norm() / whole.norm())


def _prefixes(V: int, length: int) -> list[tuple[int, ...]]:
    return [()] if not length else [(*p, v) for p in _prefixes(V, length - 1) for v in range(V)]


