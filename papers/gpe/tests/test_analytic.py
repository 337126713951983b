"""Every figure that follows from definitions alone, to the last digit, and every reported gain, recomputed.

Costs are held against the specification's table and against a second count, token by token, that shares no formula with
analytic.py. Integers must be equal; a ratio must round to the digits as stated.
"""

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from common.claims.records import load_claims

from .. import analytic, reported
from ..analytic import (
    EXAMPLE,
    GEMMA2_2B,
    LLAMA31_8B,
    MODES,
    PHI3_MINI,
    QWEN25_3B,
    SHAPES,
    SMOLLM2_135M,
    Cost,
    Sentence,
    cost,
    delays,
    g,
    lag_of_wait_k,
    per_read,
    steps_per_epoch,
)

HERE = Path(__file__).parent.parent
SMALL = Sentence((2, 1, 2, 1), (2, 2, 1, 1))  # two words a side, of one and two tokens


def prints(value, text):
    """value, rounded as text is, reads as text."""
    decimals = len(text.partition(".")[2])
    return f"{value:.{decimals}f}" == text


def one_token_words(words):
    return Sentence((1,) * (words + 2), (1,) * (words + 2))


# -- wait-k ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("k", "expected"), [
    (1, [1, 2, 3, 4, 5, 5]), (2, [2, 3, 4, 5, 5, 5]), (4, [4, 5, 5, 5, 5, 5]),
    (5, [5] * 6), (99, [5] * 6), (None, [5] * 6),
])  # fmt: skip
def test_readable_units_with_the_end_marker_as_unit_five_of_four_words(k, expected):
    assert [g(k, 4, j) for j in range(1, 7)] == expected


def test_the_figure_of_the_paper_reads_2_3_4_4_words_at_k_2():
    assert delays(2, 4, 4) == [2, 3, 4, 4]


def test_a_delay_never_counts_the_end_marker():
    assert delays(99, 4, 3) == [4, 4, 4] and delays(1, 2, 5) == [1, 2, 2, 2, 2]


@pytest.mark.parametrize(("n", "m", "k", "lag"), [
    *((20, 20, k, f"{k}.0000") for k in (1, 3, 5, 7, 9)),
    (20, 24, 1, "2.5833"), (20, 24, 3, "4.4167"), (20, 24, 5, "6.2500"), (20, 24, 7, "8.0833"),
    (20, 16, 1, "-0.8750"), (20, 16, 3, "1.1250"), (20, 16, 5, "3.1250"), (20, 16, 7, "5.3750"),
    (4, 4, 5, "4.0000"), (4, 4, 4, "4.0000"),
])  # fmt: skip
def test_lag_in_closed_form_is_that_of_the_specification_and_of_the_delays(n, m, k, lag):
    d = delays(k, n, m)
    tau = next((i for i, words in enumerate(d, 1) if words >= n), m)
    assert prints(lag_of_wait_k(k, n, m), lag)
    assert prints(sum(d[i] - i * n / m for i in range(tau)) / tau, lag)


# -- what a row sees ---------------------------------------------------------------------------------------
def test_a_row_sees_what_the_unit_it_predicts_may_see():
    # Source tokens up to unit 0, 1, 2, 3: 2, 3, 5, 6. Rows: v0a v0b v1a v1b v2 v3, predicting v0b v1a v1b v2 v3 -.
    assert SMALL.visible(1) == [3, 3, 3, 5, 6, 6]
    assert SMALL.visible(2) == [5, 5, 5, 6, 6, 6]
    assert SMALL.visible(None) == [6] * 6
    assert SMALL.density(1) == 26 / 36


def test_the_last_row_keeps_what_its_own_unit_sees_where_the_target_is_shorter():
    # Four source words, one target word, k = 2: v_0 and v_1 see u_0 .. u_2, the end unit u_0 .. u_3 and never all.
    assert Sentence((1,) * 6, (1, 1, 1)).visible(2) == [3, 4, 4]
    assert cost(Sentence((1,) * 6, (1, 1, 1)), 2, "interleaved") == Cost(7, 28, 0, 2)  # u_4, u_5 are never read


def test_the_figure_of_the_paper_shows_2_3_4_4_words_to_the_rows_that_produce_them():
    prompt, end = 1, 1
    rows = one_token_words(4).visible(2)[:4]  # the rows of v_0 and of the first three words
    assert rows == [prompt + 2, prompt + 3, prompt + 4, prompt + 4 + end]


@pytest.mark.parametrize(("k", "share"), [
    (1, ".719154"), (3, ".767920"), (5, ".810223"), (7, ".849589"), (9, ".886016"), (None, "1"), (21, "1"),
])  # fmt: skip
def test_density_of_target_to_source_cells(k, share):
    rows = EXAMPLE.visible(k)
    assert len(rows) == 37 and rows == sorted(rows) and rows[-1] == 46
    assert prints(EXAMPLE.density(k), share.replace(".", "0.") if "." in share else share)


# -- cost of the specification's sentence ------------------------------------------------------------------
COSTS = [  # k, group F, group P, rotated keys, KV F, KV P, KV / group in FLOPs, reads after the first
    (1, 103, 4056, 396, 479, 22638, "4.652", 20),
    (3, 101, 4028, 328, 411, 19284, "4.071", 18),
    (5, 99, 3989, 266, 349, 16233, "3.526", 16),
    (7, 97, 3947, 210, 293, 13493, "3.021", 14),
    (9, 95, 3902, 161, 244, 11127, "2.569", 12),
    *((k, 83, 3486, 0, 83, 3486, "1.000", 0) for k in (21, 22, 99, None)),
]


def test_the_sentence_is_that_of_the_specification():
    assert (EXAMPLE.n, len(EXAMPLE.target) - 2, EXAMPLE.S, EXAMPLE.T) == (20, 20, 46, 37)
    assert (EXAMPLE.source[0], EXAMPLE.source[-1], EXAMPLE.target[0], EXAMPLE.target[-1]) == (20, 2, 3, 2)
    assert EXAMPLE.times(4).source == (20, *(1, 1, 2, 1, 1) * 16, 2)
    assert EXAMPLE.times(4).target == (3, *(2, 1, 2, 1, 2) * 16, 2)


@pytest.mark.parametrize(("k", "fed", "pairs", "rotated", "kv_fed", "kv_pairs", "ratio", "later"), COSTS)
def test_tokens_pairs_and_turned_keys(k, fed, pairs, rotated, kv_fed, kv_pairs, ratio, later):
    assert cost(EXAMPLE, k, "interleaved") == Cost(83, 3486, 0, later + 1)
    assert cost(EXAMPLE, k, "group") == Cost(fed, pairs, 0, later + 1)
    assert cost(EXAMPLE, k, "position") == Cost(fed, pairs, rotated, later + 1)
    assert cost(EXAMPLE, k, "kv") == Cost(kv_fed, kv_pairs, 0, later + 1)


@pytest.mark.parametrize("shape", [QWEN25_3B, LLAMA31_8B, GEMMA2_2B, PHI3_MINI], ids=lambda shape: shape.name)
@pytest.mark.parametrize(("k", "ratio"), [(row[0], row[6]) for row in COSTS])
def test_flops_of_kv_re_encoding_over_group(shape, k, ratio):
    expected = "4.070" if shape is LLAMA31_8B and k == 3 else ratio
    assert prints(shape.flops(cost(EXAMPLE, k, "kv")) / shape.flops(cost(EXAMPLE, k, "group")), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_turning_keys_is_next_to_free(shape):
    position, group = (shape.flops(cost(EXAMPLE, 1, mode)) for mode in ("position", "group"))
    assert position - group == 3 * shape.L * shape.KV * shape.dh * 396
    # The specification's bound is for its four shapes; SmolLM2 has 3.1e-4.
    assert 0 < position / group - 1 < (4e-4 if shape is SMOLLM2_135M else 2e-4)


def test_flops_are_those_of_the_three_terms():
    # SmolLM2: 212,336,640 a token; 4 * 30 * 9 * 64 = 69,120 a pair; 3 * 30 * 3 * 64 = 17,280 a turned key.
    assert SMOLLM2_135M.flops(Cost(10, 100, 1000)) == 2_123_366_400 + 6_912_000 + 17_280_000


def test_cost_by_hand_of_one_word():
    # One-token units u0 u1 u2, v0 v1 v2, k = 1: READ u0 u1, WRITE v0 v1, READ u2, WRITE v2.
    s = Sentence((1, 1, 1), (1, 1, 1))
    assert cost(s, 1, "interleaved") == Cost(6, 21, 0, 2)
    assert cost(s, 1, "group") == Cost(7, (1 + 2) + (3 + 4) + 3 + 5 + 6, 0, 2)  # 5: v1 again
    assert cost(s, 1, "position") == Cost(7, 24, 2, 2)
    assert cost(s, 1, "kv") == Cost(8, (1 + 2) + (3 + 4) + 3 + (4 + 5) + 6, 0, 2)  # 4 + 5: v0 v1 again


def count_by_token(sentence, k, mode):
    """The stream of 3.6 acted out: of every token that is fed, how many keys it sees."""
    n, fed, seen, turned, reads = len(sentence.source) - 2, 0, 0, 0, 0
    source, target, units = [], [], 0
    for j, tokens in enumerate(sentence.target):
        goal = n + 1 if k is None else min(k + max(j, 1) - 1, n + 1)
        arrived = [i for i in range(units, goal + 1) for _ in range(sentence.source[i])]
        units = goal + 1
        for token in arrived:
            source.append(token)
            fed, seen = fed + 1, seen + len(source) + (len(target) if mode == "interleaved" else 0)
        reads += bool(arrived)
        if arrived and target:
            if mode in ("group", "position"):
                fed, seen = fed + 1, seen + len(source) + len(target)
            if mode == "position":
                turned += len(target)
            if mode == "kv":
                for x in range(len(target)):
                    fed, seen = fed + 1, seen + len(source) + x + 1
        for _ in range(tokens):
            target.append(j)
            fed, seen = fed + 1, seen + len(source) + len(target)
    return Cost(fed, seen, turned, reads)


@pytest.mark.parametrize("mode", MODES)
def test_costs_agree_with_a_count_token_by_token(mode):
    draw = random.Random(0)
    for _ in range(60):
        sides = [tuple(draw.randint(1, 4) for _ in range(draw.randint(1, 9) + 2)) for _ in range(2)]
        for k in (1, 2, 3, 5, 99, None):
            assert cost(Sentence(*sides), k, mode) == count_by_token(Sentence(*sides), k, mode), (sides, k)


def test_group_and_interleaved_meet_in_batch_mode_only():
    for k in (1, 20):
        assert cost(EXAMPLE, k, "group").fed > cost(EXAMPLE, k, "interleaved").fed
    assert len({cost(EXAMPLE, None, mode) for mode in MODES}) == 1


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode 'kv_reencoding' is none of interleaved, group, position, kv"):
        per_read(EXAMPLE, 1, "kv_reencoding")


# -- as the stream grows -----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3, None])
def test_a_sentence_costs_what_its_reads_cost(mode, k):
    steps = per_read(EXAMPLE, k, mode)
    assert len(steps) == 21  # v_0 with the first word, nineteen words more, the end
    assert Cost(*map(sum, zip(*steps))) == cost(EXAMPLE, k, mode)


def test_what_a_read_costs_while_the_stream_grows():
    words, k = 64, 3
    later = slice(1, words - k + 2)  # reads after the first
    steps = {mode: per_read(one_token_words(words), k, mode)[later] for mode in MODES}
    assert all(step.reads == 1 for mode in MODES for step in steps[mode])
    assert {step.fed for step in steps["interleaved"]} == {2}  # a source and a target token
    for mode in ("group", "position"):
        assert {step.fed for step in steps[mode]} == {3}  # one target token again
    # v_0 and v_1 are written before the second READ, which feeds u_4, both of them, and v_2.
    assert [step.fed for step in steps["kv"]] == [2 + written for written in range(2, 2 + len(steps["kv"]))]
    assert [step.rotated for step in steps["position"]] == list(range(2, 2 + len(steps["position"])))
    # Only the pairs of group grow: a source row, a row fed again and a new row have 1, 2 and 2 keys more each time.
    assert {b.pairs - a.pairs for a, b in pairwise(steps["group"])} == {5}
    growth = [b.pairs - a.pairs for a, b in pairwise(steps["kv"])]
    assert {b - a for a, b in pairwise(growth)} == {3}  # second difference: pairs of KV re-encoding are cubic in total


@pytest.mark.parametrize(("factor", "again", "whole"), [(1, 20, 396), (4, 80, 5424), (16, 320, 83136)])
def test_longer_copies_group_grows_linearly_and_kv_re_encoding_quadratically(factor, again, whole):
    # Of Q = 4 factor blocks of five words: 20 Q^2 + 4 Q tokens of words, and v_0's three at each of 5 Q reads.
    s, Q = EXAMPLE.times(factor), 4 * factor
    assert whole == 20 * Q**2 + 4 * Q + 3 * 5 * Q
    assert cost(s, 1, "group").fed - s.S - s.T == again
    assert cost(s, 1, "kv").fed - s.S - s.T == whole == cost(s, 1, "position").rotated


@pytest.mark.parametrize(("shape", "ratios"), [
    (QWEN25_3B, {1: "4.071", 4: "16.475", 16: "67.126"}), (SMOLLM2_135M, {1: "4.079", 2: "8.158"}),
], ids=["Qwen2.5-3B", "SmolLM2-135M"])  # fmt: skip
def test_flops_ratio_of_the_sentences_that_are_timed_at_k_3(shape, ratios):
    for factor, ratio in ratios.items():
        kv, group = (shape.flops(count_by_token(EXAMPLE.times(factor), 3, mode)) for mode in ("kv", "group"))
        assert prints(kv / group, ratio)
        assert shape.flops(cost(EXAMPLE.times(factor), 3, "kv")) == kv


# -- models ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "parameters", "kv_bytes", "linear"), [
    (QWEN25_3B, 3_085_938_688, 36_864, 5_549_064_192),
    (LLAMA31_8B, 8_030_261_248, 131_072, 13_958_643_712),
    (GEMMA2_2B, 2_614_341_888, 106_496, 4_048_551_936),
    (PHI3_MINI, 3_821_079_552, 393_216, 7_247_757_312),
    (SMOLLM2_135M, 134_515_008, 23_040, 212_336_640),
], ids=lambda x: getattr(x, "name", ""))  # fmt: skip
def test_model_constants(shape, parameters, kv_bytes, linear):
    assert (shape.parameters(), shape.kv_bytes(), shape.linear_flops) == (parameters, kv_bytes, linear)
    assert shape.kv_bytes(83) == 83 * kv_bytes and shape.kv_bytes(bytes_each=4) == 2 * kv_bytes


# -- settings ----------------------------------------------------------------------------------------------
def test_warm_up_of_the_example_is_82_percent_of_its_only_epoch():
    assert steps_per_epoch() == 3638 and prints(232_825 / 64, "3638")
    assert prints(100 * 3000 / steps_per_epoch(), "82")
    assert steps_per_epoch(128, 64, 1, 1) == 2 and steps_per_epoch(129, 64, 1, 1) == 3


# -- reported figures --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("above", "below", "gains"), [  # En-Fr k = 1, 7, En-De k = 1, 7
    ("batch_streaming", "interleaved", (2.20, 1.17, 1.53, 1.46)),
    ("position_reencoding", "batch_streaming", (0.06, 0.07, 0.09, 0.09)),
    ("kv_reencoding", "position_reencoding", (0.28, 0.12, 0.19, 0.11)),
    ("kv_reencoding", "interleaved", (2.54, 1.36, 1.81, 1.66)),
])  # fmt: skip
def test_gains_of_table_1(above, below, gains):
    cells = [(direction, k) for direction in ("en-fr", "en-de") for k in (1, 7)]
    assert tuple(reported.gain(above, below, *cell) for cell in cells) == gains


def test_input_attention_makes_most_of_the_gap():
    assert prints(reported.share_of_gap(), "86.6") and reported.share_of_gap() == pytest.approx(100 * 2.20 / 2.54)
    assert prints(reported.share_of_gap("en-de", 7), "88.0")


def test_stated_gains_against_the_rows_that_are_known():
    rows = list(reported.LADDER)
    largest = {name: max(reported.gain(above, below, direction, k) for direction in ("en-fr", "en-de") for k in (1, 7))
               for name, (below, above) in zip(reported.STATED, pairwise(rows))}  # fmt: skip
    assert largest == {"input attention": 2.20, "position id": 0.09, "output attention": 0.28}
    assert reported.STATED == largest | {"position id": 0.14}  # from a cell that no source lists


@pytest.mark.parametrize(("row", "losses"), [  # BLEU lost at k = 1, 3, 5, 7
    ("no_positions", (6.12, 4.41, 3.22, 2.90)),
    ("no_source_positions", (4.88, 3.27, 2.34, 1.89)),
    ("no_target_positions", (4.09, 2.56, 1.75, 1.30)),
])  # fmt: skip
def test_losses_of_table_2(row, losses):
    table = reported.POSITIONS
    assert tuple(round(table["group"][k] - table[row][k], 2) for k in (1, 3, 5, 7)) == losses


def test_spreads_over_the_offset():
    assert reported.spread(reported.PHI_BLEU) == 0.07
    assert {k: reported.spread(row) for k, row in reported.PHI_WER.items()} == {1: 0.15, 3: 0.11, 7: 0.12}
    assert reported.PHI_BLEU[0] == reported.POSITIONS["group"][7]  # tables 2 and 3 share this cell


def test_figures_of_the_claims_are_those_of_the_tables():
    """A paper value in claims.yaml that the rows give must be what they give."""
    none, group = reported.POSITIONS["no_positions"], reported.POSITIONS["group"]
    expected = {
        "C1": reported.STATED["input attention"], "C2": reported.STATED["position id"],
        "C3": reported.STATED["output attention"], "C4": round(reported.share_of_gap(), 1),
        "C5": reported.spread(reported.PHI_BLEU), "C6": round(group[3] - none[3], 2),
        "C7": reported.spread(reported.PHI_WER[1]),
    }  # fmt: skip
    claims = load_claims(HERE / "claims.yaml")
    assert {name: claims.find(name)["paper"]["value"] for name in expected} == expected


@pytest.mark.parametrize("module", [analytic, reported], ids=lambda module: module.__name__.rpartition(".")[2])
def test_needs_the_standard_library_only(module):
    """And common's shapes, which need no more: no third party is on the path."""
    code = f"import sys; sys.path.insert(0, {str(HERE.parents[1])!r}); import {module.__name__}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=120)
