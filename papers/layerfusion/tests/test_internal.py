"""Fusion inside a decoder: by independent definitions, for what must not leak, when it learns, is copied, or is refused."""

import copy

import pytest
import torch

from tests.numerics import close, far

from ..checks import Unfit
from ..internal import Internal, Pictures, plain_norm
from .fused import CONFIG, INSIDE, KINDS, D, N, embedded, logits, made, name_of, row, states


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
