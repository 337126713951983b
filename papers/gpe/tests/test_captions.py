"""Real captions: what is trained on is not what validates or tests, a base is what its recipe says, and each job is the arm that it says,
from the base, on the same captions. Small files of captions, written here; trainings are real, of a few steps."""

import dataclasses
import gzip
import json
import types

import pytest
import torch
from safetensors.torch import load_file

from common.errors import DataError, ModelError
from common.models import Loaded, ModelSpec, load
from common.runs.sources import closure

from .. import captioners, captions, method, standins
from ..experiments import multi30k

KS = (1, 3, 5, 7)
LINES = {"train": 12, "val": 3, "test_2016_flickr": 5}
COPIES = {4: "val en number 1 .", 7: "test_2016_flickr en number 4 ."}  # rows of training that are captions of another split


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Multi30k's files in small: which side and split a line is of is in the line."""
    folder = tmp_path / "translation"
    folder.mkdir()
    for split, count in LINES.items():
        for side in ("en", "de", "fr"):
            lines = [f"{split} {side} number {i} ." for i in range(count)]
            if (split, side) == ("train", "en"):
                lines = [COPIES.get(i, line) for i, line in enumerate(lines)]
            (folder / f"multi30k.{split}.{side}.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(captioners, "CAPTIONERS", tmp_path / "committed")
    return tmp_path


@pytest.fixture
def base(data, monkeypatch):
    """captioner(language, seed) of the experiment: a random model, another for each language and seed, every time a fresh one."""
    def captioner(language, seed):
        words = captions.tokenizer([text for pair in captions.pairs(language, "train") for text in pair], 300)
        config = captions.CONFIG | {"vocab_size": len(words), "tie_word_embeddings": False, "initializer_range": 0.3}  # which writes
        start = load(ModelSpec("random", config=config, seed=10 * seed + ("de", "fr").index(language)))
        return Loaded(start.model, words, {"name": f"base {language} {seed}"})

    monkeypatch.setattr(multi30k, "captioner", captioner)
    monkeypatch.setattr(captions, "MAX_TARGET", 10)
    return captioner


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- the captions ------------------------------------------------------------------------------------------
def test_no_caption_of_validation_or_test_is_trained_on(data):
    for language in ("de", "fr"):
        train = captions.pairs(language, "train")
        assert train == [(f"train en number {i} .", f"train {language} number {i} .") for i in range(12) if i not in COPIES]
        for split in ("val", "test_2016_flickr"):
            held = captions.pairs(language, split)
            assert held == [(f"{split} en number {i} .", f"{split} {language} number {i} .") for i in range(LINES[split])]
            assert not {english for english, _ in held} & {english for english, _ in train}
    rows = captions.Captions(KS, "fr", 4, seed=3)
    assert (rows.ks, rows.batch_size, rows.seed, rows.max_tokens, rows.instruction) == (list(KS), 4, 3, 160, "")
    assert rows.pairs("train") == train and rows.pairs("validation") == captions.pairs("fr", "val")
    words = captions.tokenizer(["a b"], 300)
    assert [e.reference for e in captions.examples(words, "fr", "test_2016_flickr", 3)] == [
        f"test_2016_flickr fr number {i} ." for i in range(3)]


def test_a_file_that_is_not_there_is_named(data):
    (data / "translation" / "multi30k.val.fr.gz").unlink()
    with pytest.raises(DataError, match="multi30k.val.fr.gz is missing"):
        captions.pairs("fr", "train")
    with pytest.raises(DataError, match="multi30k.val.fr.gz is missing"):
        captioners.key("fr", 1)
    assert captions.names("de") == tuple(f"translation/multi30k.{split}.{side}.gz" for split in LINES for side in ("en", "de"))


def test_streams_come_in_the_order_of_the_captions_whatever_goes_together(base):
    loaded = base("de", 0)
    with gzip.open(captions.files("de", "val")[0], "rt") as file:
        assert file.readline() == "val en number 0 .\n"
    some = [captions.Template.of(loaded.tokenizer, "").example(*pair) for pair in
            (("a b c d e f g h", "x y"), ("a", "x"), ("a b c d", "x y z"), ("a b", "x"))]
    for k in (1, 3, None):
        whole = [s.words for s in captions.caption_streams(loaded.model, loaded.tokenizer, method.arm("group"), some, k)]
        assert whole == [captions.caption_streams(loaded.model, loaded.tokenizer, method.arm("group"), [e], k)[0].words for e in some]
        assert whole == [s.words for s in captions.caption_streams(loaded.model, loaded.tokenizer, method.arm("group"), some, k, rows=2)]
    assert len({str(words) for words in whole}) > 1, "all answers alike: their order would not show"


# -- the base ----------------------------------------------------------------------------------------------
SIX = dataclasses.replace(captions.SIZES["smoke"], steps=6)


def test_a_killed_training_goes_on_and_is_the_unbroken_one(data, monkeypatch):
    monkeypatch.setattr(captions, "SIZES", {"smoke": SIX})
    fit = captions.fit_resumably
    monkeypatch.setattr(captions, "fit_resumably", lambda *given: fit(*given, every=2))
    learnt, tokenizer = [], captions.tokenizer
    monkeypatch.setattr(captions, "tokenizer", lambda lines, pieces: learnt.append(list(lines)) or tokenizer(lines, pieces))
    card = captions.train_captioner("de", 3, data / "unbroken", data / "work", size="smoke", bar=False)
    assert learnt == [[text for pair in captions.pairs("de", "train") for text in pair]]
    step, seen = captions.BatchTraining.training_step, []

    def killed(self, batch, index):
        seen.append(self.global_step)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(captions.BatchTraining, "training_step", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        captions.train_captioner("de", 3, data / "broken", data / "other", size="smoke", bar=False)
    assert not (data / "broken").exists() and (data / "other" / "last.ckpt").is_file()
    assert captions.train_captioner("de", 3, data / "broken", data / "other", size="smoke", bar=False) == card
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5], "it went on after the fourth step"
    assert same(*(load_file(data / name / "model.safetensors") for name in ("unbroken", "broken")))
    assert len(card["curve"]) == 1 and card["training pairs"] == 10 and card["validation captions"] == 3 and card["parameters"] > 100_000


def test_a_base_is_in_half_precision_with_its_words_and_its_score_is_of_what_was_saved(data):
    card = captions.train_captioner("fr", 0, data / "base", data / "work", size="smoke", bar=False)
    assert json.loads((data / "base" / "training.json").read_text()) == card
    assert (card["language"], card["seed"], card["steps"]) == ("fr", 0, 2)
    assert {t.dtype for t in load_file(data / "base" / "model.safetensors").values()} == {torch.float16}
    loaded = load(ModelSpec(str(data / "base")))
    assert loaded.tokenizer("train fr")["input_ids"] == captions.tokenizer(
        [text for pair in captions.pairs("fr", "train") for text in pair], 300)("train fr")["input_ids"]
    held = captions.examples(loaded.tokenizer, "fr", "val", 4)
    assert captions.whole_bleu(loaded.model, loaded.tokenizer, held) == card["bleu"]


def test_a_base_that_has_not_learnt_its_task_is_refused_and_leaves_nothing(data, monkeypatch):
    scored = iter((26.0, 24.9, 26.0, 25.0))
    monkeypatch.setattr(captions, "whole_bleu", lambda *given: next(scored))
    monkeypatch.setattr(captions, "SIZES", {"cpu": dataclasses.replace(captions.SIZES["smoke"], least=captions.SIZES["cpu"].least)})
    with pytest.raises(ModelError, match="en-de, seed 1, gets 24.9 BLEU on whole validation captions and needs 25"):
        captioners.made("de", 1)
    assert not captioners.folder_of("de", 1).exists()
    assert captioners.made("de", 1)["bleu"] == 25.0, "at the bar, by the weights as they are saved"


def test_committed_bases_and_those_of_further_seeds(data, monkeypatch):
    monkeypatch.setattr(captions, "SIZES", {"cpu": captions.SIZES["smoke"]})
    assert captioners.folder_of("de", 0) == data / "committed" / "en-de-seed0"
    with pytest.raises(ModelError, match="en-de-seed0 of papers/gpe/standins-captions is missing.*--captions"):
        captioners.captioner("de", 0)
    first = captioners.captioner("fr", 2)
    folder = captioners.folder_of("fr", 2)
    assert folder.parent == data / "cache" / "standins-gpe" and folder.is_dir() and list(folder.parent.iterdir()) == [folder]
    run = json.loads((folder / "training.json").read_text())["run"]
    assert run["command"] == "python -m papers.gpe.captioners --languages fr --seeds 2" and {"commit", "dirty", "environment"} <= run.keys()
    assert (lambda one: (one["run"]["commit"], one["run"]["dirty"]))(captioners.made("de", 2, code=("abc", False))) == ("abc", False)
    monkeypatch.setattr(captioners, "train_captioner", None)  # is not asked again
    assert same(weights(first.model), weights(captioners.captioner("fr", 2).model))
    names = {captioners.folder_of(language, seed) for language in ("de", "fr") for seed in (0, 1, 2)}
    assert len(names) == 6
    with gzip.open(captions.files("fr", "val")[1], "at") as file:
        file.write("another\n")
    assert captioners.folder_of("fr", 2) != folder, "other captions make another base"


def test_a_base_is_named_by_what_makes_it_and_not_by_those_that_are_there():
    made_of = {path.name for path in closure("papers.gpe.captions")}
    assert {"captions.py", "data.py", "module.py", "method.py", "decoding.py", "steps.py", "fit.py"} <= made_of
    assert not {"captioners.py", "training.json", "model.safetensors", "multi30k.py", "quantities_real.py"} & made_of


def test_standins_trains_captioners_only_when_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(captioners, "git_state", lambda: ("abc", False))
    monkeypatch.setattr(captioners, "made", lambda *given, **named: asked.append((given, named)) or dict.fromkeys(
        ("language", "seed", "steps", "bleu", "bleu before rounding")))
    monkeypatch.setattr(standins, "train_translator", lambda seed: asked.append(seed) or {"seed": seed, "bleu": 100.0, "exact": 1.0})
    monkeypatch.setattr(standins, "train_recogniser", lambda seed: asked.append(seed) or {"seed": seed, "wer": 0.0})
    standins.main([])
    assert asked == [0, 1, 2, 0, 1, 2]
    asked.clear()
    standins.main(["--captions"])
    assert asked == [((language, 0, True), {"bar": True, "code": ("abc", False)}) for language in ("de", "fr")]


# -- the jobs ----------------------------------------------------------------------------------------------
RATES = ("0.0003", "0.001", "0.003")
ROWS = {"untuned": {}, **{f"interleaved, {rate}": {"arm": "interleaved", "rate": float(rate), "held": True} for rate in RATES},
        **{arm: {"arm": arm} for arm in ("interleaved_group", "batch_streaming", "finished_frozen", "group", "no_source_positions",
                                         "no_target_positions", "no_positions")},
        **{f"group, phi {phi}": {"arm": "group", "phi": phi} for phi in (0.5, 64, 256)}, "batch": {}}


def test_every_arm_of_every_seed_is_a_job_of_the_files_that_it_reads(data, monkeypatch):
    monkeypatch.setattr(multi30k, "SIZES", {"cpu": dataclasses.replace(multi30k.SIZES["cpu"], seeds=(0, 2))})
    made = {job.name: job for job in multi30k.jobs("cpu")}
    expected = {f"multi30k/en-{language}/{name}/seed{seed}": {"language": language, "seed": seed, "size": "cpu", **more}
                for language in ("de", "fr") for seed in (0, 2) for name, more in ROWS.items()}
    bases = {f"multi30k/en-{language}/base/seed2": {"language": language, "seed": 2, "size": "cpu"} for language in ("de", "fr")}
    assert {name: job.arguments for name, job in made.items()} == expected | bases
    for name, job in made.items():
        language = name.partition("/en-")[2][:2]
        assert [path.rpartition("/translation/")[2] for path in job.data] == [
            f"multi30k.{split}.{side}.gz" for split in LINES for side in ("en", language)]
        needs = () if "base" in name or name.endswith("seed0") else (f"multi30k/en-{language}/base/seed2",)
        assert job.after == needs, name
        assert getattr(multi30k, job.function.partition(":")[2]) is {
            "base": multi30k.base, "untuned": multi30k.untuned, "batch": multi30k.tune_batch}.get(name.split("/")[2], multi30k.tune)
    assert len({job.key() for job in made.values()}) == len(made)


@pytest.fixture
def watched(base, monkeypatch):
    """Trainings, and what was scored: (model, arm, references, ks)."""
    seen = types.SimpleNamespace(trained=[], scored=[])
    fit, forward = multi30k.fit, method.forward

    def watched_fit(module, rows, steps):
        module.configure_model()
        at = types.SimpleNamespace(module=module, data=rows, steps=steps, before=weights(module.model), arms=set())
        seen.trained.append(at)
        monkeypatch.setattr(method, "forward", lambda model, arm, *more: at.arms.add(arm) or forward(model, arm, *more))
        return fit(module, rows, steps)

    def measure(loaded, arm, some, ks=KS):
        seen.scored.append((weights(loaded.model), arm, [e.reference for e in some], ks))
        return {str(k or "batch"): f"score {len(seen.scored)}" for k in ks}

    monkeypatch.setattr(multi30k, "fit", watched_fit)
    monkeypatch.setattr(multi30k, "measure", measure)
    return seen


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("untuned", "batch")])
def test_an_arm_is_the_arm_from_the_base_on_captions_of_training(watched, base, name):
    given = {"phi": 0.0, "rate": 1e-3} | ROWS[name]
    result = multi30k.tune("fr", 2, size="smoke", **ROWS[name])
    (trained,) = watched.trained
    assert same(trained.before, weights(base("fr", 2).model)) and not same(trained.before, weights(base("de", 2).model))
    module, rows = trained.module, trained.data
    assert (module.arm_name, module.phi, module.learning_rate, trained.steps, rows.language) == (
        given["arm"], given["phi"], given["rate"], 2, "fr")
    assert (rows.ks, rows.seed, rows.batch_size) == (list(KS), 1002, 4)
    own, again = method.arm(given["arm"], given["phi"]), method.arm("kv_reencoding")
    assert trained.arms == {own}
    test, held = [f"test_2016_flickr fr number {i} ." for i in range(4)], [f"val fr number {i} ." for i in range(3)]
    asked = [(own, test, KS), (own, test, (None,))]
    asked += [(own, held, KS)] * (given["arm"] == "interleaved") + [(again, test, KS)] * (name == "batch_streaming")
    assert [tuple(of[1:]) for of in watched.scored] == asked
    assert all(same(of[0], weights(module.model)) for of in watched.scored) and not same(trained.before, weights(module.model))
    ways = {"loss", "stream", "batch"} | {"validation"} & {"validation" if given["arm"] == "interleaved" else ""}
    assert result.keys() == ways | ({"kv_reencoding"} if name == "batch_streaming" else set())
    assert result["stream"] == dict.fromkeys(map(str, KS), "score 1") and result["batch"] == {"batch": "score 2"}


def test_what_is_not_an_arm(watched, base, monkeypatch):
    monkeypatch.setattr(multi30k, "card", lambda language, seed: f"card of {language} {seed}")
    whole, again, test = method.arm("contiguous"), method.arm("kv_reencoding"), [f"test_2016_flickr de number {i} ." for i in range(4)]
    result = multi30k.untuned("de", 1, "smoke")
    assert not watched.trained and [tuple(of[1:]) for of in watched.scored] == [(whole, test, (None,)), (again, test, KS)]
    assert all(same(of[0], weights(base("de", 1).model)) for of in watched.scored)
    assert (result["model"], result["base"], result["test sentences"]) == ({"name": "base de 1"}, "card of de 1", 4)
    watched.scored.clear()
    multi30k.tune_batch("de", 1, "smoke")
    (trained,) = watched.trained
    assert (trained.module.arm_name, trained.data.ks, trained.data.seed, trained.steps) == ("contiguous", [None], 1001, 2)
    assert trained.arms == {whole}
    assert [tuple(of[1:]) for of in watched.scored] == [(whole, test, (None,))]
    assert same(watched.scored[0][0], weights(trained.module.model))


def test_a_job_really_runs_and_repeats_itself(base):
    found = multi30k.tune("de", 0, "batch_streaming", size="smoke")
    assert set(found["stream"]) == set(found["kv_reencoding"]) == {"1", "3", "5", "7"} and set(found["batch"]) == {"batch"}
    assert {"bleu", "LAAL", "truncated", "words", "statistics"} <= found["stream"]["3"].keys()
    assert found["stream"]["3"]["words"] == 4 * 5 and len(found["stream"]["3"]["statistics"]) == 4
    assert multi30k.tune("de", 0, "batch_streaming", size="smoke") == found
