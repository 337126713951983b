"""The jobs at tiny sizes: what they return, what is swapped, and that a killed training goes on as if unbroken."""

import json

import numpy as np
import pytest
import torch

from common.data import hard_scenes

from .. import known_words, small
from ..baselines import swapped
from ..data import HardRows
from ..experiments import llava, smollm2, speed, stages, trained
from ..method import Fusion, Sizes

N, DV = 4, 16


# -- the committed models ------------------------------------------------------------------------------------
def test_one_layer_is_swapped_and_the_others_are_not():
    own, other = torch.zeros(2, N, 3 * DV), torch.ones(2, N, 3 * DV)
    found = swapped(own, other, 9, (2, 9, 11))
    assert found[..., DV : 2 * DV].eq(1).all() and found.sum() == 2 * N * DV
    of = llava.drawn(3)
    assert all(a.things == b.things and a.noise != b.noise for a, b in zip(of["test"], of["again"]))


def test_the_committed_models_answer_and_miss_what_is_swapped():
    llava.SIZES["small"] = llava.Size((0,), 4)
    asked, found = llava.features("small"), llava.looked(0, "small")
    del llava.SIZES["small"]
    json.dumps(found)
    n = len(asked["test"]["pictures"])
    assert {len(found["test"]), *map(len, found["another picture"].values())} == {n} and len(found["hard"]) == len(asked["hard"]["kinds"])
    assert found["test"].count("1") >= n - 2 > found["hard"].count("1")
    assert min(bits.count("1") for bits in found["another picture"].values()) < found["test"].count("1")
    assert set(asked["hard"]["kinds"]) == set(hard_scenes.KINDS)


# -- stages --------------------------------------------------------------------------------------------------
def test_stages_of_the_real_tower_and_of_a_random_one():
    stages.SIZES["small"] = stages.Size(6, 1, 10)
    real, random = (stages.found(weights, "small") for weights in ("pretrained", "random"))
    del stages.SIZES["small"]
    json.dumps(real)
    assert all(abs(a - b) <= 1 for a, b in zip(real["cuts"], (6, 10))) and len(real["scores"]) == 3
    assert min(real["scores"]) > max(real["permuted"]) and real["score"] > 3 * random["score"]
    assert real["score"] > 0.262 > random["score"], "99 % of the specification's 200 random orders (its 8.2)"
    assert real["norms"][-1] > 3 * real["norms"][-2] and len(real["similarity"]) == 12
    assert np.array_equal(stages.crop(0, np.random.default_rng(1)), stages.crop(0, np.random.default_rng(1)))


# -- time ----------------------------------------------------------------------------------------------------
def test_what_is_timed_is_a_prefill_of_each_kind_and_leaves_no_hooks():
    from common.models import ModelSpec, load

    size = speed.SIZES["smoke"]
    model = load(ModelSpec("random", config=size.shape.config(), seed=0)).model.eval()
    with torch.no_grad():
        logits = {name: fn() for name, fn in speed.ways(model, size).items()}
    assert torch.equal(logits["one layer"], logits["one layer again"])
    assert not torch.equal(logits["one layer"], logits["external direct"]) and logits["internal modular"].shape == (1, 96)
    assert not any(block._forward_pre_hooks for block in model.model.layers)


# -- trainings -----------------------------------------------------------------------------------------------
def test_arms_are_the_four_kinds_by_four_sets_and_fit_the_decoder():
    assert (len(trained.LONG), len(trained.MORE), len(trained.VARIANTS)) == (3 + 8, 8, 2 + 4 + 6)
    for arm in (trained.LONG | trained.MORE | trained.VARIANTS).values():
        assert set(trained.fusion_layers(arm)) <= set(trained.LAYERS)
        with torch.device("meta"):
            fusion = Fusion(arm.config(), Sizes(384, 96, 256, 4, 12))
        assert len(fusion.points) == (0 if arm.kind.startswith("external") else len(arm.config().layers.extras))
    assert trained.fusion_layers(trained.LONG["default three times"]) == (11,) != trained.fusion_layers(trained.LONG["late region"])
    assert trained.MORE["internal direct, all"].config().blocks(12) == tuple(range(12))


def test_means_of_a_curve_leave_out_steps_without_questions():
    assert small.means([1.0, None, 3.0, 2.0, 2.0, 8.0], width=2) == [1.0, 2.5, 5.0]
    assert small.means([1.0, 2.0, 3.0, None, None, 6.0, 6.0], width=2) == [1.5, 3.0, 6.0], "a shorter last part goes to the one before"
    assert small.means([None, None, 4.0], width=1) == [4.0] and small.means([2.0], width=50) == [2.0]


def test_a_row_says_of_which_kind_each_question_is():
    from common.vision import llava as vision

    some, words = [hard_scenes.scene(i) for i in range(4)], vision.tokenizer()
    rows = HardRows(some, torch.zeros(4, N, DV), words, [1, 2], 1, 9, 3, 5, asked=6, captions=0.5)
    captions = rows[0]
    assert captions.kinds.eq(-1).all() and captions.asked.sum() == 0
    step = rows[4]
    mixed = step.kinds.ge(0).any(1)
    assert 0 < mixed.sum() < 5 and step.asked.sum() == 6 * mixed.sum()
    first = {"what digit ?": "digit", "what left digit ?": "tens", "how": "count"} | {
        f"{kind} of": kind for kind in ("color", "shape", "shade", "row", "column")} | {"is there": "exists"}
    found = [0] * len(hard_scenes.KINDS)
    for ids, segments, kinds, real in zip(step.layout.ids, step.layout.segments, step.kinds, step.layout.real):
        for number in range(1, int(segments.max()) + 1):
            here = (segments == number) & real
            text = " ".join(words.convert_ids_to_tokens(ids[here].tolist()))
            kind = {int(k) for k in kinds[here]}
            if text.startswith("describe"):
                assert kind == {-1}
                continue
            expected = next((name for start, name in first.items() if text.startswith(start)), "relation")
            assert kind == {hard_scenes.KINDS.index(expected)}, text
            found[kind.pop()] += 1
        assert kinds[~real].eq(-1).all() and kinds[:2].eq(-1).all()
    assert step.asked.tolist() == found


def test_words_of_easy_vqa_are_those_of_scenes():
    from common.data import easyvqa, scenes

    known, found = set(scenes.words()), known_words.pictures(1000)
    assert len(found) == 285 and all({*q.text.split(), q.answer} <= known for _, row in found for q in row)
    package = [q for n in easyvqa.numbers("test") for q in easyvqa.questions("test", n)]
    assert not any({*q.text.split(), q.answer} <= known for q in package), "none of its own could be asked"
    assert [[q.kind for q in row] for _, row in found[:2]] == [["color", "shape", "exists"]] * 2
    assert [row[2].answer for _, row in found[:4]] == ["yes", "no", "yes", "no"] and known_words.pictures(3) == found[:3]
    number, (color, shape, _) = found[0]
    assert color.text == f"color of {shape.answer} ?" and shape.text == f"shape of {color.answer} ?"
    pixels = easyvqa.image("test", number).reshape(-1, 3).astype(int)
    strongest = pixels[np.abs(pixels - np.median(pixels, 0)).sum(1).argmax()]  # of the shape: what is least like the background
    red, green, blue = strongest
    assert {"red": red > max(green, blue), "green": green > max(red, blue), "blue": blue > max(red, green),
            "yellow": min(red, green) > blue}[color.answer]
    asked = [scenes.Question("open", "what color is the circle ?", "red"), scenes.Question("yes/no", "is there not a red shape ?", "no")]
    assert known_words.shown(asked) == ("red", "circle") and known_words.shown(asked[1:]) is None
    assert known_words.shown([scenes.Question("yes/no", "is there a red circle ?", "no")]) is None


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Three layers' features of random pictures, four steps, its own cache."""
    narrow = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    monkeypatch.setattr(small, "DECODER", small.DECODER | narrow)
    monkeypatch.setattr(trained, "cache_dir", lambda: tmp_path)
    monkeypatch.setitem(trained.SIZES, "smoke", trained.Size((0,), 1, 3, 2, 4, 2))

    def shown(which, tower_of, size, layers):
        draw = torch.Generator().manual_seed(len(which))
        return trained.Columns(torch.randn({"train": 4}.get(which, 2), N, 12 * DV, generator=draw).half(), layers)

    monkeypatch.setattr(trained, "shown", shown)
    monkeypatch.setattr(trained, "fusion_layers", lambda arm: Fusion(arm.config(), Sizes(DV, 16, 24, 2, 12)).layers)
    return tmp_path


def test_a_training_is_tested_twice_and_goes_on_where_it_was_killed(tiny, monkeypatch):
    found = trained.trained("long", "internal modular, triple", 0, "smoke")
    json.dumps(found)
    assert set(found) == {"parameters", "half", "end", "loss", "all", "looked up"}
    asked = trained.asked(2)
    n = {which: sum(map(len, rows)) for which, rows in asked.items()}
    assert {where: len(bits) for where, bits in found["end"].items()} == {
        "test": n["test"], "shifted": n["test"], "another picture": n["test"], "easy-VQA": n["easy-VQA"]}
    assert {*found["half"]} == {"test", "shifted", "easy-VQA"}
    (work,) = (tiny / "layerfusion").iterdir()
    assert (work / "half.json").is_file() and (work / "last.ckpt").is_file()
    again = trained.trained("long", "internal modular, triple", 0, "smoke")
    assert again == found, "a finished training is read from its checkpoint"
    (work / "last.ckpt").unlink()
    assert trained.trained("long", "internal modular, triple", 0, "smoke") == found, "all randomness follows from the seed"
    other = trained.trained("variants", "triple, Qwen3", 0, "smoke")
    assert other["parameters"] != found["parameters"]


def test_what_a_training_made_answers_as_it_did(tiny):
    from common.errors import ModelError

    arm = "internal modular, triple"
    found, one = trained.trained("long", arm, 0, "smoke"), trained.LONG[arm]
    (work,) = (tiny / "layerfusion").iterdir()
    sample = trained.shown("train", "dinov2", "smoke", (2, 9, 11))[:]
    model = small.restore(small.Small(one.config(), one.decoder, 5, sample, (2, 9, 11)), work / small.WEIGHTS)
    assert not model.decoder.training
    again = trained.tested(model, one, trained.SIZES["smoke"], "smoke", ours=True)
    agree = [a == b for where in again for a, b in zip(again[where], found["end"][where], strict=True)]
    assert sum(agree) >= len(agree) - 1  # half precision may turn an answer
    wrong = trained.LONG["default"]
    with pytest.raises(ModelError, match=r"model.safetensors"):
        small.restore(small.Small(wrong.config(), "llama", 5, sample[..., -DV:], (11,)), work / small.WEIGHTS)
    with pytest.raises(ModelError, match="cannot be used"):
        small.restore(model, work / "nothing.safetensors")


def test_a_committed_model_is_the_training_of_its_arm_or_nothing(tiny, monkeypatch):
    from common.errors import ModelError, SetupError, UserError

    from .. import standins as own
    from ..experiments import own as asked_of

    monkeypatch.setattr(own, "FOLDER", tiny / "standins")
    monkeypatch.setattr(trained, "features", lambda *of: {"nats": {"looked up": 1e-3}})
    assert own.missing() == ["default", "triple", "region", "cross-attention"]
    with pytest.raises(UserError, match="region, cross-attention are not there yet: `make standins-layerfusion`"):
        asked_of.ready()
    with pytest.raises(SetupError, match="triple: the loss .* the plateau has not ended; nothing is written"):
        own.make("triple", size="smoke")
    assert own.missing() and not (tiny / "standins" / "triple").exists()
    monkeypatch.setattr(trained, "features", lambda *of: {"nats": {"looked up": 1e3}})
    cards = {name: own.make(name, size="smoke") for name in own.ARMS}
    assert not own.missing() and asked_of.ready() is None
    arms = {name: cards[name]["arm"] for name in own.ARMS}
    assert arms == own.ARMS == {"default": "default", "triple": "external direct, triple", "region": "late region",
                                "cross-attention": "internal modular, triple"}
    monkeypatch.setitem(asked_of.SIZES, "small", asked_of.Size(2, "smoke"))
    opened = own.stand_in
    monkeypatch.setattr(own, "stand_in", lambda name: opened(name, dv=DV))
    monkeypatch.setattr(asked_of, "shown", trained.shown)  # of the fixture
    right = trained.trained("long", "external direct, triple", 0, "smoke")["end"]["test"]
    found = asked_of.looked("triple", "small")
    assert found["model"] == {"name": "layerfusion/triple", "sha256": cards["triple"]["sha256"]}
    assert sum(a != b for a, b in zip(found["test"], right, strict=True)) <= 1 and {*found["another picture"]} == {"2", "9", "11"}
    rows = trained.asked(2)["test"]
    assert asked_of.features("small") == {"test": {"pictures": [i for i, row in enumerate(rows) for _ in row],
                                                   "kinds": [q.kind for row in rows for q in row]}}
    weights = tiny / "standins" / "triple" / small.WEIGHTS
    weights.write_bytes((tiny / "standins" / "default" / small.WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match="is not what its card names"):
        opened("triple", dv=DV)
    weights.unlink()
    with pytest.raises(ModelError, match="triple is not there"):
        opened("triple", dv=DV)


def test_the_loss_of_a_question_is_over_its_answer_alone(tiny):
    """Against the decoder asked question by question, and the training loss against the recipe's."""
    from common.standins import llava as recipe

    one = trained.LONG["external direct, triple"]
    features = trained.shown("train", "dinov2", "smoke", (2, 9, 11))
    model = small.Small(one.config(), "llama", 0, features[:], (2, 9, 11))
    rows = HardRows([hard_scenes.scene(i) for i in range(4)], features, model.tokenizer, model.prefix, 0, 3, 0, 4, captions=0.4)
    step = rows[0]
    module, stock = small.Training(model), recipe.LlavaTraining(model)
    stock.hidden = model.hidden
    loss = module.training_step(step, 0)
    assert torch.allclose(loss, stock.training_step((step.features, step.layout), 0)) and module.losses == stock.losses
    with torch.no_grad():
        log = model.decoder.lm_head(model.hidden(step.layout, step.features.float())).log_softmax(-1)
    by_kind = {kind: [] for kind in hard_scenes.KINDS}
    for b in range(4):
        for t, (target, kind) in enumerate(zip(step.layout.targets[b].tolist(), step.kinds[b].tolist())):
            if target != -100 and kind >= 0:
                by_kind[hard_scenes.KINDS[kind]].append(-log[b, t, target].item())
    every = [x for of in by_kind.values() for x in of]
    looked_up = [x for kind in ("color", "shape", "row", "column") for x in by_kind[kind]]
    assert module.curve == [(pytest.approx(sum(every) / len(every), abs=1e-4), pytest.approx(sum(looked_up) / len(looked_up), abs=1e-4))]
    captions = HardRows([hard_scenes.scene(0)], features, model.tokenizer, model.prefix, 1, 3, 0, 2)[0]
    module.training_step(captions, 1)
    assert module.curve[1] == (None, None)
    kept: dict = {"state_dict": {}}
    module.on_save_checkpoint(kept)
    other = small.Training(model)
    other.on_load_checkpoint(kept)
    assert (other.curve, other.losses) == (module.curve, module.losses)


@pytest.fixture
def spoken(monkeypatch):
    """A decoder with twelve blocks and a tokenizer that has one token a word, twice the same; arms read features of width DV."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from common.models import Loaded
    from common.vision import llava as small_words

    words = small_words.tokenizer()
    monkeypatch.setattr(smollm2.llava_smollm2, "words", lambda tokenizer: words)

    def make():
        torch.manual_seed(0)
        return Loaded(LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=12, num_attention_heads=2,
                                                   vocab_size=len(words), initializer_range=0.3)), words, {"name": "tiny"})
    return make


def test_a_pretrained_decoder_trains_adapters_and_what_is_new(spoken):
    of = spoken()
    pictures = torch.randn(60, N, 3 * DV, generator=torch.Generator().manual_seed(1))
    model = smollm2.Reader(of.model, of.tokenizer, smollm2.ARMS["internal direct, triple"], 0, pictures, (2, 9, 11), 2)
    free = {name for name, p in of.model.named_parameters() if p.requires_grad}
    assert free and all("lora" in name for name in free)
    tokens = model.fusion({k: pictures[:50, :, i * DV : (i + 1) * DV] for i, k in enumerate((2, 9, 11))})[0]
    assert tokens.std().item() == pytest.approx(of.model.get_input_embeddings().weight.std().item(), rel=0.2)
    module = smollm2.Adapting(model)
    assert any(name.startswith("fusion.") for name, p in module.named_parameters() if p.requires_grad)
    kept = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(kept)
    assert {*kept["state_dict"]} == {name for name, p in module.named_parameters() if p.requires_grad}
    assert not module.strict_loading


def test_a_pretrained_decoders_answers_are_what_it_says_question_by_question(spoken, monkeypatch):
    of, arm = spoken(), smollm2.ARMS["internal direct, triple"]
    pictures = torch.randn(2, N, 3 * DV, generator=torch.Generator().manual_seed(1))
    model = smollm2.Reader(of.model, of.tokenizer, arm, 0, pictures, (2, 9, 11), 2)
    monkeypatch.setattr(smollm2, "shown", lambda which, *of: pictures)
    size = smollm2.Size((0,), 1, 1, 1, 1, 2, 2)
    found = smollm2.tested(model, arm, size)
    by_hand = ""
    from common.vision import llava as vision
    for picture, row in zip(pictures, trained.asked(2)["test"]):
        for q in row:
            layout = vision.packed([*model.prefix], [[vision.question_slots(of.tokenizer, q)]], N)
            with torch.no_grad():
                logits = of.model.lm_head(model.hidden(layout, picture[None])[0, -1])
            by_hand += "01"[int(logits.argmax()) == of.tokenizer.convert_tokens_to_ids(q.answer)]
    assert found["test"] == by_hand == found["shifted"] and len(found["another picture"]) == len(by_hand)


def test_what_a_pretrained_decoder_learnt_is_kept_in_small_files_and_read_again(spoken, tmp_path, monkeypatch):
    from common.errors import ModelError

    of, arm = spoken(), smollm2.ARMS["internal direct, triple"]
    pictures = torch.randn(50, N, 3 * DV, generator=torch.Generator().manual_seed(1))
    model = smollm2.Reader(of.model, of.tokenizer, arm, 0, pictures, (2, 9, 11), 2)
    with torch.no_grad():
        for name, p in of.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    made = smollm2.save(model, tmp_path / "model", {"base": of.source, "arm": "triple"})
    assert {*made} == {"adapter_model.safetensors", "projector.safetensors", "extra.safetensors"}
    card = json.loads((tmp_path / "model" / "training.json").read_text())
    assert card["files"] == made and card["arm"] == "triple"
    again = smollm2.opened(tmp_path / "model", arm, DV, spoken())
    layout = small.llava.packed([*model.prefix], [[([5, 6, 7], [-100, 8, 9])]], N)
    with torch.no_grad():
        first, second = (m.decoder.lm_head(m.hidden(layout, pictures[:1])) for m in (model, again))
    assert (first - second).abs().max() < 0.02 * first.abs().max()  # adapter in bfloat16, the rest in half precision
    plain = smollm2.Reader(spoken().model, of.tokenizer, arm, 0, pictures, (2, 9, 11), None)
    with torch.no_grad():
        assert (plain.decoder.lm_head(plain.hidden(layout, pictures[:1])) - first).abs().max() > 0.1 * first.abs().max()
    (tmp_path / "model" / "extra.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="lacks extra.safetensors, which a fusion of kind 'internal direct' has"):
        smollm2.opened(tmp_path / "model", arm, DV, spoken())
    monkeypatch.setattr(smollm2, "MOST", 1000)
    with pytest.raises(ModelError, match="projector.safetensors would have"):
        smollm2.save(model, tmp_path / "large", {"base": of.source})


@pytest.mark.parametrize("kind, part", [("external modular", "fuser"), ("internal modular", "cross")])
def test_a_fusion_that_files_would_not_hold_is_neither_written_nor_opened(spoken, tmp_path, kind, part):
    from common.errors import ModelError

    of, arm = spoken(), trained.Arm(kind, "triple")
    pictures = torch.randn(50, N, 3 * DV, generator=torch.Generator().manual_seed(1))
    model = smollm2.Reader(of.model, of.tokenizer, arm, 0, pictures, (2, 9, 11), 2)
    with pytest.raises(ModelError, match=f"{kind}' has {part}[.]"):
        smollm2.save(model, tmp_path / "model", {"base": of.source})
    assert not (tmp_path / "model").exists()
    plain, direct = spoken(), smollm2.ARMS["internal direct, triple"]
    smollm2.save(smollm2.Reader(plain.model, plain.tokenizer, direct, 0, pictures, (2, 9, 11), 2), tmp_path / "model", {"base": of.source})
    with pytest.raises(ModelError, match=f"{kind}' has {part}[.]"):
        smollm2.opened(tmp_path / "model", arm, DV, spoken())
