"""`ViCA(llava, config)` on stock multimodal models: ids and pixels in, and the definition out, on every kind that reads pictures."""

import copy

import pytest
import torch

from common.errors import UserError
from common.families import build, text_ids, with_pictures
from common.families.pictures import IMAGE
from tests.numerics import close, far

from .. import families
from ..method import ViCACache, ViCAConfig
from ..multimodal import ViCA

KINDS = ["llava", "llava-qwen3", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl", "mistral3", "gemma3"]
NEAR = 1e-5  # of the largest value: norms and rotations of stock models compute in single precision


@pytest.fixture(scope="module")
def model():
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = build(kind)
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_answers_are_the_definition_s(model, kind):
    families.whole_model(model(kind), text_ids())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_picture_is_the_stock_model_s_own(model, kind):
    """All layers look and one token alone is asked: in the first layer dense and ViCA read the same. So with one layer they are equal."""
    llava = copy.deepcopy(model(kind))
    text = llava.get_decoder()
    name, layers = next((n, m) for n, m in text.named_children() if isinstance(m, torch.nn.ModuleList))
    setattr(text, name, layers[:1])
    text.config.num_hidden_layers = 1
    inputs = with_pictures(llava, text_ids())
    ours = ViCA(llava, ViCAConfig((0,)))(**inputs)
    stock = llava(**inputs, use_cache=False).logits
    for row in range(2):
        close(ours.logits[row], stock[row, ours.layout.positions[row]], NEAR)
    other = ViCA(llava, ViCAConfig((0,)))(**inputs | {"pixel_values": -inputs["pixel_values"]}).logits
    far(other[:, 2], ours.logits[:, 2], 1e-3)  # right behind the picture: Gemma 3's first layer has a window


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_row_is_the_row_alone_and_text_alone_is_the_stock_model(model, side):
    llava = model("llava")
    ours, ids = ViCA(llava, ViCAConfig((0, 2))), text_ids()
    whole = with_pictures(llava, ids)
    short = whole["input_ids"][1:, :-3]
    pad = (3, 0) if side == "left" else (0, 3)
    row = torch.nn.functional.pad(short, pad, value=5)
    real = torch.nn.functional.pad(torch.ones_like(short), pad)
    together = ours(input_ids=torch.cat([whole["input_ids"][:1], row]), attention_mask=torch.cat([torch.ones_like(row), real]),
                    pixel_values=whole["pixel_values"])
    alone = ours(input_ids=short, pixel_values=whole["pixel_values"][1:])
    close(together.logits[1][together.layout.real[1]], alone.logits[0], NEAR)
    written = ours.generate(torch.cat([whole["input_ids"][:1], row]), torch.cat([torch.ones_like(row), real]), 3, eos_token_id=None,
                            pixel_values=whole["pixel_values"])
    assert written[1] == ours.generate(short, max_new_tokens=3, eos_token_id=None, pixel_values=whole["pixel_values"][1:])[0]
    close(ours(input_ids=ids).logits, llava(input_ids=ids).logits, NEAR)


@torch.no_grad()
def test_a_picture_seen_once_answers_more_questions(model):
    llava, ids = model("llava_next"), text_ids()
    ours, inputs = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, ids)
    kept = ours.see(**inputs)
    second = inputs["input_ids"].clone()
    second[:, -4:] = text_ids(seed=1)[:, :4]
    fresh = inputs | {"input_ids": second}
    close(ours(input_ids=second, visual=kept).logits, ours(**fresh).logits, NEAR)
    options = dict(max_new_tokens=4, eos_token_id=None)
    assert ours.generate(second, visual=kept, **options) == ours.generate(**fresh, **options)


@torch.no_grad()
def test_the_model_s_own_end_tokens_end_an_answer(model):
    llava = copy.deepcopy(model("llava"))
    ours, inputs = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids())
    free = ours.generate(**inputs, max_new_tokens=6, eos_token_id=None)
    for ends in (torch.tensor(free[0][1]), torch.tensor([free[0][1]])):
        assert ours.generate(**inputs, max_new_tokens=6, eos_token_id=ends)[0] == free[0][: free[0].index(free[0][1]) + 1]
    llava.generation_config.eos_token_id = [free[0][1], 2]
    assert ours.generate(**inputs, max_new_tokens=6)[0] == free[0][: free[0].index(free[0][1]) + 1]
    assert ours.generate(**inputs, max_new_tokens=6, eos_token_id=None) == free


def test_gradients_reach_the_projector(model):
    llava = copy.deepcopy(model("llava"))
    out = ViCA(llava, ViCAConfig((0, 2)))(**with_pictures(llava, text_ids()))
    out.logits[:, -1].logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in llava.model.multi_modal_projector.parameters())


@torch.no_grad()
def test_each_part_keeps_its_own_attention_and_the_model_is_as_it_was(model):
    """Attention of the decoder eager, of the tower sdpa, and the other way round: after every use as before, and dense passes equal."""
    from common.vision.visual_tokens import attention_to_pictures

    from .. import pruning

    for text, tower in (("eager", "sdpa"), ("sdpa", "eager")):
        llava = copy.deepcopy(model("llava"))
        llava.set_attn_implementation({"text_config": text, "vision_config": tower})
        parts = (llava.config, llava.config.text_config, llava.config.vision_config)
        before, inputs = [c._attn_implementation for c in parts], with_pictures(llava, text_ids())
        assert before[1:] == [text, tower]
        stock = llava(**inputs).logits
        ours = ViCA(llava, ViCAConfig((0, 1, 2)))
        out = ours(**inputs)
        ours.generate(**inputs, max_new_tokens=2, eos_token_id=None)
        pruning.ranked(llava, ours.config, out.layout, out.visual, {0: 1.0, 1: 0.5, 2: 0.25})
        attention_to_pictures(llava, out.layout, out.visual, [1])
        assert [c._attn_implementation for c in parts] == before
        close(llava(**inputs).logits, stock, 1e-12)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in llava.model.language_model.modules())


@torch.no_grad()
def test_pictures_that_see_each_other_do_not_matter_and_text_that_sees_ahead_is_refused(model):
    """Gemma 3 lets a picture's tokens see each other both ways, which ViCA does not compute; text that is read so is another model."""
    gemma = model("gemma3")
    inputs = with_pictures(gemma, text_ids())
    ours, kinds = ViCA(gemma, ViCAConfig((0, 2))), (inputs["input_ids"] == IMAGE).long()
    close(ours(**inputs, token_type_ids=kinds).logits, ours(**inputs).logits, NEAR)
    with pytest.raises(UserError, match="not causal"):
        ours(**inputs, token_type_ids=torch.ones_like(kinds))


@pytest.mark.parametrize("kind, says", [
    ("qwen2_vl", "three dimensions"), ("paligemma", "stock model's logits"), ("qwen3_vl", "three dimensions")])
def test_what_it_does_not_fit_is_refused_by_property(model, kind, says):
    with pytest.raises(UserError, match=says):
        ViCA(model(kind), ViCAConfig((0,)))


@torch.no_grad()
def test_more_places_than_a_picture_has_tokens_are_refused_by_the_stock_model(model):
    llava = model("llava")
    inputs = with_pictures(llava, text_ids())
    ids = torch.cat([inputs["input_ids"], inputs["input_ids"].new_full((2, 1), IMAGE)], 1)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        ViCA(llava, ViCAConfig((0, 2)))(input_ids=ids, pixel_values=inputs["pixel_values"])


@torch.no_grad()
def test_padding_in_the_middle_is_padding(model):
    """Text and picture behind a hole take the embeddings of their own ids."""
    llava = model("llava")
    ours, whole = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids())
    ids, real = whole["input_ids"], torch.ones_like(whole["input_ids"])
    holed, real = (torch.cat([part[:, :1], part.new_full((2, 2), fill), part[:, 1:]], 1) for part, fill in ((ids, 7), (real, 0)))
    close(ours(holed, real, pixel_values=whole["pixel_values"]).logits, ours(**whole).logits, NEAR)


@torch.no_grad()
def test_a_call_with_a_cache_goes_on_behind_what_it_holds(model):
    """Rows of unequal length, one without a picture, in three calls: the logits are those of one call."""
    llava = model("llava")
    ours, whole = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids())
    ids, real = whole["input_ids"].clone(), torch.ones_like(whole["input_ids"])
    ids[1], real[1, :3] = text_ids(1, ids.shape[1], seed=2)[0], 0
    shown = whole["pixel_values"][:1]
    once = ours(ids, real, pixel_values=shown)
    cache, cut = ViCACache(), ids.shape[1] - 4
    ours(ids[:, :cut], real[:, :cut], cache, pixel_values=shown)
    close(ours(ids[:, cut:-1], past_key_values=cache).logits[0], once.logits[0][once.layout.real[0]][-4:-1], NEAR)
    last = ours(ids[:, -1:], past_key_values=cache).logits
    for row in range(2):
        close(last[row, 0], once.logits[row][once.layout.real[row]][-1], NEAR)
    with pytest.raises(UserError, match="behind what past_key_values holds"):
        ours(ids, past_key_values=cache, pixel_values=shown)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llava", "gemma3", "llava_onevision"])
def test_what_would_be_left_out_without_a_word_is_refused(model, kind):
    """Sampling, beams, a loss, a misspelt picture: a stock model takes any name, and text alone does not even reach it."""
    llava, ids = model(kind), text_ids()
    ours, whole = ViCA(llava, ViCAConfig((0, 2))), with_pictures(model(kind), text_ids())
    free = ours.generate(**whole, max_new_tokens=2, eos_token_id=None)
    for name, value in dict(do_sample=True, num_beams=4, num_return_sequences=3, temperature=0.5, labels=ids, position_ids=ids,
                            logits_to_keep=1, use_cache=True, pixel_value=whole["pixel_values"], output_hidden_states=True).items():
        for call in (ours, ours.generate):
            for inputs in (whole, {"input_ids": ids}):
                with pytest.raises(UserError, match=rf"^{name} is no argument of"):
                    call(**inputs, **{name: value})
    with pytest.raises(UserError, match="^(pixel_values_videos is no argument|pixel_values_videos: .* video)"):
        ours(**whole, pixel_values_videos=whole["pixel_values"])
    with pytest.raises(UserError, match="and no picture"):  # other tensors are no picture
        ours(whole["input_ids"], token_type_ids=(whole["input_ids"] == IMAGE).long())
    with pytest.raises(UserError, match=r"One row is ids\[None\]"):
        ours(whole["input_ids"][0], pixel_values=whole["pixel_values"][:1])
    for more in ({"token_type_ids": (whole["input_ids"] == IMAGE).long()}, {"labels": None}):
        assert ours.generate(**whole, **more, max_new_tokens=2, eos_token_id=None) == free


@torch.no_grad()
def test_adapters_around_the_model_leave_its_pictures_their_names(model):
    from peft import LoraConfig, get_peft_model

    llava, whole = copy.deepcopy(model("llava")), with_pictures(model("llava"), text_ids())
    stock = ViCA(llava, ViCAConfig((0, 2)))(**whole).logits
    wrapped = get_peft_model(llava, LoraConfig(target_modules=["q_proj"])).eval()
    close(ViCA(wrapped, ViCAConfig((0, 2)))(**whole).logits, stock, 1e-12)
    with pytest.raises(UserError, match="labels is no argument"):
        ViCA(wrapped, ViCAConfig((0, 2)))(**whole, labels=whole["input_ids"])


@torch.no_grad()
def test_ids_and_pictures_that_do_not_belong_together_are_refused(model):
    llava = model("llava")
    ours, whole = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids())
    ids, shown, kept = whole["input_ids"], whole["pixel_values"], ours.see(**whole)
    moved = torch.cat([ids[:, :1], ids], 1)
    twice = torch.cat([ids[:, :2], ids[:, 2:6], ids[:, 2:]], 1)
    for says, call in {
        "at other places": lambda: ours(moved, visual=kept), "other places": lambda: ours.generate(twice, visual=kept),
        "kept for 2 rows, and input_ids have 1": lambda: ours(ids[:1], visual=kept),
        "the picture was kept at": lambda: ours(text_ids(), visual=kept),
        "no image token in input_ids": lambda: ours(text_ids(), pixel_values=shown),
        "8 image tokens in input_ids and no picture": lambda: ours(ids),
        "no picture in input_ids": lambda: ours.see(text_ids()),
        "are empty": lambda: ours.generate(ids[:, :0]),
    }.items():
        with pytest.raises(UserError, match=says):
            call()


@torch.no_grad()
def test_a_row_without_text_and_a_cache_of_another_kind_are_refused(model):
    """No slot of such a row could answer: what was written there came from padding."""
    from transformers import DynamicCache

    llava = model("llava")
    ours, whole = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids())
    ids, shown = whole["input_ids"], whole["pixel_values"]
    picture = torch.full((1, 4), IMAGE)
    both = torch.cat([ids[:1], torch.nn.functional.pad(picture, (0, ids.shape[1] - 4))])
    real = torch.ones_like(both)
    real[1, 4:] = 0
    for call in (ours, ours.generate):
        with pytest.raises(UserError, match="input_ids hold no token of text"):
            call(picture, pixel_values=shown[:1])
    with pytest.raises(UserError, match="row 1 of input_ids holds no token of text"):
        ours.generate(both, real, pixel_values=shown)
    close(ours(both, real, pixel_values=shown).logits[0], ours(ids[:1], pixel_values=shown[:1]).logits[0], NEAR)
    with pytest.raises(UserError, match=r"past_key_values is a DynamicCache.* give a ViCACache\(\)"):
        ours(**whole, past_key_values=DynamicCache())
    for wrong in (-3, None, True, 2.0):
        with pytest.raises(UserError, match="max_new_tokens is"):
            ours.generate(**whole, max_new_tokens=wrong)
    assert ours.generate(**whole, max_new_tokens=0) == [[], []]


@torch.no_grad()
def test_a_row_of_a_kept_picture_can_be_chosen_though_another_row_had_more(model):
    """Two pictures beside one: the row with one is asked by itself, and together with text of another length."""
    ours, places = ViCA(model("llava"), ViCAConfig((0, 2))), [IMAGE] * 4
    ids = torch.tensor([[5, 6, *places, 7, *places, 8], [5, 6, *places, 7, 8, 9, 0, 0, 0]])
    real, draw = torch.ones_like(ids), torch.Generator().manual_seed(1)
    real[1, 9:] = 0
    kept = ours.see(ids, real, pixel_values=torch.randn(3, 3, 8, 8, generator=draw, dtype=torch.float64))
    one = kept.select(torch.tensor([1]))
    close(ours(ids[1:, :9], visual=one).logits[0], ours(ids, real, visual=kept).logits[1, :5], NEAR)
    for wrong in (ids[:1], ids[1:, 1:9]):
        with pytest.raises(UserError, match="kept at other places"):
            ours(wrong, visual=one)


@torch.no_grad()
def test_other_rows_than_a_cache_holds_and_what_is_no_tensor_are_refused(model):
    llava = model("llava")
    ours, whole, cache = ViCA(llava, ViCAConfig((0, 2))), with_pictures(llava, text_ids()), ViCACache()
    ours(**whole, past_key_values=cache)
    for rows in (1, 4):
        with pytest.raises(UserError, match=f"past_key_values holds 2 rows, and input_ids have {rows}: choose or repeat its rows"):
            ours(torch.full((rows, 2), 7), past_key_values=cache)
    cache.batch_repeat_interleave(2)
    assert ours(torch.full((4, 2), 7), past_key_values=cache).logits.shape[:2] == (4, 2)
    with pytest.raises(UserError, match=r"input_ids is a dict: a tensor .* ours\(\*\*inputs\)"):
        ours.generate(dict(whole))
    with pytest.raises(UserError, match="visual is a Tensor: it takes what `see` has kept"):
        ours(whole["input_ids"], visual=torch.zeros(2, 4, 32))
