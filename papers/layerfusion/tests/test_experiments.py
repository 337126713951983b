"""The jobs at tiny sizes: what they return, what is swapped, and that a killed training goes on as if unbroken."""

import json

import numpy as np
import pytest
import torch

from common.data import hard_scenes

from ..baselines import swapped
from ..experiments import llava, speed, stages, trained
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
    assert len(trained.LONG) == 3 + 16 and len(trained.VARIANTS) == 2 + 4 + 6
    for arm in (trained.LONG | trained.VARIANTS).values():
        assert set(trained.fusion_layers(arm)) <= set(trained.LAYERS)
        with torch.device("meta"):
            fusion = Fusion(arm.config(), Sizes(384, 96, 256, 4, 12))
        assert len(fusion.points) == (0 if arm.kind.startswith("external") else len(arm.config().layers.extras))
    assert trained.fusion_layers(trained.LONG["default three times"]) == (11,) != trained.fusion_layers(trained.LONG["late region"])
    assert trained.LONG["internal direct, all"].config().blocks(12) == tuple(range(12))


def test_the_plateau_ends_where_the_loss_is_nearer_to_its_end():
    assert trained.plateau([2.0] * 100 + [1.0] * 100) == 75  # half of the window is behind the step
    assert trained.plateau([1.0] * 50 + [2.0] * 50) == 100


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Three layers' features of random pictures, four steps, its own cache."""
    narrow = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    monkeypatch.setattr(trained, "DECODER", trained.DECODER | narrow)
    monkeypatch.setattr(trained, "cache_dir", lambda: tmp_path)
    monkeypatch.setitem(trained.SIZES, "smoke", trained.Size((0,), 1, 3, 2, 4, 2))

    def shown(which, tower_of, size):
        draw = torch.Generator().manual_seed(len(which))
        return torch.randn({"train": 4}.get(which, 2), N, 12 * DV, generator=draw).half()

    monkeypatch.setattr(trained, "shown", shown)
    monkeypatch.setattr(trained, "fusion_layers", lambda arm: Fusion(arm.config(), Sizes(DV, 16, 24, 2, 12)).layers)
    return tmp_path


def test_a_training_is_tested_twice_and_goes_on_where_it_was_killed(tiny, monkeypatch):
    found = trained.trained("long", "internal modular, triple", 0, "smoke")
    json.dumps(found)
    assert set(found) == {"parameters", "half", "end", "loss", "exit"} and set(found["end"]["test"]) <= set(hard_scenes.KINDS)
    (work,) = (tiny / "layerfusion").iterdir()
    assert (work / "half.json").is_file() and (work / "last.ckpt").is_file()
    again = trained.trained("long", "internal modular, triple", 0, "smoke")
    assert again == found, "a finished training is read from its checkpoint"
    (work / "last.ckpt").unlink()
    assert trained.trained("long", "internal modular, triple", 0, "smoke") == found, "all randomness follows from the seed"
    other = trained.trained("variants", "triple, Qwen3", 0, "smoke")
    assert other["parameters"] != found["parameters"]


def test_a_pretrained_decoder_trains_adapters_and_what_is_new_and_is_scored_by_whole_answers():
    from transformers import LlamaConfig, LlamaForCausalLM

    from common.vision import llava as small
    from common.vision.llava import question_slots

    from ..experiments import smollm2

    words = small.tokenizer()
    torch.manual_seed(0)
    decoder = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=12, num_attention_heads=2,
                                           vocab_size=len(words), initializer_range=0.3))
    pictures = torch.randn(2, N, 3 * DV)
    model = smollm2.Reader(decoder, words, smollm2.ARMS["internal direct, triple"], 0, pictures, (2, 9, 11), 2)
    free = {name.rpartition(".")[2] for name, p in decoder.named_parameters() if p.requires_grad}
    assert {name for name, p in decoder.named_parameters() if p.requires_grad and "lora" not in name} == set() and free
    draw = np.random.default_rng(0)
    asked = [hard_scenes.one_of_each_kind(hard_scenes.scene(i), draw)[:3] for i in range(2)]
    hits = smollm2.answered(model, pictures, asked)
    with torch.no_grad():
        for picture, row, right in zip(pictures, asked, hits):  # a question alone in its row, by the answer's logit
            for q, hit in zip(row, right):
                layout = small.packed([*model.prefix], [[question_slots(words, q)]], N)
                logits = decoder.lm_head(model.hidden(layout, picture[None])[0, -1])
                assert hit == (int(logits.argmax()) == words.convert_tokens_to_ids(q.answer))
    module = smollm2.Training(model, 1e-3)
    assert any(name.startswith("fusion.") for name, p in module.named_parameters() if p.requires_grad)
