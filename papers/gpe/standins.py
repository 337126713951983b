"""The small models that GPE's experiments start from, committed, and how they were trained.

    standins/            three translators of toy languages: batch training on whole sentences, a CPU-minute each
    standins-speech/     three recognisers of spoken words behind a causal encoder, a minute and a half each
    standins-captions/   two translators of real captions, en-de and en-fr, some twenty minutes each (captioners.py)

`make standins-gpe` trains the first two again; it ends where one has not learned its task. `python -m papers.gpe.standins --captions`
trains the third (NINEFOLD_DATA). Those of further seeds (SEEDS=n) are trained by the same functions where the cache lacks them.
"""

from __future__ import annotations

import argparse
import json

from . import captioners, recognisers, translators
from .recognisers import train_recogniser
from .translators import train_translator


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", action="store_true", help="train the translators of captions instead (forty minutes of a core)")
    if parser.parse_args(argv).captions:
        return captioners.main(["--anew"])
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
