"""GPE's points on the streaming family's plane: BLEU against how far behind the reader writes.

Everything here streams by wait-k; what differs is where a token is told that it stands, and what is encoded again for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common.report.planes import Axis, Bench, Document, Recorded

from .experiments.multi30k import SWEPT
from .quantities_real import Pair

KS = ("1", "3", "5", "7")
LATENCY = Axis("LAAL, words behind the reader", "less")
# Shown name -> (arm, how its weights are streamed, the family's method that it is).
ARMS = {
    "GPE, group positions": ("group", "stream", "GPE"),
    "interleaved by arrival": ("interleaved", "stream", "wait-k"),
    "frozen positions, no re-encoding": ("batch_streaming", "stream", "wait-k"),
    "its keys and values encoded again": ("batch_streaming", "kv_reencoding", "re-encoding"),
    "trained with re-encoding": ("kv_reencoding", "stream", "re-encoding"),
    "positions re-encoded": ("position_reencoding", "stream", "re-encoding"),
}
LONGER = ("GPE, group positions", "interleaved by arrival", "frozen positions, no re-encoding")  # tuned with the long budget, too

EVERY_SEED = ("One small translator of Multi30k a seed, tuned for the same steps on the same captions by every arm (interleaved streaming "
              "at the best of three rates on validation captions), then scored on the same 500 test captions at wait-1, 3, 5 and 7.")


def planes(recorded: Recorded) -> Iterator[Bench]:
    yield toy(recorded["text"], 60, tuple(ARMS))
    yield toy(recorded["text"], 200, LONGER)
    yield captions(recorded["multi30k"], "de", "German")
    yield captions(recorded["multi30k"], "fr", "French")
    yield spoken(recorded["speech"])


def toy(of: Document, steps: int, names: tuple[str, ...]) -> Bench:
    bench = Bench("streaming", f"gpe-toy-{steps}", f"Toy translation, {steps} steps of tuning",
                  f"One small translator a seed, tuned for {steps} steps on the same sentences by every arm, then scored on the "
                  f"same unseen "
                  "sentences at wait-1, 3, 5 and 7. BLEU near 100 is the ceiling: there the arms cannot be told apart.", LATENCY,
                  Axis("BLEU", "more", possible=(0.0, 100.0)))
    for name in names:
        arm, way, method = ARMS[name]
        start = f"text/{arm}, {steps} steps"
        bench.curve(of, name, [(f"k = {k}", partial(of.over, start, way, k, "LAAL"), partial(of.over, start, way, k, "bleu"))
                               for k in KS], method)
    whole = partial(of.over, "text/untuned", "kv_reencoding")
    bench.curve(of, "batch model, everything encoded again", [
        (f"k = {k}", partial(whole, k, "LAAL"), partial(whole, k, "bleu")) for k in KS], "re-encoding")
    return bench


def captions(of: Document, language: str, name: str) -> Bench:
    bench = Bench("streaming", "gpe-multi30k" if language == "de" else f"gpe-multi30k-{language}", f"Multi30k, English to {name}",
                  EVERY_SEED, LATENCY, Axis("BLEU", "more", possible=(0.0, 100.0)))

    def read(arm: str, way: str, k: str, what: str) -> dict:
        job = f"multi30k/en-{language}"
        if arm == SWEPT:
            of.seeds(f"{job}/untuned")  # where nothing is recorded there is nothing to choose from
            arm = f"{arm}, {Pair(of.results or {}, language).best_rate():g}"
        return of.over(f"{job}/{arm}", way, k, what)

    ways = {shown: ARMS[shown] for shown in (*LONGER, "its keys and values encoded again")}
    ways["batch model, everything encoded again"] = "untuned", "kv_reencoding", "re-encoding"
    for shown, (arm, way, method) in ways.items():
        bench.curve(of, shown, [(f"k = {k}", partial(read, arm, way, k, "LAAL"), partial(read, arm, way, k, "bleu")) for k in KS], method)
    return bench


def spoken(of: Document) -> Bench:
    bench = Bench("streaming", "gpe-speech", "Spoken words, recognised while they are heard",
                  "One small recogniser a seed, the same recordings.", Axis("LAAL, ms behind the speaker", "less"),
                  Axis("word error rate, %", "less"))
    for name, arm, method in (("GPE, group positions", "phi 0", "GPE"), ("interleaved by arrival", "interleaved", "wait-k")):
        start = f"speech/{arm}"
        ks = sorted((of.at(f"{start}/seed0", "stream") if f"{start}/seed0" in of else {"1": None}), key=int)
        bench.curve(of, name, [(f"k = {k}", partial(of.over, start, "stream", k, "LAAL"), partial(of.over, start, "stream", k, "wer"))
                               for k in ks], method)
    return bench
