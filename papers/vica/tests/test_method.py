"""ViCA on a stock decoder is its definition, for every prompt, family and attention; what it must not see it does not see."""

import json
from dataclasses import replace

import pytest
import torch

from common.errors import FileError, UserError
from common.models import load, tiny
from common.vision.layout import packed
from tests.numerics import close, far

from .. import method
from ..checkpoint import FILE, save
from ..checkpoint import load as load_config
from ..method import Places, ViCAConfig, check_model
from ..reference import frozen_dense, masked_reference
from .conftest import IMAGE, PROMPTS, batch, pictures, run

pytestmark = pytest.mark.numerics

LAYERS = ((), (1,), (0, 2), (0, 1, 2))
EXACT = 1e-12  # of the largest value: models are in double precision


def one(model, config, prompt, **more):
    """Logits (T, V) of a prompt alone, by the form without masks where there is one picture."""
    layout, *_ = batch([prompt])
    visual = pictures(layout, dtype=model.dtype)
    embeds = model.get_input_embeddings()(layout.ids)
    with torch.no_grad():
        shown = bool(layout.visual_positions.shape[1])
        places = Places(layout.positions, layout.visual_positions if shown else None)
        return method.forward(model, config, embeds, places, visual if shown else None, **more).logits[0]


# -- the definition ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("update", ["full", "frozen"])
def test_fast_path_is_the_masked_definition(decoder, prompts, family, attention, update):
    """One softmax, the layer's own norm and projections, rotary keys, the gap in positions: all in one equality."""
    model, layout = decoder(family, attention), prompts.layout
    for layers in LAYERS:
        config = ViCAConfig(layers, update)
        with torch.no_grad():
            reference = masked_reference(model, config, layout, prompts.visual)
        close(run(model, config, layout, prompts.visual)[layout.real], reference[layout.real], EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_and_in_single_precision(decoder, prompts, attention):
    """Its unit is 6e-8 of a value; sums over 32 to 64 terms in three layers leave a few of them."""
    model, config = decoder("llama", attention, torch.float32), ViCAConfig((0, 2))
    with torch.no_grad():
        reference = masked_reference(model, config, prompts.layout, prompts.visual.float())
    close(run(model, config, prompts.layout, prompts.visual)[prompts.layout.real], reference[prompts.layout.real], 5e-6)


def test_bfloat16_stays_close(decoder, prompts):
    exact = run(decoder(dtype=torch.float32), ViCAConfig((0, 2)), prompts.layout, prompts.visual)
    rough = run(decoder(dtype=torch.bfloat16), ViCAConfig((0, 2)), prompts.layout, prompts.visual).float()
    gap = (rough - exact)[prompts.layout.real]
    assert gap.abs().mean() < 0.03 * exact[prompts.layout.real].abs().mean()


# -- batches -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("update", ["full", "frozen"])
def test_a_row_does_not_depend_on_its_neighbours_or_padding(decoder, side, update):
    """Text alone, short, long, two pictures, a picture first: in one batch each is what it is alone."""
    model, config = decoder(), ViCAConfig((0, 2), update)
    layout, *_ = batch(PROMPTS, side)
    together = run(model, config, layout, pictures(layout))
    for row, prompt in enumerate(PROMPTS):
        close(together[row][layout.real[row]], one(model, config, prompt), EXACT)


def test_text_without_a_picture_is_the_stock_model(decoder):
    """The official training code damages it; here no picture changes nothing, in a batch or alone."""
    model, prompt = decoder(), PROMPTS[0]
    with torch.no_grad():
        stock = model(torch.tensor([prompt])).logits[0]
    close(one(model, ViCAConfig((0, 1, 2)), prompt), stock, EXACT)
    close(one(model, ViCAConfig((0, 1, 2), "frozen"), prompt), stock, EXACT)
    layout, *_ = batch(PROMPTS)
    close(run(model, ViCAConfig((0, 2), "frozen"), layout, pictures(layout))[0, : len(prompt)], stock, EXACT)


@pytest.mark.parametrize("update", ["full", "frozen"])
def test_a_batch_in_which_no_row_has_a_picture_is_the_stock_model(decoder, update):
    """N = 0: an evaluation of text only, or an unlucky draw in training."""
    model, prompts = decoder(), [PROMPTS[0], [1, 5, 8]]
    layout, ids, real = batch(prompts)
    with torch.no_grad():
        stock = model(ids, attention_mask=real).logits
    none = torch.zeros(2, 0, model.config.hidden_size, dtype=torch.float64)
    found = run(model, ViCAConfig((0, 2), update), layout, none)
    close(found[layout.real], stock[layout.real], EXACT)
    cache = method.ViCACache()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(layout.ids[:1])
        places = Places(layout.positions[:1], layout.visual_positions[:1])
        method.forward(model, ViCAConfig((0, 2), update), embeds, places, none[:1], cache)
    assert cache.visual is None and cache.get_seq_length() == 5


def test_questions_that_share_a_picture_are_questions_alone(decoder):
    model, config, prefix = decoder(), ViCAConfig((0, 2)), [1, 5]
    questions = [[6, 7, 8], [9], [10, 11, 12, 13]]
    rows = packed(prefix, [[(q, [-100] * len(q)) for q in questions]], 4)
    visual = pictures(rows)
    together = run(model, config, rows, visual)[0]
    start = len(prefix)
    for question in questions:
        alone = one(model, config, [*prefix, *[IMAGE] * 4, *question])
        close(together[start : start + len(question)], alone[len(prefix) :], EXACT)
        start += len(question)


# -- what must not matter, and what must -------------------------------------------------------------------
def test_another_picture_reaches_what_is_behind_it_and_nothing_else(decoder):
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch([PROMPTS[2]])
    a, b = (run(model, config, layout, pictures(layout, seed=s))[0] for s in (0, 1))
    assert torch.equal(a[:6], b[:6])  # one computation on two pictures: weights of zero leave no trace
    for ours, theirs in zip(a[6:], b[6:]):
        far(ours, theirs)


def test_a_picture_is_a_set_of_tokens_with_positions(decoder):
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch([PROMPTS[2]])
    visual, order = pictures(layout), torch.tensor([2, 0, 3, 1])
    plain = run(model, config, layout, visual)
    moved = replace(layout, visual_positions=layout.visual_positions[:, order])
    close(run(model, config, moved, visual[:, order]), plain, EXACT)
    far(run(model, config, layout, visual[:, order]), plain)


def test_text_keeps_its_positions_also_where_no_picture_is_looked_at(decoder):
    """C = {}: the stock model on the text with the gap, told that all is one text; contiguous positions differ."""
    model = decoder()
    layout, *_ = batch([PROMPTS[2]])
    ours = run(model, ViCAConfig(()), layout, pictures(layout))
    with torch.no_grad():
        stock = model(layout.ids, attention_mask=torch.ones_like(layout.ids), position_ids=layout.positions).logits
        closed = model(layout.ids).logits
        trapped = model(layout.ids, position_ids=layout.positions, use_cache=False).logits  # read as two packed texts
    close(ours, stock, EXACT)
    far(ours, closed)
    far(ours, trapped)


def test_all_layers_is_dense_with_a_frozen_picture_and_not_dense(decoder, prompts):
    model, layout = decoder(), prompts.layout
    ours = run(model, ViCAConfig((0, 1, 2)), layout, prompts.visual)
    with torch.no_grad():
        frozen, dense = (model.lm_head(frozen_dense(model, layout, prompts.visual, f)) for f in ("all", "none"))
    close(ours[layout.real], frozen[layout.real], EXACT)
    far(ours[layout.real], dense[layout.real])


@pytest.mark.parametrize("what", ["input_layernorm", "self_attn.k_proj", "post_attention_layernorm"])
def test_the_layer_that_looks_uses_its_own_weights(what):
    """Visual keys and values through layer 1's own norm and projection; layer 0's would give the same logits for them."""
    model = load(tiny()).model.double()
    layout, *_ = batch([PROMPTS[2]])
    visual = pictures(layout)
    before = run(model, ViCAConfig((1,)), layout, visual)
    kv = method.compute_visual_kv(model, visual, layout.visual_positions, [1])
    with torch.no_grad():
        model.get_submodule(f"model.layers.1.{what}").weight.mul_(1.5)
    after = method.compute_visual_kv(model, visual, layout.visual_positions, [1])
    if what == "post_attention_layernorm":
        assert torch.equal(after.keys[1], kv.keys[1])
    else:
        far(after.keys[1], kv.keys[1])
    far(run(model, ViCAConfig((1,)), layout, visual), before)


def test_visual_tokens_pass_through_two_projections_in_the_layers_of_c_and_nothing_else(decoder):
    model = decoder()
    layout, *_ = batch([PROMPTS[2]])
    seen = {}
    hooks = [module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, []).append(args[0].shape[1]))
             for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    run(model, ViCAConfig((0, 2)), layout, pictures(layout))
    for hook in hooks:
        hook.remove()
    text = layout.ids.shape[1]
    for name, widths in seen.items():
        looks = name.startswith(("model.layers.0.", "model.layers.2.")) and name.endswith(("k_proj", "v_proj"))
        assert sorted(widths) == sorted([4, text] if looks else [text]), name


def test_dropped_visual_keys_are_gone(decoder):
    """keep in a layer of C = the definition without those keys, for each row its own."""
    model, config = decoder(), ViCAConfig((0, 2))
    layout, *_ = batch([PROMPTS[1], PROMPTS[2]])
    visual, keep = pictures(layout), {2: torch.tensor([[True, False, True, True], [False, True, False, False]])}
    with torch.no_grad():
        wanted = masked_reference(model, config, layout, visual, keep)
    close(run(model, config, layout, visual, keep=keep)[layout.real], wanted[layout.real], EXACT)
    far(run(model, config, layout, visual)[layout.real], wanted[layout.real])


# -- configuration and refusals ----------------------------------------------------------------------------
def test_the_layers_are_kept_beside_the_weights(tmp_path):
    config = ViCAConfig((7, 0, 3), "frozen")
    save(config, tmp_path)
    assert load_config(tmp_path) == config and config.cross_layers == (0, 3, 7)
    for text, says in (("{}", "cross_layers is missing"), ("[1]", "missing"), ("no", "no JSON"), ('{"cross_layers": [1, 1]}', "distinct"),
                       ('{"cross_layers": [0], "layers": 2}', "unknown entry 'layers'"), ('{"cross_layers": [-1]}', "from 0 on"),
                       ('{"cross_layers": [0], "prefix_update": "half"}', "neither full nor frozen")):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match=says):
            load_config(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match=r"no vica\.json"):
        load_config(tmp_path)


def test_the_layers_are_whole_on_disk_or_as_they_were(tmp_path, monkeypatch):
    save(ViCAConfig((0, 3)), tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FileError, match="the disk is full"):
        save(ViCAConfig((1,)), tmp_path)
    assert load_config(tmp_path).cross_layers == (0, 3) and [p.name for p in tmp_path.iterdir()] == [FILE]


def test_the_paper_s_layers():
    assert {name: len(layers) for name, layers in method.PAPER_CROSS_LAYERS.items()} == {
        "llava-1.5-3b": 9, "llava-1.5-7b": 8, "llava-1.5-13b": 8}
    assert json.loads(json.dumps(method.PAPER_CROSS_LAYERS["llava-1.5-7b"])) == [0, 1, 7, 8, 9, 10, 11, 14]


def test_layers_and_attention_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"cross layer 3: LlamaForCausalLM has layers 0 to 2"):
        check_model(load(tiny()).model, ViCAConfig((3,)))
    model = load(tiny()).model
    model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(UserError, match="uses attention 'flex_attention'"):
        check_model(model)


@pytest.mark.parametrize("kind, rope", [
    ("dynamic", {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    ("longrope", {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
                  "original_max_position_embeddings": 12})])
def test_positions_at_which_all_rotations_change_are_refused(kind, rope):
    """Below, such a model works (families); from there on a picture's keys, rotated once, would be another length's."""
    model, config = load(tiny(rope_parameters=rope, max_position_embeddings=12)).model, ViCAConfig((0,))
    visual, text = torch.randn(1, 4, 32), torch.randn(1, 8, 32)
    order = torch.arange(13)[None]
    method.forward(model, config, text, Places(order[:, 4:12], order[:, :4]), visual)
    for places in (Places(order[:, [0, *range(6, 13)]], order[:, 1:5]), Places(order[:, :8], order[:, 9:13])):
        with pytest.raises(UserError, match="position 12: from 12 on"):
            method.forward(model, config, text, places, visual)
    cache = method.ViCACache()
    method.forward(model, config, text, Places(order[:, 4:12], order[:, :4]), visual, cache)
    with pytest.raises(UserError, match="position 12"):
        method.forward(model, config, text[:, :1], Places(order[:, 12:13]), past_key_values=cache)


def test_a_probe_is_made_once_leaves_no_trace_and_draws_no_number():
    model, runs = load(tiny(attention_dropout=0.5)).model.train(), []
    model.model.layers[1].eval()
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    model.register_forward_hook(lambda *_: runs.append(1))
    check_model(model, ViCAConfig((0,)))
    first = len(runs)
    check_model(model, ViCAConfig((1,)))
    assert len(runs) == first > 0
    assert torch.equal(torch.rand(2), drawn) and not any(p.grad is not None for p in model.parameters())
    assert [layer.training for layer in model.model.layers] == [True, False, True] and not model.model.layers[1].mlp.training


@pytest.mark.parametrize("spoil", ["norm", "head", "silent"])
def test_a_layer_that_makes_keys_in_another_way_than_it_shows_is_caught(spoil):
    """The probe is of numbers: a layer that is patched so that what it shows is not what it does is refused, whatever its name."""
    model = load(tiny("qwen3")).model.double()
    attention, stock = model.model.layers[1].self_attn, type(model.model.layers[1].self_attn).forward
    if spoil == "norm":  # keys depend on what else is in the text
        attention.k_norm.register_forward_hook(lambda m, a, out: out + out.mean(1, keepdim=True))
    elif spoil == "head":  # the mask is not used
        attention.forward = lambda *a, **k: (stock(attention, *a, **k)[0] + k["hidden_states"].sum(1, keepdim=True), None)
    else:
        attention.forward = lambda hidden_states, **k: (hidden_states * 0, None)
    with pytest.raises(UserError):
        check_model(model)


def test_a_picture_without_positions_is_refused(decoder):
    with pytest.raises(ValueError, match="visual_positions"):
        method.forward(decoder(), ViCAConfig((0,)), torch.zeros(1, 2, 32).double(), Places(torch.tensor([[0, 1]])), torch.zeros(1, 4, 32))
