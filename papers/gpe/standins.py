"""Train the committed small models again: three batch translators (standins/, a CPU-minute each) and three batch recognisers
of speech (standins-speech/, a minute and a half each). `make standin-gpe`; it ends where one has not learned its task."""

from __future__ import annotations

import argparse
import json

from . import speech_experiment, text_experiment


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for seed in text_experiment.SIZES["cpu"].seeds:
        result = text_experiment.train_base(seed)
        print(json.dumps({key: result[key] for key in ("seed", "bleu", "exact")}), flush=True)
        if result["bleu"] < 99:
            raise SystemExit(f"seed {seed} did not learn its language: BLEU {result['bleu']:.1f}")
    for seed in speech_experiment.SIZES["cpu"].seeds:
        result = speech_experiment.train_base(seed)
        print(json.dumps({key: result[key] for key in ("seed", "wer")}), flush=True)
        if result["wer"] > 5:
            raise SystemExit(f"seed {seed} did not learn its words: WER {result['wer']:.1f} %")


if __name__ == "__main__":
    main()
