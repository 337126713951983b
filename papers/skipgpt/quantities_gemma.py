"""From results of the second real decoder to what its claims' rules read: a value for each training, the mean over the windows.

Every difference is taken within a training, on the same windows. The best static plan is the best *on the test windows*, which favours
it. claims.yaml says beside each rule what its placebo is.
"""

from __future__ import annotations

from common.seeds import seeds_of

from .quantities import effect, less

NAMES = ("C1b", "C2f", "C2g", "C2h", "C5b", "C11d", "C16c")


def gemma(results: dict, size: str = "cpu") -> dict[str, dict]:
    """{claim: measured}; nothing where no training's routers are there yet."""
    seeds = seeds_of(results, "gemma/routers")
    if not seeds:
        return {}

    def of(job: str, *names: str) -> list:
        rows = [results[f"gemma/{job}/seed{seed}"] for seed in seeds]
        for name in names:
            rows = [row[name] for row in rows]
        return rows

    return routing(of, results["gemma/static"], results["gemma/dense"]["ce"]) | stages(of)


def routing(of, static: dict, dense: float) -> dict[str, dict]:
    ours, first, second = (of("routers", name, "ce") for name in ("skip", "matched", "matched again"))
    uniform, blind, random = of("routers", "uniform", "ce"), of("token-blind", "ce"), [(a + b) / 2 for a, b in zip(first, second)]
    plan = [min(row["ce"] for row in static.values())] * len(ours)
    long, *draws = (of("routers", "long", name, "ce") for name in ("skip", "matched", "matched again"))
    long_random = [(a + b) / 2 for a, b in zip(*draws)]
    long_plan = [min(row["long"]["ce"] for row in static.values())] * len(ours)
    attention, mlp = of("routers", "skip", "attn_skip"), of("routers", "skip", "mlp_skip")
    drawn = less(of("routers", "uniform", "attn_skip"), of("routers", "uniform", "mlp_skip"))
    shown = {"router": ours, "matched_random": random, "uniform_random": uniform, "dense": [dense]}
    return {
        "C2f": effect(less(plan, ours), less(plan, random), **shown, **{name: [row["ce"]] for name, row in static.items()}),
        "C2g": effect(less(random, ours), less(first, second), **shown),
        "C2h": effect(less(long_plan, long), less(long_plan, long_random), router=long, matched_random=long_random,
                      router_sparsity=of("routers", "long", "skip", "sparsity"),
                      **{name: [row["long"]["ce"]] for name, row in static.items()}),
        "C11d": effect(less(attention, mlp), drawn, attention_skip=attention, MLP_skip=mlp),
        "C16c": effect(less(blind, ours), less(blind, random), router=ours, token_blind=blind,
                       token_blind_sparsity=of("token-blind", "sparsity"), router_sparsity=of("routers", "skip", "sparsity")),
    }


def stages(of) -> dict[str, dict]:
    dense, dense_lora, routers, both, foreign = (
        of("recovery", name, "ce") for name in ("dense", "dense + LoRA", "routers", "routers + LoRA", "routers + dense's LoRA"))
    text = less(dense, dense_lora)  # what the windows teach a model that skips nothing
    shown = {"routers": routers, "routers_with_LoRA": both, "dense": dense, "dense_with_LoRA": dense_lora}
    return {
        "C1b": effect(less(both, dense_lora), less(routers, dense), **shown),
        "C5b": effect(less(less(routers, both), text), less(less(routers, foreign), text), **shown, routers_with_dense_LoRA=foreign),
    }
