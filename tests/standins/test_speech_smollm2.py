"""The speech LLM of real parts, on a tiny decoder and made-up states: kept small and opened whole, and a killed training goes on."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.errors import FileError, ModelError
from common.models import Loaded
from common.standins import speech_smollm2 as standin
from common.streaming.digits import SPLITS, Recordings, said
from tests.digit_words import WIDTH, bank, states, tokenizer
from tests.numerics import close, far, float64

FEW = standin.Steps(steps=6, rows=4, warmup=1, every=1, scored=4)


def decoder(seed=0, hidden=16) -> Loaded:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(hidden_size=hidden, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                             vocab_size=320, tie_word_embeddings=True, max_position_embeddings=512, initializer_range=0.2)
        return Loaded(LlamaForCausalLM(config).eval(), tokenizer(), {"name": "tiny"})


def recordings():
    return Recordings(tokenizer(), bank=bank, states=states)


def built(seed=3):
    base = decoder()
    return standin.build(seed, torch.cat([states(recordings().spoken("words", i, "train")) for i in range(4)]), base, FEW.adapter()), base


def asked(count=4, task="words"):
    return [recordings().ask(task, number).example for number in range(count)]


# -- the model ---------------------------------------------------------------------------------------------
@torch.no_grad()
def test_it_is_kept_small_and_opened_as_it_was(tmp_path):
    llm, _ = built()
    for name, weight in llm.model.named_parameters():
        if "lora_B" in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
        if "lora_" in name:
            weight.copy_(weight.bfloat16())  # as the file has them
    standin.save(llm, tmp_path / "seed3")
    (tmp_path / "seed3" / "training.json").write_text(json.dumps({"quality": {}}))
    again = standin.opened(tmp_path / "seed3", base=decoder())
    for name, value in llm.projector.state_dict().items():
        assert torch.equal(again.projector.state_dict()[name], value.bfloat16().float()), name
    x, mask, positions, *_ = standin.inputs(asked(), [True] * 4, llm.projector, llm.model.get_input_embeddings())
    ours, theirs, plain = (m(inputs_embeds=x, attention_mask=mask, position_ids=positions).logits
                           for m in (llm.model, again.model, decoder().model))
    assert (ours - theirs).norm() < 1e-4 * ours.norm() and (ours - plain).norm() > 0.2 * ours.norm()
    assert again.source["name"] == "speech-smollm2/seed3" and not any(p.requires_grad for p in again.model.parameters())


def test_what_is_larger_than_four_megabytes_is_not_written(tmp_path, monkeypatch):
    llm, _ = built()
    monkeypatch.setattr(standin, "MOST", 10_000)
    with pytest.raises(FileError, match="may have 10,000"):
        standin.save(llm, tmp_path)
    assert not (tmp_path / "projector.safetensors").exists()


def test_the_real_ones_stay_below_it():
    """Rank 4 on every linear layer of SmolLM2-135M, and the projector of four states: 1,221,120 and 541,504 numbers."""
    adapter = 30 * 4 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    projector = sum(p.numel() for p in standin.Projector(4 * 384, 576).parameters())
    assert (adapter, projector) == (1_221_120, 541_504) and 2 * (adapter + projector) < 3_600_000


def test_it_starts_with_what_the_decoder_is_used_to():
    llm, base = built()
    given = llm.projector(torch.cat([states(recordings().spoken("words", i, "train")) for i in range(4)])).detach()
    assert float(given.std() / base.model.get_input_embeddings().weight.std()) == pytest.approx(1, rel=0.05)
    trained = {n.rpartition(".")[0].rpartition(".")[0][-6:] for n, p in base.model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}


@torch.no_grad()
def test_padding_and_neighbours_change_nothing():
    """Rows of a batch against each alone; and positions that begin at 0 again against those that go on."""
    with float64():
        llm, _ = built()
        model, projector, examples = llm.model.double(), llm.projector.double(), asked()

        def logits(of, grouped):
            x, mask, positions, target, _ = standin.inputs(of, grouped, projector, model.get_input_embeddings())
            n = target.shape[1]
            return model(inputs_embeds=x, attention_mask=mask.double(), position_ids=positions).logits[:, -n:], positions[:, -n:]

        together, positions = logits(examples, [True, False, True, False])
        assert len({len(e.source) for e in examples}) > 1
        for i, (example, grouped) in enumerate(zip(examples, [True, False, True, False])):
            n = len(example.target)
            close(together[i, :n], logits([example], [grouped])[0][0])
            assert positions[i, 0] == (0 if grouped else len(example.source))
            far(together[i, :n], logits([example], [not grouped])[0][0])
        plain = torch.cat([projector.join(examples[1].source[None], examples[1].features[None], model.get_input_embeddings()),
                           model.get_input_embeddings()(examples[1].target[None])], 1)  # counting on it is the stock model's own
        close(together[1, : len(examples[1].target)], model(inputs_embeds=plain).logits[0, len(examples[1].source) :])


@torch.no_grad()
@pytest.mark.parametrize("grouped", [True, False])
def test_answers_are_the_greedy_ones(grouped):
    """With a cache, against a whole pass for every token."""
    llm, _ = built()
    examples, stop = asked(3), recordings().stop
    found = standin.answers(llm, examples, grouped, stop, most=4)
    for example, answer in zip(examples, found):
        header = example.target[: example.target_units[0]].tolist()
        for i in range(4):
            target = torch.tensor([*header, *answer[:i]])
            of = type(example)(example.source, example.source_units, torch.cat([target, torch.tensor([stop])]), (len(target), 1),
                               features=example.features)
            x, mask, positions, *_ = standin.inputs([of], [grouped], llm.projector, llm.model.get_input_embeddings())
            token = int(llm.model(inputs_embeds=x, attention_mask=mask, position_ids=positions).logits[0, -2].argmax())
            assert token == (answer[i] if i < len(answer) else stop)
            if i >= len(answer):
                break


# -- training ----------------------------------------------------------------------------------------------
def trained(folder, tmp_path, **given):
    return standin.train(0, tmp_path / folder, FEW, decoder=decoder(), recordings=recordings(), again=decoder(), progress=False, **given)


def test_a_killed_training_goes_on_to_the_same_end(monkeypatch, tmp_path):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    whole = trained("whole", tmp_path)
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "another"))
    assert trained("parts", tmp_path, stop=3) is None and not (tmp_path / "parts").exists(), "nothing half-written"
    both = trained("parts", tmp_path)
    assert both["curve"] == whole["curve"] and both["quality"] == whole["quality"] and set(both["quality"]) == {"words", "spoken"}
    for name in ("adapter_model.safetensors", "projector.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "parts" / "training.json").read_text()) == both
    (last,) = (tmp_path / "another").rglob("last.ckpt")
    state = torch.load(last, weights_only=False)["state_dict"]
    assert all("lora_" in name or name.startswith("projector.") for name in state) and len(state) == 4 + 2 * 7 * 2


def test_loss_is_on_the_answer_alone_and_a_step_has_all_four_kinds_of_row():
    rows = standin.Rows(recordings(), 8)[2]
    kinds = [("after" in recordings().tokenizer.decode(e.source[: e.source_units[0]].tolist()), grouped) for e, grouped in rows]
    assert sorted(kinds) == sorted([(a, b) for a in (True, False) for b in (True, False)] * 2)
    llm, _ = built()
    module = standin.Training(llm, FEW)
    module.training_step(rows, 0)
    x, mask, positions, target, _ = standin.inputs(*zip(*rows), llm.projector, llm.model.get_input_embeddings())
    logits = llm.model(inputs_embeds=x, attention_mask=mask, position_ids=positions).logits[:, -target.shape[1] :].log_softmax(-1)
    losses = [-logits[i, j - 1, e.target[j]] for i, (e, _) in enumerate(rows) for j in range(e.target_units[0], len(e.target))]
    assert module.losses[0] == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-3)


def test_it_can_learn(tmp_path, monkeypatch):
    """On four rows again and again a tiny decoder's loss falls, by its adapters and its projector alone."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(standin, "quality", lambda *given: {})
    whole = standin.Rows.__getitem__
    monkeypatch.setattr(standin.Rows, "__getitem__", lambda self, step: whole(self, 0))
    base = decoder(hidden=32)
    card = standin.train(0, tmp_path / "x", standin.Steps(steps=21, rows=4, rate=2e-2, warmup=2, every=21), decoder=base,
                         recordings=recordings(), again=decoder(hidden=32), progress=False)
    assert card["curve"][-1][1] < 0.8 * card["curve"][0][1], card["curve"]
    own = dict(decoder(hidden=32).model.named_parameters())
    assert all(torch.equal(p, own[n.replace(".base_layer", "")]) for n, p in base.model.named_parameters() if "lora_" not in n)


def test_what_the_card_is_scored_on_is_shared_with_nobody(monkeypatch):
    """Neither with the arms' tests and calibration nor with any training: by the sound of every utterance, and by the ranges."""
    of, steps, sounds = Recordings(tokenizer(), bank=bank, states=states), standin.Steps(), set()
    monkeypatch.setattr(of, "states", lambda spoken: sounds.add(spoken.waveform.tobytes()) or states(spoken))
    monkeypatch.setattr(standin, "answers", lambda llm, examples, *given: [[] for _ in examples])
    standin.quality(None, of, steps.scored)
    assert len(sounds) == 2 * steps.scored
    others = [("test", range(128)), ("calibration", range(128)), ("train", range(256)), ("train", range(10**7, 10**7 + 256))]
    for seed in range(3):
        for task in standin.TASKS:
            for split, numbers in others:
                theirs = {said(task, number, split, seed, bank).waveform.tobytes() for number in numbers}
                assert not theirs & sounds, (task, split)
    assert SPLITS["calibration"] + 10**8 < SPLITS["calibration"] + standin.SCORED < SPLITS["test"] - steps.scored


# -- what is refused ---------------------------------------------------------------------------------------
def test_one_that_recognises_too_little_is_refused(tmp_path):
    good = {"words": {"a": 90.0, "b": 86.0}, "spoken": {"a": 75.0, "b": 69.0}}
    standin.reaches("words", good)
    with pytest.raises(ModelError, match="69.0 of 100 in 'spoken'.*needs 70"):
        standin.reaches("spoken", good)
    for name in ("adapter_model.safetensors", "projector.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "training.json").write_text(json.dumps({"quality": good}))
    with pytest.raises(ModelError, match="recognises too little"):
        standin.opened(tmp_path, task="spoken")


def test_a_folder_without_a_part_and_another_decoders_adapter_are_refused(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no projector.safetensors"):
        standin.opened(tmp_path)
    llm, _ = built()
    standin.save(llm, tmp_path / "x")
    (tmp_path / "x" / "training.json").write_text("{}")
    with pytest.raises(ModelError, match="its adapter is of tiny, not of other"):
        standin.opened(tmp_path / "x", base=decoder()._replace(source={"name": "other"}))


def test_states_have_the_width_that_the_tests_say():
    assert states(recordings().spoken("words", 0, "train")).shape[1] == WIDTH
