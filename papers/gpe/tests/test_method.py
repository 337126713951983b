"""method.py: ids, masks and predictors as the paper draws them; training and streaming give the same logits, in every arm.

Equalities hold in double precision (double.py), which the fixtures `model` and `llama` put a test into.
"""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from common import masks
from common.errors import ModelError
from common.lora import LoraSpec, add_lora
from common.models import load, tiny
from common.streaming.units import Example
from common.streaming.words import Boundary
from tests.numerics import close, far

from .. import method
from ..data import toy_examples
from ..decoding import stream
from ..method import ARMS, Arm, Layout, arm
from ..segments import Batch, readable
from ..toy import TARGET_END, Language
from .double import Double

LANGUAGE = Language.draw(0)
EXAMPLES = toy_examples(LANGUAGE, range(5))
STOP = LANGUAGE.pieces().index(TARGET_END)
ENDS = Boundary("ends", LANGUAGE.word_ends(), STOP)
OPENS = Boundary("opens", torch.tensor([not piece.startswith("##") for piece in LANGUAGE.pieces()]), STOP)
MODELS = [("llama", "sdpa"), ("llama", "eager"), ("qwen3", "sdpa"), ("qwen3", "eager"), ("gemma2", "eager"), ("phi3", "sdpa")]
# Both kinds of attention once for the run with other kernels, which the others would only repeat.
MARKED = [pytest.param(pair, marks=pytest.mark.numerics) if pair in MODELS[::3] else pair for pair in MODELS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny decoders of four families, through the hub's format, in float64; half of them wide enough a window."""
    found = {}
    for family, attention in MODELS:
        folder = tmp_path_factory.mktemp(family)
        more = {"sliding_window": 256} if family in ("gemma2", "phi3") else {}
        load(tiny(family, vocab_size=len(LANGUAGE.pieces()), num_hidden_layers=2, **more)).model.save_pretrained(folder)
        found[family, attention] = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention,
                                                                        dtype=torch.float32).double().eval()
    return found


@pytest.fixture(params=MARKED, ids="-".join)
def model(request, models):
    with Double():
        yield models[request.param]


@pytest.fixture
def llama(models):
    with Double():
        yield models["llama", "sdpa"]


def layout(written, n_source, visible=None):
    written = torch.tensor([written])
    return Layout(written if visible is None else torch.tensor([visible]), written, torch.tensor([n_source]),
                  torch.tensor([written.shape[1]]), n_source)


@torch.no_grad()
def logits(model, a, batch):
    return method.forward(model, a, batch.source, batch.target, batch.layout)


# -- the paper's figures -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name, phi, source, target", [
    ("interleaved", 0, [0, 1, 4], [2, 3, 5]), ("batch_streaming", 0, [0, 1, 2], [2, 3, 5]),
    ("contiguous", 0, [0, 1, 2], [3, 4, 5]), ("group", 0, [0, 1, 2], [0, 1, 2]), ("group", 7, [0, 1, 2], [7, 8, 9]),
    ("group", 0.5, [0, 1, 2], [0.5, 1.5, 2.5]), ("no_source_positions", 0, [0, 0, 0], [0, 1, 2]),
    ("no_target_positions", 0, [0, 1, 2], [0, 0, 0]), ("no_positions", 0, [0, 0, 0], [0, 0, 0]),
])  # fmt: skip
def test_ids_of_figure_1(name, phi, source, target):
    """Read 2, write 2, read 1, write 1."""
    assert method.position_ids(arm(name, phi), layout([2, 2, 3], 3))[0].tolist() == source + target


def test_interleaved_is_causal_in_the_order_of_arrival():
    a, at = arm("interleaved"), layout([2, 2, 3], 3)  # arrival: s0 s1 t0 t1 s2 t2
    mask = method.attention_mask(a, at)[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0],
                    [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert method.predictors(a, at)[0].tolist() == [1, 3, 2]  # after a READ the new source token predicts
    assert method.predictors(arm("group"), at)[0].tolist() == [2, 3, 4]


def test_mask_of_figure_2_and_what_finished_adds():
    """k = 2, four one-token words: rows that predict T1 .. T4 see 2, 3, 4, 4 words; the source sees no target."""
    example = Example.of_units([[1]] * 6, [[1]] * 6)
    batch = Batch.of([example], [2])
    mask = method.attention_mask(arm("group"), batch.layout)[0, 0]
    assert (mask[6:10, :6].sum(-1) - 1).tolist() == [2, 3, 4, 5]  # the fifth unit is the end marker
    assert torch.equal(mask[:6, :6], torch.ones(6, 6, dtype=torch.bool).tril()) and not mask[:6, 6:].any()
    assert torch.equal(mask, masks.streaming_mask(batch.layout.visible, 6)[0, 0])  # common/'s, written another way
    finished = method.attention_mask(arm("finished_group"), batch.layout)[0, 0]
    # Word 3 is read when v_0 has been fed with two words seen, word 4 when v_1 has, too.
    assert finished[:6, 6:].sum(-1).tolist() == [0, 0, 0, 1, 2, 3]


# -- equivalences ------------------------------------------------------------------------------------------
@torch.no_grad()
def test_phi_of_s_and_everything_read_is_the_stock_model(model):
    for example in EXAMPLES[:2]:
        batch = Batch.of([example], [99])
        ours = logits(model, arm("group", len(example.source)), batch)[0, 1:]
        stock = model(input_ids=torch.cat([batch.source, batch.target], 1), use_cache=False).logits[0]
        close(ours, stock[len(example.source) : -1])
        close(ours, logits(model, arm("contiguous"), batch)[0, 1:])


@torch.no_grad()
def test_only_distances_count_and_phi_is_one(model):
    batch = Batch.of(EXAMPLES[:2], [2, 2])
    ids = method.position_ids(arm("group"), batch.layout)
    mask = masks.for_attention(method.attention_mask(arm("group"), batch.layout), model.config._attn_implementation)
    states = {}
    for name, positions in (("0", ids), ("+17", ids + 17), ("phi", method.position_ids(arm("group", 32), batch.layout))):
        states[name] = model(input_ids=torch.cat([batch.source, batch.target], 1), attention_mask=mask, position_ids=positions,
                             use_cache=False).logits
    n = batch.layout.n_source
    real = torch.cat(batch.layout.real(), 1)
    close(states["+17"][real], states["0"][real])
    close(states["phi"][:, :n], states["0"][:, :n])  # the source does not know phi
    far(states["phi"][:, n:], states["0"][:, n:])  # the target does: the ids are used


@pytest.mark.parametrize("name", [n for n in ARMS if not ARMS[n].refresh])
def test_streaming_writes_what_training_predicts(model, name):
    """All arms in every family, a batch with padding; of Llama both ways to see a word's end. test_decoding.py has every k."""
    a, k = arm(name, 0.5 if name == "group" else 0), 2
    plain = (model.config.model_type, model.config._attn_implementation) == ("llama", "sdpa")
    batch = Batch.of(EXAMPLES, [k] * len(EXAMPLES))
    expected = logits(model, a, batch)
    for boundary in (ENDS, OPENS) if plain else (ENDS,):
        for b, out in enumerate(stream(model, a, EXAMPLES, boundary, k, forced=True, keep_logits=True)):
            got, first = torch.stack(out.logits), EXAMPLES[b].target_units[0]
            assert len(got) == len(EXAMPLES[b].target) - first
            usable = got.isfinite()  # banned tokens and, after a READ, those that open no word
            close(got[usable], expected[b, first : first + len(got)][usable])
            n = EXAMPLES[b].n_units
            assert out.delays == [min(k + j, n) for j in range(len(EXAMPLES[b].target_units) - 2)]


def test_kv_reencoding_predicts_as_a_batch_of_what_has_been_read(model):
    a = arm("kv_reencoding")
    for example, out in zip(EXAMPLES, stream(model, a, EXAMPLES, ENDS, 2, forced=True, keep_logits=True)):
        may_see, row = readable(example, 2), 0
        for unit, tokens in enumerate(example.target_units):
            start = sum(example.target_units[:unit])
            source = example.source[: sum(example.source_units[: int(may_see[unit])])]
            for t in range(start, start + tokens) if unit else ():
                with torch.no_grad():
                    fresh = model(input_ids=torch.cat([source, example.target[:t]])[None], use_cache=False).logits[0, -1]
                close(out.logits[row], fresh)
                row += 1


@pytest.mark.numerics
def test_training_for_kv_reencoding_scores_one_word_in_its_context(llama):
    """A row of by-word training predicts what the decoder of that word predicts."""
    a, example, unit = arm("kv_reencoding"), EXAMPLES[0], 3
    batch = Batch.of([example], [2], a, [unit])
    assert batch.scored.sum() == example.target_units[unit]
    t = sum(example.target_units[:unit])
    source = example.source[: sum(example.source_units[: int(readable(example, 2)[unit])])]
    with torch.no_grad():
        fresh = llama(input_ids=torch.cat([source, example.target[:t]])[None], use_cache=False).logits[0, -1]
    close(logits(llama, a, batch)[0, t], fresh)


def test_two_frames_with_a_constant_shift_are_group_ids(model):
    """Position re-encoding whose offset never moves is GPE with that phi."""
    batch = Batch.of([EXAMPLES[0]], [99])
    everything = len(EXAMPLES[0].source)
    assert set(batch.layout.visible[0].tolist()) == {everything}
    a, b = (logits(model, arm(*kind), batch) for kind in (("position_reencoding",), ("group", everything)))
    close(a[:, 1:], b[:, 1:])


@pytest.mark.numerics
def test_embeddings_in_place_of_ids_change_nothing(llama):
    batch = Batch.of(EXAMPLES[:2], [2, 3])
    embedded = llama.get_input_embeddings()(batch.source).detach()
    ours = method.forward(llama, arm("group"), embedded, batch.target, batch.layout)
    close(ours, logits(llama, arm("group"), batch))


# -- leaks -------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_unread_words_move_nothing_and_the_next_word_does(model):
    for k in (1, 3):
        example = EXAMPLES[1]
        batch = Batch.of([example], [k])
        for name in ("group", "batch_streaming", "finished_group", "interleaved"):
            before = logits(model, arm(name), batch)
            for unit in range(1, len(example.target_units) - 2):
                read = sum(example.source_units[: int(readable(example, k)[unit])])
                if read >= len(example.source) - 1:
                    break
                other = copy.deepcopy(batch)
                other.source[0, read:] = (other.source[0, read:] + 7) % 80 + 5
                after = logits(model, arm(name), other)
                until = sum(example.target_units[: unit + 1])  # tokens of units <= unit
                close(after[0, 1:until], before[0, 1:until])
                far(after[0, until], before[0, until])


def test_nothing_unread_is_in_the_decoders_cache(llama, monkeypatch):
    """A spy on the mask and cache of every step: source columns never exceed what the policy has read."""
    seen, original = [], llama.forward

    def spy(*args, **kwargs):
        seen.append((kwargs["attention_mask"].shape[-1], kwargs["past_key_values"].get_seq_length()))
        return original(*args, **kwargs)

    monkeypatch.setattr(llama, "forward", spy)
    example, k = EXAMPLES[2], 2
    out = stream(llama, arm("group"), [example], ENDS, k, forced=True)[0]
    assert [columns for columns, _ in seen] == list(range(1, out.fed + 1))  # one token a step, nothing before its step
    assert out.fed == len(example.source) + len(example.target) - 1


@pytest.mark.numerics
def test_without_a_mask_transformers_would_cut_the_target_off(llama):
    batch = Batch.of([EXAMPLES[0]], [99])
    ids, positions = torch.cat([batch.source, batch.target], 1), method.position_ids(arm("group"), batch.layout)
    with torch.no_grad():
        trapped = llama(input_ids=ids, position_ids=positions, use_cache=False).logits[:, batch.layout.n_source :]
        alone = llama(input_ids=batch.target, use_cache=False).logits
    close(trapped, alone)
    far(logits(llama, arm("group"), batch)[:, 1:], alone[:, :-1])


# -- loss and precision ------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("name", ["group", "interleaved", "position_reencoding"])
def test_a_padded_batch_has_the_loss_of_its_sentences(llama, name):
    a, ks = arm(name), [1, 3, 5, None, 2]
    batch = Batch.of(EXAMPLES, ks)
    together = method.loss_sum(logits(llama, a, batch), batch.target, batch.scored)
    singles = [Batch.of([e], [k]) for e, k in zip(EXAMPLES, ks)]
    alone = sum(method.loss_sum(logits(llama, a, b), b.target, b.scored) for b in singles)
    assert batch.scored.sum() == sum(b.scored.sum() for b in singles) == sum(len(e.target) - 1 for e in EXAMPLES)
    close(together, alone)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_no_nan_in_padding(attention, dtype):
    model = load(tiny("llama", vocab_size=len(LANGUAGE.pieces()), attn_implementation=attention, dtype=dtype)).model
    for name in ("group", "interleaved", "position_reencoding"):
        batch = Batch.of(EXAMPLES, [1] * len(EXAMPLES))
        assert logits(model, arm(name), batch).isfinite().all()
        assert all(out.words for out in stream(model, arm(name), EXAMPLES[:2], ENDS, 1, max_target=8))


def test_nothing_is_added_to_the_model(llama):
    keys, model = set(llama.state_dict()), copy.deepcopy(llama)
    method.forward(model, arm("position_reencoding"), *(lambda b: (b.source, b.target, b.layout))(Batch.of(EXAMPLES[:1], [1])))
    assert set(model.state_dict()) == keys and model.config._attn_implementation == "sdpa"
    wrapped = add_lora(model, LoraSpec(rank=2))
    assert {n for n, p in wrapped.named_parameters() if p.requires_grad} == {n for n, _ in wrapped.named_parameters() if "lora_" in n}
    assert any("gate_proj" in n for n, p in wrapped.named_parameters() if p.requires_grad)


# -- refusals ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make, said", [
    (lambda: arm("sideways"), "no arm 'sideways'"), (lambda: Arm("left"), "positions is 'left'"),
    (lambda: Arm("frozen", phi=3), "phi = 3"), (lambda: Arm("group", refresh=True), "positions: contiguous"),
    (lambda: Arm("reencoded", "arrival"), "source_sees: nothing"),
])  # fmt: skip
def test_impossible_arms_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_text_beyond_a_window_is_refused_and_other_attention_is(llama):
    window = load(tiny("gemma2", vocab_size=len(LANGUAGE.pieces()))).model  # sees 8 columns
    with pytest.raises(ModelError, match=r"see 8 columns \(config.sliding_window\)"):
        logits(window, arm("group"), Batch.of(EXAMPLES[:1], [1]))
    with pytest.raises(ModelError, match=r"see 8 .*forget by column"):
        stream(window, arm("group"), EXAMPLES[:1], ENDS, 1)
    other = copy.deepcopy(llama)
    other.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2"):
        method.check_model(other, arm("group"))
    with pytest.raises(ValueError, match="k = 0"):
        stream(llama, arm("group"), EXAMPLES[:1], ENDS, 0)
