"""The small LLaVA on SmolLM2: its words are the decoder's own, what is kept is small and opened whole, and a killed training goes on."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.data import scenes
from common.errors import ModelError
from common.models import SMOLLM2, Loaded, load
from common.standins import llava
from common.standins import llava_smollm2 as standin
from common.vision.features import Pictures
from common.vision.llava import SYSTEM, dense_hidden, packed_questions

FEW = standin.Steps(captions=2, questions=4, rows=2, asked=3, warmup=1, scenes=8, every=1)


class Tokens:
    """A byte-level vocabulary in which every word of the questions is a token with a blank before it."""

    def __init__(self, left_out=()):
        names = [*standin.MARKS.values(), *"0123456789", "red", "re"]
        names += [f"\u0120{standin.SPOKEN.get(w, w)}" for w in (*SYSTEM.split(), "describe", *scenes.words(), "cat") if not w.isdigit()]
        self.vocabulary = {name: i for i, name in enumerate(dict.fromkeys(n for n in names if n not in left_out))}

    def get_vocab(self):
        return dict(self.vocabulary)

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        own = self.vocabulary.get(text.replace(" ", "\u0120"))
        return SimpleNamespace(input_ids=[1, 2] if own is None else [own])


def decoder(seed=0) -> Loaded:
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         vocab_size=80, tie_word_embeddings=True, max_position_embeddings=256, initializer_range=0.2)
    return Loaded(LlamaForCausalLM(config).eval(), Tokens(), {"name": "tiny"})


def features(seed=0) -> torch.Tensor:
    return torch.randn(5, 64, 1152, generator=torch.Generator().manual_seed(seed))


# -- words -------------------------------------------------------------------------------------------------
def test_a_word_is_the_decoders_own_token_of_it():
    """By the fake vocabulary and by SmolLM2's: "red" is " red", a digit has no blank before it, and each token has one name."""
    tokens = Tokens()
    own = standin.words(tokens)
    of = tokens.vocabulary
    assert own("is there red circle ?").input_ids == [of[f"\u0120{w}"] for w in ("is", "there", "red", "circle", "?")]
    assert own.convert_tokens_to_ids(["7", "magenta", "cat", "<bos>", "<image>"]) == [
        of["7"], of["\u0120pink"], of["\u0120cat"], of["<|im_start|>"], of["<gh_stars>"]]
    assert sorted(own.get_vocab().values()) == sorted(of.values()) and own.image_token == "<image>"


def test_words_that_are_no_single_token_are_refused():
    with pytest.raises(ModelError, match="'circle' is 2 tokens"):
        standin.words(Tokens(left_out=("\u0120circle",)))


# -- the model ---------------------------------------------------------------------------------------------
@torch.no_grad()
def test_it_is_kept_small_and_opened_as_it_was(tmp_path):
    """Adapters that do something, in two files; merged, the decoder gives the states of weights rounded to what the files have."""
    base = decoder()
    model = standin.build(3, features(), base, FEW.adapter())
    for name, weight in base.model.named_parameters():
        if "lora_B" in name:
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    standin.save(model, base, tmp_path / "seed3")
    again = standin.opened(tmp_path / "seed3", base=decoder())
    assert {path.name for path in (tmp_path / "seed3").iterdir()} == {"adapter_model.safetensors", "adapter_config.json",
                                                                       "projector.safetensors"}
    layout = packed_questions(model, [[scenes.Question("digit", "what digit ?", "7")]] * 5)
    for name, weight in base.model.named_parameters():
        if "lora_" in name:
            weight.copy_(weight.bfloat16())
    for weight in model.projector.parameters():
        weight.copy_(weight.half())
    ours, theirs = (dense_hidden(of.language_model(), layout, of.projector(features())) for of in (model, again))
    plain = dense_hidden(decoder().model, layout, model.projector(features()))
    assert (ours - theirs).norm() < 1e-4 * ours.norm() and (ours - plain).norm() > 0.2 * ours.norm()
    assert again.source["name"] == "llava-smollm2/seed3" and not any(p.requires_grad for p in again.language_model().parameters())
    assert json.loads((tmp_path / "seed3" / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


@torch.no_grad()
def test_it_is_a_stock_llava_whose_forward_gives_the_same():
    """The stock model on ids with image tokens and the same features, against rows of slots; its decoder is the one that was given."""
    base = decoder()
    model = standin.build(1, features(), base, FEW.adapter())
    ids = torch.tensor([[*model.prefix, *[model.llava.config.image_token_id] * 64, *model.tokenizer("what digit ?").input_ids]])
    visual = model.projector(features()[:1])
    embeds = model.llava.get_input_embeddings()(ids)
    embeds[:, len(model.prefix) : len(model.prefix) + 64] = visual
    stock = model.llava(inputs_embeds=embeds).logits[0, -1].double()
    layout = packed_questions(model, [[scenes.Question("digit", "what digit ?", "7")]])
    ours = model.language_model().lm_head(dense_hidden(model.language_model(), layout, visual)[0, -1]).double()
    assert torch.allclose(ours, stock, rtol=1e-4, atol=1e-5 * float(stock.abs().max()))
    assert model.llava.model.language_model is base.model.model and model.llava.config.text_config is base.model.config


def test_what_the_projector_gives_has_the_size_of_the_embeddings():
    base = decoder()
    model = standin.build(0, features(), base, FEW.adapter())
    given, own = model.projector(features()).detach().std(), base.model.get_input_embeddings().weight.detach().std()
    assert float(given / own) == pytest.approx(1, rel=0.2)
    trained = {name.rpartition(".")[0].rpartition(".")[0][-6:] for name, p in base.model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}


# -- training ----------------------------------------------------------------------------------------------
@pytest.fixture
def small(monkeypatch, tmp_path):
    pictures = Pictures(8, easy=0)
    monkeypatch.setattr(standin, "Pictures", lambda *given, **named: pictures)
    monkeypatch.setattr(standin, "report", lambda model: {"of": model.source["name"]})
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    return monkeypatch


def test_a_killed_training_goes_on_to_the_same_end(small, tmp_path):
    def trained(folder, **given):
        return standin.train(0, tmp_path / folder, FEW, decoder=decoder(), again=decoder(), progress=False, **given)

    whole = trained("whole")
    small.setenv("NINEFOLD_CACHE", str(tmp_path / "another"))
    assert trained("parts", stop=3) is None and not (tmp_path / "parts").exists(), "nothing half-written"
    both = trained("parts")
    assert both["curve"] == whole["curve"] and both["accuracy"] == {"of": "llava-smollm2/parts"} and whole["steps"] == [2, 4]
    for name in ("adapter_model.safetensors", "projector.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "parts" / "training.json").read_text()) == both and both["cpu_seconds"] >= 0


def test_a_checkpoint_holds_what_is_trained_alone_and_all_of_it_moves(small, tmp_path):
    base = decoder()
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    standin.train(0, tmp_path / "x", FEW, decoder=base, progress=False, stop=3)
    (last,) = (tmp_path / "cache").rglob("last.ckpt")
    state = torch.load(last, weights_only=False)["state_dict"]
    assert all("lora_" in name or name.startswith("projector.") for name in state) and len(state) == 4 + 2 * 7 * 2
    after = dict(base.model.named_parameters())
    assert all(torch.equal(after[name.replace(".weight", ".base_layer.weight") if name not in after else name], p)
               for name, p in before.items()), "the decoder's own weights stay"
    assert all(p.abs().sum() > 0 for name, p in after.items() if "lora_B" in name)


# -- the committed one -------------------------------------------------------------------------------------
def test_a_seed_that_is_not_there_is_answered_with_the_way_out():
    with pytest.raises(ModelError, match="seed7 of common/standins/llava-smollm2-weights is not there: .*`make standins-llava_smollm2`"):
        standin.stand_in(7)


def test_a_folder_without_its_projector_is_no_such_model(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no projector.safetensors"):
        standin.opened(tmp_path)


def test_the_committed_one_answers_as_its_card_says():
    """On twelve pictures; the card's figures are of 300."""
    card = json.loads((standin.FOLDER / "seed0" / "training.json").read_text(encoding="utf-8"))
    found = standin.report(standin.opened(standin.FOLDER / "seed0", base=load(SMOLLM2)), pictures=12)
    for kind, share in card["accuracy"]["scenes"].items():
        assert abs(found["scenes"][kind] - share) < 0.35, kind
    assert found["scenes"]["color"] > card["accuracy"]["scenes, blind"]["color"] + 0.3
    assert llava.SEEDS == (0, 1, 2) and standin.SEEDS == (0,)
