"""common/benchmarks/translation and speech: latency against tables, closed forms and SimulEval; BLEU, WER, bootstrap."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.benchmarks.speech import normalise, paired_bootstrap_wer, wer
from common.benchmarks.translation import (
    METRICS,
    average_lagging,
    average_proportion,
    bleu,
    bleu_from_statistics,
    bootstrap,
    chrf,
    differentiable_average_lagging,
    latency,
    length_adaptive_average_lagging,
    paired_bootstrap,
    sentence_statistics,
    tokenizer_of,
)

FUNCTIONS = dict(zip(METRICS, (average_lagging, length_adaptive_average_lagging, average_proportion,
                               differentiable_average_lagging)))  # fmt: skip


def wait_k(k, source, target):
    return [Fraction(min(k + i, source)) for i in range(target)]


# -- latency of one sentence ---------------------------------------------------------------------------------
# Wait-k with |hypothesis| = |reference|: source, target, k, AL = LAAL, AP, DAL.
WAIT_K = [
    (20, 20, 1, "1", "21/40", "1"),
    (20, 20, 3, "3", "247/400", "3"),
    (20, 20, 5, "5", "7/10", "5"),
    (20, 20, 7, "7", "309/400", "7"),
    (20, 20, 9, "9", "167/200", "9"),
    (20, 24, 1, "31/12", "29/48", "205/72"),
    (20, 24, 3, "53/12", "109/160", "229/48"),
    (20, 24, 5, "25/4", "3/4", "20/3"),
    (20, 24, 7, "97/12", "389/480", "1229/144"),
    (20, 16, 1, "-7/8", "17/40", "1"),
    (20, 16, 3, "9/8", "21/40", "3"),
    (20, 16, 5, "25/8", "5/8", "5"),
    (20, 16, 7, "43/8", "229/320", "7"),
    (4, 4, 5, "4", "1", "4"),  # k above the source: everything is read first
]


@pytest.mark.parametrize(("source", "target", "k", "al", "ap", "dal"), WAIT_K)
def test_wait_k_is_exact(source, target, k, al, ap, dal):
    delays = wait_k(k, source, target)
    expected = {"AL": Fraction(al), "LAAL": Fraction(al), "AP": Fraction(ap), "DAL": Fraction(dal)}
    for name, function in FUNCTIONS.items():
        found = function(delays, source, target)
        assert (type(found), found) == (Fraction, expected[name]), name
        assert function([int(d) for d in delays], source, target) == pytest.approx(float(expected[name]), rel=1e-12)


def test_writing_too_much_is_fast_by_AL_and_not_by_LAAL():
    delays = wait_k(3, 20, 24)
    assert average_lagging(delays, 20, 16) == Fraction(7, 8)
    assert length_adaptive_average_lagging(delays, 20, 16) == Fraction(53, 12)
    # With the hypothesis' length for Y, as the GPE release has it, the two are one number.
    assert average_lagging(delays, 20) == length_adaptive_average_lagging(delays, 20) == Fraction(53, 12)


def test_writing_too_little_leaves_LAAL_at_the_reference():
    delays = wait_k(3, 20, 10)  # ends at 12 of 20 words, so that tau = 10: AL = 3 + (1 - 20 / Y) 9 / 2
    assert average_lagging(delays, 20, 20) == length_adaptive_average_lagging(delays, 20, 20) == 3
    assert average_lagging(delays, 20) == Fraction(-3, 2)


@given(source=st.integers(1, 40), target=st.integers(1, 40), data=st.data())
@settings(max_examples=200, deadline=None)
def test_AL_of_wait_k_has_a_closed_form(source, target, data):
    k = data.draw(st.integers(1, source))
    tau = min(source - k + 1, target)
    expected = k + (1 - Fraction(source, target)) * Fraction(tau - 1, 2)
    assert average_lagging(wait_k(k, source, target), source, target) == expected


def test_irregular_delays_by_hand():
    delays = [Fraction(d) for d in (1, 1, 4, 4, 5)]  # X = 5, Y = 4, tau = n = 5
    assert average_proportion(delays, 5, 4) == Fraction(15, 20)
    assert average_proportion(delays, 5) == Fraction(15, 25)
    assert average_lagging(delays, 5, 4) == Fraction(15 * 4 - 5 * 10, 4 * 5)  # (15 - 5/4 * 10) / 5
    assert length_adaptive_average_lagging(delays, 5, 4) == 1  # (15 - 10) / 5
    # X / n = 1, d' = 1, 2, 4, 5, 6, less 0, 1, 2, 3, 4
    assert differentiable_average_lagging(delays, 5, 4) == Fraction(1 + 1 + 2 + 2 + 2, 5)


def test_nothing_written_before_the_source_ended():
    """AL and LAAL are d_1 then, not AP and not DAL: X / n = 2, d' = 11, 13, 15, less 0, 2, 4; and 20 in place of 15."""
    for name in ("AL", "LAAL"):
        assert FUNCTIONS[name]([11, 11, 20], 6, 2) == 11
    assert average_proportion([11, 11, 20], 6, 2) == 42 / 12
    assert differentiable_average_lagging([11, 11, 20], 6, 2) == (11 + 11 + 16) / 3
    assert average_lagging([6, 11], 6, 2) == 6  # d_1 = X is the ordinary case: tau = 1


@given(delays=st.lists(st.integers(0, 12), min_size=1, max_size=12).map(sorted), source=st.integers(1, 12),
       target=st.integers(1, 12))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_milliseconds_and_words_are_one_formula(delays, source, target):
    """In units of 1/300, AP is the same and the others are 300 times as large; exactly, and in floats nearly."""
    for name, function in FUNCTIONS.items():
        words, factor = function([Fraction(d) for d in delays], source, target), 1 if name == "AP" else 300
        assert function([Fraction(300 * d) for d in delays], 300 * source, target) == factor * words
        speech = function([300.0 * d for d in delays], 300.0 * source, target)
        assert speech == pytest.approx(float(factor * words), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("arguments", "message"), [
    (([], 3, 3), "no delays"),
    (([1, 3, 2], 3, 3), "delay 2 is 2 after 3"),
    (([-1, 1], 3, 3), "delay 0 is -1"),
    (([1, math.nan], 3, 3), "delay 1 is nan"),
    (([1, math.inf], 3, 3), "delay 1 is inf"),
    (([1, 2], 0, 3), "source_length must be positive and finite, got 0"),
    (([1, 2], 3, 0), "target_length must be positive and finite, got 0"),
    (([1, 2], 3, -2.5), "target_length must be positive and finite, got -2.5"),
    (([1, 2], math.inf, 3), "source_length must be positive and finite, got inf"),
    (([1, 2], math.nan, 3), "source_length must be positive and finite, got nan"),
])  # fmt: skip
def test_bad_delays_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](*arguments)


# -- latency against SimulEval -------------------------------------------------------------------------------
# delays, X, Y, then AL, LAAL, AP, DAL with Y and with the hypothesis' length. The numbers are what the scorers of
# SimulEval 1.1.4 returned (`compute` of ALScorer, LAALScorer, APScorer, DALScorer, with use_ref_len True and False) on
# text instances of X and Y words; for the last two, in milliseconds, on an object with these delays and lengths.
SIMULEVAL = [
    ([3, 4, 5, 6, 7, 8], 8, 6,
     [2.1666666666666665, 2.1666666666666665, 0.6875, 3.0], [2.1666666666666665, 2.1666666666666665, 0.6875, 3.0]),
    ([1, 1, 4, 4, 5], 5, 4, [0.5, 1.0, 0.75, 1.6], [1.0, 1.0, 0.6, 1.6]),
    ([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12, 12, 12, 12], 12, 9,
     [1.5, 4.125, 1.3611111111111112, 4.546875], [4.125, 4.125, 0.765625, 4.546875]),
    ([2, 2, 2, 9, 9], 9, 14, [2.7857142857142856, 2.7857142857142856, 0.19047619047619047, 2.6400000000000006],
     [1.0500000000000003, 1.0500000000000003, 0.5333333333333333, 2.6400000000000006]),
    ([4, 4, 4], 4, 3, [4.0, 4.0, 1.0, 4.0], [4.0, 4.0, 1.0, 4.0]),
    ([1], 1, 1, [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    ([0, 0, 1, 1, 2], 6, 3, [-3.2, -1.5999999999999999, 0.2222222222222222, 0.0],
     [-1.5999999999999999, -1.5999999999999999, 0.13333333333333333, 0.0]),
    ([5, 5, 6, 9], 4, 4, [5, 5, 1.5625, 5.25], [5, 5, 1.5625, 5.25]),
    ([2, 3, 5, 7], 5, 6, [2.4999999999999996, 2.4999999999999996, 0.5666666666666667, 2.4375],
     [2.0833333333333335, 2.0833333333333335, 0.85, 2.4375]),
    ([7], 20, 11, [7.0, 7.0, 0.031818181818181815, 7.0], [7.0, 7.0, 0.35, 7.0]),
    ([320.0, 640.0, 640.0, 1280.0, 1930.5, 1930.5], 1930.5, 5,
     [189.89999999999998, 318.6, 0.6983682983682984, 427.8333333333333], [318.6, 318.6, 0.581973581973582, 427.8333333333333]),
    ([2400.0, 2400.0, 2650.25, 3900.0], 2111.25, 7,
     [2400.0, 2400.0, 0.768011503002622, 2400.0], [2400.0, 2400.0, 1.3440201302545884, 2400.0]),
]  # fmt: skip
# The same scorers called on the ten text cases and an empty one (7 source, 5 reference words) in place 4.
SIMULEVAL_SET = {
    "reference": [2.3252380952380953, 2.797738095238095, 0.7372294372294372, 3.1474375],
    "hypothesis": [2.5825, 2.5825, 0.7482291666666666, 3.1474375],
}


@pytest.mark.parametrize(("delays", "source", "target", "by_reference", "by_hypothesis"), SIMULEVAL)
def test_scores_are_simulevals(delays, source, target, by_reference, by_hypothesis):
    for length, expected in ((target, by_reference), (None, by_hypothesis)):
        found = [function(delays, source, length) for function in FUNCTIONS.values()]
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("length", SIMULEVAL_SET)
def test_means_of_a_set_are_simulevals(length):
    cases = [case[:3] for case in SIMULEVAL[:10]]
    cases.insert(4, ([], 7, 5))
    with pytest.warns(UserWarning, match="1 of 11 sentences have no output"):
        found = latency(*zip(*cases), length=length)
    assert [found[name] for name in METRICS] == pytest.approx(SIMULEVAL_SET[length], rel=1e-12)
    assert (found["length"], found["n"], found["skipped"]) == (length, 10, 1)
    assert all(found["sentences"][name][4] is None for name in METRICS)


def test_scores_are_those_of_simuleval_itself():
    """300 random sentences, where SimulEval is installed (no requirement of ours)."""
    scorers = pytest.importorskip("simuleval.evaluator.scorers.latency_scorer").LATENCY_SCORERS_DICT
    rng = np.random.default_rng(0)
    for _ in range(300):
        source, target, n = (int(x) for x in rng.integers(1, 41, 3))
        last = source + int(rng.integers(0, 5)) * int(rng.random() < 0.3)  # now and then past the source's end
        first = int(rng.integers(0, last + 1))
        delays = sorted(int(x) for x in rng.integers(first, last + 1, n))
        case = SimpleNamespace(delays=delays, source_length=source, reference="", reference_length=target)
        for name, function in FUNCTIONS.items():
            for length in (target, None):
                expected = scorers[name](use_ref_len=length is not None).compute(case)
                assert function(delays, source, length) == pytest.approx(expected, rel=1e-12, abs=1e-12), (name, case)


# -- latency of a set ----------------------------------------------------------------------------------------
def test_sentences_count_alike():
    """Means over sentences, not over words: AL 1 over 2 words and 5 over 20 make 3."""
    delays = [wait_k(1, 2, 2), wait_k(5, 20, 20)]
    found = latency(delays, [2, 20], [2, 20])
    assert (found["AL"], found["LAAL"], found["DAL"]) == (3.0, 3.0, 3.0)
    assert found["AP"] == pytest.approx((3 / 4 + 7 / 10) / 2)
    assert found["sentences"]["AL"] == [1, 5]
    assert (found["length"], found["n"], found["skipped"]) == ("reference", 2, 0)


def test_both_lengths_are_offered():
    over = [wait_k(3, 20, 24)]
    by_reference, by_hypothesis = latency(over, [20], [16]), latency(over, [20], [16], length="hypothesis")
    assert (by_reference["AL"], by_reference["LAAL"]) == (0.875, pytest.approx(53 / 12))
    assert by_hypothesis["AL"] == by_hypothesis["LAAL"] == pytest.approx(53 / 12)
    assert latency(over, [20]) == by_hypothesis
    assert by_hypothesis["length"] == "hypothesis"


@pytest.mark.parametrize(("arguments", "message"), [
    (([[1]], [1, 2], [1]), "1 hypotheses, 2 sources, 1 references"),
    (([[1], [1]], [1, 2], [1]), "2 hypotheses, 2 sources, 1 references"),
    (([[1], [2, 1]], [3, 3], [3, 3]), "sentence 1: delay 1 is 1 after 2"),
    (([[1], [2]], [3, 3], [3, 0]), "sentence 1: target_length must be positive and finite, got 0"),
    (([[], []], [3, 3], [3, 3]), "none of 2 sentences has any output"),
    (([[1]], [1], None, "reference"), "needs reference_lengths"),
    (([[1]], [1], [1], "words"), "got 'words'"),
])  # fmt: skip
def test_bad_sets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        latency(*arguments)


# -- quality -------------------------------------------------------------------------------------------------
REFERENCES = ["Hello, world.", "the cat sat on the mat today", "It's a fine day, isn't it?", "one two three four five six",
              "all that is gold does not glitter", "Not all those who wander are lost."]  # fmt: skip
OURS = ["Hello, world.", "the cat sat on a mat", "It's a fine day, is it?", "one two three five four six seven",
        "all that is gold does not glitter", "Not all who wander are lost."]  # fmt: skip
THEIRS = ["Hello world.", "a cat sat on the mat today", "This is a fine day, isn't it?", "", "gold does not glitter",
          "Not all those are lost who wander."]  # fmt: skip


def test_references_are_perfect():
    for score in (bleu(REFERENCES, REFERENCES), bleu(REFERENCES, REFERENCES, "none"), chrf(REFERENCES, REFERENCES)):
        assert (score["score"], score["n"]) == (pytest.approx(100, abs=1e-9), 6)
        assert "nrefs:1" in score["signature"] and "version:" in score["signature"]
    assert "tok:13a|smooth:exp" in bleu(REFERENCES, REFERENCES)["signature"]


def test_a_text_without_blanks_is_scored_in_its_own_tokens():
    """By the references' script, or a language's code; with the default of old, a Chinese sentence was one word."""
    reference, hypothesis = ["我爱你，你爱我吗？"], ["我爱你，你爱他吗？"]
    found = bleu(hypothesis, reference)
    assert "tok:zh" in found["signature"] and 50 < found["score"] < 80 and bleu(hypothesis, reference, "13a")["score"] == 0
    assert bleu_from_statistics(sentence_statistics(hypothesis, reference)[0]) == pytest.approx(found["score"], rel=1e-12)
    assert "tok:13a" in bleu(["Guten Tag , Welt"], ["Guten Tag, 世 Welt"])["signature"]
    codes = {"zh": "zh", "zh_CN": "zh", "de": "13a", "fr-CA": "13a", "th": "char", "": "13a"}
    assert {code: tokenizer_of(code) for code in codes} == codes
    assert tokenizer_of("ja") in ("ja-mecab", "char") and tokenizer_of(["漢字と仮名の文"]) == tokenizer_of("ja")
    assert tokenizer_of(["한국어 문장"]) == tokenizer_of("ko") and tokenizer_of(["ภาษาไทย"]) == "char"
    assert tokenizer_of(["", "12 !"]) == "13a"


def test_bleu_by_hand():
    """Matches 4 of 5, 3 of 4, 2 of 3, 1 of 2: the product is 1/5. With a sixth reference word, brevity exp(1 - 6/5)."""
    assert bleu(["a b c d e"], ["a b c d f"], "none")["score"] == pytest.approx(100 * 0.2**0.25)
    assert bleu(["a b c d e"], ["a b c d f g"], "none")["score"] == pytest.approx(100 * 0.2**0.25 * math.exp(-0.2))
    assert sentence_statistics(["a b c d e"], ["a b c d f g"], "none").tolist() == [[5, 6, 4, 3, 2, 1, 5, 4, 3, 2]]


def test_punctuation_is_the_tokenizers_matter():
    assert sentence_statistics(["Hello, world."], ["Hello world"], "13a")[0, :3].tolist() == [4, 2, 2]
    assert sentence_statistics(["Hello, world."], ["Hello world"], "none")[0, :3].tolist() == [2, 2, 0]


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d,", "e.", "it's", "7"]), max_size=9).map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), min_size=1, max_size=8), st.sampled_from(["13a", "none"]))
@settings(max_examples=200, deadline=None)
def test_statistics_give_sacrebleus_score(pairs, tokenize):
    hypotheses, references = zip(*pairs)
    statistics = sentence_statistics(hypotheses, references, tokenize)
    assert statistics.shape == (len(pairs), 10) and statistics.dtype == np.int64
    expected = bleu(hypotheses, references, tokenize)["score"]
    assert bleu_from_statistics(statistics.sum(0)) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: bleu(["a"], ["a", "b"]), "1 hypotheses for 2 references"),
    (lambda: chrf([], []), "0 hypotheses for 0 references"),
    (lambda: bleu("ab", "ab"), "hypotheses: a list of strings"),
    (lambda: sentence_statistics(["a"], [["a"]]), "references: a list of strings"),
    (lambda: bleu(["a"], ["a"], "words"), "no tokenizer 'words'; sacrebleu has none, zh, 13a"),
    (lambda: bleu_from_statistics([1, 2, 3]), "10 sums .* got 3"),
])  # fmt: skip
def test_bad_texts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- bootstrap -----------------------------------------------------------------------------------------------
def test_bootstrap_is_that_of_resampled_text():
    """The interval from sums of statistics is the one from scoring the resampled sentences, the same on both sides."""
    ours, theirs = sentence_statistics(OURS, REFERENCES), sentence_statistics(THEIRS, REFERENCES)
    found = paired_bootstrap(ours, theirs, resamples=40, seed=3)
    rng, differences = np.random.default_rng(3), []
    for _ in range(40):
        drawn = rng.integers(0, 6, 6)
        ours_text, theirs_text, references = ([side[i] for i in drawn] for side in (OURS, THEIRS, REFERENCES))
        differences.append(bleu(ours_text, references)["score"] - bleu(theirs_text, references)["score"])
    low, high = np.percentile(differences, [2.5, 97.5])
    assert found["difference"] == pytest.approx(bleu(OURS, REFERENCES)["score"] - bleu(THEIRS, REFERENCES)["score"])
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["low"] < found["difference"] < found["high"]
    assert paired_bootstrap(ours.tolist(), theirs.tolist(), resamples=40, seed=3) == found  # as records hold them
    assert paired_bootstrap(ours, theirs, resamples=40, seed=4) != found


def test_identical_systems_have_no_difference():
    statistics = sentence_statistics(OURS, REFERENCES)
    assert paired_bootstrap(statistics, statistics.copy()) == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_runs_are_averaged():
    """The score of several runs is the mean of their scores, not the score of their sum."""
    a, b, perfect = (sentence_statistics(side, REFERENCES) for side in (OURS, THEIRS, REFERENCES))
    found = paired_bootstrap(np.stack([a, b]), np.stack([perfect, perfect]), resamples=50)
    assert found["difference"] == pytest.approx((bleu_from_statistics(a.sum(0)) + bleu_from_statistics(b.sum(0))) / 2 - 100)
    systems = bootstrap({"a": a, "b": b, "again": a}, resamples=50)
    assert systems["a"]["score"] == pytest.approx(bleu(OURS, REFERENCES)["score"])
    assert systems["a"]["resamples"].shape == (50,)
    assert systems["a"]["low"] <= np.median(systems["a"]["resamples"]) <= systems["a"]["high"]
    one, other = systems["a"]["resamples"], systems["b"]["resamples"]
    assert found["low"] == pytest.approx(np.percentile((one + other) / 2 - 100, 2.5))
    assert (systems["again"]["resamples"] == one).all()  # the same draws for every system


@pytest.mark.parametrize(("theirs", "message"), [
    (sentence_statistics(THEIRS[:5], REFERENCES[:5]), r"ours \(6, 10\) and theirs \(5, 10\) are not of the same sentences"),
    (sentence_statistics(THEIRS[::-1], REFERENCES[::-1]), "not of the same sentences"),
])  # fmt: skip
def test_other_sentences_are_refused(theirs, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(sentence_statistics(OURS, REFERENCES), theirs)


def test_too_few_sentences_or_draws_are_refused():
    statistics = sentence_statistics(OURS, REFERENCES)
    with pytest.raises(ValueError, match="no systems"):
        bootstrap({})
    with pytest.raises(ValueError, match="runs of a system are not of equally many sentences"):
        bootstrap({"ours": [statistics, statistics[:5]]})
    with pytest.raises(ValueError, match=r"two sentences at least are needed, ours has shape \(1, 10\)"):
        paired_bootstrap(statistics[:1], statistics[:1])
    with pytest.raises(ValueError, match=r"ours has shape \(10,\)"):
        paired_bootstrap(statistics.sum(0), statistics.sum(0))
    with pytest.raises(ValueError, match="at least one resample is needed, got 0"):
        paired_bootstrap(statistics, statistics, resamples=0)


# -- word error rate -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "expected"), [
    ("Well-known: the boy's 'tis,  boys' toys!", "WELL KNOWN THE BOY'S 'TIS BOYS' TOYS"),
    ("it\u2019s \u2013 ' \u2019 fine\n", "IT'S FINE"),
    ("cafe\u0301 snake_case 42", "CAF\u00c9 SNAKE CASE 42"),
    (" ... ", ""), ("\u0915\u093f\u0964", "\u0915\u093f"),  # कि and its full stop
    ("x\u00b2 \u0967\u0968", "X\u00b2 \u0967\u0968"),
    ("\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0645\u06cc\u0634\u0648\u062f"),  # one Persian word
])  # fmt: skip
def test_transcripts_are_normalised(text, expected):
    assert normalise(text) == expected


def test_a_combining_mark_belongs_to_its_word():
    """Vowels of Hindi are marks: कि is not की, and हिन्दु भाषा has one of two words wrong."""
    assert wer(["\u0915\u093f"], ["\u0915\u0940"])["errors"] == 1
    found = wer(["हिन्दु भाषा"], ["हिन्दी भाषा"])
    assert (found["errors"], found["words"], found["wer"]) == (1, 2, 50.0)
    assert wer(["กำ"], ["กิ"])["errors"] == 1 and wer(["cafe\u0301"], ["caf\u00e9"])["errors"] == 0


def test_wer_by_hand():
    """One substitution and one deletion; all deleted; two insertions; none. Summed before they are divided."""
    found = wer(["The cat, sit on mat.", " - ", "oh yes yes", "It's"], ["the cat sat on the mat", "a b", "yes", "it\u2019s"])
    assert found["sentences"] == {"errors": [2, 2, 2, 0], "words": [6, 2, 1, 1]}
    assert (found["errors"], found["words"], found["wer"]) == (6, 10, 60.0)
    assert found["version"].startswith("jiwer ")
    assert wer(REFERENCES, REFERENCES)["wer"] == 0


@pytest.mark.parametrize(("call", "message"), [
    (lambda: wer(["a", "b"], ["a", "?!"]), r"reference 1 has no words: '\?!'"),
    (lambda: wer(["a"], ["a", "b"]), "1 hypotheses for 2 references"),
    (lambda: wer([], []), "0 hypotheses for 0 references"),
    (lambda: wer("ab", "ab"), "hypotheses: a list of strings"),
    (lambda: wer([None], ["a"]), "hypotheses: a list of strings"),
    (lambda: paired_bootstrap_wer(wer(["a", "b"], ["a", "b"]), wer(["a", "b"], ["a", "b c"])), "not of the same sentences"),
])  # fmt: skip
def test_bad_transcripts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wer_bootstrap_is_paired():
    """One error more in each utterance of five words is 20 points, whichever utterances are drawn."""
    references = [f"{x} b c d e" for x in "klmnopqrst"]
    heard = [r if i % 3 else f"wrong{r[1:]}" for i, r in enumerate(references)]
    theirs, ours = wer(heard, references), wer([f"{text} more" for text in heard], references)
    assert (theirs["errors"], ours["errors"]) == (4, 14)
    found = paired_bootstrap_wer(ours, theirs, resamples=200)
    assert found == {name: pytest.approx(20, abs=1e-9) for name in ("difference", "low", "high")}
    assert paired_bootstrap_wer(theirs, theirs) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    runs = paired_bootstrap_wer([ours, theirs], [theirs, theirs], resamples=200)
    assert runs == {name: pytest.approx(10, abs=1e-9) for name in found}
    perfect = paired_bootstrap_wer(theirs, wer(references, references), resamples=200)  # 4 of 50, of 10 utterances
    assert (perfect["difference"], perfect["low"]) == (8, pytest.approx(2)) and 12 <= perfect["high"] <= 16
