"""The default experiment on a LLaVA of another family: a Qwen3 decoder, whose key-value heads are shared and whose queries and keys are
normed (common/standins/llava_qwen3.py). Everything is chosen anew on its own validation pictures.

    make reproduce-visipruner ONLY=qwen3

One model of one training: what is found is true of it, with intervals over pictures, and says of others only that they need not be
like it. The jobs are llava.py's, run on another stand-in, and the rivals at equal pairs are equal.py's.
"""

from __future__ import annotations

from common.runs.jobs import Job
from common.standins.llava_qwen3 import SEEDS, stand_in

from ..method import paper
from . import equal, llava


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("qwen3/features/test", f"{__name__}:features", {"size": size}, seconds=10)]
    return made + [Job(f"qwen3/{name}/seed{seed}", f"{__name__}:{name}", {"seed": seed, "size": size}, seconds=90,
                       after=("qwen3/features/test",)) for seed in SEEDS for name in ("knocked", "looked", "pruned")]


def features(size: str = "cpu") -> dict:
    llava.features("val", size)
    return llava.features("test", size)


def knocked(seed: int, size: str = "cpu") -> dict:
    return llava.knocked_out(stand_in(seed), llava.SIZES[size])


def looked(seed: int, size: str = "cpu") -> dict:
    return llava.looked_at(stand_in(seed), llava.SIZES[size])


def pruned(seed: int, size: str = "cpu") -> dict:
    """llava.pruned_by, and "equal": equal.compared with the settings that were chosen."""
    parts = stand_in(seed)
    found = llava.pruned_by(parts, llava.SIZES[size])
    config = paper(shallow=None, boundary=found["config"]["boundary"], relative=True, tokens_threshold=found["config"]["threshold"])
    return found | {"equal": equal.compared(parts, config, llava.SIZES[size])}
