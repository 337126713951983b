"""What the paper's printed numbers give when they are recomputed, exactly and without weights.

The most telling: every printed delay is a number of tokens times a constant (`seconds_a_token`), so "> 60 %" is a statement about
lengths of traces; and the interleaved baseline is charged for thinking as if the input stood still (`charged`).
"""

from __future__ import annotations

from statistics import fmean

from common.shapes import QWEN3_1_7B, QWEN3_4B

from . import reported
from .latency import Costs, simulate
from .reported import MATH, TABLE_1_4B, TABLE_2, TABLE_3, TABLE_4, TASKS

ACCURACY, WAITED, DELAY = 0, 1, 2  # columns of table 2
EXAMPLE = ((15, 15, 15, 15, 10), (40,) * 5)  # words of segments and tokens of units, of the event model's table (spec 7.2)


def gaps(ours: str, theirs: str) -> list[float]:
    """Accuracy of table 2's row less that of a row of table 1 (4B) or of table 2, by task."""
    other = TABLE_2.get(theirs) or TABLE_1_4B[theirs]
    return [a[ACCURACY] - b[ACCURACY] for a, b in zip(TABLE_2[ours], other)]


def reductions(column: int, row: str = "streaming D3") -> list[float]:
    """By how many % a column of table 2 is smaller than in batch, by task."""
    return [100 * (1 - a[column] / b[column]) for a, b in zip(TABLE_2[row], TABLE_2["batch"])]


def over_math(values: list[float]) -> float:
    return fmean(value for task, value in zip(TASKS, values) if task in MATH)


def seconds_a_token() -> list[float]:
    """Delay of batch (table 2) / its tokens (table 1), by task: 0.033, whatever the task."""
    return [row[DELAY] / tokens for row, (_, tokens) in zip(TABLE_2["batch"], TABLE_1_4B["batch"])]


def seconds_a_token_context_first() -> list[float]:
    return [delay / tokens for _, tokens, _, delay in TABLE_3["batch"]]


def charged() -> list[list[float]]:
    """Tokens that interleaved is charged for beyond streaming, at D1, D2, D3, by task: constant over depth, the whole streaming phase."""
    return [[(TABLE_2[f"interleaved D{d}"][i][DELAY] - TABLE_2[f"streaming D{d}"][i][DELAY]) / Costs().tau for d in (1, 2, 3)]
            for i in range(len(TASKS))]


def same_trace(row: str = "D3") -> tuple[list[float], list[float]]:
    """What is saved by a shorter trace (Batch-S against batch), and what by overlap on the same trace, in %, by task."""
    tau, batch = Costs().tau, TABLE_2["batch"]
    own = [tau * tokens for _, tokens in TABLE_1_4B[f"{row} spe"]]
    shorter = [100 * (1 - t / b[DELAY]) for t, b in zip(own, batch)]
    overlap = [100 * (1 - s[DELAY] / t) for s, t in zip(TABLE_2[f"streaming {row}"], own)]
    return shorter, overlap


def by_depth(table=TABLE_1_4B) -> dict[str, float]:
    """Mean accuracy over tasks of Batch-S at D1, D2, D3."""
    return {d: fmean(cell[ACCURACY] for cell in table[f"{d} spe"]) for d in ("D1", "D2", "D3")}


def largest_position_gap(rows: tuple[str, ...], table=TABLE_1_4B) -> float:
    """Largest |accuracy SPE - RoPE| of table 1 over rows and tasks."""
    return max(abs(a[0] - b[0]) for row in rows for a, b in zip(table[f"{row} spe"], table[f"{row} rope"]))


def interleaved_gaps() -> tuple[list[float], list[float]]:
    """Streaming D3 against interleaved D3: accuracy, and delay in %, by task."""
    a, b = TABLE_2["streaming D3"], TABLE_2["interleaved D3"]
    return [x[0] - y[0] for x, y in zip(a, b)], [100 * (x[2] / y[2] - 1) for x, y in zip(a, b)]


def last_unit_delay(n_unit: float = 199.64 / 4.65, m: float = 20.0) -> float:
    """The least delay of D1 on GSM-Symbolic if the unit of the last sentence is written after that sentence has come, in s: printed .66."""
    c = Costs()
    return c.p + c.tau * (n_unit + m)


def context_first_saving() -> float:
    """Tokens of D1 on HotpotQA: question first (table 1) as a share of context first (table 3), in %."""
    return 100 * TABLE_1_4B["D1 spe"][4][1] / TABLE_3["D1"][4][1]


def table_4() -> dict[str, float]:
    """first_ratio: 28.003 / 6.231; reads_mb: 3.65 more prefills, each of which reads all weights; first_s: what 20.77 tokens of first
    segment take at 1.356 tokens a word, one prefill and one step."""
    t = TABLE_4
    tokens_a_word = TABLE_2["batch"][0][WAITED] / t["words"]
    first = TABLE_2["streaming D3"][0][WAITED] / tokens_a_word * t["s a word"] + t["segment s"] + 0.037
    return {"first_ratio": t["batch first s"] / t["streaming first s"], "reads_mb": (t["segments"] - 1) * t["prefill MB"],
            "tokens_a_word": tokens_a_word, "first_s": first, "read_s": t["words"] * t["s a word"]}


def break_even() -> list[float]:
    """Words a minute at which writing the units takes as long as reading the input, by task (units: tokens of D1 less 20)."""
    words = [row[WAITED] / table_4()["tokens_a_word"] for row in TABLE_2["batch"]]
    return [60 * w / (Costs().tau * (tokens - 20)) for w, (_, tokens) in zip(words, TABLE_1_4B["D1 spe"])]


def events(m: int, r: float = 0.4) -> dict[str, float]:
    """Delays of the spec's example under every way to work, in s."""
    return {way: simulate(way, *EXAMPLE, m, Costs(r=r)).delay for way in ("batch", "blocking", "buffered", "streaming")}


def mask_pairs(source: tuple[int, ...] = (5, 4, 7, 3), target: tuple[int, ...] = (2, 6, 1, 9), shift: bool = True) -> int:
    """(query, key) pairs of the sentence mask: S (S + 1) / 2 + T (T + 1) / 2 + sum of w."""
    from .method import visible_prefix

    s, t = sum(source), sum(target)
    return s * (s + 1) // 2 + t * (t + 1) // 2 + int(visible_prefix(source, target, shift).sum())


def parameters() -> dict[str, int]:
    return {"1.7B": QWEN3_1_7B.parameters(), "4B": QWEN3_4B.parameters()}


def kv_bytes() -> dict[str, int]:
    """Of a token, bf16."""
    return {"1.7B": QWEN3_1_7B.kv_bytes(1), "4B": QWEN3_4B.kv_bytes(1)}


def diagonal_means() -> list[float]:
    return [fmean(d) for d in reported.DIAGONALS]
