"""Fusion on stock multimodal models: what is read off a pass, equality with `vision_feature_layer=[...]`, and generate."""

import contextlib
import copy

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from common.errors import UserError
from common.families import build, text_ids, with_pictures
from tests.numerics import close, far

from ..checks import Unfit
from ..internal import Internal
from ..method import Fusion, FusionConfig, Sizes, few, layer_set
from ..multimodal import Fused, read

IMAGE, BLOCKS = 59, 6
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4, vocab_size=60, initializer_range=0.3)
SEES = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=8, patch_size=4)
POINTS = (0, 2, 4)
SET = few("triple", (1, 3, 5), BLOCKS)
KINDS = [FusionConfig(SET), FusionConfig(SET, "external", "modular"), FusionConfig(SET, "internal", points=POINTS),
         *(FusionConfig(SET, "internal", "modular", variant=v, points=POINTS) for v in ("pre", "post", "parallel"))]


def llava(layers=-2, tower="clip"):
    torch.manual_seed(0)
    sees = (CLIPVisionConfig if tower == "clip" else SiglipVisionConfig)(**SEES, **({"projection_dim": 16} if tower == "clip" else {}))
    config = LlavaConfig(vision_config=sees, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE, vision_feature_layer=layers,
                         vision_feature_select_strategy="default" if tower == "clip" else "full", image_seq_length=4)
    model = LlavaForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            parameter.normal_(std=0.3)
    return model


def inputs(pictures=3, seed=1):
    """Two rows, the second padded left: two pictures, one picture."""
    p = [IMAGE] * 4
    rows = [[3, *p, 4, *p, 5], [0, 0, 0, 0, 6, *p, 7, 8]]
    draw = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor([[1] * 11, [0] * 4 + [1] * 7]),
            "pixel_values": torch.randn(pictures, 3, 8, 8, generator=draw, dtype=torch.float64)}


def learnt(fused):
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in fused.new.named_parameters():
            parameter.normal_(std=0.3) if parameter.numel() > 1 else parameter.fill_(0.6)
            assert name
    return fused


@pytest.mark.parametrize("tower, leading", [("clip", 1), ("siglip", 0)])
def test_how_many_tokens_are_dropped_is_read_off_the_tower(tower, leading):
    model = llava(tower=tower)
    of = read(model, inputs())
    assert (of.leading, of.main, of.n, of.dv, of.slots, of.pictures) == (leading, 5, 4, 16, 4, 3)
    assert of.reader is model.model.multi_modal_projector and of.entry is of.reader.linear_1 and len(of.blocks) == BLOCKS


@torch.no_grad()
def test_external_direct_is_transformers_list_of_layers():
    """The wide matrix of `vision_feature_layer=[1, 3, 5]`, cut into its columns."""
    wide, plain = llava([1, 3, 5]), llava()
    matrix = wide.model.multi_modal_projector.linear_1
    plain.load_state_dict(wide.state_dict() | {"model.multi_modal_projector.linear_1.weight": matrix.weight[:, 32:]})
    fused = Fused(plain, KINDS[0], inputs())
    for number, beside in enumerate(fused.new.beside):
        beside.weight.copy_(matrix.weight[:, 16 * number : 16 * number + 16])
    stock = wide(**inputs()).logits
    with fused:
        close(plain(**inputs()).logits, stock)
    far(plain(**inputs()).logits, stock)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind} {c.variant}")
@torch.no_grad()
def test_neutral_then_learnt_then_gone(config):
    model, given = llava(), inputs()
    plain = model(**given).logits
    fused = Fused(model, config, given)
    with fused:
        assert torch.equal(model(**given).logits, plain)
        learnt(fused)
        ours = model(**given).logits
        far(ours, plain, 1e-3)
        other = model(**(given | {"pixel_values": inputs(seed=2)["pixel_values"]})).logits
        assert torch.equal(other[0, :1], ours[0, :1]) and torch.equal(other[1, 4:5], ours[1, 4:5]), "text before a picture sees it"
        alone = model(**{k: v[1:, 4:] if v.dim() == 2 else v[2:] for k, v in given.items()}).logits
        close(alone[0], ours[1, 4:], 1e-6)
        text = {"input_ids": torch.tensor([[3, 4, 5]])}
        if config.pattern == "direct" or config.position == "external":
            assert torch.equal(model(**text).logits, llava()(**text).logits), "a prompt without a picture gets the last one's"
    assert torch.equal(model(**given).logits, plain)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind} {c.variant}")
@torch.no_grad()
def test_generate_with_a_cache_is_greedy_decoding_without(config):
    model, given = llava(), inputs()
    with learnt(Fused(model, config, given)):
        written = model.generate(**given, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0,
                                 suppress_tokens=[IMAGE])[:, 11:]
        now = dict(given)
        for i in range(4):
            chosen = model(**now, use_cache=False).logits[:, -1, :IMAGE].argmax(-1)
            assert torch.equal(chosen, written[:, i])
            now |= {"input_ids": torch.cat([now["input_ids"], chosen[:, None]], 1),
                    "attention_mask": torch.cat([now["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)}


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind} {c.variant}")
@torch.no_grad()
def test_generate_without_a_cache_with_beams_and_with_several_samples_sees_the_same_layers(config):
    """`generate` has the tower run once before its first call: repeated rows share a picture, and a call without a cache has no states."""
    model, given = llava(), inputs()
    usual = dict(do_sample=False, eos_token_id=None, pad_token_id=0, suppress_tokens=[IMAGE], max_new_tokens=4)
    stock, sampled = model.generate(**given, **usual), usual | {"do_sample": True, "top_k": 1}
    if not torch.equal(model.generate(**given, **sampled, num_return_sequences=2), stock.repeat_interleave(2, 0)):
        pytest.skip("this transformers' own generate mixes up the pictures of rows that it repeats")
    with learnt(Fused(model, config, given)):
        plain = model.generate(**given, **usual)
        assert torch.equal(model.generate(**given, **usual, use_cache=False), plain)
        assert torch.equal(model.generate(**given, **sampled, num_return_sequences=3), plain.repeat_interleave(3, 0))
        beams = [model.generate(**given, **usual, num_beams=3, num_return_sequences=2, use_cache=cache) for cache in (True, False)]
        assert torch.equal(*beams)
        best = model.generate(**given, **usual, num_beams=3, output_scores=True, return_dict_in_generate=True)
        for row, ids, score in zip(range(2), best.sequences, best.sequences_scores):  # the score of a pass over that row alone
            start, own = (0, slice(0, 2)) if row == 0 else (4, slice(2, 3))
            logits = model(input_ids=ids[None, start:-1], pixel_values=given["pixel_values"][own]).logits[0, -4:]
            close(logits.log_softmax(-1).gather(1, ids[-4:, None]).sum() / 4, score, 1e-5)  # beams score in fp32


@pytest.mark.parametrize("config", KINDS[:3], ids=lambda c: c.kind)
@torch.no_grad()
def test_two_fusions_on_one_model_and_a_copy_of_a_fused_one_are_refused(config):
    """Two would be added up; a copy's hooks would look at the first one's pictures."""
    model, given = llava(), inputs()
    fused, plain = learnt(Fused(model, config, given)), model(**given).logits
    second = Fused(model, config, given)
    with fused:
        ours = model(**given).logits
        for attempt in (second.attach, lambda: Fused(model, config, given)):
            with pytest.raises(UserError, match="has a fusion on it already"):
                attempt()
        with pytest.raises(UserError, match=r"cannot be copied with a fusion on it: detach\(\)"):
            copy.deepcopy(model)
        second.detach()  # was never on it
        with pytest.raises(UserError, match="has a fusion on it already"):
            second.attach()
        close(model(**given).logits, ours)
    assert torch.equal(copy.deepcopy(model)(**given).logits, plain)
    with second:
        assert torch.equal(model(**given).logits, plain), "a fresh fusion is neutral"


@torch.no_grad()
def test_image_tokens_whose_picture_the_tower_never_saw_are_refused_in_the_blocks():
    model, given = llava(), inputs()
    with learnt(Fused(model, KINDS[2], given)):
        ours = model(**given).logits
        model.generate(**given, do_sample=False, max_new_tokens=2, pad_token_id=0)
        with pytest.raises(UserError, match="the tower saw no picture for them in this call"):
            model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        close(model(**given).logits, ours)


def test_a_model_is_left_as_it_was_and_what_is_new_is_all_that_learns():
    model, given = llava(), inputs()
    before = copy.deepcopy(model.state_dict())
    model.requires_grad_(False)
    with learnt(Fused(model, KINDS[2], given)) as fused:
        model(**given).logits[:, -1].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in fused.new.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("family, config, says", [
    ("qwen2_vl", FusionConfig(layer_set("single", 2, (1, 1, 1))), "pictures apart|one state a patch|alike blocks"),
    ("idefics3", FusionConfig(few("one", (1,), 2)), "no linear layer reads a patch"),
    ("llava_next", FusionConfig(few("one", (1,), 2), "internal"), "places in the text")])
def test_models_are_refused_by_what_they_lack(family, config, says):
    model = build(family)
    with pytest.raises(Unfit, match=says):
        Fused(model, config, with_pictures(model, text_ids()))


def test_a_set_of_another_tower_is_refused():
    with pytest.raises(ValueError, match="24 blocks; that of LlavaForConditionalGeneration has 6"):
        Fused(llava(), FusionConfig(layer_set("triple", 24)), inputs())
    with pytest.raises(ValueError, match="reads already"):
        Fused(llava(), FusionConfig(few("own", (5,), BLOCKS)), inputs())


@pytest.mark.parametrize("config", KINDS[2:4], ids=lambda c: c.kind)
@torch.no_grad()
def test_a_picture_that_would_not_reach_the_blocks_is_refused(config):
    """The model itself would read it: without a refusal, nothing would be added of it, and nobody would know."""
    model = llava()
    fused, given = learnt(Fused(model, config, inputs())), inputs()
    one = {"input_ids": given["input_ids"][1:, 4:], "pixel_values": given["pixel_values"][2:]}
    with fused:
        with pytest.raises(UserError, match="a picture without input_ids"):
            model(inputs_embeds=model.get_input_embeddings()(one["input_ids"]), pixel_values=one["pixel_values"])
        right = model(**one, use_cache=True)
        with pytest.raises(UserError, match="a picture behind a prompt that is cached"):
            model(**one, past_key_values=right.past_key_values)
        text = torch.tensor([[3, 4, 5]])
        alone = model(input_ids=text).logits
        model.get_image_features(pixel_values=one["pixel_values"])  # the tower by itself: nothing of it is left for the next prompt
        close(model(input_ids=text).logits, alone)
        close(model(**one).logits, right.logits)


@contextlib.contextmanager
def leaving(model, behind, width):
    """As a pruning session does: from behind a layer on, hidden states, rotary tables and mask hold the last `width` slots alone."""
    def cut(module, args, kwargs):
        kwargs |= {name: None if name == "attention_mask" else tuple(t[:, -width:] for t in value) if isinstance(value, tuple) else
                   value[:, -width:] for name, value in kwargs.items() if name in ("attention_mask", "position_embeddings", "position_ids")}
        return (args[0][:, -width:], *args[1:]), kwargs

    hooks = [layer.register_forward_pre_hook(cut, with_kwargs=True) for layer in model.get_decoder().layers[behind + 1 :]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("config", KINDS[2:], ids=lambda c: f"{c.kind} {c.variant}")
@torch.no_grad()
def test_tokens_that_leave_before_a_block_of_the_fusion_are_told(config, monkeypatch):
    """What it adds by place would go to other tokens; behind its last block they may go."""
    model, given = llava(), inputs()
    one = {"input_ids": given["input_ids"][1:, 4:], "pixel_values": given["pixel_values"][2:]}
    with learnt(Fused(model, config, given)):
        plain = model(**one).logits
        with leaving(model, 1, 3), pytest.raises(UserError, match="4 of 7 tokens were dropped before a block .* last block \\(4\\)"):
            model(**one)
        with leaving(model, 4, 3):
            assert model(**one).logits.shape[1] == 3
        with leaving(model, 0, 3):
            model(input_ids=torch.tensor([[3, 4, 5, 6]]))  # no picture: nothing is added by place
        close(model(**one).logits, plain)
        monkeypatch.setattr(model.get_decoder().config, "_attn_implementation_internal", "watched_sdpa")
        with pytest.raises(UserError, match="several rows under a pruning session"):
            model(**given)


@pytest.mark.parametrize("config", KINDS[2:4], ids=lambda c: c.kind)
@torch.no_grad()
def test_a_decoder_that_is_run_over_text_alone_is_told(config):
    """ViCA's own keyword: nothing would be added of the picture, and nobody would know."""
    model = llava()
    with learnt(Fused(model, config, inputs())), pytest.raises(UserError, match="use external fusion with it"):
        model.get_decoder()(inputs_embeds=torch.zeros(1, 3, 32, dtype=torch.float64), vica=object())


def test_prompts_of_other_lengths_may_come_before_one_backward():
    """Blocks are recomputed then, outside of a pass whose length could be known."""
    model = llava().train()
    model.requires_grad_(False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    given = inputs()
    one = {"input_ids": given["input_ids"][1:, 4:], "pixel_values": given["pixel_values"][2:]}
    with learnt(Fused(model, KINDS[2], given)) as fused:
        loss = model(**given, use_cache=False).logits[:, -1].square().sum() + model(**one, use_cache=False).logits.square().sum()
        loss.backward()
    assert all(p.grad is not None for p in fused.new.parameters())


def test_a_decoder_without_a_cache_that_counts_is_refused():
    with pytest.raises(Unfit, match="no cache that counts"):
        Internal(build("mamba2"), Fusion(FusionConfig(few("one", (1,), 2), "internal", points=(0,)), Sizes(16, 32, 48, 4, 2)))


@pytest.mark.parametrize("config", [KINDS[0], *KINDS[2:4]], ids=lambda c: c.kind)
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@torch.no_grad()
def test_a_model_in_peft_s_wrapper_answers_as_the_model_in_it(config, task):
    """`generate` of the wrapper calls the model past the wrapper's own forward, and its forward, by task, calls past the model's hooks."""
    from peft import LoraConfig, get_peft_model

    model, given = llava(), inputs()
    usual = dict(do_sample=False, max_new_tokens=4, eos_token_id=None, pad_token_id=0, suppress_tokens=[IMAGE])
    with learnt(Fused(model, config, given)):
        logits, written = model(**given).logits, model.generate(**given, **usual)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type=task)).eval()
    with learnt(Fused(wrapped, config, given)):
        close(wrapped(**given).logits, logits)
        assert torch.equal(wrapped.generate(**given, **usual), written)
        with pytest.raises(UserError, match="has a fusion on it already"):
            Fused(model, config, given)
