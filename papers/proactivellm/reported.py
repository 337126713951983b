"""What the paper prints, as far as two secondary readings have it: its text could not be read (README, D1)."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """quality in the table's own metric, AIL in words (of speech: seconds), RCO."""

    quality: float
    ail: float | None
    rco: float | None


# Table 1, Qwen2.5-3B (En-Fr: Qwen3-4B). Quality: BLEU, F1, accuracy.
TABLE_1 = {
    "en-de": {"batch": Row(27.34, 8.71, 1.00), "wait-9": Row(21.47, 6.87, 0.88), "entropy": Row(23.62, 8.36, 0.88)},
    "short qa": {"batch": Row(74.79, 77.55, 1.00), "wait-9": Row(15.14, -21.32, 0.19), "attention": Row(71.69, 59.17, 0.89)},
    "choice qa": {"batch": Row(88.33, 204.87, 1.00), "attention": Row(83.15, 151.62, 0.74)},
    "en-fr": {"wait-9": Row(24.33, None, 0.89), "entropy": Row(32.24, None, 0.88)},
}
# Table 2, Qwen3-4B: F1 on short QA against policies whose timing a large model labelled, at low and at high latency.
TABLE_2 = {"low": {"Qwen3-32B": 29.84, "GPT-5.4": 38.12, "ProactiveLLM": 48.74},
           "high": {"Qwen3-32B": 42.88, "GPT-5.4": 50.21, "ProactiveLLM": 58.36}}
MARGINS = {"low": 10.62, "high": 8.15}  # as the text states them
# Table 3, Qwen2-Audio-7B, Spoken-SQuAD: F1, AIL in seconds.
TABLE_3 = {"batch": Row(72.15, 31.02, 1.00), "entropy": Row(71.12, 21.26, 0.80)}
# Table 5: attention FLOPs saved, in %.
SAVED = {"choice qa": 34.82, "short qa": 21.67, "summarisation": 9.90, "en-de": 2.27}
HEADLINE = {"kept": 97.16, "context": 78.0}  # % of batch quality at % of the context; the row is not named
