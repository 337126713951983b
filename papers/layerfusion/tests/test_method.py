"""Layer sets, stages and external fusion, by hand; and what a neutral start of every kind leaves as it is. Internal: test_internal.py."""


import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from tests.numerics import close, far

from ..method import (
    Fusion,
    FusionConfig,
    Projector,
    Sizes,
    apart,
    by_depth,
    code_compat,
    few,
    find_stages,
    insertion_points,
    layer_set,
    layer_similarity,
    permuted_scores,
    side_by_side,
)
from ..mmfuser import DeformableAttention, MMFuser, centres, square
from .fused import BLOCKS, CONFIG, DV, INSIDE, KINDS, PICTURE, TOWER, TRIPLE, D, N, logits, made, name_of, row, states


# -- which layers --------------------------------------------------------------------------------------------
def test_sets_of_clip_and_others_by_depth():
    assert [by_depth(n) for n in (24, 26, 12)] == [(3, 18, 23), (3, 20, 25), (2, 9, 11)]
    triple, former, latter, every = (layer_set(name, 24) for name in ("triple", "former", "latter", "all"))
    assert (triple.parts, triple.levels, triple.extras) == (((3,), (18,), (23,)), (3, 18), (3, 18, 23))
    assert former.parts == (tuple(range(1, 13)), (23,)) and latter.extras == tuple(range(13, 25))
    assert every.parts == (tuple(range(1, 13)), tuple(range(13, 25)), (23,)) and len(every.extras) == 24
    assert layer_set("single", 24).parts == ((18,),) and layer_set("double", 24).extras == (3, 18)
    assert layer_set("triple", 12, (4, 8, 11)).extras == (4, 8, 11) and layer_set("single", 24).layers == (18, 23)
    with pytest.raises(ValueError, match="there is: single"):
        layer_set("most", 24)
    with pytest.raises(ValueError, match="layer 25"):
        few("x", (3, 25), 24)


def test_what_the_code_feeds_where_it_differs():
    single = code_compat("single", 24)
    assert single.parts == ((18,), (23,)) and single.extras == (18,), "layer 23 is always there"
    assert code_compat("latter", 26).parts == (tuple(range(15, 27)), (25,)) and code_compat("triple", 26).levels == (3, 20)
    assert code_compat("double", 24, "internal").extras == (3, 18)
    for name, blocks, position, says in (("double", 24, "external", "returns None"), ("all", 26, "external", "triple, latter"),
                                         ("all", 12, "internal", "24 and 26")):
        with pytest.raises(ValueError, match=says):
            code_compat(name, blocks, position)


@pytest.mark.parametrize("name, blocks, n, points", [
    ("triple", 24, 24, (2, 17, 22)), ("triple", 24, 32, (3, 23, 29)), ("triple", 24, 8, (0, 5, 6)), ("triple", 12, 12, (1, 8, 10)),
    ("former", 24, 24, tuple(range(12))), ("latter", 24, 32, tuple(range(20, 32))), ("single", 24, 24, (17,)),
    ("all", 24, 32, (*range(12), *range(20, 32)))])
def test_insertion_points(name, blocks, n, points):
    assert insertion_points(layer_set(name, blocks), n) == points


def test_layers_that_fall_on_one_block_are_refused():
    with pytest.raises(ValueError, match=r"fall on blocks \[0, 2, 2\]"):
        insertion_points(layer_set("triple", 24), 4)
    with pytest.raises(ValueError, match="a block of its own"):
        insertion_points(layer_set("all", 24), 12)
    with pytest.raises(ValueError, match="at most once"):
        FusionConfig(TRIPLE, "internal", points=(1, 1, 2)).blocks(6)
    with pytest.raises(ValueError, match="2 points for 3"):
        FusionConfig(TRIPLE, "internal", points=(1, 2))
    with pytest.raises(ValueError, match="variant 'both'"):
        FusionConfig(TRIPLE, variant="both")


def planted(*sizes):
    stage = torch.cat([torch.full((size,), float(i)) for i, size in enumerate(sizes)])
    return torch.where(stage[:, None] == stage, 0.8, 0.1) + 0.2 * torch.eye(len(stage))


def test_planted_stages_are_recovered_with_their_medoids():
    of = find_stages(planted(5, 3, 2).double())
    assert of.ranges == ((1, 5), (6, 8), (9, 10)) and of.score == pytest.approx(0.7)
    assert find_stages(planted(2, 4).double(), 2).ranges == ((1, 2), (3, 6))
    near = planted(5, 3, 2).double()
    near[2, :5] += 0.05
    near[:5, 2] += 0.05
    near[7, 5:8] += 0.05
    near[5:8, 7] += 0.05
    assert find_stages(near).medoids[:2] == (3, 8)
    with pytest.raises(ValueError, match="need 6 layers"):
        find_stages(planted(3, 2))
    assert max(permuted_scores(planted(5, 3, 2).double(), 20, 0)) <= 0.7 + 1e-9


def test_similarity_by_hand_and_blind_to_size():
    of = torch.tensor([[[[3.0, 0.0], [0.0, 2.0]]], [[[1.0, 0.0], [1.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    close(layer_similarity(of), [[1, 0.5, 0.5**0.5], [0.5, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]])
    scaled = of * torch.tensor([1.0, 7.0, 0.1])[:, None, None, None]
    close(layer_similarity(scaled), layer_similarity(of), 1e-7)


# -- external direct -----------------------------------------------------------------------------------------
def test_one_layer_three_times_is_that_layer():
    of, one = states(), Projector(DV, D).double()
    three = Projector(3 * DV, D).double()
    three.load_state_dict(one.state_dict() | {"linear_1.weight": one.linear_1.weight.repeat(1, 3) / 3})
    close(three(side_by_side(of, few("x", (5, 5, 5), TOWER))), one(of[5]))
    far(three(side_by_side(of, few("x", (5, 5, 1), TOWER))), one(of[5]))


def test_groups_are_means_and_their_order_is_none_while_that_of_parts_is():
    of = states()
    latter = layer_set("latter", TOWER)
    close(side_by_side(of, latter), torch.cat([(of[4] + of[5] + of[6]) / 3, of[5]], -1))
    swapped = of | {4: of[6], 6: of[4]}
    close(side_by_side(swapped, latter), side_by_side(of, latter))
    a, b = side_by_side(of, TRIPLE), side_by_side(of, few("x", (3, 1, 5), TOWER))
    far(a, b)
    close(b[..., [*range(DV, 2 * DV), *range(DV), *range(2 * DV, 3 * DV)]], a)
    close(side_by_side(of, TRIPLE, "mean"), (of[1] + of[3] + of[5]) / 3)
    close(side_by_side(of, latter, "sum"), of[4] + 2 * of[5] + of[6])
    assert side_by_side(of, latter, "concat").shape[-1] == 4 * DV
    assert {k: v.shape for k, v in apart(torch.zeros(2, N, 3 * DV), (1, 3, 5)).items()} == dict.fromkeys((1, 3, 5), (2, N, DV))


def test_the_projector_is_transformers_own():
    from transformers import CLIPVisionConfig, LlavaConfig

    config = LlavaConfig(vision_config=CLIPVisionConfig(hidden_size=DV, num_attention_heads=2), text_config=LlamaConfig(**CONFIG),
                         vision_feature_layer=[1, 3, 5])
    stock, ours = LlavaMultiModalProjector(config).double(), Fusion(FusionConfig(TRIPLE), Sizes(DV, D, 48, 4, BLOCKS)).double()
    ours.projector.load_state_dict(stock.state_dict())
    of = states()
    close(ours(of)[0], stock(torch.cat([of[1], of[3], of[5]], -1)))
    assert ours.layers == (1, 3, 5) and ours(of)[1] == []


# -- external modular ----------------------------------------------------------------------------------------
def brute(attention, query, maps, grid):
    """Deformable attention by loops over pictures, patches, heads, levels, points and the four corners."""
    m, n, dv = query.shape
    rows, columns = grid
    h, p, width = attention.heads, attention.points, dv // attention.heads
    offsets = attention.offsets(query).view(m, n, h, attention.levels, p, 2)
    weights = attention.weights(query).view(m, n, h, -1).softmax(-1).view(m, n, h, attention.levels, p)
    values = [attention.value(v).view(m, rows, columns, h, width) for v in maps]
    out = torch.zeros(m, n, h, width, dtype=query.dtype)
    for i in range(m):
        for j in range(n):
            for head in range(h):
                for level in range(attention.levels):
                    for point in range(p):
                        dx, dy = offsets[i, j, head, level, point].tolist()
                        x, y = j % columns + dx, j // columns + dy
                        x0, y0 = int(torch.floor(torch.tensor(x))), int(torch.floor(torch.tensor(y)))
                        for a in (x0, x0 + 1):
                            for b in (y0, y0 + 1):
                                if 0 <= a < columns and 0 <= b < rows:
                                    share = (1 - abs(x - a)) * (1 - abs(y - b))
                                    out[i, j, head] += weights[i, j, head, level, point] * share * values[level][i, b, a, head]
    return attention.output(out.flatten(2))


@pytest.mark.parametrize("grid", [(3, 3), (2, 4)])
@torch.no_grad()
def test_deformable_attention_is_bilinear_reading(grid):
    torch.manual_seed(0)
    n = grid[0] * grid[1]
    attention = DeformableAttention(8, 2, heads=2, points=3).double()
    attention.offsets.weight.normal_(std=0.5)
    attention.weights.weight.normal_()
    query, *maps = torch.randn(3, 2, n, 8, dtype=torch.float64)
    close(attention(query, maps, grid), brute(attention, query, maps, grid))


@torch.no_grad()
def test_without_offsets_a_point_reads_its_own_patch():
    attention = DeformableAttention(8, 1, heads=2, points=1).double()
    attention.offsets.bias.zero_()
    values = torch.randn(2, 9, 8, dtype=torch.float64)
    close(attention(torch.randn(2, 9, 8, dtype=torch.float64), [values], (3, 3)), attention.output(attention.value(values)))
    assert centres((2, 2), torch.zeros(1)).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_offsets_start_on_a_circle_a_point_a_step():
    bias = DeformableAttention(32, 1).offsets.bias.view(16, 1, 4, 2)
    assert bias[0, 0].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]
    close(bias[4, 0, :, 1].detach(), [1, 2, 3, 4], 1e-6)


@torch.no_grad()
def test_a_fuser_starts_as_the_identity_whatever_its_second_scale():
    fuser, of = MMFuser(DV, 2).double(), states()
    fuser.gamma_2.normal_()
    assert torch.equal(fuser(of[5], [of[1], of[3]]), of[5])
    fuser.gamma_1.fill_(0.1)
    far(fuser(of[5], [of[1], of[3]]), of[5], 1e-3)
    with pytest.raises(ValueError, match="6 patches fill no square"):
        square(6)
    assert fuser(of[5], [of[1], of[3]], (1, 4)).shape == (2, N, DV)


# -- what a start leaves as it is ----------------------------------------------------------------------------
@pytest.mark.parametrize("config", KINDS[1:], ids=name_of)
def test_a_neutral_start_is_the_plain_model_bit_for_bit(config, model):
    config = FusionConfig(config.layers, config.position, config.pattern, variant=config.variant, points=config.points, neutral=True)
    fusion, of = made(config, model, trained=False), states()
    ids = torch.tensor([row(3, "p", 4, 5), row(6, "p", 7, 8)])
    embeds = model.get_input_embeddings()(ids).masked_scatter((ids == PICTURE)[..., None], fusion.projector(of[5]))
    with torch.no_grad():
        plain = model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(logits(model, fusion, ids, of), plain)
    far(logits(model, made(config, model) if config.pattern == "modular" else made(INSIDE[0], model), ids, of), plain)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids)).logits, plain), "hooks are left behind"
