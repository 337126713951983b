"""The pretrained decoder's path, on a tiny chat model: its own words, a new projector, LoRA, both arms, and going on."""

import json

import pytest
import torch

from common.data.scenes import KINDS, Question
from common.models import ModelSpec, load, tiny
from common.vision import tower
from common.vision.llava import chat, question_slots

from .. import scoring, tables
from ..experiments import smollm2
from ..module import adapt


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


@pytest.mark.parametrize("arm", ["dense", "vica"])
def test_both_stages_run_and_a_finished_one_is_taken_up(speaker, tmp_path, monkeypatch, without_tower, arm):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec(name=str(speaker))
    first = smollm2.run(0, arm, "smoke", decoder=spec)
    assert first["layers"] == (None if arm == "dense" else [0]) and len(first["curve"]["finetune"]) == 2
    assert set(first["test"]) == {"all", "open", "yes/no", *KINDS}
    stages = sorted((tmp_path / "vica" / "pretrained").iterdir())
    assert len(stages) == 2 and (stages[0] / "model" / "adapter_model.safetensors").is_file() and not (tmp_path / "model").exists()
    assert json.dumps(smollm2.run(0, arm, "smoke", decoder=spec)["curve"]) == json.dumps(first["curve"])
    assert [line for line in tables.smollm2({f"smollm2/{arm}/seed0": first}) if f"{arm}/seed0" in line and "; blind" in line]
    with pytest.raises(ValueError, match="neither dense nor vica"):
        smollm2.run(0, "sparse")
