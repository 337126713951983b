"""The arm is the arm, for what test_experiments.py does not reach: cards, recorded speech, the paper's sizes and the timings."""

import json
from pathlib import Path
from types import SimpleNamespace as Of

import pytest
import torch

from common.streaming.units import Example

from .. import method
from ..analytic import EXAMPLE, SMOLLM2_135M, cost
from ..decoding import Streamed
from ..experiments import multi30k, paper, speech, speed


def test_a_card_says_all_that_the_training_says_of_a_base(tmp_path, monkeypatch):
    names = ("seed", "steps", "parameters", "bleu", "validation captions", "training pairs")
    (tmp_path / "training.json").write_text(json.dumps({name: f"its {name}" for name in (*names, "wer", "more")}))
    monkeypatch.setattr(multi30k, "folder_of", lambda language, seed: tmp_path if (language, seed) == ("fr", 2) else None)
    assert multi30k.card("fr", 2) == {name: f"its {name}" for name in names}
    made = []
    monkeypatch.setattr(speech, "recogniser", made.append)
    monkeypatch.setattr(speech, "recogniser_folder", lambda seed: tmp_path if seed == 5 else None)
    assert speech.standin(5) == {name: f"its {name}" for name in ("seed", "steps", "wer")} and made == [5], "trained first"


def test_words_are_those_of_the_bank_that_is_tested(monkeypatch):
    """`banks` are (training, test)."""
    monkeypatch.setattr(speech, "SpokenWords", lambda bank, seed: Of(banks=lambda: (None, Of(facts=lambda: (bank, seed)))))
    assert speech.words("fsdd") == ("fsdd", 0)


def test_recorded_speech_is_tuned_and_asked_with_its_own_bank_and_recogniser(monkeypatch):
    made, asked = [], []
    module = Of(configure_model=lambda: None, projector=Of(load_state_dict=lambda state: asked.append(state)), model="model")

    def training(spec, arm, phi, rate, **how):
        made.append((spec.name, arm, phi, rate, how))
        return module

    monkeypatch.setattr(speech, "StreamingTraining", training)
    monkeypatch.setattr(speech, "recogniser", lambda seed, folder: (Of(source=(seed, str(folder))), Of(state_dict=lambda: "projector")))
    monkeypatch.setattr(speech, "fit", lambda module, data, steps: [9.0] * 5 + [1.0] * 10)
    monkeypatch.setattr(speech, "data", lambda *of, **how: asked.append((of, how)))
    monkeypatch.setattr(speech, "speech_scores", lambda *of: of)
    monkeypatch.setattr(speech, "SpokenWords", lambda bank, seed: Of(banks=lambda: (None, Of(facts=lambda: (bank, seed)))))
    found, s = speech.tune(3, 64, "group", "smoke", "fsdd", "a folder"), speech.SIZES["smoke"]
    assert made == [("a folder", "group", 64, 1e-3, {"weight_decay": 0.01, "beta2": 0.98, "warmup_steps": 5, "features": speech.FEATURES,
                                                     "seed": 3})]
    assert asked == ["projector", ((3, "fsdd", speech.KS, s.steps, s.batch), {"first": speech.TUNE_FROM})]
    of = ("model", module.projector, method.arm("group", 64), 3, "fsdd", s.test)
    assert found == {"model": (3, "a folder"), "data": ("fsdd", 3), "loss": 1.0, "stream": (*of, speech.KS), "batch": (*of, (None,))}


# -- the paper's sizes -------------------------------------------------------------------------------------
def test_a_translation_may_be_as_long_as_its_source_allows_prompts_left_out(monkeypatch):
    monkeypatch.setattr(paper, "LONGEST", (10, 7))
    assert paper._most(Of(source_units=[3, 1, 2, 5, 4])) == 10 * (1 + 2 + 5) + 7


@pytest.mark.parametrize("arm, k, alone", [("kv_reencoding", 3, True), ("kv_reencoding", None, False), ("group", 3, False),
                                           ("group", None, False)])
def test_only_kv_reencoding_streams_a_sentence_at_a_time_and_all_come_back_in_their_order(arm, k, alone, monkeypatch):
    monkeypatch.setattr(paper, "BATCH", 2)
    monkeypatch.setattr(paper, "progress", lambda rows, what: rows)
    asked, examples = [], [Example.of_units([[0], [1] * n, [2]], [[3], [4], [5]]) for n in (5, 2, 9)]

    def streams(model, arm, batch, boundary, k, max_target):
        asked.append(([e.source_units[1] for e in batch], k, max_target))
        return [Streamed(words=[[e.source_units[1]]]) for e in batch]

    monkeypatch.setattr(paper, "stream", streams)
    monkeypatch.setattr(paper, "_session", lambda model, arm, e, boundary, template, k: asked.append((e.source_units[1], k)) or Streamed(
        words=[[e.source_units[1]]]))
    found = paper.translate(None, method.arm(arm), examples, None, None, k)
    assert [of.words for of in found] == [[[5]], [[2]], [[9]]]
    assert asked == ([(n, k) for n in (5, 2, 9)] if alone else [([2, 5], k, [3 * 2 + 64, 3 * 5 + 64]), ([9], k, [3 * 9 + 64])])


def test_runs_are_looked_for_where_trainings_leave_them(monkeypatch):
    monkeypatch.delenv("GPE_RUNS", raising=False)
    assert paper.runs_folder() == Path("lightning_logs/gpe")
    monkeypatch.setenv("GPE_RUNS", "elsewhere")
    assert paper.runs_folder() == Path("elsewhere")


def test_captions_are_scored_with_their_delays_and_with_how_many_were_cut(monkeypatch):
    streams = [Of(text=lambda words: f"{words} a", delays=[1, 2], truncated=True), Of(text=lambda words: "b", delays=[3], truncated=False)]
    monkeypatch.setattr(multi30k, "caption_streams", lambda *of: streams if of[:4] == ("model", "words", "arm", "some") else None)
    monkeypatch.setattr(multi30k, "scores", lambda texts, delays, some, truncated: (texts, delays, some, truncated))
    row = (["words a", "b"], [[1, 2], [3]], "some", 1)
    assert multi30k.measure(Of(model="model", tokenizer="words"), "arm", "some", (3, None)) == {"3": row, "batch": row}


# -- timings -----------------------------------------------------------------------------------------------
def test_a_case_of_two_processes_by_hand():
    """k = 3: a READ's time is the middle of both processes', the first fifth is behind the first READ, the last before the end."""
    modes, words = ("group", "kv", "again"), EXAMPLE.n
    runs = [{"modes": {mode: {"seconds": base + number, "per_read": [base + i for i in range(words)], "bytes": 7} for number, mode in
                       enumerate(modes)}, "load_average": base} for base in (1.0, 3.0)]
    found, fifth = speed._case(runs, EXAMPLE, SMOLLM2_135M, 3, modes), max(words // 5, 1)
    costs = {mode: cost(EXAMPLE, 3, {"again": "group"}.get(mode, mode)) for mode in modes}
    assert found["load_average"] == 3.0 and found["words"] == words
    assert found["flops_ratio"] == SMOLLM2_135M.flops(costs["kv"]) / SMOLLM2_135M.flops(costs["group"]) > 1
    per_read = [2.0 + i for i in range(words)]
    middle = fifth // 2 if fifth % 2 else (fifth - 1) / 2
    for number, mode in enumerate(modes):
        row = found["modes"][mode]
        assert row["seconds"] == [1.0 + number, 3.0 + number] and row["per_read"] == per_read and row["cache_bytes"] == 7
        assert (row["fed"], row["pairs"]) == (costs[mode].fed, costs[mode].pairs)
        assert row["first_fifth"] == per_read[1] + middle and row["last_fifth"] == per_read[words - fifth - 3] + middle


def test_a_document_says_of_what_a_timing_is_and_what_no_time_was_left_for(monkeypatch):
    long, asked = EXAMPLE.times(3), []
    found = iter([{EXAMPLE.n: {"modes": {"group": {"seconds": [1.0]}}}, long.n: {"modes": {"group": {"seconds": [2.0]}}}},
                  {EXAMPLE.n: {"modes": {"group": {"seconds": [3.0]}}}}])
    monkeypatch.setattr(speed, "in_a_process", lambda call, shape, **how: asked.append(how) or next(found))
    monkeypatch.setattr(speed, "facts", lambda device: {"device": device})
    monkeypatch.setattr(speed, "_case", lambda cases, sentence, shape, k, modes: (sentence.n, len(cases), k))
    document = speed.measure(SMOLLM2_135M, device="cpu", dtype="float64", factors=(1, 3), modes=("group",), k=2, processes=2, threads=5,
                             time_limit=9.0, log=lambda text: None)
    assert document.pop("seconds") >= 0 and document == {
        "device": "cpu", "shape": SMOLLM2_135M.name, "dtype": "float64", "k": 2, "threads": 5, "processes": 2,
        "cases": {f"{EXAMPLE.n} words": (EXAMPLE.n, 2, 2)}, "not_run": [{"words": long.n, "reason": "no time left"}],
        "shortest": f"{EXAMPLE.n} words", "longest": f"{EXAMPLE.n} words"}
    assert asked == [{"device": "cpu", "dtype": "float64", "factors": (1, 3), "modes": ("group",), "k": 2, "rounds": 1, "threads": 5,
                      "time_limit": 9.0}] * 2


def test_a_timing_says_how_it_was_taken_and_for_how_long(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "measure", lambda shape, **how: asked.append((shape, how)) or "timed")
    monkeypatch.setattr(speed, "time_allowed", lambda seconds: seconds)
    s, gpu = speed.SIZES["cpu"], speed.SIZES["gpu"]
    assert speed.measure_cpu() == speed.measure_cpu(time_limit=5.0, out=tmp_path) == "timed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert speed.measure_gpu() == speed.measure_gpu(time_limit=5.0, out=tmp_path) == "timed"
    sized = [dict(factors=of.factors, modes=of.modes, rounds=of.rounds, processes=of.processes, threads=of.threads) for of in (s, gpu)]
    rows = [({k: how[k] for k in sized[0]}, how["device"], how["dtype"], how["time_limit"], how["out"]) for _, how in asked]
    assert rows == [(sized[0], "cpu", "float32", s.seconds, None), (sized[0], "cpu", "float32", 5.0, tmp_path),
                    (sized[1], "cuda", "bfloat16", gpu.seconds, None), (sized[1], "cuda", "bfloat16", 5.0, tmp_path / "speed.json")]
    assert [shape for shape, _ in asked] == [s.shape] * 2 + [gpu.shape] * 2
