"""The small models that GPE's experiments start from, committed, and how they were trained.

    standins/            three translators of toy languages: batch training on whole sentences, a CPU-minute each
    standins-speech/     three recognisers of spoken words behind a causal encoder, a minute and a half each

`make standins-gpe` trains them again; it ends where one has not learned its task. Those of further seeds (SEEDS=n) are trained
by the same functions where the cache lacks them.
"""

from __future__ import annotations

import argparse
import json

from . import recognisers, translators
from .recognisers import train_recogniser
from .translators import train_translator


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for seed in translators.COMMITTED:
        result = train_translator(seed)
        print(json.dumps({key: result[key] for key in ("seed", "bleu", "exact")}), flush=True)
        if result["bleu"] < 99:
            raise SystemExit(f"seed {seed} did not learn its language: BLEU {result['bleu']:.1f}")
    for seed in recognisers.COMMITTED:
        result = train_recogniser(seed)
        print(json.dumps({key: result[key] for key in ("seed", "wer")}), flush=True)
        if result["wer"] > 5:
            raise SystemExit(f"seed {seed} did not learn its words: WER {result['wer']:.1f} %")


if __name__ == "__main__":
    main()
