"""What the jobs compute, without a training or a tower: which arm on which pictures, and who is asked what. What is dear is replaced
by what notes how it was called."""

from types import SimpleNamespace as Of

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from common.data import easyvqa, hard_scenes, scenes
from common.seeds import seed_of
from common.standins import llava as standins

from .. import known_words, probing
from ..experiments import committed, llava, probes, smollm2, speed, stages, trained
from ..method import Stages, few, layer_set

LAYERS = tuple(range(1, 13))


def functions(found):
    return {job.name: (job.function.rpartition(":")[2], job.arguments, job.after) for job in found}


# -- arms --------------------------------------------------------------------------------------------------
def test_every_arm_has_the_kind_the_layers_and_what_varies():
    def told(arm):
        config = arm.config()
        return (config.position, config.pattern, config.variant, config.layers, arm.pictures, arm.tower, arm.decoder)

    plain = {"default": few("default", (11,), 12), "default three times": few("default three times", (11, 11, 11), 12)}
    ours = ("external", "direct", "pre")
    expected = {name: (*ours, of, 4000, "dinov2", "llama") for name, of in (plain | {
        "late region": few("late region", (9, 10, 11), 12)}).items()}
    for kind in ("external direct", "external modular", "internal direct", "internal modular"):
        for name in ("single", "triple", "latter", "all"):
            expected[f"{kind}, {name}"] = (*kind.split(), "pre", layer_set(name, 12), 4000, "dinov2", "llama")
    assert {name: told(arm) for name, arm in (trained.LONG | trained.MORE).items()} == expected
    first = {*plain, "late region", *(f"{kind}, {name}" for kind in trained.KINDS for name in ("triple", "latter"))}
    assert {*trained.LONG} == first and not {*trained.LONG} & {*trained.MORE}
    read = {name: trained.fusion_layers(arm) for name, arm in trained.LONG.items()}
    assert (read["default"], read["default three times"], read["late region"]) == ((11,), (11,), (9, 10, 11))
    assert trained.LONG["default"].config() != trained.LONG["default three times"].config()
    triple = layer_set("triple", 12)
    variants = {f"internal modular, {v}": ("internal", "modular", v, triple, 4000, "dinov2", "llama") for v in ("post", "parallel")}
    for kind in ("external direct", "internal direct"):
        variants |= {f"{kind}, {n} pictures": (*kind.split(), "pre", triple, n, "dinov2", "llama") for n in (1000, 2000)}
    for what, tower, decoder in (("random tower", "random", "llama"), ("Qwen3", "dinov2", "qwen3")):
        for name in (*plain, "triple"):
            variants[f"{name}, {what}"] = (*ours, plain.get(name, triple), 4000, tower, decoder)
    assert {name: told(arm) for name, arm in trained.VARIANTS.items()} == variants
    names = (*plain, "external direct, triple", "internal direct, triple")
    assert {name: told(arm) for name, arm in smollm2.ARMS.items()} == {name: expected[name] for name in names}


def test_jobs_wait_for_the_features_of_their_tower(monkeypatch):
    monkeypatch.setitem(trained.SIZES, "two", trained.Size((0, 4), 1, 1, 1, 1, 1))
    def expected(name, arms):
        towers = {arm.tower for arm in arms.values()}
        found = {f"{name}/features/{of}": ("features", {"of": name, "tower_of": of, "size": "two"}, ()) for of in towers}
        return found | {f"{name}/{arm}/seed{seed}": ("trained", {"of": name, "arm": arm, "seed": seed, "size": "two"},
                                                     (f"{name}/features/{arms[arm].tower}",)) for arm in arms for seed in (0, 4)}

    long = expected("long", trained.LONG)
    assert functions(trained.long_jobs("two")) == long
    assert functions(trained.more_jobs("two")) == long | expected("long-more", trained.MORE), "a claim about all sets reads both"
    beside = {arm: trained.LONG[arm] for arm in ("external direct, triple", "internal direct, triple", "internal modular, triple")}
    assert functions(trained.variant_jobs("two")) == expected("long", beside) | expected("variants", trained.VARIANTS)
    monkeypatch.setitem(smollm2.SIZES, "two", smollm2.Size((0, 4), 1, 1, 1, 1, 1, 1))
    features = ("features", {"size": "two"}, ())
    assert functions(smollm2.jobs("two")) == {"smollm2/features/dinov2": features} | {
        f"smollm2/{arm}/seed{seed}": ("run", {"arm": arm, "seed": seed, "size": "two"}, ("smollm2/features/dinov2",))
        for arm in smollm2.ARMS for seed in (0, 4)}
    monkeypatch.setitem(committed.SIZES, "two", committed.Size((0, 9), 1))
    assert functions(committed.jobs("two")) == {"committed/features": ("features", {"size": "two"}, ())} | {
        f"committed/seed{s}": ("looked", {"seed": s, "size": "two"}, ("committed/features",)) for s in (0, 9)}
    monkeypatch.setitem(llava.SIZES, "two", llava.Size((0, 9), 1))
    assert functions(llava.jobs("two")) == {"llava/features": ("features", {"size": "two"}, ()), "stand-in/seed9": (
        "made", {"seed": 9}, ())} | {f"llava/seed{s}": ("looked", {"seed": s, "size": "two"}, ("llava/features", f"stand-in/seed{s}"))
                                     for s in (0, 9)}
    monkeypatch.setitem(probes.SIZES, "two", probes.Size(2, 1, 1, 1))
    assert functions(probes.jobs("two")) == {f"probes/{look}/seed{probes.FIRST_SEED + i}": (
        "probed", {"look": look, "seed": probes.FIRST_SEED + i, "size": "two"}, ()) for look, i in (("easy", 0), ("easy", 1), ("hard", 0))}
    assert functions(stages.jobs()) == {f"stages/{of}": ("found", {"weights": of, "size": "cpu"}, ()) for of in ("pretrained", "random")}
    assert [*functions(speed.jobs())] == [f"speed/process{i}" for i in range(3)] and len(speed.jobs("smoke")) == 1


# -- a training: what it reads, how long, and what it is asked -----------------------------------------------
@pytest.fixture
def fitted(monkeypatch, tmp_path):
    """What a training would have been; its losses are 0 to 119."""
    seen = {}

    class Trainer:
        def __init__(self, **options):
            seen["trainer"] = options

        def fit(self, module, loader, ckpt_path):
            seen.update(module=module, ckpt_path=ckpt_path, steps=loader.dataset)
            module.losses = [float(i) for i in range(120)]
            module.curve = [(float(i), 2.0 * i) for i in range(120)]
            for callback in seen["trainer"]["callbacks"]:
                if type(callback).__name__ == "Halfway":
                    for step in (9, 10, 11):
                        callback.on_train_batch_end(Of(global_step=step), None, None, None, 0)

    monkeypatch.setattr(L, "Trainer", Trainer)
    for module, training in ((trained, "Training"), (smollm2, "Adapting")):
        monkeypatch.setattr(module, "cache_dir", lambda: tmp_path)
        monkeypatch.setattr(module, "resume_from", lambda work: ("last", 3))
        monkeypatch.setattr(module, "FromStep", lambda rows, done, steps: (rows, done, steps))
        monkeypatch.setattr(module, "DataLoader", lambda data, batch_size: Of(dataset=data) if batch_size is None else None)
        monkeypatch.setattr(module, "keeper", lambda work, every: ("keeper", every))
        monkeypatch.setattr(module, "HardRows", lambda *of: of)
        monkeypatch.setattr(module, "save", lambda model, path, *card: seen.update(saved=(model, path, *card)) or {"file": "hash"})
        both = [nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(3), False)]
        monkeypatch.setattr(module, training, lambda *of, both=both: Of(made_with=of, parameters=lambda: iter(both), decoder=nn.Identity()))
    return seen


@pytest.mark.parametrize("arm, count", [("external direct, triple", 7), ("external direct, 1000 pictures", 4), ("triple, random tower", 7)])
def test_a_training_reads_training_scenes_and_is_tested_at_half_and_at_the_end(arm, count, fitted, monkeypatch):
    how = trained.Size((4,), 4, 12, 5, 7, 3)
    monkeypatch.setitem(trained.SIZES, "stub", how)
    if "1000" in arm:
        monkeypatch.setitem(trained.VARIANTS, arm, trained.Arm("external direct", "triple", pictures=4))
    of = (trained.LONG | trained.VARIANTS)[arm]
    asked, shown, made = [], [], []
    whole = torch.arange(7)[:, None, None].expand(7, 2, 12).half()
    monkeypatch.setattr(trained, "shown", lambda *of: shown.append(of) or trained.Columns(whole, of[-1]))
    monkeypatch.setattr(trained, "Small", lambda *of: made.append(of) or Of(fusion=nn.Linear(2, 3), tokenizer="words", prefix=[1]))
    monkeypatch.setattr(trained, "tested", lambda *of, ours=False: asked.append((*of, ours)) or {"test": "0111"[: 2 + 2 * ours]})
    monkeypatch.setattr(trained, "scenes_of", lambda split, count, shifted=False: (split, count, shifted))
    monkeypatch.setattr(trained, "closure", lambda name: [])
    found = trained.trained("long", arm, 4, "stub")
    assert shown == [("train", of.tower, "stub", (2, 9, 11))]
    (fusion, decoder, seed, sample, layers), = made
    assert (fusion, decoder, seed, layers) == (of.config(), of.decoder, 4, (2, 9, 11)) and sample.shape == (count, 2, 3)
    assert sample[:, 0, 0].tolist() == list(range(count))
    rows, done, steps = fitted["steps"]
    assert rows[0] == ("train", count, False) and rows[2:] == ("words", [1], 4, 16, 4, 5) and rows[1].layers == layers
    assert (done, steps, fitted["ckpt_path"]) == (3, 16, "last")
    options = fitted["trainer"]
    assert (options["max_steps"], options["gradient_clip_val"], options["accelerator"], options["max_epochs"]) == (16, 1.0, "cpu", -1)
    assert options["callbacks"][1] == ("keeper", 16) and [type(p).__name__ for p in options["plugins"]] == ["WholeCheckpoints"]
    assert found == {"parameters": 9, "half": {"test": 0.5}, "end": {"test": "0111"}, "loss": [24.5, 84.5], "all": [28.5, 86.5],
                     "looked up": [57.0, 173.0]}  # of steps 4 and on, 50 and 66 of them
    assert [(of_arm, s, size, ours) for _, of_arm, s, size, ours in asked] == [(of, how, "stub", False), (of, how, "stub", True)]
    model, path = fitted["saved"]
    assert model is fitted["module"].made_with[0] and (path.parent / "half.json").is_file() and path.name == "model.safetensors"


def test_what_is_shown_is_of_its_split(monkeypatch):
    monkeypatch.setitem(trained.SIZES, "stub", trained.Size((4,), 1, 1, 1, 3, 2))
    monkeypatch.setattr(trained.tower, "features", lambda name, images, layers: (name, len(images), layers, [i.tobytes() for i in images]))
    monkeypatch.setattr(trained.tower, "encode", lambda model, images, layers: ("encoded", model, len(images), layers))
    monkeypatch.setattr(trained, "random_tower", lambda: "random")

    def images(split, count, shifted=False):
        return [hard_scenes.scene(i, split, shifted=shifted).image().tobytes() for i in range(count)]

    easy = [easyvqa.image("test", number).tobytes() for number, _ in known_words.pictures(2)]
    for which, expected in (("train", images("train", 3)), ("test", images("test", 2)), ("shifted", images("test", 2, True)),
                            ("easy-VQA", easy)):
        found = trained.shown(which, "dinov2", "stub", (3, 11))
        assert found.features == (f"layerfusion-hard-{which}", len(expected), LAYERS, expected)
        assert (found.layers, found.there) == ((3, 11), LAYERS)
    found = trained.shown("shifted", "random", "stub", (3, 11))
    assert found.features == ("encoded", "random", 2, (3, 11)) and found.there == found.layers == (3, 11), "no layer that nobody reads"


def test_what_is_asked_and_what_a_blind_model_would_get(monkeypatch):
    monkeypatch.setitem(trained.SIZES, "stub", trained.Size((4,), 1, 1, 1, 9, 5))
    seen = []
    monkeypatch.setattr(trained, "shown", lambda *of: seen.append(of))
    found = trained.features("long", "dinov2", "stub")
    assert seen == [(which, "dinov2", "stub", LAYERS) for which in ("train", "test", "shifted", "easy-VQA")]
    seen.clear()
    assert trained.features("long", "random", "stub") == found and not seen
    draw = np.random.default_rng(31)
    rows = {"test": [hard_scenes.one_of_each_kind(hard_scenes.scene(i, "test"), draw) for i in range(5)],
            "easy-VQA": [row for _, row in known_words.pictures(5)]}
    assert trained.asked(5) == rows
    draw = np.random.default_rng(41)
    known = [q for i in range(9) for q in hard_scenes.some(hard_scenes.scene(i), draw, 12)]
    for which, of in rows.items():
        every = [q for row in of for q in row]
        assert found[which]["pictures"] == [i for i, row in enumerate(of) for _ in row] and found[which]["kinds"] == [q.kind for q in every]
        assert found[which]["blind"] == "".join("01"[a == q.answer] for a, q in zip(scenes.blind(known, every), every))
    train = [hard_scenes.scene(i) for i in range(9)]
    assert found["nats"] == {"all": trained.nats(train, hard_scenes.KINDS),
                             "looked up": trained.nats(train, ("color", "shape", "row", "column"))}
    assert {*found} == {"nats", "test", "easy-VQA"} and trained.bits([True, False]) == "10"


def test_the_loss_without_a_picture_by_hand(monkeypatch):
    """Two scenes; of a text that both ask with two answers .693 is left, of one that each asks nothing."""
    pools = {"a": {"digit": [scenes.Question("digit", "same ?", "1")], "row": [scenes.Question("row", "a ?", "1")]},
             "b": {"digit": [scenes.Question("digit", "same ?", "2")], "row": [scenes.Question("row", "b ?", "2"),
                                                                              scenes.Question("row", "a ?", "2")]}}
    monkeypatch.setattr(trained.hard_scenes, "by_kind", lambda of: pools[of])
    assert trained.nats(["a", "b"], ["digit"]) == pytest.approx(np.log(2)) and trained.nats(["a"], ["digit", "row"]) == 0
    thirds = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))  # "a ?": half a draw says 1, a quarter says 2
    assert trained.nats(["a", "b"], ["row"]) == pytest.approx(0.75 * thirds)
    assert trained.nats(["a", "b"], ["digit", "row", "tens"]) == pytest.approx((np.log(2) + 0.75 * thirds) / 2)


def test_columns_are_of_the_layers_asked_for():
    whole = torch.arange(2 * 3 * 24, dtype=torch.float32).view(2, 3, 24).half()
    found = trained.Columns(whole, (2, 11))
    assert torch.equal(found[1], torch.cat([whole[1, :, 2:4], whole[1, :, 20:22]], -1)) and found[:].shape == (2, 3, 4)
    few_there = trained.Columns(whole[..., :6], (9, 2), (2, 9, 11))
    assert torch.equal(few_there[0], torch.cat([whole[0, :, 2:4], whole[0, :, :2]], -1)) and len(few_there) == 2


def test_added_layers_are_of_the_next_picture_and_the_main_one_is_not():
    own = torch.arange(3.0)[:, None, None].expand(3, 2, 6).clone()
    found = trained.of_another(own, 11, (2, 9, 11))
    assert found[:, 0].tolist() == [[2, 2, 2, 2, 0, 0], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 2, 2]]
    assert torch.equal(trained.of_another(own, 11, (11,)), own)


def test_tests_are_of_unseen_scenes_in_eval_mode(monkeypatch):
    marks = {"test": 1.0, "shifted": 2.0, "easy-VQA": 3.0}
    monkeypatch.setattr(trained, "shown", lambda which, tower_of, size, layers: trained.Columns(
        torch.full((2, 1, 12), marks[which]), layers) if (tower_of, size, layers) == ("random", "stub", (1, 3)) else None)
    monkeypatch.setattr(trained, "of_another", lambda own, main, layers: own + 10 * main)
    monkeypatch.setattr(trained, "asked", lambda count: {"test": f"{count} hard", "easy-VQA": f"{count} easy"})
    decoder, fusion = nn.Dropout(), nn.Dropout()
    model = Of(decoder=decoder, fusion=fusion, layers=(1, 3), hidden="way")
    asked = []

    def accuracy(of, pictures, questions, way):
        asked.append((of, pictures.unique().tolist(), questions, way, decoder.training, fusion.training))
        return [[True, False], [True, len(asked) == 1]]

    monkeypatch.setattr(standins, "accuracy", accuracy)
    arm = Of(tower="random", config=lambda: Of(layers=Of(main=3)))
    found = trained.tested(model, arm, trained.Size((4,), 1, 1, 1, 3, 2), "stub")
    expected = [(model, [x], questions, "way", False, False) for x, questions in ((1.0, "2 hard"), (2.0, "2 hard"), (3.0, "2 easy"))]
    assert asked == expected and found == {"test": "1011", "shifted": "1010", "easy-VQA": "1010"}
    assert decoder.training and fusion.training
    asked.clear()
    assert {*trained.tested(model, arm, trained.Size((4,), 1, 1, 1, 3, 2), "stub", ours=True)} == {*found, "another picture"}
    assert asked == [*expected, (model, [31.0], "2 hard", "way", False, False)]


# -- a pretrained decoder ----------------------------------------------------------------------------------
def test_the_pretrained_decoder_is_trained_as_long_on_as_much(fitted, monkeypatch):
    how, made, seen = smollm2.Size((4,), 4, 12, 5, 3, 2, 6, "of long"), [], []
    monkeypatch.setitem(smollm2.SIZES, "stub", how)
    source = {"name": "SmolLM2"}
    monkeypatch.setattr(smollm2, "load", lambda spec: Of(model=Of(float=lambda: "float32"), tokenizer="own", source=source))
    monkeypatch.setattr(smollm2.llava_smollm2, "words", lambda tokenizer: f"words of {tokenizer}")
    monkeypatch.setattr(smollm2, "shown", lambda *of: seen.append(of) or trained.Columns(torch.zeros(7, 2, 12), of[-1]))
    how_attending = []
    monkeypatch.setattr(smollm2, "Reader", lambda *of: made.append(of) or Of(
        tokenizer="words", prefix=[1], decoder=Of(set_attn_implementation=how_attending.append)))
    monkeypatch.setattr(smollm2, "scenes_of", lambda split, count: (split, count))
    monkeypatch.setattr(smollm2, "closure", lambda name: [])
    asked = []
    monkeypatch.setattr(smollm2, "tested", lambda model, of, s: asked.append((of, s)) or {"test": "01"})
    found = smollm2.run("external direct, triple", 4, "stub")
    (decoder, words, arm, seed, sample, layers, rank), = made
    of = smollm2.ARMS["external direct, triple"]
    assert (decoder, words, arm, seed, layers, rank) == ("float32", "words of own", of, 4, (2, 9, 11), 2) and how_attending == ["eager"]
    rows, done, steps = fitted["steps"]
    assert rows[0] == ("train", 7) and rows[2:] == ("words", [1], 4, 16, 4, 5, 3) and (done, steps) == (3, 16)
    assert seen == [("train", "dinov2", "of long", (2, 9, 11))] and sample.shape == (7, 2, 3)
    options = fitted["trainer"]
    assert (options["max_steps"], options["gradient_clip_val"], options["precision"]) == (16, 1.0, "bf16-mixed")
    assert options["callbacks"] == [("keeper", 16)] and asked == [(of, how)]
    assert found == {"end": {"test": "01"}, "all": [28.5, 86.5], "looked up": [57.0, 173.0], "trained": 5, "made": {"file": "hash"}}
    _, path, card = fitted["saved"]
    assert path.name == "model" and (card["arm"], card["seed"], card["base"], card["right"]) == (
        "external direct, triple", 4, source, {"test": 0.5})


def test_what_it_is_asked_is_of_the_first_pictures(monkeypatch):
    monkeypatch.setitem(smollm2.SIZES, "stub", smollm2.Size((4,), 1, 1, 1, 1, 1, 2, "of long"))
    whole = {"pictures": [0, 0, 1, 2, 2], "kinds": ["color", "row", "row", "color", "row"], "blind": "10110"}
    monkeypatch.setattr(trained, "features", lambda *of: {"nats": 1.0, "test": whole, "easy-VQA": whole} if of == (
        "smollm2", "dinov2", "of long") else None)
    cut = {"pictures": [0, 0, 1], "kinds": ["color", "row", "row"], "blind": "101"}
    assert smollm2.features("stub") == {"nats": 1.0, "test": cut, "easy-VQA": cut}
    assert trained.asked(3)["test"][:2] == trained.asked(2)["test"] and trained.asked(3)["easy-VQA"][:2] == trained.asked(2)["easy-VQA"]


def test_it_is_tested_on_unseen_scenes_in_both_looks(monkeypatch):
    marks = {"test": 1.0, "shifted": 2.0}
    monkeypatch.setattr(smollm2, "shown", lambda which, tower_of, features, layers: trained.Columns(
        torch.full((9, 1, 12), marks[which]), layers) if (tower_of, features) == ("dinov2", "of long") else None)
    monkeypatch.setattr(smollm2, "of_another", lambda own, main, layers: own + 10 * main)
    monkeypatch.setattr(smollm2, "asked", lambda count: {"test": f"{count} hard"})
    model, asked = Of(decoder=nn.Dropout(), fusion=nn.Dropout(), layers=(1, 3), hidden="way"), []

    def accuracy(of, pictures, questions, way, batch):
        asked.append((pictures.unique().tolist(), len(pictures), questions, way, of.decoder.training, of.fusion.training))
        return [[True, len(asked) == 3]]

    monkeypatch.setattr(standins, "accuracy", accuracy)
    found = smollm2.tested(model, smollm2.ARMS["default"], smollm2.Size((4,), 1, 1, 1, 1, 1, 3, "of long"))
    assert asked == [([x], 3, "3 hard", "way", False, False) for x in (1.0, 2.0, 111.0)]
    assert found == {"test": "10", "shifted": "10", "another picture": "11"}


def test_the_committed_pretrained_model_is_asked_as_the_others_are(monkeypatch):
    monkeypatch.setitem(committed.SIZES, "stub", committed.Size((4,), 3))
    pictures = {name: torch.arange(3.0)[:, None, None] + 10 * k for k, name in enumerate(("test", "again", "hard"))}
    rows = [[scenes.Question("digit", "what digit ?", "1")], [scenes.Question("row", "row of red ?", "2")] * 2]
    monkeypatch.setattr(llava, "shown", lambda count: pictures if count == 3 else None)
    monkeypatch.setattr(llava, "asked", lambda count: {"test": rows, "hard": None})
    assert committed.features("stub") == {"test": {"pictures": [0, 1, 1], "kinds": ["digit", "row", "row"]}}
    monkeypatch.setattr(committed, "swapped", lambda own, other, k, layers: (
        "swapped", own.flatten().tolist(), other.flatten().tolist(), k, layers))
    monkeypatch.setattr(llava, "bits", lambda hits: next(iter(hits)))
    model = Of(source="source")
    monkeypatch.setattr(committed.llava_smollm2, "opened", lambda folder: model if folder.name == "seed4" else None)
    monkeypatch.setattr(standins, "accuracy", lambda of, shown, questions, batch: [[(
        shown.flatten().tolist() if torch.is_tensor(shown) else shown, questions)]] if of is model else None)
    found = committed.looked(4, "stub")
    assert (found["model"], found["test"]) == ("source", ([0, 1, 2], rows))
    for name, other in (("another picture", [2, 0, 1]), ("drawn again", [10, 11, 12])):
        assert found[name] == {str(k): (("swapped", [0, 1, 2], other, k, (2, 9, 11)), rows) for k in (2, 9, 11)}


# -- the committed models ----------------------------------------------------------------------------------
def test_layers_are_swapped_with_another_picture_and_with_the_same_drawn_again(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "stub", llava.Size((4,), 3))
    pictures = {name: torch.arange(3.0)[:, None, None] + 10 * k for k, name in enumerate(("test", "again", "hard"))}
    monkeypatch.setattr(llava, "shown", lambda count: pictures if count == 3 else None)
    monkeypatch.setattr(llava, "asked", lambda count: {"test": "test questions", "hard": "hard questions"})
    monkeypatch.setattr(llava, "swapped", lambda own, other, k, layers: (
        "swapped", own.flatten().tolist(), other.flatten().tolist(), k, layers))
    monkeypatch.setattr(llava, "bits", lambda hits: next(iter(hits)))
    model = Of(source="source")
    monkeypatch.setattr(standins, "folder_of", lambda seed: seed)
    monkeypatch.setattr(standins, "load_llava", lambda folder, tower: model if (folder, tower) == (4, False) else None)
    monkeypatch.setattr(standins, "accuracy", lambda of, shown, questions: [[(shown.flatten().tolist() if torch.is_tensor(shown) else shown,
                                                                             questions)]] if of is model else None)
    found = llava.looked(4, "stub")
    assert (found["model"], found["test"], found["hard"]) == ("source", ([0, 1, 2], "test questions"), ([20, 21, 22], "hard questions"))
    for name, other in (("another picture", [2, 0, 1]), ("drawn again", [10, 11, 12])):
        assert found[name] == {str(k): (("swapped", [0, 1, 2], other, k, llava.LAYERS), "test questions") for k in llava.LAYERS}


def test_what_the_committed_models_are_asked(monkeypatch):
    monkeypatch.setitem(llava.SIZES, "stub", llava.Size((4,), 2))
    of, draw = llava.drawn(2), np.random.default_rng(21)
    assert of["test"] == [scenes.scene(i, "test") for i in range(2)] and of["hard"] == [hard_scenes.scene(i, "test") for i in range(2)]
    assert [s.noise for s in of["again"]] == [seed_of("again", i) for i in range(2)]
    test = [scenes.one_of_each_kind(s, draw) for s in of["test"]]
    hard = [hard_scenes.one_of_each_kind(s, draw) for s in of["hard"]]
    assert llava.asked(2) == {"test": test, "hard": hard} and llava.bits([True, False]) == "10"
    seen = []
    monkeypatch.setattr(llava.tower, "features", lambda name, images, layers: seen.append((name, len(images), layers)))
    assert llava.features("stub") == {name: {"pictures": [i for i, row in enumerate(rows) for _ in row], "kinds": [
        q.kind for row in rows for q in row]} for name, rows in (("test", test), ("hard", hard))}
    assert seen == [(f"layerfusion-{name}", 2, llava.LAYERS) for name in ("test", "again", "hard")]


# -- stages ------------------------------------------------------------------------------------------------
def test_cuts_are_of_one_half_of_the_pictures_and_scores_of_the_other(monkeypatch):
    monkeypatch.setitem(stages.SIZES, "stub", stages.Size(4, 3, 7))
    draw = torch.Generator().manual_seed(0)
    each = [torch.rand(4, 4, generator=draw) for _ in range(4)]
    crops, looked = [torch.rand(4, 4, generator=draw) for _ in range(3)], []

    def similarities(model, images, size):
        looked.append((model, [image.shape for image in images], size))
        return each if size == 112 else crops

    monkeypatch.setattr(stages, "similarities", similarities)
    monkeypatch.setattr(stages.tower, "dinov2", lambda: "real")
    monkeypatch.setattr(stages, "random_tower", lambda: "random")
    monkeypatch.setattr(stages, "norms", lambda model, seed: (model, seed))
    monkeypatch.setattr(stages, "find_stages", lambda of: Stages(
        ((1, 1 + int(10 * of[0, 1])), (3, 11), (12, 14)), (2, 5, 8), float(of[0, 1])))
    monkeypatch.setattr(stages, "stage_score", lambda of, edges: (float(of[0, 0]), edges))
    monkeypatch.setattr(stages, "permuted_scores", lambda of, orders, seed: [float(of[1, 1]) + i * (seed % 97) for i in range(orders)])
    mean, photos = torch.stack(each[:2]).mean(0), torch.stack(crops).mean(0)
    for weights, model in (("pretrained", "real"), ("random", "random")):
        looked.clear()
        found = stages.found(weights, "stub")
        assert looked == [(model, [(64, 64, 3)] * 4, 112), (model, [(168, 168, 3)] * 3, 224)] and found["norms"] == (model, 20)
    edges = [0, 1 + int(10 * mean[0, 1]), 11, 14]
    assert found["scores"] == [(float(of[0, 0]), edges) for of in each[2:]]
    null = [[float(of[1, 1]) + i * (seed_of("orders", n) % 97) for i in range(7)] for n, of in enumerate(each[2:])]
    assert found["permuted"] == [pytest.approx(np.quantile(values, 0.99)) for values in null]
    assert found["one order"] == [float(of[1, 1]) for of in each[2:]]
    assert found["cuts by picture"] == [[1 + int(10 * of[0, 1]), 11] for of in each[2:]] and found["cuts"] == [edges[1], 11]
    assert (found["medoids"], found["score"]) == ([2, 5, 8], float(mean[0, 1]))
    assert found["photographs"] == {"cuts": [1 + int(10 * photos[0, 1]), 11], "medoids": [2, 5, 8], "score": float(photos[0, 1])}
    assert found["similarity"] == [[round(v, 4) for v in row] for row in mean.tolist()]
    order = torch.randperm(4, generator=torch.Generator().manual_seed(20))
    assert found["cuts of one order"] == [1 + int(10 * mean[order[0], order[1]]), 11]


# -- probes ------------------------------------------------------------------------------------------------
def test_sets_are_sums_of_layers_and_controls_of_another_picture():
    """Gram matrices of three training and two test pictures; those of another picture are the same pictures in another order."""
    draw = torch.Generator().manual_seed(0)
    seen = {name: {"number": torch.randn(12, n, 5, generator=draw, dtype=torch.float64)}
            for name, n in (("train", 6), ("test", 4), ("shifted", 4))}
    found = {(group, name): of for group, name, of in probes.considered(seen, "number", 7)}
    own = {k: probing.standardised(seen["train"]["number"][k - 1], {n: seen[n]["number"][k - 1] for n in ("test", "shifted")})
           for k in LAYERS}
    orders, turn = {}, torch.Generator().manual_seed(7)
    for name, n in (("train", 6), ("test", 4), ("shifted", 4)):
        orders[name] = torch.randperm(n, generator=turn)

    def gram(views, k, where="train", other=False):
        train, tests = views[k]
        test = train if where == "train" else tests[where]
        if other:
            train, test = train[orders["train"]], test[orders[where]]
        return test @ train.T

    for where in ("train", "test", "shifted"):
        def of(key, where=where):
            return found[key].train if where == "train" else found[key].tests[where]

        for k in LAYERS:
            assert torch.allclose(of(("layers", str(k))), gram(own, k, where))
        for name, layers in probes.SETS.items():
            assert torch.allclose(of(("sets", name)), sum(gram(own, k, where) for k in layers)), name
        for name, layers in (("triple", (2, 9, 11)), ("medoids", (4, 8, 11)), ("all", LAYERS)):
            swapped = sum(gram(own, k, where, k != 11) for k in layers)
            assert torch.allclose(of(("controls", f"{name}, added layers of another picture")), swapped)
        assert torch.allclose(of(("controls", "triple of another picture")), sum(gram(own, k, where, True) for k in (2, 9, 11)))
    assert probes.SETS["medoids"] == (4, 8, 11) and probes.SETS["default"] == (11,) and len(found) == 12 + 13 + 2 + 4
    assert probes.MEANS == {"former, means": ((1, 2, 3, 4, 5, 6), (11,)), "all, means": (LAYERS[:6], LAYERS[6:], (11,))}


@pytest.mark.parametrize("look", ["easy", "hard"])
def test_probes_are_fitted_on_training_pictures_and_scored_on_test_pictures(look, monkeypatch):
    monkeypatch.setitem(probes.SIZES, "stub", probes.Size(1, 1, 5, 4))
    monkeypatch.setattr(probes.tower, "dinov2", lambda: "tower")
    viewed, fitted = [], []
    monkeypatch.setattr(probes, "views", lambda some, model: viewed.append((some, model)) or {"of": some})
    monkeypatch.setattr(probes, "considered", lambda seen, place, seed: [(group, name, (place, seed, seen)) for group, name in (
        ("layers", "1"), ("sets", "default"), ("controls", "c"))])

    class Ridge:
        def __init__(self, of):
            self.place, self.seed, self.seen = of

        def accuracies(self, labels, tests):
            fitted.append((self.place, labels, tests))
            return {name: 0.123456 + len(fitted) for name in tests}

    monkeypatch.setattr(probes, "Ridge", Ridge)
    found = probes.probed(look, 7, "stub")
    drawn = {"train": probes.drawn(look, "train", 5, 7), "test": probes.drawn(look, "test", 4, 7)}
    if look == "hard":
        drawn["shifted"] = [hard_scenes.scene(i, "test", 7, True) for i in range(4)]
        assert drawn["train"] == [hard_scenes.scene(i, "train", 7) for i in range(5)]
    else:
        assert drawn["train"] == [scenes.scene(i, "train", 7) for i in range(5)]
    assert viewed == [(some, "tower") for some in drawn.values()]
    kinds = [(place, kind) for place, of in probes.PLACES[look].items() for kind in of]
    for number, (place, labels, tests) in enumerate(fitted):
        kind = next(k for p, k in kinds if p == place and labels == [probes.label(of, k) for of in drawn["train"]])
        assert tests == {name: [probes.label(of, kind) for of in some] for name, some in drawn.items() if name != "train"}, number
    assert len(fitted) == 3 * len(kinds) and found["counts"] == [5, 4]
    for _, kind in kinds:
        classes = [probes.label(of, kind) for of in drawn["test"]]
        assert found["chance"][kind] == max(classes.count(c) for c in classes) / 4
    assert {group: {name: {*of} for name, of in found[group].items()} for group in ("layers", "sets", "controls")} == {
        group: {name: {kind for _, kind in kinds}} for group, name in (("layers", "1"), ("sets", "default"), ("controls", "c"))}
    assert {*found["shifted"]} == ({"1", "default", "c"} if look == "hard" else set())
    assert all(round(value % 1, 5) == 0.12346 for of in (found["layers"]["1"], *found["shifted"].values()) for value in of.values())


def test_what_is_timed_is_the_default_layer_twice_and_three_layers_by_two_kinds():
    found = speed.configs()
    triple = layer_set("triple", 12)
    assert {name: (c.position, c.pattern, c.layers) for name, c in found.items()} == {
        **dict.fromkeys(("one layer", "one layer again"), ("external", "direct", few("default", (11,), 12))),
        "external direct": ("external", "direct", triple), "internal modular": ("internal", "modular", triple)}
