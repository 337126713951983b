"""Every quantity of a claim, worked out again from what claims.yaml names, on results in which no two numbers are equal: an arm
compared with itself, sides exchanged, another entry, another run, all would give something else."""

from functools import partial
from statistics import fmean

import pytest

from common.errors import RecordError
from tests.golden import same
from tests.numerics import drawn

from .. import quantities, reported
from ..experiments import chains, real, strong

SEEDS = (0, 1, 4)
OWN, THEIRS = ("SF", "SR"), ("TF", "TR")


def made(prefix, arms):
    """As the jobs give them; problems and samples differ from run to run too."""
    found = {}
    for arm in ("start", *arms):
        for seed in SEEDS:
            at = partial(drawn, prefix, arm, seed)
            n = int(at("samples", low=2, high=9))
            scores = {"avg": at("avg"), "pass_at": {str(k): at("pass", k) for k in range(1, 12)}, "samples": n,
                      "problems": int(at("problems", low=20, high=99)), "entropy": at("entropy"),
                      "tokens": at("tokens", low=20.0, high=90.0), "at_cap": at("at_cap", low=0.01, high=0.6)}
            history = {"length": [at("length", i, low=20.0, high=90.0) for i in range(40)]}
            curve = [[done, at("probe", done), at("probed", done), at("capped", done), at("diverse", done)] for done in range(0, 41, 4)]
            rl = {switch: {when: {"avg": at(switch, when), "entropy": at(switch, when, "entropy")} for when in ("before", "after")}
                  for switch in (("0",) if arm == "start" else ("100", "20"))}
            found[f"{prefix}{arm}/seed{seed}"] = {"test": scores, "history": history, "curve": curve, "rl": rl}
    return found


WEAK, STRONG = made("", chains.ARMS), made("strong/", (*strong.ARMS, *strong.STOPS)) | made("real/", real.ARMS)


def of(arm, entry, prefix=""):
    """Of every seed; accuracies, passes and shares in %."""
    found = []
    for seed in SEEDS:
        test = (STRONG if prefix else WEAK)[f"{prefix}{arm}/seed{seed}"]["test"]
        value = test["pass_at"][str(test["samples"])] if entry == "passed" else test[entry]
        found.append(value if entry in ("entropy", "tokens") else 100 * value)
    return found


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


def over(a, b, by=1.0):
    return [x / y / by for x, y in zip(a, b)]


def inflation(arm, prefix=""):
    longer = over(of(arm, "tokens", prefix), of("start", "tokens", prefix), 1.5)
    return [max(pair) for pair in zip(longer, [share / 20 for share in of(arm, "at_cap", prefix)])]


def item(found, start):
    test = found[f"{start}/seed0"]["test"]
    return 100 / (test["problems"] * test["samples"])


# -- the weak student --------------------------------------------------------------------------------------
MIXED = ("SF", "mix 0.25", "mix 0.5", "mix 0.75", "SR")


def test_from_the_weak_student():
    measured, one = quantities.weak(WEAK), item(WEAK, "start")
    entropy, tokens, capped, right, passed = (partial(of, entry=e) for e in ("entropy", "tokens", "at_cap", "avg", "passed"))
    shown = {arm: entropy(arm) for arm in ("start", *MIXED, "curriculum", "ladder")}
    kept = {arm: over(entropy(arm), entropy("start")) for arm in ("SF", "SR")}
    again = minus(entropy("SF"), entropy("SF again"))
    same(measured["C3e"], minus(entropy("SF"), entropy("SR")), placebo=again, shown=shown)
    same(measured["C3f"], minus(entropy("TF"), entropy("TR")), placebo=again, shown={arm: entropy(arm) for arm in ("start", *THEIRS)})
    same(measured["C8s"], kept["SR"], placebo=kept["SF"], shown=shown)
    closer = [max(pair) for pair in zip(inflation("SF"), inflation("short SR"))]
    some = ("start", "SF", "SR", "short SR")
    same(measured["C8t"], inflation("SR"), placebo=closer,
         shown={f"{arm}, tokens": tokens(arm) for arm in some} | {f"{arm}, % at the cap": capped(arm) for arm in some})
    same(measured["C8u"], kept["SF"], placebo=kept["SR"])
    same(measured["C8v"], capped("SF"), placebo=capped("SR"), resolution=one)
    same(measured["C8w"], capped("short SR"), placebo=capped("SR"), resolution=one)
    same(measured["C9a"], minus(right("mix 0.25"), right("SR")), placebo=minus(right("shuffled"), right("SR")), resolution=one)
    same(measured["C9b"], capped("mix 0.25"), placebo=capped("SR"), resolution=one)
    same(measured["C9c"], inflation("mix 0.5"), placebo=inflation("SF"))

    def shorter(arm):
        return [100 * x / y for x, y in zip(minus(tokens("SR"), tokens(arm)), tokens("start"))]

    same(measured["C10s"], shorter("curriculum"), placebo=shorter("ladder"),
         shown={f"{arm}, tokens": tokens(arm) for arm in ("start", "SR", "curriculum", "ladder")})
    same(measured["C10e"], minus(entropy("curriculum"), entropy("SR")), placebo=minus(entropy("ladder"), entropy("SR")), shown=shown)
    same(measured["C10q"], minus(right("curriculum"), right("SR")), placebo=minus(right("ladder"), right("SR")), resolution=one)
    same(measured["C10r"], minus(passed("curriculum"), passed("SR")), placebo=minus(passed("ladder"), passed("SR")), resolution=8 * one)
    same(measured["C15a"], minus(entropy("by entropy"), entropy("mix 0.75")), placebo=minus(entropy("SR"), entropy("mix 0.75")))
    same(measured["C16a"], minus(right("SF"), right("start")), placebo=minus(right("shuffled"), right("start")), resolution=one,
         shown={arm: right(arm) for arm in ("start", "SF", "shuffled")})
    assert len(measured) == 18


@pytest.mark.parametrize("claim, entry", [("C9s", "entropy"), ("C9t", "at_cap")])
def test_ranks_of_five_shares(claim, entry):
    """Without ties Spearman's is 1 - 6 sum d^2 / (n^3 - n)."""
    def ranked(order):
        found = []
        for values in zip(*(of(arm, entry) for arm in MIXED)):
            d = [sorted(order).index(a) - sorted(values).index(b) for a, b in zip(order, values)]
            found.append(1 - 6 * sum(x * x for x in d) / 120)
        return found

    same(quantities.weak(WEAK)[claim], ranked((0, 0.25, 0.5, 0.75, 1)), placebo=ranked((0.25, 1, 0.5, 0, 0.75)), resolution=0.1,
         shown={arm: of(arm, entry) for arm in MIXED})


# -- the real pair -----------------------------------------------------------------------------------------
def test_from_the_real_pair(monkeypatch):
    measured, one = quantities.real(STRONG), item(STRONG, "real/start")
    entropy, tokens, capped, right = (partial(of, entry=e, prefix="real/") for e in ("entropy", "tokens", "at_cap", "avg"))
    names = ("start", "SF", "SR", "TF", "TR", "short SF", "short SR", "mix 0.25", "curriculum", "ladder")
    entropies, accuracies, cut = ({arm: entry(arm) for arm in names} for entry in (entropy, right, capped))
    lengths = {f"{arm}, tokens": tokens(arm) for arm in names}

    def sources(*ours):
        return minus([fmean(pair) for pair in zip(*map(right, ours))], [fmean(pair) for pair in zip(*map(right, THEIRS))])

    def shorter(arm):
        return [100 * x / y for x, y in zip(minus(tokens("SR"), tokens(arm)), tokens("start"))]

    same(measured["C3i"], minus(entropy("SF"), entropy("SR")), placebo=minus(entropy("SF"), entropy("SF again")), shown=entropies)
    same(measured["C5i"], sources(*OWN), placebo=sources("start"), resolution=one, shown=accuracies)
    same(measured["C7i"], minus(right("SF"), right("short SF")), placebo=minus(right("start"), right("short SF")), resolution=one,
         shown=accuracies)
    same(measured["C8i"], over(entropy("SR"), entropy("start")), placebo=over(entropy("SF"), entropy("start")), shown=entropies)
    closer = [max(pair) for pair in zip(inflation("SF", "real/"), inflation("short SR", "real/"))]
    same(measured["C8j"], inflation("SR", "real/"), placebo=closer, shown=lengths)
    same(measured["C8k"], capped("short SR"), placebo=capped("SR"), resolution=one, shown=cut)
    same(measured["C9i"], capped("mix 0.25"), placebo=capped("SR"), resolution=one, shown=cut)
    same(measured["C10i"], shorter("curriculum"), placebo=shorter("ladder"), shown=lengths)
    same(measured["C10j"], minus(right("curriculum"), right("SR")), placebo=minus(right("ladder"), right("SR")), resolution=one,
         shown=accuracies)
    called = []
    monkeypatch.setattr(quantities, "claim", lambda seeds, name, *more, **how: called.append(name) or {})
    assert called == [] and list(quantities.real(STRONG)) == called and len(called) == 9


# -- the better student ------------------------------------------------------------------------------------
def reinforced(arm, switch, when, entry="avg"):
    """In RL after so many updates; the untouched student has one."""
    return [(1 if entry == "entropy" else 100) * STRONG[f"strong/{arm}/seed{s}"]["rl"]["0" if arm == "start" else switch][when][entry]
            for s in SEEDS]


def test_from_the_better_student():
    measured, one = quantities.strong(STRONG), item(STRONG, "strong/start")
    entropy, capped, right, passed = (partial(of, entry=e, prefix="strong/") for e in ("entropy", "at_cap", "avg", "passed"))
    cells = ("start", *OWN, *THEIRS)
    accuracies = {arm: right(arm) for arm in (*cells, "short SF", "short SR")}
    same(measured["C3g"], minus(entropy("SF"), entropy("SR")), placebo=minus(entropy("SF"), entropy("SF again")),
         shown={arm: entropy(arm) for arm in cells})
    same(measured["C3h"], minus(right("short SR"), right("short SF")), placebo=minus(right("start"), right("short SF")), resolution=one,
         shown=accuracies)
    same(measured["C3p"], minus(passed("SF"), passed("SR")), placebo=minus(passed("SF"), passed("SF again")), resolution=8 * one,
         shown={arm: passed(arm) for arm in cells})
    theirs = [fmean(pair) for pair in zip(right("TF"), right("TR"))]
    same(measured["C5s"], minus([fmean(pair) for pair in zip(right("SF"), right("SR"))], theirs), placebo=minus(right("start"), theirs),
         resolution=one, shown=accuracies)
    for claim, arm, short in (("C7s", "SF", "short SF"), ("C7t", "SR", "short SR")):
        same(measured[claim], minus(right(arm), right(short)), placebo=minus(right("start"), right(short)), resolution=one,
             shown=accuracies)
    by_reverse = minus(right("SR"), right("short SR"))
    same(measured["C7u"], minus(minus(right("SF"), right("short SF")), by_reverse),
         placebo=minus(minus(right("start"), right("short SF")), by_reverse), resolution=one, shown=accuracies)
    same(measured["C8x"], inflation("SR", "strong/"), placebo=inflation("SF", "strong/"))
    same(measured["C8y"], minus(capped("one end"), capped("two ends")), placebo=minus(capped("SR"), capped("two ends")), resolution=one,
         shown={arm: capped(arm) for arm in ("start", "SR", "one end", "two ends")})
    assert len(measured) == 13


def test_where_rl_starts_and_what_it_gains():
    measured, one = quantities.strong(STRONG), item(STRONG, "strong/start")

    def less(one, other):
        return [min(pair) for pair in zip(minus(reinforced("SF", "100", "before", "entropy"), one),
                                          minus(reinforced("TF", "100", "before", "entropy"), other))]

    again = of("SF again", "entropy", "strong/")
    same(measured["C4e"], less(*(reinforced(arm, "100", "before", "entropy") for arm in ("SR", "TR"))), placebo=less(again, again))
    for claim, switch in (("C4r", "100"), ("C4s", "20")):
        gained = {arm: minus(reinforced(arm, switch, "after"), reinforced(arm, switch, "before")) for arm in ("start", "SF", "SR")}
        same(measured[claim], minus(gained["SF"], gained["SR"]), placebo=minus(gained["start"], gained["SR"]), resolution=one,
             shown={f"{arm}, {when}": reinforced(arm, switch, when) for arm in ("start", *OWN, *THEIRS) for when in ("before", "after")})


# -- matched compute ---------------------------------------------------------------------------------------
def passes(d, f, heads, width, length):
    """FLOPs of a forward pass of two layers and a head of 30 words over a prompt of 10 tokens and a response."""
    T, q = 10 + length, heads * width
    return 2 * (2 * T * (4 * d * q + 3 * d * f) + 2 * T * T * q) + 2 * T * d * 30


def student(length):
    return passes(32, 96, 4, 8, length)


def teacher(length):
    return passes(64, 192, 4, 16, length)


def test_an_update_by_hand():
    assert quantities.update_of("SF", 40.0) == pytest.approx(teacher(40.0) + 4 * student(40.0), rel=1e-12)
    assert quantities.update_of("TF", 40.0) == pytest.approx(teacher(40.0) + 3 * student(40.0), rel=1e-12)
    assert quantities.update_of("TF", 40.0, "logits") == pytest.approx(3 * student(40.0), rel=1e-12)
    assert quantities.update_of("short TF", 40.0) == quantities.update_of("TF", 40.0)  # an arm of the better student alone
    assert quantities.update_of("one end", 40.0) == quantities.update_of("SR", 40.0) == quantities.update_of("SF", 40.0)
    arms = quantities.Arms(WEAK)
    lengths = WEAK["SF/seed1"]["history"]["length"]
    assert arms.flops(1, "SF") == pytest.approx(fmean(teacher(n) + 4 * student(n) for n in lengths), rel=1e-12)


def test_ahead_of_what_as_much_compute_gives():
    ahead = {"TF": [], "start": []}
    for seed in SEEDS:
        own, other = (STRONG[f"strong/{arm}/seed{seed}"] for arm in ("SF", "TF"))
        budget, spent, updates = sum(3 * student(n) for n in other["history"]["length"]), 0.0, 0
        for length in own["history"]["length"]:
            spent += teacher(length) + 4 * student(length)
            if spent > budget:
                break
            updates += 1
        probe = {row[0]: row[1] for row in own["curve"]}[updates // 4 * 4]  # probes are at every fourth update
        assert 4 <= updates < 36
        ahead["TF"].append(100 * (other["curve"][-1][1] - probe))
        ahead["start"].append(100 * (own["curve"][0][1] - probe))
    same(quantities.strong(STRONG)["C6s"], ahead["TF"], placebo=ahead["start"], resolution=item(STRONG, "strong/start"))


def test_a_probe_that_costs_just_as_much_counts(monkeypatch):
    monkeypatch.setattr(quantities, "update_of", lambda arm, length, cached=None: length)
    found = {f"strong/{arm}/seed0": {"history": {"length": [1.0] * 4}, "curve": [[n, n / 10] for n in range(5)]}
             for arm in ("SF", "TF", "start")}
    assert quantities.Strong(found).per_flop(0, "TF") == pytest.approx(0.0)
    found["strong/TF/seed0"]["history"]["length"] = [0.2] * 4  # not one update of the other: then it has learnt nothing
    assert quantities.Strong(found).per_flop(0, "TF") == pytest.approx(40.0)


# -- what is printed ---------------------------------------------------------------------------------------
def test_figures_of_the_paper():
    measured = quantities.exact({}, "analytic")
    by_hand = {"C10a": 40.0 - 36.4, "C10b": 54.1 - 48.3, "C10c": 8185 / 2688, "C11a": 40.2 - 36.6, "C11b": 51.8 - 49.2, "C11c": 8190 / 2793,
               "C14a": 55.4, "C14b": 55.34}
    assert {name: measured[name]["value"] for name in by_hand} == pytest.approx(by_hand, rel=1e-12)
    T, S = (32 * L * (4 * n * d * d + 4 * n * d * 1024 + 2 * n * n * d + 6 * n * d * f) / 1e12
            for n in (1152,) for L, d, f in ((36, 2560, 9728), (28, 1024, 3072)))
    heads = [2 * 32 * 1024 * 151936 * d * times / 1e12 for d, times in ((2560, 1), (1024, 3))]
    assert [measured[f"C13{c}"]["value"] for c in "abcd"] == pytest.approx([T, S, T + 3 * S, T + 3 * S + sum(heads)], rel=1e-12)
    assert measured["C13e"]["value"] == pytest.approx(100 * sum(heads) / (T + 3 * S + sum(heads)), rel=1e-12)

    def whole(L, d, f, q, n=1152):
        return 32 * L * (2 * n * (2 * d * q + 2 * d * 1024 + 3 * d * f) + 2 * n * n * q)

    assert measured["C13f"]["value"] == pytest.approx(whole(36, 2560, 9728, 4096) / 1e12, rel=1e-12)
    assert measured["C13f"]["baselines"] == {"student": pytest.approx(whole(28, 1024, 3072, 2048) / 1e12, rel=1e-12)}
    ratios, fresh = {}, {}
    for name, L, d, f in (("4B", 36, 2560, 9728), ("8B", 36, 4096, 12288)):
        for tokens in (128, 1024, 4096):
            n = 128 + tokens
            T, S = (whole(*shape, n=n) + 2 * 32 * n * shape[1] * 151936 for shape in ((L, d, f, 4096), (28, 1024, 3072, 2048)))
            ratios[f"{name}, {tokens} tokens"] = (T + 4 * S) / (3 * S)
            fresh[f"{name}, {tokens} tokens"] = 100 * (1 - (T + 3 * S) / (T + 4 * S))
    assert measured["C6a"] == {"value": pytest.approx(min(ratios.values())), "n_runs": 1, "baselines": pytest.approx(ratios, rel=1e-12)}
    assert measured["C6b"] == {"value": pytest.approx(max(fresh.values())), "n_runs": 1, "baselines": pytest.approx(fresh, rel=1e-9)}
    assert measured["C2a"]["value"] > 0.1 and len(measured) == 17 and reported.PROBLEMS["MATH-500"] == 500


# -- the paper's size --------------------------------------------------------------------------------------
RUNS = {name: {"avg": drawn(name, "avg"), "passed": drawn(name, "passed"), "tokens": drawn(name, "tokens"), "by": {
    of: {entry: drawn(name, of, entry) for entry in ("avg", "passed", "tokens")} for of in ("math", "gsm8k", "amc23", "aime24")}}
    for name in [f"4b-{cell}-{n}" for cell in ("sf", "sr", "tf", "tr") for n in (128, 4096)] + ["4b-sf-4096-grpo", "4b-sr-4096-grpo",
                 "4b-sr-curriculum", "8b-sr-curriculum", "8b-sr-4096", "8b-sf-128", "8b-sr-128", "8b-sf-128-grpo", "8b-sr-128-grpo"]}
BY_SOURCE = [(f"s{k}-{n}", f"t{k}-{n}") for n in (128, 4096) for k in "fr"]
DIFFERENCES = {  # claim: pairs of runs of the 4B teacher, entry, of MATH alone
    "C3": ([("sr-128", "sf-128")], "avg", True), "C3b": ([("sf-128", "sr-128")], "passed", True),
    "C4": ([("sf-4096-grpo", "sf-4096")], "avg", True), "C4b": ([("sr-4096-grpo", "sr-4096")], "avg", True),
    "C5": (BY_SOURCE, "avg", False), "C5b": (BY_SOURCE, "passed", False),
    "C5c": ([("sf-4096", "tf-4096"), ("sr-4096", "tr-4096")], "avg", False),
    "C5d": ([("sf-4096", "tf-4096"), ("sr-4096", "tr-4096")], "passed", False),
    "C7": ([(f"{c}-4096", f"{c}-128") for c in ("sf", "sr", "tf", "tr")], "avg", False),
    "C7b": ([(f"{c}-4096", f"{c}-128") for c in ("sf", "sr", "tf", "tr")], "passed", False),
    "C7c": ([(f"{c}-4096", f"{c}-128") for c in ("sf", "tf")], "avg", False),
    "C7d": ([(f"{c}-4096", f"{c}-128") for c in ("sr", "tr")], "avg", False),
    "C10": ([("sr-curriculum", "sr-4096")], "avg", False), "C10p": ([("sr-curriculum", "sr-4096")], "passed", False),
    "C12": ([("sr-curriculum", "sr-4096")], "avg", True)}


@pytest.mark.parametrize("claim", DIFFERENCES)
def test_differences_of_runs_at_the_papers_size(claim):
    pairs, entry, maths = DIFFERENCES[claim]
    value = {run: (RUNS[f"4b-{run}"]["by"]["math"] if maths else RUNS[f"4b-{run}"])[entry] for pair in pairs for run in pair}
    measured = quantities.paper({"paper": RUNS})[claim]
    assert measured["value"] == pytest.approx(fmean(value[a] - value[b] for a, b in pairs), rel=1e-9)
    assert measured["baselines"] == {f"4b-{run}": v for run, v in value.items()}
    for run in value:
        assert claim not in quantities.paper({"paper": {name: result for name, result in RUNS.items() if name != f"4b-{run}"}})


OTHERS = {  # claim: run, less run, benchmark or "" for the mean, entry
    "C11": ("8b-sr-curriculum", "8b-sr-4096", "", "avg"), "C11p": ("8b-sr-curriculum", "8b-sr-4096", "", "passed"),
    "C12b": ("8b-sr-curriculum", "8b-sr-4096", "math", "avg"), "C4c": ("8b-sf-128-grpo", "8b-sf-128", "math", "avg"),
    "C4f": ("8b-sr-128", "8b-sf-128", "math", "avg"), "C19l": ("4b-sf-128", "4b-sr-128", "", "tokens"),
    "C19a": ("4b-sr-128", "4b-sf-128", "gsm8k", "avg"), "C19b": ("4b-sr-128", "4b-sf-128", "gsm8k", "passed"),
    "C19c": ("4b-sr-128", "4b-sf-128", "amc23", "avg"), "C19d": ("4b-sr-128", "4b-sf-128", "amc23", "passed"),
    "C19e": ("4b-sr-128", "4b-sf-128", "aime24", "avg"), "C19f": ("4b-sr-128", "4b-sf-128", "aime24", "passed")}


@pytest.mark.parametrize("claim", OTHERS)
def test_differences_with_the_other_teacher_and_on_one_benchmark(claim):
    one, other, benchmark, entry = OTHERS[claim]

    def value(run):
        return RUNS[run]["by"][benchmark][entry] if benchmark else RUNS[run][entry]

    measured = quantities.paper({"paper": RUNS})[claim]
    assert measured["value"] == pytest.approx(value(one) - value(other), rel=1e-9)
    assert measured["baselines"] == {one: value(one), other: value(other)}
    for run in (one, other):
        assert claim not in quantities.paper({"paper": {name: result for name, result in RUNS.items() if name != run}})
        left = RUNS[run] | {"by": {of: row for of, row in RUNS[run]["by"].items() if of != benchmark}}
        assert (claim in quantities.paper({"paper": RUNS | {run: left}})) == (not benchmark), "of a run that was not asked that benchmark"


def test_lengths_at_the_papers_size():
    measured = quantities.paper({"paper": RUNS})
    assert set(measured) == {*DIFFERENCES, *OTHERS, "C8", "C8b", "C10l", "C11l", "C12l", "C4d"}
    assert measured["C12l"]["value"] == RUNS["4b-sr-curriculum"]["by"]["math"]["tokens"]
    assert measured["C4d"]["value"] == RUNS["8b-sr-128-grpo"]["by"]["math"]["avg"]
    assert measured["C11l"]["value"] == RUNS["8b-sr-4096"]["tokens"] / RUNS["8b-sr-curriculum"]["tokens"]
    tokens = {name: run["tokens"] for name, run in RUNS.items()}
    assert measured["C8"]["value"] == tokens["4b-sr-4096"] and measured["C8b"]["value"] == tokens["8b-sr-4096"]
    assert measured["C10l"]["value"] == tokens["4b-sr-4096"] / tokens["4b-sr-curriculum"]
    two = {name: RUNS[name] for name in ("4b-sr-4096", "4b-sr-curriculum")}
    assert quantities.paper({"paper": two})["C10l"] == measured["C10l"]
    for run, claims in (("4b-sr-4096", {"C8", "C10l"}), ("8b-sr-4096", {"C8b", "C11l"}), ("4b-sr-curriculum", {"C10l", "C12l"}),
                        ("8b-sr-curriculum", {"C11l"}), ("8b-sr-128-grpo", {"C4d"})):
        assert not claims & {*quantities.paper({"paper": {name: result for name, result in RUNS.items() if name != run}})}


def test_what_a_record_names():
    start = {"model": {"name": "a"}, "teacher": {"name": "b"}, "test": {"problems": 7}}
    data = [{"name": "generated chains of arithmetic", "split": "test", "n": 7}]
    assert quantities.facts(start) == ([{"name": "a"}, {"name": "b"}], data)
    assert quantities.facts({name: start[name] for name in ("model", "test")}) == ([{"name": "a"}], data)


def test_every_claim_is_called_by_its_own_name_where_it_has_no_number(monkeypatch):
    monkeypatch.setattr(quantities, "claim", lambda seeds, name, *rest, **more: name)
    named = quantities.weak(WEAK) | quantities.strong(STRONG)
    assert len(named) == 31 and all(name == called for name, called in named.items())
    monkeypatch.undo()
    for error in (lambda seed, arm: float("nan"),):
        with pytest.raises(RecordError, match="C1: "):
            quantities.claim((0, 1), "C1", error, "a", ["b"])


def test_a_claim_takes_the_placebo_that_comes_closest_in_each_seed():
    value = {(0, "a"): 1.0, (1, "a"): 5.0, (0, "b"): 4.0, (1, "b"): 2.0, (0, "own"): 9.0, (1, "own"): 8.0}
    found = quantities.claim((0, 1), "C1", lambda seed, arm: value[seed, arm], "own", ["a", "b"], 0.5)
    same(found, [9.0, 8.0], placebo=[4.0, 5.0], resolution=0.5)
    same(quantities.claim((0, 1), "C1", lambda seed, arm: value[seed, arm], "own", ["a", "b"], best=min), [9.0, 8.0], placebo=[1.0, 2.0])
