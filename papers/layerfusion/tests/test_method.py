"""Layer sets, stages, and the four kinds of fusion: by hand, against stock models, and for what must not change."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from tests.numerics import close, far

from ..checks import Unfit
from ..internal import Internal, Pictures, plain_norm
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

TOWER, DV, N, D, BLOCKS = 6, 16, 4, 32, 6  # blocks and width of a tower, patches, width and blocks of a decoder
CONFIG = dict(hidden_size=D, intermediate_size=48, num_hidden_layers=BLOCKS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
              vocab_size=60, initializer_range=0.3, eos_token_id=None, bos_token_id=None)
TRIPLE = few("triple", (1, 3, 5), TOWER)
INSIDE = [FusionConfig(TRIPLE, "internal", "direct", points=(0, 2, 4)),
          *(FusionConfig(TRIPLE, "internal", "modular", variant=v, points=(0, 2, 4)) for v in ("pre", "post", "parallel"))]
KINDS = [FusionConfig(TRIPLE), FusionConfig(TRIPLE, "external", "modular"), *INSIDE]


def name_of(config):
    return f"{config.kind} {config.variant}"


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request):
    torch.manual_seed(0)
    kind, config = (Qwen3ForCausalLM, Qwen3Config) if request.param == "qwen3" else (LlamaForCausalLM, LlamaConfig)
    return kind(config(**CONFIG)).double().eval()


def made(config, model, seed=1, trained=True):
    """A fusion; trained: gates, scales and last layers as if something had been learnt."""
    torch.manual_seed(seed)
    fusion = Fusion(config, Sizes.of(DV, model.config)).double().eval()
    if trained:
        with torch.no_grad():
            for cross in fusion.cross:
                cross.gate_1.fill_(0.7)
                cross.gate_2.fill_(0.4)
            if fusion.fuser is not None:
                fusion.fuser.gamma_1.normal_()
                fusion.fuser.gamma_2.normal_()
                fusion.fuser.cross.offsets.weight.normal_(std=0.1)
    return fusion


def states(pictures=2, seed=3, blocks=TOWER):
    draw = torch.Generator().manual_seed(seed)
    return {k: torch.randn(pictures, N, DV, generator=draw, dtype=torch.float64) for k in range(blocks + 1)}


PICTURE = 59  # the id of a visual token


def embedded(model, fusion, ids, of):
    """(embeddings, Pictures) of rows of ids, PICTURE in a visual token's place."""
    tokens, extras = fusion(of)
    where = ids == PICTURE
    embeds = model.get_input_embeddings()(ids).masked_scatter(where[..., None], tokens)
    return embeds, Pictures.of(extras, where) if extras else None


def logits(model, fusion, ids, of, mask=None):
    with torch.no_grad(), Internal(model, fusion) as internal:
        embeds, internal.pictures = embedded(model, fusion, ids, of)
        return model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids) if mask is None else mask, use_cache=False).logits


def row(*parts):
    """Ids: numbers, and "p" for a whole picture."""
    return [i for part in parts for i in ([PICTURE] * N if part == "p" else [part])]


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


# -- internal, by independent definitions --------------------------------------------------------------------
def run_blocks(model, embeds, change):
    """The stock decoder with change(block, states, run) in place of run(states), block by block."""
    seen = {}

    def hook(i):
        def act(module, args, kwargs, output):
            seen[i] = (args, kwargs)

        return act

    hooks = [block.register_forward_hook(hook(i), with_kwargs=True) for i, block in enumerate(model.model.layers)]
    model(inputs_embeds=embeds, use_cache=False)
    for each in hooks:
        each.remove()
    h = embeds
    for i, block in enumerate(model.model.layers):
        h = change(i, h, lambda x, block=block, i=i: block(x, **seen[i][1]))
    return model.lm_head(model.model.norm(h))


@torch.no_grad()
def test_internal_direct_adds_at_the_pictures_places_and_nowhere_else(model):
    fusion, of = made(INSIDE[0], model), states()
    ids = torch.tensor([row(3, "p", 4, "p", 5)])
    embeds, pictures = embedded(model, fusion, ids, of)
    added = torch.zeros(3, *embeds.shape, dtype=torch.float64)
    for number, k in enumerate((1, 3, 5)):
        mine = fusion.extra[number](of[k])
        added[number, 0, 1:5], added[number, 0, 6:10] = mine[0], mine[1]
    points = {0: 0, 2: 1, 4: 2}
    expected = run_blocks(model, embeds, lambda i, h, run: run(h + added[points[i]] if i in points else h))
    close(logits(model, fusion, ids, of), expected)


def cross(fusion, number, query, visual, seen):
    """tanh(g1) CA by a loop over heads; rows that see nothing get 0."""
    c = fusion.cross[number]
    q, k, v = c.q(query), c.k(visual), c.v(visual)
    parts = []
    for head in range(4):
        of = slice(8 * head, 8 * head + 8)
        scores = (q[:, of] @ k[:, of].T / 8**0.5).masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1).nan_to_num(0.0)
        parts.append(weights @ v[:, of])
    return c.gate_1.tanh() * c.o(torch.cat(parts, -1))


@pytest.mark.parametrize("config", INSIDE[1:], ids=name_of)
@torch.no_grad()
def test_internal_modular_is_what_it_is_defined_as(config, model):
    fusion, of = made(config, model), states()
    ids = torch.tensor([row(3, "p", 4, "p", 5)])
    embeds, _ = embedded(model, fusion, ids, of)
    visual = [torch.cat(list(fusion.extra[n](of[k]))) for n, k in enumerate((1, 3, 5))]
    place = torch.arange(11)
    seen = torch.cat([(place >= 1)[:, None].expand(-1, 4), (place >= 6)[:, None].expand(-1, 4)], 1)
    points = {0: 0, 2: 1, 4: 2}

    def around(number, h):
        h = h + cross(fusion, number, plain_norm(h)[0], visual[number], seen)
        return h + fusion.cross[number].transform(plain_norm(h))

    def change(i, h, run):
        if i not in points:
            return run(h)
        number, block = points[i], model.model.layers[i]
        if config.variant == "pre":
            return run(around(number, h))
        if config.variant == "post":
            return around(number, run(h))
        normed = block.input_layernorm(h)
        attended = run(h) - block.mlp(block.post_attention_layernorm(middle := _middle(block, h, run))) - h
        assert torch.allclose(middle - h, attended, atol=1e-9)
        h = middle + cross(fusion, number, normed[0], visual[number], seen)
        inner = block.post_attention_layernorm(h)
        return h + block.mlp(inner) + fusion.cross[number].transform(inner)

    close(logits(model, fusion, ids, of), run_blocks(model, embeds, change), 1e-6)


def _middle(block, h, run):
    """h + SelfAttn(norm h) of a stock block."""
    out = {}
    hook = block.post_attention_layernorm.register_forward_pre_hook(lambda module, args: out.update(h=args[0]))
    run(h)
    hook.remove()
    return out["h"]


# -- what must not leak --------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", KINDS, ids=name_of)
def test_text_before_a_picture_never_sees_it(config, model):
    fusion, ids = made(config, model), torch.tensor([row(3, 9, "p", 4, 5)])
    ours, other = (logits(model, fusion, ids, states(1, seed)) for seed in (3, 4))
    assert torch.equal(ours[:, :2], other[:, :2])
    far(ours[:, 6:], other[:, 6:])


@pytest.mark.parametrize("config", KINDS, ids=name_of)
def test_two_pictures_padding_and_batch_mates(config, model):
    """A row is what it is alone: beside a longer one, padded left, behind rows with other pictures; each picture has its own features."""
    fusion, of = made(config, model), states(4)
    rows = [row(3, "p", 4, "p", 5, 6), row("p", 7), row(8, "p", 9)]
    counts = [2, 1, 1]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    batch, first = logits(model, fusion, ids, of, mask), 0
    for i, (r, count) in enumerate(zip(rows, counts)):
        own = {k: v[first : first + count] for k, v in of.items()}
        close(batch[i, width - len(r) :], logits(model, fusion, torch.tensor([r]), own)[0], 1e-6)
        first += count
    swapped = {k: v[[1, 0, 2, 3]] for k, v in of.items()}
    far(logits(model, fusion, ids, swapped, mask)[0, -1], batch[0, -1], 1e-4)
    with pytest.raises(ValueError, match="visual slots"):
        Pictures.of([torch.zeros(2, N, D)], torch.ones(1, N + 1))


@pytest.mark.parametrize("config", KINDS, ids=name_of)
@torch.no_grad()
def test_generate_with_a_cache_is_greedy_decoding_without(config, model):
    fusion, of = made(config, model), states(3)
    ids = torch.tensor([row(3, "p", 4, "p", 5), [0] * N + row(8, "p", 9) + [2]])
    mask = torch.tensor([[1] * 11, [0] * N + [1] * 7])
    with Internal(model, fusion) as internal:
        embeds, internal.pictures = embedded(model, fusion, ids, of)
        written = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        beams = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=3, num_beams=2, do_sample=False, pad_token_id=0,
                               output_scores=True, return_dict_in_generate=True)
    text, real = ids, mask
    for i in range(4):
        chosen = logits(model, fusion, text, of, real)[:, -1].argmax(-1)
        assert torch.equal(chosen, written[:, i])
        text, real = torch.cat([text, chosen[:, None]], 1), torch.cat([real, torch.ones(2, 1, dtype=torch.long)], 1)
    scored = torch.cat([ids, beams.sequences], 1)
    logs = logits(model, fusion, scored, of, torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)).log_softmax(-1)
    total = logs[:, 10:13].gather(2, beams.sequences[..., None]).sum((1, 2))
    close(beams.sequences_scores * 3, total, 1e-5)


def test_a_prompt_without_a_picture_is_the_plain_model_but_for_trained_mlps(model):
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad(), Internal(model, made(INSIDE[0], model)):
        assert torch.equal(model(ids).logits, model(ids).logits)
        close(model(ids).logits, model(inputs_embeds=model.get_input_embeddings()(ids)).logits)


# -- learning ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", KINDS, ids=name_of)
def test_gradients_reach_all_that_is_new_and_are_the_same_when_recomputed(config, model):
    fusion, prompts = made(config, model), [(row(3, "p", 4, 5), 0), (row(6, 7, 8, "p", "p", 9), 1)]  # of one and of two pictures
    found = []
    for again in (False, True):
        model.train()
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with Internal(model, fusion) as internal:
            total = torch.zeros((), dtype=torch.float64)
            for ids, number in prompts:  # both before one backward
                of = {k: v + number for k, v in states(1 + number).items()}
                embeds, internal.pictures = embedded(model, fusion, torch.tensor([ids]), of)
                total = total + model(inputs_embeds=embeds, use_cache=False).logits[:, -1].square().sum()
            total.backward()
        found.append([p.grad.clone() for p in fusion.parameters()])
        fusion.zero_grad()
        model.zero_grad()
        model.gradient_checkpointing_disable()
        model.eval()
    assert not any(hasattr(block._gradient_checkpointing_func, "internal") for block in model.model.layers)  # left as it was
    assert all(g.abs().max() > 0 for g in found[0])
    for a, b in zip(*found):
        close(a, b)


@pytest.mark.parametrize("config", INSIDE, ids=name_of)
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_model_copied_with_its_fusion_reads_its_own_pictures(config, model, recomputed):
    """As an average of weights copies it: until then a copy's blocks looked at the original's pictures, and its gradients went there."""
    def hooks(of):
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in of.modules())

    ids, of = torch.tensor([row(3, "p", 4, 5)]), states(1)
    other = {k: v + 1 for k, v in of.items()}
    fusion = made(config, model)
    with Internal(model, fusion) as internal:
        if recomputed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        embeds, internal.pictures = embedded(model, fusion, ids, other)
        model(inputs_embeds=embeds)  # blocks are prepared for being recomputed at the first pass
        twin, new, inside = copy.deepcopy((model, fusion, internal))
        bare = copy.deepcopy(model)
        internal.pictures = None
        close(bare(ids).logits, model(ids).logits)
    try:
        assert inside.pictures is None and inside.inner is twin.model and inside.fusion is new
        embeds, inside.pictures = embedded(twin, new, ids, of)
        found = twin(inputs_embeds=embeds, use_cache=False).logits
        found[:, -1].square().sum().backward()
        close(found.detach(), logits(model, fusion, ids, of))
        assert all(p.grad.abs().max() > 0 for p in new.parameters())
        assert all(p.grad is None for p in (*fusion.parameters(), *model.parameters()))
        before, ours = hooks(twin), len(inside._hooks)
        inside.detach()
        assert ours and hooks(twin) == before - ours
        assert not any(hasattr(block._gradient_checkpointing_func, "internal") for block in twin.model.layers if recomputed)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


# -- what is refused -----------------------------------------------------------------------------------------
def test_decoders_are_refused_by_what_they_lack(model):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    normed = Gemma2ForCausalLM(Gemma2Config(**CONFIG)).eval()
    with pytest.raises(Unfit, match="normed or scaled behind"):
        Internal(normed, made(INSIDE[3], model))
    Internal(normed, made(INSIDE[1], model))
    with pytest.raises(Unfit, match="no list of blocks"):
        Internal(torch.nn.Linear(2, 2), made(INSIDE[0], model))
