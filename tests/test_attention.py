"""Looking changes no bit, what is looked at is what eager attention computes, and an edit does to weights what its name tells."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from common.attention import Edit, additive, explicit, last_rows, moved, watched
from common.errors import ModelError
from tests.numerics import close

B, S, LAYERS = 2, 7, 3
MASK = torch.tensor([[1] * S, [0, 0] + [1] * (S - 2)])  # padding on the left
LAST = torch.tensor([S - 1, S - 1])


def tiny(config=LlamaConfig, attn="sdpa", dtype=None):
    """In double precision; eager in single, in which it computes its softmax anyway: a double's lowest number is -inf there, and
    padding that sees nothing becomes NaN in the stock model."""
    torch.manual_seed(0)
    dtype = dtype or (torch.float32 if attn == "eager" else torch.float64)
    of = config(hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
                vocab_size=30, initializer_range=0.4, pad_token_id=0)
    return AutoModelForCausalLM.from_config(of, attn_implementation=attn, dtype=dtype).eval()


IDS = torch.randint(1, 30, (B, S), generator=torch.Generator().manual_seed(1))
CALL = {"input_ids": IDS, "attention_mask": MASK, "position_ids": (MASK.cumsum(1) - 1).clamp(min=0)}


class Watch:
    """Looks at the last token in some layers, and edits as it is told: {layer: Edit}."""

    def __init__(self, looks=range(LAYERS), edits=None):
        self.looks, self.edits, self.rows = looks, edits or {}, {}

    def chosen(self, layer):
        return LAST if layer in self.looks else None

    def look(self, layer, rows):
        self.rows[layer] = rows

    def edit(self, layer, query, key):
        return self.edits.get(layer)


@torch.no_grad()
def logits(model, watch=None):
    if watch is None:
        return model(**CALL).logits
    with watched(model.get_decoder(), watch):
        return model(**CALL).logits


def pairs(*of):
    """(B, S, S) bool of (row, query, key)."""
    made = torch.zeros(B, S, S, dtype=torch.bool)
    for at in of:
        made[at] = True
    return made


# -- looking -----------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_looking_changes_no_bit_and_sees_the_weights_of_eager_attention(config, attn):
    model, watch = tiny(config, attn, torch.float32), Watch()
    before = logits(model)
    assert torch.equal(logits(model, watch), before) and torch.equal(logits(model), before)
    assert model.config._attn_implementation == attn
    with torch.no_grad():
        model.set_attn_implementation("eager")
        maps = model(**CALL, output_attentions=True).attentions
    for layer in range(LAYERS):
        close(watch.rows[layer].weights, maps[layer][:, :, -1], 1e-5)
        assert watch.rows[layer].values.shape == (B, 2, S, 4) and not watch.rows[layer].weights[1, :, :2].any()


def test_only_what_is_asked_for_is_looked_at():
    watch = Watch(looks=(1,))
    logits(tiny(), watch)
    assert list(watch.rows) == [1]


def test_rows_by_hand_with_and_without_a_mask():
    """Scores ln 1, ln 2, ln 5 of the last query; the one before sees two keys, and by a mask the first is gone."""
    query = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    query[..., 0] = 1
    key = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()[None, None, :, None].expand(1, 1, 3, 2)
    seen = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])[None, None]

    def of(chosen, mask=None):
        return last_rows(query, key, key, mask, 1.0, torch.tensor([chosen])).weights[0, 0].tolist()

    assert of(2) == pytest.approx([1 / 8, 2 / 8, 5 / 8]) and of(1) == pytest.approx([1 / 3, 2 / 3, 0])
    for mask in (seen, additive(seen, query, key)):
        assert of(2, mask) == pytest.approx([0, 2 / 7, 5 / 7])


def test_half_precision_is_looked_at_in_single():
    q, k = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16), torch.randn(1, 1, 3, 4, dtype=torch.bfloat16)
    rows = last_rows(q, k, k, None, 0.5, torch.tensor([1]))
    assert rows.weights.dtype == torch.float32 and not rows.weights[..., 2].any() and rows.values.dtype == torch.bfloat16


# -- edits -------------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_nothing_touched_is_the_model_whatever_the_mode(attn):
    model, onto = tiny(attn=attn), torch.zeros(B, S, dtype=torch.long)
    for mode in ("before", "after", "merge"):
        close(logits(model, Watch(edits={1: Edit(pairs(), mode, onto)}))[MASK.bool()], logits(model)[MASK.bool()], 1e-5)


@pytest.mark.numerics
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_before_the_softmax_is_the_stock_model_with_a_mask(attn):
    model, gone = tiny(attn=attn), pairs((0, 6, 2), (0, 5, 2), (1, 6, 4))
    seen = (torch.ones(S, S, dtype=torch.bool).tril() & MASK[:, None].bool()) | torch.eye(S, dtype=torch.bool)

    def hook(module, args, kwargs):
        mask = (seen & ~gone)[:, None]
        return args, kwargs | {"attention_mask": mask if attn == "sdpa" else additive(mask, args[0], None)}

    with torch.no_grad():
        handle = model.model.layers[1].register_forward_pre_hook(hook, with_kwargs=True)
        want = model(**CALL).logits
        handle.remove()
    got = logits(model, Watch(edits={1: Edit(gone, "before")}))
    close(got[MASK.bool()], want[MASK.bool()], 1e-5 if attn == "eager" else 1e-12)
    assert not torch.allclose(got, logits(model), atol=1e-4)
    nothing = Edit(pairs(), "merge", torch.zeros(B, S, dtype=torch.long), hidden=gone)
    close(logits(model, Watch(edits={1: nothing}))[MASK.bool()], want[MASK.bool()], 1e-5)


def test_where_weight_goes_by_hand():
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64)[None, None]
    gone = torch.tensor([[False, True, False], [True, True, False], [False, False, False]])[None]
    after, merged, some = (moved(weights, Edit(gone, mode, onto))[0, 0] for mode, onto in (
        ("after", None), ("merge", torch.tensor([[1, 2, 0]])), ("merge", torch.tensor([[0, -1, -1]]))))
    close(after, torch.tensor([[0.5, 0, 0.2], [0, 0, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64), 1e-12)
    close(merged, torch.tensor([[0.5, 0.3, 0.2], [0, 0, 1.0], [0.2, 0.2, 0.6]], dtype=torch.float64), 1e-12)
    close(some, torch.tensor([[0.8, 0, 0.2], [0, 0, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64), 1e-12)


def test_attention_written_out_weighs_the_values_of_its_group():
    """Two heads share a value head: equal scores are means of what is seen, and a merged weight weighs the value that gets it."""
    query, value = torch.zeros(1, 2, 2, 2, dtype=torch.float64), torch.tensor([[3.0, 0.0], [5.0, 1.0]], dtype=torch.float64)[None, None]
    gone = torch.tensor([[[False, False], [True, False]]])
    mask = additive(None, query, value)
    out = explicit(query, value, value, mask, 1.0, Edit(gone, "merge", torch.tensor([[0, 1]])))
    assert out[0].tolist() == [[[3, 0], [5, 1]]] * 2
    out = explicit(query, value, value, mask, 1.0, Edit(gone, "after"))
    assert out[0].tolist() == [[[3, 0], [2.5, 0.5]]] * 2


def test_masks_as_sums():
    query, lowest = torch.zeros(1, 1, 2, 4), torch.finfo(torch.float32).min
    key = torch.zeros(1, 1, 3, 4)
    assert additive(None, query, key)[0, 0].tolist() == [[0, 0, lowest], [0, 0, 0]]
    seen = torch.tensor([[True, False, True], [True, True, True]])[None, None]
    assert additive(seen, query, key)[0, 0].tolist() == [[0, lowest, 0], [0, 0, 0]]
    assert additive(torch.ones(1, 1, 2, 5), query, key).shape == (1, 1, 2, 3), "of a cache with more slots than keys"


# -- refused -----------------------------------------------------------------------------------------------
def test_what_cannot_be_looked_into_is_refused_and_the_model_is_left_as_it_was():
    model = tiny()
    with watched(model.model, Watch()), pytest.raises(ModelError, match="watched already"), watched(model.model, Watch()):
        pass
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match="'flex_attention' cannot be looked into; load the model with sdpa or eager"), \
            watched(model.model, Watch()):
        pass
    model.config._attn_implementation = "sdpa"

    class Breaks(Watch):
        def look(self, layer, rows):
            raise KeyError("broken")

    before = logits(model)
    with pytest.raises(KeyError):
        logits(model, Breaks())
    assert model.config._attn_implementation == "sdpa" and torch.equal(logits(model), before)
    capped = tiny(Gemma2Config, "eager")
    with pytest.raises(ModelError, match="changes its attention weights by softcap"):
        logits(capped, Watch())
