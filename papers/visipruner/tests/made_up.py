"""Results as the jobs of the experiments give them, made up: with the values here every claim of the small run holds and every control
fails."""

from ..experiments.llava import ONTO
from ..experiments.smollm2 import KINDS

SEEDS, LOOKED, TEST, ASKED = (0, 1, 2), 100, 150, 4  # pictures, and questions about each

KNOCKED = {
    "after": {"0": 0.97, "1": 0.97, "3": 0.7, "7": 0.975}, "before": {"0": 0.8, "1": 0.96, "7": 0.975}, "merge": {"7": 0.975},
    "up to": {"1": 0.975, "7": 0.1}, "from": {}, "onto": dict.fromkeys(map(str, ONTO), 0.97),
    "shallow": {"before": 0.6, "merge": 0.975, "highest": 0.98, "lowest": 0.98, "random": 0.98, "all but highest": 0.975},
    "middle": {"before": 0.7, "merge": 0.6, "highest": 0.8, "lowest": 0.97, "random": 0.96, "all but highest": 0.965}}
KEPT = {"attention": {"0": 0.5, "3": 0.85}, "value": {"3": 0.92}, "lot": {"0": 0.55, "3": 0.7}, "another lot": {"1": 0.6, "3": 0.7}}
EXIT = {"0": 0.3, "1": 0.4, "2": 0.5, "3": 0.8}
ARMS = {"dense": 0.98, "VisiPruner": 0.97, "no exit": 0.97, "attention at its K": 0.965, "lot at its K": 0.8, "another lot at its K": 0.8,
        "FastV": 0.9, "PyramidDrop": 0.9, "no boundary": 0.7, "paper's shallow stage": 0.965, "code's shallow stage": 0.965,
        "shallow, not the first": 0.965}


def bits(share: float, n: int) -> str:
    """So many of n right, spread over them; whoever gets more right gets the others' right ones, too."""
    return "".join("01"[i * 7919 % n < round(share * n)] for i in range(n))


def results(seeds=SEEDS, blocks=8, at=None, **changes) -> dict:
    """changes: shares by arm of `pruned`. at: for a model of another depth, {block of the tables above: block there}."""
    def moved(of: dict) -> dict:
        return {(at or {}).get(block, block): share for block, share in of.items()}

    n, m = LOOKED * ASKED, TEST * ASKED
    found: dict = {"features/val": {"pictures": 40}, "features/test": {
        "looked": {"pictures": [i % LOOKED for i in range(n)], "kinds": ["color"] * n},
        "test": {"pictures": [i % TEST for i in range(m)], "kinds": ["color"] * m}}}
    arms = ARMS | changes
    for seed in seeds:
        knocked: dict = {"model": {"name": f"seed{seed}"}, "dense": bits(0.98, n), "validation": {
            str(b): moved(KNOCKED["after"]).get(str(b), 0.98) for b in range(blocks)} | {"dense": 0.98}}
        for way, shares in KNOCKED.items():
            every = ("shallow", "middle", "onto")
            given = shares if way in every else {str(b): moved(shares).get(str(b), 0.98) for b in range(blocks)}
            knocked[way] = {name: bits(share, n) for name, share in given.items()}
        for where in ("shallow", "middle"):
            knocked[where] |= {"random again": bits(0.9, n), "merge, picture apart": bits(0.975, n), "before, picture apart": bits(0.6, n)}
        found[f"knocked/seed{seed}"] = knocked
        right = {str(b): bits(0.3 if b < blocks // 2 else 0.9 if b < blocks - 1 else 0.98, n) for b in range(blocks)}
        found[f"looked/seed{seed}"] = {
            "kept": {score: {str(b): bits(moved(of).get(str(b), 0.9), n) for b in range(blocks - 1)} for score, of in KEPT.items()},
            "exit": {str(b): bits(moved(EXIT).get(str(b), 0.98), n) for b in range(blocks - 1)},
            "sinks": {"ratio": {str(b): 0.3 for b in range(blocks)}, "attention": {str(b): 0.5 for b in range(blocks)},
                      "items": [0.3 + 0.01 * (i % 3) for i in range(n)], "by lot": [0.9 + 0.1 * (i % 3) for i in range(n)]},
            "lens": {"right": right, "another": {str(b): bits(0.1, n) for b in range(blocks)}}}
        found[f"pruned/seed{seed}"] = {
            "config": {"boundary": 3, "threshold": 0.05, "FastV": [3, 0.75], "PyramidDrop": [[1, 3, 5], 0.5]},
            "tried": {"VisiPruner": [], "pairs": [], "FastV": [], "PyramidDrop": []},
            "test": {arm: bits(share, m) for arm, share in arms.items()},
            "pairs": dict.fromkeys(arms, 0.14) | {"dense": 1.0, "no boundary": 0.7},
            "saved": [85.0 + i % 4 for i in range(m)], "filtered": 1.0, "filter": 4.0, "kept": 9.5, "exit": None,
            "curve": {name: [[0.1, 0.8], [0.3, 0.95]] for name in ("VisiPruner", "FastV", "PyramidDrop")},
            "shown": {"picture": 0, "text": "what digit ?", "answer": "9", "stages": [
                {"present": list(range(64)) if b < 5 else [3, 9], "share": [0.01 * (i % 7) for i in range(64 if b < 5 else 2)]}
                for b in range(blocks)]}}
    return found


def timed(pruned=1.6, masked=0.8, official=0.9, processes=3) -> dict:
    """Ratios to the dense prefill; rounds differ by a hundredth."""
    def process(i: int) -> dict:
        shares = {"dense / pruned": (pruned, 1.8), "dense / masked": (masked, 0.99), "dense / official": (official, 1.7)}
        rounds = [1.0, 1.01, 0.99, 1.0, 1.005]
        times = {"dense": [0.8 * r for r in rounds], "pruned": [0.5] * 5, "masked": [1.0] * 5, "official": [0.9] * 5}
        return {"settings": {"device": "cpu", "threads": 2, "torch": "2", "shape": "SmolLM2-135M", "dtype": "float32"},
                "flops": dict.fromkeys(times, 10**9), "times": times, "token layers": [19140, 10570], "difference": 1e-7, "rounds": 5,
                "load_average": 0.5, "ratios": {pair: {"median": value, "iqr": 0.01, "bound": bound, "ratios": [
                    value * r * (1 + 0.001 * i) for r in rounds]} for pair, (value, bound) in shares.items()}}

    return {f"speed/process{i}": process(i) for i in range(processes)}


def staged(middle=0.975, last=0.6, seconds=(1.0, 0.75)) -> dict:
    """Trainings with stages: shares of open questions, and seconds of a step, dense and staged."""
    found = {}
    for seed in SEEDS:
        n = TEST * ASKED
        for arm, share in (("dense", 0.98), ("middle", middle), ("last", last)):
            found[f"guideline/{arm}/seed{seed}"] = {"right": bits(share + 0.002 * seed * (arm == "middle"), n), "pictures": [0] * n}
        rounds = [1.0, 1.01, 0.99, 1.0, 1.005]
        found[f"guideline/middle/seed{seed}"]["seconds"] = {"dense": [seconds[0] * r for r in rounds], "staged": [
            seconds[1] * r * (1 + 0.001 * seed) for r in reversed(rounds)]}
    return found


# -- asked for ---------------------------------------------------------------------------------------------
EQUAL = {"dense": 0.98, "VisiPruner": 0.97, "lot at its K": 0.8, "FastV": 0.9, "PyramidDrop": 0.92}


def compared(**changes) -> dict:
    """Of one model: rivals at equal pairs."""
    m, arms = TEST * ASKED, EQUAL | changes
    return {"test": {arm: bits(share, m) for arm, share in arms.items()}, "pairs": dict.fromkeys(arms, 0.14) | {
        "FastV": 0.141, "dense": 1.0}, "settings": {"FastV": [3, 0.75], "PyramidDrop": [[1, 3, 5], 0.5]},
        "pictures": [i % TEST for i in range(m)]}


def equal(**changes) -> dict:
    return {f"equal/seed{seed}": compared(**changes) for seed in SEEDS}


FEW = {"value": 0.95, "attention": 0.92, "text": 0.88, "picture": 0.8, "lot": 0.7, "another lot": 0.7}


def budget(right=FEW, **changes) -> dict:
    """Every second question keeps ten tokens, the others thirty or all of them."""
    m = TEST * ASKED
    return {f"budget/seed{seed}": compared(**changes) | {
        "threshold": 0.1, "few": "10" * (m // 2), "kept": [10, 30, 10, None] * (m // 4),
        "right": {name: "".join(bit * 2 for bit in bits(share, m // 2)) for name, share in right.items()}} for seed in SEEDS}


def qwen3(**changes) -> dict:
    """One model, as the job gives it: the default run's results under another name, and its rivals at equal pairs."""
    own = results((0,), **changes)
    own["pruned/seed0"]["equal"] = compared()
    return {f"qwen3/{name}": of for name, of in own.items() if name != "features/val"}


def smollm2(kind=3, answer=20, **changes) -> dict:
    """One model of thirty layers; its last token speaks of the kind from one layer on, and of the answer from another."""
    own = results((0,), 30, {"2": "8", "3": "14", "7": "29"}, **changes)
    own["pruned/seed0"]["equal"] = compared()
    own["pruned/seed0"]["tried"]["VisiPruner"] = [
        {"boundary": b, "threshold": t, "agreement": a, "pairs": p} for b in range(-1, 28) for t, a, p in (
            (0.01, 0.98, min(0.7 + 0.01 * b, 1.0)), (0.2, 0.6, 0.1))]
    own["recognised/seed0"] = recognised(kind, answer)
    return {f"smollm2/{name}": of for name, of in own.items() if name != "features/val"}


def recognised(kind: int, answer: int, layers: int = 30) -> dict:
    words = dict(zip("abcdefghijklmnopqrstuvwx", [[word, of] for of, those in KINDS.items() for word in those]))
    of_kind = {of: [letter for letter, (_, other) in words.items() if other == of] for of in KINDS}
    kinds = [[*KINDS][i % 4] for i in range(TEST * ASKED)]
    answers = [of_kind[of][i // 4 % len(of_kind[of])] for i, of in enumerate(kinds)]

    def said(layer: int) -> str:
        if layer >= answer:
            return "".join(answers)
        if layer < kind:  # the first word of the next kind
            return "".join(of_kind[[*KINDS][([*KINDS].index(of) + 1) % 4]][0] for of in kinds)
        return "".join(of_kind[of][of_kind[of].index(right) - 1] for of, right in zip(kinds, answers))

    spoken = {str(layer): said(layer) for layer in range(layers)}
    return {"said": spoken, "another picture": spoken, "answer": "".join(answers), "words": words, "kinds": kinds,
            "pictures": [i // ASKED for i in range(TEST * ASKED)]}


def precision(half=1.0, coarse=0.9) -> dict:
    n = LOOKED * ASKED

    def way(share: float) -> dict:
        return {what: bits(share, n) for what in ("layer", "number", "tokens", "answer")} | {"overlap": [share] * (n // 2)}

    return {f"precision/seed{seed}": {"pictures": [i % LOOKED for i in range(n)], "filtered": "01" * (n // 2), "eager": way(1.0),
                                      "bfloat16": way(half), "bfloat16, influence too": way(coarse)} for seed in SEEDS}


def oracle(value=0.5, right=0.96) -> dict:
    n = LOOKED * ASKED
    rank = {"value": value, "attention": 0.3, "lot": 0.0, "another lot": 0.0}
    hits = {"dense": 0.98, "oracle": 0.965, "value": right, "attention": 0.9, "lot": 0.8, "another lot": 0.8}
    return {f"oracle/seed{seed}": {
        "pictures": [i % LOOKED for i in range(n)], "right": {name: bits(share, n) for name, share in hits.items()},
        "rank": {name: [mean + 0.01 * (i % 3) for i in range(n)] for name, mean in rank.items()},
        "shared": {name: [0.5] * n for name in rank}} for seed in SEEDS}
