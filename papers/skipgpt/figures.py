"""Every figure that follows from the shapes of models alone, and every reported score recomputed: `python -m papers.skipgpt.figures`."""

from __future__ import annotations

from collections.abc import Iterator

from .analytic import (
    LLAMA2_7B,
    PAPER,
    SMOLLM2_135M,
    block_param_skip,
    decode_speedup,
    idle_param_skip,
    kv_bytes_per_token,
    lora_params,
    module_sparsity,
    prefill_flops,
    prefill_speedup,
    router_params,
    skip_for_total,
    static_depth_speedup,
    static_drop_fraction,
    total_param_skip,
    training_cost,
)
from .reported import REPORTED, SOURCE, dense_row, ratio_of_means, retain

Table = tuple[str, tuple[str, ...], list[tuple]]


def tables() -> Iterator[Table]:
    """Title, column names and rows of every table, as text ready to print."""
    shapes = {**PAPER, "SmolLM2": SMOLLM2_135M}
    yield "Parameters", ("model", "P_a", "P_m", "P_total", "P_a/(P_a+P_m)", "blocks/P_total"), [
        (n, f"{m.P_a:,}", f"{m.P_m:,}", f"{m.P_total:,}", f"{block_param_skip(m, 1, 0):.6f}",
         f"{total_param_skip(m, 1, 1):.6f}") for n, m in shapes.items()]
    yield "Routers and LoRA r=16", ("model", "linear", "%", "bottleneck", "%", "q,v,gate", "q,v"), [
        (n, *(t for kind in ("linear", "bottleneck") for t in (
            f"{router_params(m, kind):,}", f"{100 * router_params(m, kind) / m.P_total:.6f}")),
         f"{lora_params(m):,}", f"{lora_params(m, modules=('q', 'v')):,}")
        for n, m in PAPER.items()]
    yield ("What a module sparsity of T is, % of all parameters",
           ("model", "rho T=.25", "rho' T=.25", "rho T=.40", "rho' T=.40", "s for rho=25%",
            "s for rho=40%"), [
        (n, *(f"{100 * share(m, T, T):.4f}" for T in (.25, .4)
              for share in (total_param_skip, idle_param_skip)),
         *(f"{skip_for_total(m, rho):.4f}" for rho in (.25, .4))) for n, m in PAPER.items()])
    s_a, s_m = C11 = 0.3319, 0.2633
    yield (f"The paper's realised pair: attention {s_a}, MLP {s_m}, %",
           ("model", "modules", "block params", "rho", "rho'"), [
        (n, *(f"{100 * x:.2f}" for x in (module_sparsity(*C11), block_param_skip(m, *C11),
                                         total_param_skip(m, *C11), idle_param_skip(m, *C11))))
        for n, m in PAPER.items()])
    drops = [("7B", 8), ("8B", 8), ("13B", 10), ("8B", 9), ("8B", 15)]
    yield "Whole layers dropped", ("model", "layers", "% of layers", "% of parameters"), [
        (n, f"{k} of {PAPER[n].L}", f"{100 * k / PAPER[n].L:.2f}",
         f"{100 * static_drop_fraction(PAPER[n], k):.4f}") for n, k in drops]
    yield "Dense prefill, TFLOP", ("model", "S=1024", "S=4096"), [
        (n, *(f"{prefill_flops(m, S) / 1e12:.6f}" for S in (1024, 4096))) for n, m in PAPER.items()]
    for S in (1024, 4096):
        yield (f"Prefill speed-up bounds, S={S}, linear router [bottleneck]",
               ("model", "s=.25", "s=.40", "s=.50", "s=.50, K/V skipped", "half the layers"), [
            (n, *(f"{prefill_speedup(m, S, s, s):.4f} "
                  f"[{prefill_speedup(m, S, s, s, router='bottleneck'):.4f}]"
                  for s in (.25, .4, .5)), f"{prefill_speedup(m, S, .5, .5, kv_dense=False):.4f}",
             f"{static_depth_speedup(m, S, m.L // 2):.4f}") for n, m in PAPER.items()])
    rows = (1, 2, 4, 8, 32)
    yield ("Decode speed-up bounds, B rows", ("model", "s", *(f"B={B}" for B in rows),
                                              "KV cache bytes/token"), [
        (n, s, *(f"{decode_speedup(m, B, s, s):.4f}" for B in rows), f"{kv_bytes_per_token(m):,}")
        for n, m in PAPER.items() for s in (.25, .5)])
    costs = [(k, b, training_cost(LLAMA2_7B, k, b)) for k, b in ((10_000, 16), (3200, 8))]
    yield ("Router tuning of 7B in the 4 h on one A800 that the paper states",
           ("steps x batch", "tokens, M", "FLOP", "% of peak"), [
        (f"{k:,} x {b}", f"{c.tokens / 1e6:.1f}", f"{c.flops:.3g}", f"{100 * c.share_of_peak:.1f}")
        for k, b, c in costs])
    known = [(row, dense_row(row.model).scores) for row in REPORTED if row.scores]
    yield (f"Retained of the dense scores, %: {SOURCE}",
           ("model", "method", "skipped", "average", "retain, printed", "recomputed",
            "ratio of means"), [
        (row.model, row.method, row.skipped, f"{row.average:.2f}", f"{row.retain:.2f}",
         f"{retain(row.scores, dense):.2f}", f"{ratio_of_means(row.scores, dense):.2f}")
        for row, dense in known])


def main() -> None:
    for title, header, rows in tables():
        cells = [header, *([str(c) for c in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        print(f"\n{title}")
        for row in cells:
            print("  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
