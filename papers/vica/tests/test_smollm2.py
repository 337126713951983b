"""ViCA on a pretrained decoder, on small models: a chat model's own words, adapters, the arms, and what claims read of them."""

import itertools
import json

import pytest
import torch

from common.claims.records import load_claims
from common.claims.verdict import verdict
from common.data.scenes import Question
from common.models import ModelSpec, load, tiny
from common.standins.llava import stand_in
from common.vision import tower
from common.vision.layout import packed
from common.vision.llava import chat, question_slots

from .. import eval as harness
from .. import quantities, scoring, tables
from ..experiments import smollm2
from ..module import adapt
from ..reference import frozen_dense
from .made_up import PRETRAINED, pretrained


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A Llama of four layers with a tokenizer of bytes and a chat template, in hub format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<s>", "<e>", *letters])}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<e>", pad_token="<e>")
    words.chat_template = ("{% for m in messages %}<s>{{ m.role }}:{{ m.content }}<e>{% endfor %}"
                           "{% if add_generation_prompt %}<s>answer:{% endif %}")
    folder = tmp_path_factory.mktemp("speaker")
    load(tiny(vocab_size=len(words), num_hidden_layers=4, bos_token_id=0, eos_token_id=1, pad_token_id=1)).model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_questions_are_what_the_chat_template_would_say(speaker):
    words = load(ModelSpec(name=str(speaker))).tokenizer
    ids, targets = question_slots(words, Question("color", "color of circle ?", "red"))
    before, _ = chat(words)
    whole = words.apply_chat_template([{"role": "user", "content": "color of circle ?"}], add_generation_prompt=True, return_dict=False)
    assert before + ids == whole + words("red", add_special_tokens=False).input_ids
    assert [t for t in targets if t != -100] == words("red", add_special_tokens=False).input_ids + [words.eos_token_id]
    assert len(ids) == len(targets) and targets[-5] == -100  # predicted: three letters and the end
    words.chat_template = "{{ messages[0].content | upper }}"
    with pytest.raises(ValueError, match="changes what the user says"):
        chat.__wrapped__(words)


def test_adapters_start_as_nothing_and_are_all_that_is_trained(speaker):
    model = load(ModelSpec(name=str(speaker))).model
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = model(ids).logits
        adapt(model, 2, seed=0)
        assert torch.equal(model(ids).logits, before)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained) and len(trained) == 4 * 7 * 2
    assert type(model).__name__ == "LlamaForCausalLM"


@pytest.fixture
def without_tower(monkeypatch):
    monkeypatch.setattr(tower, "features", lambda name, images, layers, size=112: torch.zeros(len(images), 64, 384 * len(layers)).half())
    scoring.test_set.cache_clear()
    yield
    scoring.test_set.cache_clear()


@pytest.fixture
def small(monkeypatch, without_tower):
    """The committed stand-in of eight layers in the place of SmolLM2's."""
    monkeypatch.setattr(smollm2, "stand_in", stand_in)


def test_arms_are_tuned_on_the_same_rows_and_adapters_alone(small, monkeypatch):
    """What of the decoder was there stays; dense and all layers start from the same model and see the same steps."""
    seen = []

    def fit(module, data, steps, **options):
        before = {name: p.clone() for name, p in module.given.decoder.named_parameters()}
        losses = usual(module, data, steps, **options)
        after = dict(module.given.decoder.named_parameters())
        same = [torch.equal(after[name.replace(".weight", ".base_layer.weight") if name not in after else name], p)
                for name, p in before.items()]
        moved = [name for name, p in after.items() if "lora_B" in name and p.abs().sum() > 0]
        first = sum(float(p.detach().double().abs().sum()) for p in before.values())
        seen.append((module.cross_layers, steps, all(same), len(moved), options["precision"], module.parts.prefix, data.seed, first))
        return losses

    usual = smollm2.fit
    monkeypatch.setattr(smollm2, "fit", fit)
    found = {arm: smollm2.tuned(0, arm, "smoke") for arm in smollm2.TUNED}
    found["lot 0"] = smollm2.tuned(0, "lot 0", "smoke", layers=[2, 5])
    assert [of[0] for of in seen] == [None, list(range(8)), [2, 5]] and {of[1:3] for of in seen} == {(2, True)}
    assert all(of[3] > 0 for of in seen) and len({(of[4], tuple(of[5]), of[6]) for of in seen}) == 1
    assert [found[arm]["layers"] for arm in found] == [None, list(range(8)), [2, 5]]
    every = found["all layers"]
    assert every["worth"].keys() == {str(k) for k in range(8)} and [*every["untrained"]] == [*every["sets"]] == [
        "top", "bottom", *(f"{which}lot {number}" for number in range(4) for which in ("", "other "))]
    assert all(len(layers) == 2 for layers in every["sets"].values()) and len({len(of["right"]) for of in found.values()}) == 1
    assert "sets" not in found["dense"] and json.dumps(found)
    assert seen[0][7] == seen[1][7] == seen[2][7], "from the same model"


@pytest.mark.parametrize("arm, layers, message", [
    ("few", [1], "'few' is none of dense, all layers, top, lot 0"), ("top", None, "'top' needs layers"),
    ("all layers", [0, 4], "'all layers' has layers of its own"), ("dense", [3], "'dense' has layers of its own")])
def test_layers_are_of_the_arms_that_have_none(arm, layers, message):
    with pytest.raises(ValueError, match=message):
        smollm2.tuned(0, arm, "smoke", layers=layers)


def test_an_arm_answers_by_its_own_way(small, monkeypatch):
    """Untuned, on features that differ: dense as the dense model, all layers and few of them as ViCA with these."""
    monkeypatch.setattr(smollm2, "tune", lambda *given: [1.0])
    monkeypatch.setattr(smollm2, "answered", lambda parts, way, s: way(*at).tolist())
    parts = stand_in(0)
    layout = packed(parts.prefix, [[question_slots(parts.tokenizer, Question("digit", "what digit ?", "7"))]], 64)
    at = layout, parts.projector(torch.randn(1, 64, 1152, generator=torch.Generator().manual_seed(0))).detach()
    monkeypatch.setattr(smollm2, "spoken", lambda parts, s, layers: torch.zeros(1, 2))
    with torch.no_grad():
        wanted = {"dense": scoring.dense(parts)(*at), "all layers": scoring.vica(parts, tuple(range(8)))(*at),
                  "top": scoring.vica(parts, (2, 5))(*at)}
        for arm, of in wanted.items():
            assert smollm2.tuned(0, arm, "smoke", layers=[2, 5] if arm == "top" else None)["right"] == of.tolist(), arm
        assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in itertools.combinations(wanted.values(), 2))
        was = smollm2.untuned(0, "smoke")
        assert was["whole"] == wanted["dense"].tolist() and was["ffn"] == frozen_dense(parts.decoder, *at, freeze="ffn").tolist()
        assert was["all"] == frozen_dense(parts.decoder, *at, freeze="all").tolist() != was["ffn"]


def test_layers_are_chosen_on_validation_pictures_alone(monkeypatch):
    """Chosen on test pictures, the sets would be tested on what they were chosen by."""
    asked, shown = [], []
    pictures = {split: (f"pictures of {split}", f"questions of {split}") for split in ("train", "val", "test")}
    monkeypatch.setattr(smollm2, "test_set", lambda split, *of: asked.append((split, *of)) or pictures[split])
    monkeypatch.setattr(smollm2, "vica", lambda parts, layers: layers)
    monkeypatch.setattr(smollm2, "log_probabilities", lambda parts, way, *of: shown.append((way, *of)) or "log-probabilities")
    s = smollm2.SIZES["smoke"]
    assert smollm2.spoken("parts", s, (1, 4)) == "log-probabilities"
    assert asked == [("val", s.validation, 0)] and shown == [((1, 4), "pictures of val", "questions of val")]


def test_few_layers_are_those_of_the_scores_and_two_lots_that_share_none():
    worth = {layer: float(layer % 7) + layer / 100 for layer in range(30)}
    sets = smollm2.few(worth, 0)
    ordered = sorted(worth, key=worth.get)
    assert sets["top"] == tuple(sorted(ordered[-8:])) and sets["bottom"] == tuple(sorted(ordered[:8]))
    assert all(not {*sets[f"lot {n}"]} & {*sets[f"other lot {n}"]} for n in range(4)) and {len(of) for of in sets.values()} == {8}
    assert sets == smollm2.few(dict(reversed(worth.items())), 0) and sets["lot 0"] != smollm2.few(worth, 1)["lot 0"]
    assert len({of for name, of in sets.items() if "lot" in name}) == 8


def test_bits_are_of_open_questions_in_the_order_of_pictures(small):
    found = smollm2.untuned(0, "smoke")
    asked = scoring.test_set("test", 3, 0)[1]
    assert found["kinds"] == [q.kind for row in asked for q in row if q.kind not in scoring.YES_NO]
    assert found["pictures"] == sorted(found["pictures"]) and {len(found[name]) for name in ("whole", "ffn", "all", "pictures")} == {
        len(found["kinds"])}


def test_few_layers_follow_when_the_scores_are_there():
    assert smollm2.then("cpu", {}) == []
    made = smollm2.then("cpu", {"smollm2/all layers/seed0": {"sets": {"top": [3, 4], "lot 0": [5, 6]}}})
    assert {job.name: job.arguments["layers"] for job in made} == {"smollm2/top/seed0": [3, 4], "smollm2/lot 0/seed0": [5, 6]}
    assert [job.name for job in smollm2.then("cpu", smollm2.EXAMPLE)] == [job.name for job in made]


# -- what claims read --------------------------------------------------------------------------------------
def both(results):
    return quantities.smollm2(results) | quantities.few(results)


def words(**changes):
    claims, found = load_claims(harness.HERE / "claims.yaml"), both(pretrained(**changes))
    return {name: verdict(claims.find(name), of)[0] for name, of in found.items()}


def test_what_is_lost_is_counted_in_points_over_pictures():
    found = both(pretrained())
    assert {name: round(of["value"], 2) for name, of in found.items()} == {"C13a": 30, "C13b": 0, "C13c": 30, "C13d": 1}
    assert {name: round(of["placebo"]["value"], 2) for name, of in found.items()} == {"C13a": 0, "C13b": 40, "C13c": 0, "C13d": 20}
    assert all(of["n_clusters"] == 50 and of["stderr"] >= 0.25 for of in found.values())
    assert set(words().values()) == {"supports"}


def test_each_word_turns_where_its_arm_does():
    assert words(untuned={"whole": 0.9, "ffn": 0.9, "all": 0.5})["C13a"] == "opposes"
    assert words(**{"all layers": 0.7})["C13b"] == "opposes" and words(top=0.7)["C13d"] == "opposes"
    low = PRETRAINED["untrained"] | {"top": 0.4}
    assert words(untrained=low)["C13c"] == "opposes"


def test_the_table_shows_every_arm():
    text = "\n".join((*tables.smollm2(pretrained()), *tables.few(pretrained())))
    for shown in ("no FFN on visual tokens", "retuned, all layers", "all layers, then bottom alone", "29: 2.900", "60.0", "lot 0  ",
                  "retuned in a few"):
        assert shown in text, shown
