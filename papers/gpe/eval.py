"""What GPE's claims are measured by: `python -m papers.gpe.eval` is what `make reproduce-gpe` runs.

Rungs: `cpu` (two cores, seven minutes: toy translation in every arm, timings), `smoke` (the same at tiny sizes, and speech), `gpu`
(real size, random weights), `paper` (the paper's models and data); the exact claims are part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import captioners, pictures, quantities, quantities_ratios, quantities_real, tables
from .experiments import multi30k, paper, ratios, speech, speed, text

HERE = Path(__file__).parent
WHOLE = ("statistics", "sentences")  # per-sentence lists: kept in the cache, too long to commit


def text_facts(results: dict) -> tuple[list, list]:
    """The models that the run started from: committed stand-ins, and those of further seeds."""
    return [results[f"text/untuned/seed{seed}"]["model"] for seed in tables.text_seeds(results)], []


def speech_facts(results: dict) -> tuple[list, list]:
    found = [results[f"speech/phi 0/seed{seed}"] for seed in tables.speech_seeds(results)]
    return [result["model"] for result in found], [found[0]["data"]]


def caption_facts(results: dict) -> tuple[list, list]:
    return [result["model"] for name, result in results.items() if name.startswith("multi30k/") and "/untuned/" in name], []


EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("text", "cpu", quantities.text, text.jobs, tables=tables.text, pictures=pictures.text, document="cpu-small",
               left_out=WHOLE, minutes=6, facts=text_facts),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.speed, pictures=pictures.speed, alone=True,
               document="speed", minutes=1),
    Experiment("ratios", "cpu", quantities_ratios.live, ratios.jobs, tables=tables.ratios, asked=True, alone=True,
               claims=("C16a", "C16b"), document="ratios", minutes=3),
    Experiment("speech", "cpu", quantities.speech, speech.jobs, tables=tables.speech, pictures=pictures.speech, asked=True,
               claims=("C7a", "C7b"), document="speech", left_out=WHOLE, minutes=9, draws=("speech_latency.svg",),
               facts=speech_facts),
    Experiment("digits", "cpu", None, speech.digit_jobs, tables=tables.digits, asked=True, document="digits", left_out=WHOLE,
               minutes=8, data=(speech.DIGITS,)),
    Experiment("multi30k", "cpu", quantities_real.multi30k, multi30k.jobs, tables=tables.multi30k, pictures=pictures.real, asked=True,
               claims=("C1g", "C1h", "C1i", "C4b", "C5c", "C6e", "C6f", "C6g", "C6h", "C8b", "C9c", "C9d"), document="multi30k",
               left_out=WHOLE, minutes=90, data=multi30k.data_files(), draws=("multi30k.svg",), facts=caption_facts,
               ready=captioners.ready),
    Experiment("gpu", "gpu", quantities.gpu, run=speed.gpu, minutes=10,
               document="gpu-random-weights", needs="one CUDA device"),
    Experiment("paper", "paper", quantities.paper, run=paper.measured, document="paper-scale",
               needs="the paper's models and data, trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
