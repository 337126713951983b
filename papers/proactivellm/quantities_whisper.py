"""From results on real parts (experiments/whisper.py) to what their claims measure, as quantities.py has it for the small models."""

from __future__ import annotations

from statistics import fmean

from common.claims.intervals import paired

from .quantities import LOTS, READ_ALL, Runs, Translation, claim


def chunks_cost(heard: dict, way: str) -> dict:
    """Points of word error rate over the stock encoder, utterance by utterance: errors in units of the mean utterance, so that the mean
    of the differences is the difference of the two rates. Clustered by speaker, whose voice and takes utterances share: the six of
    the recordings are fewer clusters than carry a verdict, and a finer label would count one voice several times."""
    scale = 100 / fmean(heard["words"])
    return paired(*([scale * errors for errors in heard["ways"][which]["errors"]] for which in (way, "stock")),
                  clusters=heard["speakers"])


def whisper(results: dict, size: str = "cpu") -> dict[str, dict]:
    words, spoken, heard = Translation(results, "whisper/words"), Runs(results, "whisper/spoken"), results["whisper/heard"]

    answer = 3 * spoken.item()  # of a spoken question one word is the whole answer; item() is for answers of three units

    def over_lots(seed: int, arm: str) -> float:
        return words.quality(seed, arm) - words.quality(seed, LOTS)

    def whole(runs: Runs) -> tuple:
        return lambda seed, arm: runs.whole(seed, arm)["quality"], "full"

    return {
        "C21a": chunks_cost(heard, "480 ms") | {"placebo": chunks_cost(heard, "one chunk"), "baselines": {
            f"WER, {way}": found["wer"] for way, found in heard["ways"].items()}},
        "C11u": claim(words.seeds, "C11u", words.lag_at_its_quality, "full", READ_ALL, 0.01, {
            "quality kept in %": (words.early_kept, "full"), "AIL in s": (lambda s, a: words.early(s, a)["AIL s"], "full"),
            "batch quality": whole(words)}),
        "C11v": claim(words.seeds, "C11v", over_lots, "full", "batch only", words.item(), {"RCO": (words.context, "full")}),
        "C10u": claim(spoken.seeds, "C10u", spoken.kept, "full", "batch only", answer, {
            "RCO": (spoken.context, "full"), "batch quality": whole(spoken)}),
        "C10v": claim(spoken.seeds, "C10v", spoken.over_wait, "full", LOTS, answer),
    }


def facts(results: dict) -> tuple[list, list]:
    """Whisper, and the stand-in that the arms started from; n: utterances that Whisper was asked, and those of each task and seed."""
    runs = [run for name, run in results.items() if "/full/" in name and "batch" in run]
    asked = [len(results["whisper/heard"]["words"]), *(run["batch"]["n"] for run in runs)]
    return [results[name]["model"] for name in ("whisper/heard", "whisper/standin")], [{"name": "FSDD", "split": "test", "n": sum(asked)}]
