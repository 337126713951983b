"""What the report says about its own words: the sign and meaning of every verdict, and how verdicts are made.

The numbers in this text (seeds, items, spread) are read from the referee, so that the page cannot promise another
rule than the one that judged.
"""

from __future__ import annotations

from html import escape

from ..claims.intervals import MIN_ITEMS, MIN_RUNS
from ..claims.rules import WORDS
from ..claims.verdict import MAX_IQR

MEANING = {  # what a row may be: (sign, meaning)
    "matches": ("✓", "the paper's own quantity was obtained, and lies inside the rule"),
    "supports": ("↗", "in the small: direction and minimum effect, fixed beforehand, hold, and the arm that must not pass fails them "
                 "or is shown to be behind; "
                 "it says nothing of the paper's size"),
    "adds-up": ("=", "a figure that the paper prints follows from others that it prints; no run, no result obtained again"),
    "contradicts": ("✗", "the paper's own quantity was obtained, and lies outside the rule"),
    "opposes": ("↘", "in the small: the whole interval lies on the other side of the rule, on evidence that would have supported"),
    "does-not-add-up": ("≠", "a figure that the paper prints does not follow from others that it prints"),
    "inconclusive": ("?", "nothing decides: the interval contains the threshold, the placebo passes, too, or has not "
                     "failed, the measure is "
                     "insensitive, or there are too few runs; the sentence says which, and what n would decide"),
    "not-run": ("○", "blocked by weights, data, gpu or time"),
    "not-checkable": ("∅", "the paper does not define the quantity"),
    "stale": ("⟳", "claims.yaml says otherwise of this claim than the record; it counts as nothing until it is run again"),
    "older": ("⌛", "made by code that has changed since; it counts as nothing until it is run again"),
    "scratch": ("✎", "made from a tree with uncommitted changes, or not published; it counts as nothing"),
    "invalid": ("⚠", "the record file does not validate; it counts as nothing"),
    "unlisted": ("⚠", "a record of no claim in claims.yaml; it counts as nothing"),
}
RULES = {
    "equal": "the very number; for exact arithmetic",
    "within 2 %, within ±0.5 of the paper": "our whole interval lies within the tolerance around the paper's value, on both sides: better "
    "than the paper beyond the tolerance is no match until it is explained",
    "z test of the two standard errors": "the difference is no larger than the two standard errors, ours and the paper's, "
    "allow; the paper's is binomial from its number of items where it gives none",
    "inside our prediction interval": "the paper's value is a plausible next run of ours: mean ± t s √(1 + 1/n)",
    "above 0.1, below 0.1": "the claim's quantity in its own unit: its whole 95 % interval lies on that side; its placebo, an arm that "
    "must not pass, is judged by the same rule on the same results",
    "within ±0.1": "an equivalence: the whole interval lies within ± the tolerance, and a pair that is known to differ lies outside",
}
SIZES = {
    "analytic": "exact arithmetic at the paper's own size, in seconds; can match",
    "cpu-small": "small models, really trained over several seeds, on two CPU cores in ten minutes; can support, never match",
    "gpu-random-weights": "time and memory at real size on one GPU, where the values of the weights do not matter; a "
    "measured time or memory can match, quality can only be supported",
    "paper-scale": "the paper's own models and data, on GPUs with a model hub; can match",
}
SOURCES = {
    "secondary": "the paper's figure is quoted from somebody who read it, since we could not",
    "derived": "the figure is computed from what the paper prints",
}


def e(text) -> str:
    """Text that is only text, inside an element or a quoted attribute."""
    return escape(str(text), quote=True)


def chip(state: str, classes: str = "", more: str = "") -> str:
    """The word of a verdict with its sign; shape and border differ by word, not only the colour."""
    return f'<span class="chip v-{e(state)}{classes}">{MEANING[state][0]} {e(state)}{e(more)}</span>'


def how() -> str:
    """The section on how verdicts are made."""
    words = "".join(f"<dt>{chip(word)}</dt><dd>{e(MEANING[word][1])}</dd>" for word in MEANING if word in WORDS)
    flags = "".join(f"<dt>{chip(word)}</dt><dd>{e(MEANING[word][1])}</dd>" for word in MEANING if word not in WORDS)
    return f"""<section aria-labelledby="how-verdicts-are-made"><h2 id="how-verdicts-are-made">How verdicts are made</h2>
<ol>
<li><b>Before a run</b> every claim is written into the paper's <code>claims.yaml</code>: our words for it, where the paper
makes it and which value it gives, the rung, the metric, the rule with its tolerance, seeds, baselines, and what would
falsify it.</li>
<li><b>The run</b> measures ours and the baselines that the claim names, and writes a record for each claim: what was
measured, for each seed, the command, commit, machine and versions, and the hash of
<code>claims.yaml</code>.</li>
<li><b>The word</b> is computed from the record's numbers by one function (<code>common/claims/verdict.py</code>). Nobody writes
it: a record whose word does not follow from its own numbers is invalid, and this page says so.</li>
<li><b>Afterwards</b> nothing is tuned to a verdict. When <code>claims.yaml</code> changes, older records are stale and count
as nothing. A miss is shown as a miss.</li></ol>
<h3>The words</h3><dl class="words">{words}</dl>
<p>An interval decides, never a point. Intervals are 95 %, from Student's t distribution: over {MIN_RUNS} seeds that is 4.3
standard errors on either side. A claim about a training method needs {MIN_RUNS} trainings, one about a fixed model {MIN_ITEMS}
clusters of items, one about time {MIN_RUNS} processes; what <em>supports</em> needs, <em>opposes</em> needs. A timing whose
interquartile range is over {100 * MAX_IQR:.0f} % of its median decides nothing. The required claims of a paper are one family of
questions: Holm's step-down over them decides which words a headline may use.</p>
<h3>What counts as nothing</h3><dl class="words">{flags}</dl>
<h3>Rules</h3>{_list(RULES)}
<h3>Rungs</h3>{_list(SIZES)}
<h3>Where the paper's value comes from</h3>
<p>Abstract, table, figure or text of the paper, or its repository (repo); and, marked beside the value:</p>{_list(SOURCES)}
<h3>Check it yourself</h3>
<p><code>make reproduce-&lt;paper&gt;</code> measures again and prints a word for every claim; <code>python -m common.report --check</code>
fails if a record does not validate or a table in a README is not what the records give; <code>make report</code> writes this page
from the committed records alone.</p></section>"""


def _list(meanings: dict[str, str]) -> str:
    entries = "".join(f"<dt><b>{e(name)}</b></dt><dd>{e(said)}</dd>" for name, said in meanings.items())
    return f'<dl class="words">{entries}</dl>'
