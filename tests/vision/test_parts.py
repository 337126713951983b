"""A LLaVA in parts: from a small LLaVA or from folders in the hub's format, the same numbers as the stock model's own parts."""

import pytest
import torch
from safetensors.torch import save_file

from common.errors import ModelError
from common.files import file_sha256
from common.models import ModelSpec, load, tiny
from common.standins.llava import FOLDER, stand_in
from common.vision.layout import split
from common.vision.llava import load_llava
from common.vision.parts import PACKAGED, LlavaSpec, load_parts, load_projector, new_projector, save_projector
from tests.numerics import close

SMALL = LlavaSpec(stand_in=str(FOLDER / "seed0"))
WIDE = 32  # of the tiny decoder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders in the hub's format: a decoder, and towers of three layers with a class token (CLIP) and without one (SigLIP)."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    root = tmp_path_factory.mktemp("hub")
    load(tiny()).model.save_pretrained(root / "decoder")
    small = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)
    CLIPVisionModel(CLIPVisionConfig(**small)).save_pretrained(root / "clip")
    SiglipVisionModel(SiglipVisionConfig(**small)).save_pretrained(root / "siglip")
    return root


def spec(hub, tower="clip", **more):
    return LlavaSpec(decoder=ModelSpec(str(hub / "decoder")), tower=str(hub / tower), **more)


# -- two sources -------------------------------------------------------------------------------------------
def test_a_small_llava_falls_into_its_own_parts():
    parts, small = load_parts(SMALL), load_llava(FOLDER / "seed0")
    assert (parts.feature_layers, parts.n_visual, parts.image_size) == ((2, 9, 11), 64, 112)
    assert parts.image_token_id == parts.tokenizer.convert_tokens_to_ids("<image>")
    assert parts.prefix == parts.tokenizer.convert_tokens_to_ids(["<bos>", "answer", "in", "one", "word"])
    for ours, theirs in ((parts.decoder.model, small.llava.model.language_model), (parts.projector, small.projector)):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.numerics
def test_features_and_projector_are_the_stock_llava_s():
    """What LlavaForConditionalGeneration makes of pixels itself."""
    parts, small = load_parts(SMALL), load_llava(FOLDER / "seed0")
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    features = parts.features(pixels)
    assert features.shape == (2, 64, 3 * 384)
    layout = split(torch.tensor([[1, *[parts.image_token_id] * 64, 5]] * 2), parts.image_token_id)
    with torch.no_grad():
        stock = small.llava.model.get_image_features(pixels)
        stock = getattr(stock, "pooler_output", stock)  # a tensor or a list of them, by version
        close(parts.visual(layout, features), torch.stack(list(stock)), 1e-5)


@pytest.mark.parametrize("tower, first", [("clip", 1), ("siglip", 0)])
def test_a_tower_in_hub_format_gives_the_states_that_are_asked_for(hub, tower, first):
    """Side by side in the order asked for; CLIP's class token is dropped, SigLIP has none. 28 pixels in patches of 14: 4 tokens."""
    parts = load_parts(spec(hub, tower, feature_layers=(-2, 0)))
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        states = parts.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert parts.n_visual == 4 and parts.image_size == 28 and len(states) == 4
    assert torch.equal(parts.features(pixels), torch.cat([states[2][:, first:], states[0][:, first:]], -1))
    assert parts.projector.linear_1.in_features == 2 * 16 and parts.projector.linear_2.out_features == WIDE
    assert not any(p.requires_grad for p in parts.tower.parameters())
    assert parts.image_token_id == parts.decoder.config.vocab_size, "no word's id"
    assert parts.source["tower"] == {"name": tower, "revision": None}
    assert parts.prefix == [parts.decoder.config.bos_token_id]


def test_the_packaged_tower_needs_no_hub(hub):
    parts = load_parts(LlavaSpec(decoder=ModelSpec(str(hub / "decoder")), tower=PACKAGED, feature_layers=(11,)))
    assert (parts.image_size, parts.n_visual) == (112, 64) and len(parts.source["tower"]["sha256"]) == 64


def test_the_stand_in_of_a_seed_comes_without_its_tower(monkeypatch, tmp_path):
    assert stand_in(1).tower is None and stand_in(1).feature_layers == (2, 9, 11)
    monkeypatch.setattr("common.standins.llava.FOLDER", tmp_path)
    with pytest.raises(ModelError, match="seed1 of common/standins/llava-weights is missing: restore it or run `make standins-llava`"):
        stand_in(1)


# -- the projector -----------------------------------------------------------------------------------------
def test_a_new_projector_follows_from_the_seed_and_leaves_the_global_stream_alone(hub):
    parts = load_parts(spec(hub))
    state = torch.get_rng_state()
    a, b, c = (new_projector(parts.tower, parts.decoder, (-2,), seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.linear_1.weight, b.linear_1.weight) and not torch.equal(a.linear_1.weight, c.linear_1.weight)
    assert parts.decoder.config._attn_implementation == "sdpa", "LlavaConfig forgets it in the configs that it is given"


def test_a_saved_projector_is_the_next_stage_s(hub, tmp_path):
    first = load_parts(spec(hub), seed=1)
    sha256 = save_projector(first.projector, tmp_path / "projector.safetensors")
    assert sha256 == file_sha256(tmp_path / "projector.safetensors")
    second = load_parts(spec(hub, projector=str(tmp_path / "projector.safetensors")), seed=2)
    for a, b in zip(first.projector.state_dict().values(), second.projector.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_projector_that_does_not_fit_is_named(hub, tmp_path):
    parts = load_parts(spec(hub))
    save_file({"linear_1.weight": torch.zeros(2, 2)}, tmp_path / "small.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, says in (("gone", "there is no file gone.safetensors"), ("small", "small.safetensors does not fit"),
                       ("text", "text.safetensors does not fit")):
        with pytest.raises(ModelError, match=says):
            load_projector(parts.projector, tmp_path / f"{name}.safetensors")


# -- visual embeddings in their slots ----------------------------------------------------------------------
@pytest.mark.numerics
def test_a_text_only_row_takes_no_picture_and_no_gradient_from_one():
    parts = load_parts(SMALL)
    ids = torch.tensor([[1, 5, *[parts.image_token_id] * 64, 7], [1, 5, 6, *[0] * 64]])
    real = torch.tensor([[1] * 67, [1] * 3 + [0] * 64])
    layout = split(ids, parts.image_token_id, real)
    parts.projector.double()
    features = torch.randn(1, 64, 1152)
    visual = parts.visual(layout, features)
    assert visual.shape == (2, 64, 96) and not visual[1].any()
    close(visual[0], parts.projector(features.double())[0], 1e-12)
    assert not parts.visual(layout, None).any(), "no picture in the batch"
    with pytest.raises(ValueError, match="64 visual slots for 2 pictures of 64 tokens"):
        parts.visual(layout, torch.randn(2, 64, 1152))


# -- refusals ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make, error, says", [
    (lambda hub: LlavaSpec(), ValueError, "either stand_in, or decoder and tower"),
    (lambda hub: LlavaSpec(stand_in="a", decoder=tiny()), ValueError, "either stand_in"),
    (lambda hub: LlavaSpec(decoder=tiny()), ValueError, "decoder and tower"),
    (lambda hub: load_parts(LlavaSpec(stand_in="nowhere")), ModelError, "nowhere: no config.json"),
    (lambda hub: load_parts(LlavaSpec(decoder=tiny(), tower="./nowhere")), ModelError, "No folder './nowhere' for the vision tower"),
    (lambda hub: load_parts(spec(hub, "decoder")), ModelError, "Vision tower decoder: model type 'llama' is none of clip, "),
    (lambda hub: load_parts(LlavaSpec(stand_in=str(FOLDER / "seed0"), projector="no.safetensors")), ModelError, "no file no.safetensors"),
])  # fmt: skip
def test_what_a_user_gets_wrong_is_named(hub, make, error, says):
    with pytest.raises(error, match=says):
        make(hub)
