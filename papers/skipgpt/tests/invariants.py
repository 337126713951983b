"""What must hold of SkipGPT, each as a function that raises AssertionError when it does not.

`test_method.py`, `test_statistics.py` and `test_skipping.py` ask these of the code as it is; `test_mutations.py`
breaks the code in one place at a time and asks whether the right one notices.
"""

import copy

import torch
from torch import nn
from transformers import DynamicCache

from tests.numerics import close, far

from .. import method

REL = 1e-12  # of the largest value: far above float64's roundings in a tiny model, far below any mistake
TOKENS = 20  # longer than Gemma-2's window of 8
PADDING = (0, 4, 9)


# -- making things ---------------------------------------------------------------------------------
def batch(padded=True, seed=0):
    """{"input_ids", "attention_mask"} of 3 rows, padded on the left by 0, 4, 9 tokens, or not."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 96, (len(PADDING), TOKENS), generator=draw)
    mask = torch.ones_like(ids)
    for row, n in enumerate(PADDING if padded else ()):
        ids[row, :n], mask[row, :n] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def route(model, *, mode="mask", seed=0, **config):
    """Routers with random weights of a fixed seed: they skip about half of all modules."""
    torch.manual_seed(seed)
    return method.apply_skipgpt(model, method.SkipGPTConfig(**config)).set_mode(mode)


def decide(state, logit):
    """Every router answers `logit` in favour of executing, whatever it reads."""
    for router in state.routers().values():
        nn.init.zeros_(router.layers[-1].weight)
        router.layers[-1].bias.data = torch.tensor([logit / 2, -logit / 2])


def forced(gates):
    """The policy that plays gates (L, 2, B, S): attention, MLP."""
    return lambda layer, name, x, valid: gates[layer, int(name == "mlp")]


def random_gates(model, rows=3, tokens=TOKENS, seed=0, share=0.5):
    draw = torch.Generator().manual_seed(seed)
    shape = model.config.num_hidden_layers, 2, rows, tokens
    return (torch.rand(shape, generator=draw) < share).float()


def gates_of(state):
    """(L, 2, B, S) of the last forward pass."""
    return torch.stack([torch.stack(pair) for pair in state.gates]).detach()


def logits(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def assert_close(a, b, what, tolerance=REL):
    """Largest difference in units of the largest value of b."""
    try:
        close(a, b, tolerance)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None


# -- the two extremes ------------------------------------------------------------------------------
def all_execute_is_the_stock_model(model, state, stock, tolerance=0.0, **inputs):
    decide(state, 2e4)
    real = inputs["attention_mask"].bool()
    ours, theirs = logits(model, **inputs)[real], logits(stock, **inputs)[real]
    assert_close(ours, theirs, "all executed against the stock model", tolerance)


def all_skip_is_no_layer_at_all(model, state, stock, **inputs):
    """Exactly lm_head(norm(embed)): the stock model after its layers are taken out."""
    decide(state, -2e4)
    bare = copy.deepcopy(stock)
    bare.model.layers = nn.ModuleList()
    theirs = logits(bare, use_cache=False, **inputs)
    assert_close(logits(model, **inputs), theirs, "all skipped against no layers", 0.0)


# -- who decides -----------------------------------------------------------------------------------
def router_decides(model, state, **inputs):
    """Each gate is the argmax of that router, which read the state in front of its module."""
    seen = {}

    def keep(name):
        return lambda module, args, out: seen.__setitem__(name, (args[0], out))

    hooks = [r.register_forward_hook(keep(name)) for name, r in state.routers().items()]
    hooks += [layer.register_forward_pre_hook(lambda m, args, i=i: seen.__setitem__(i, args[0]))
              for i, layer in enumerate(state.layers)]
    logits(model, **inputs)
    for hook in hooks:
        hook.remove()
    for layer, (g_attn, g_mlp) in enumerate(state.gates):
        for name, gate in (("router_attn", g_attn), ("router_mlp", g_mlp)):
            x, out = seen.get(f"layers.{layer}.{name}", (None, None))
            assert out is not None, f"{name} of layer {layer} was not asked"
            assert torch.equal(gate.bool(), out[..., 0] >= out[..., 1]), f"layer {layer} {name}"
            reads_layer_input = torch.equal(x, seen[layer])
            wanted = name == "router_attn" or state.config.mlp_router_input == "layer_input"
            assert reads_layer_input == wanted, f"{name} of layer {layer} reads the wrong state"


def gates_are_hard(model, state, **inputs):
    logits(model, **inputs)
    values = gates_of(state)
    assert ((values == 0) | (values == 1)).all(), "a gate in evaluation is neither 0 nor 1"
    assert 0 < values.mean() < 1, "all gates are equal: this would prove nothing"


def evaluation_is_deterministic(model, state, **inputs):
    assert torch.equal(logits(model, **inputs), logits(model, **inputs)), "two passes, two results"


def past_ignores_future(model, state, **inputs):
    """Other tokens after position t leave every gate and logit up to t as they were.

    Padding left out: in eager attention a row that may see nothing sees everything, harmlessly.
    """
    t, ids = 13, inputs["input_ids"]
    other = torch.cat([ids[:, : t + 1], 3 + (ids[:, t + 1 :] + 7) % 90], 1)
    real, found = inputs["attention_mask"][:, : t + 1].bool(), []
    for tokens in (ids, other):
        out = logits(model, **{**inputs, "input_ids": tokens})[:, : t + 1][real]
        found.append((out, gates_of(state)[..., : t + 1][..., real]))
    (before, gates), (after, gates_after) = found
    assert torch.equal(gates, gates_after), "a gate depends on later tokens"
    assert_close(after, before, "logits before the changed tokens")


def rows_ignore_each_other(model, state, **inputs):
    """A padded row in a batch has the gates and logits that it has alone and without padding."""
    together, gates = logits(model, **inputs), gates_of(state)
    for row, n in enumerate(PADDING):
        ids = inputs["input_ids"][row : row + 1, n:]
        alone = logits(model, input_ids=ids, attention_mask=torch.ones_like(ids))
        assert torch.equal(gates_of(state)[:, :, 0], gates[:, :, row, n:]), f"gates of row {row}"
        assert_close(alone[0], together[row, n:], f"row {row} alone")


# -- what a skipped token leaves behind ------------------------------------------------------------
def later_tokens_see_skipped_ones(model, state, sees=True):
    """Token 3 skips everything; the last token executes layer 0's attention, and nothing else runs.

    That attention is then the only way from token 3 to the last logits.
    """
    ids = batch(padded=False)["input_ids"][:1, :8]  # inside Gemma-2's window
    other = ids.clone()
    other[0, 3] = 3 + (ids[0, 3] + 7) % 90
    gates = torch.zeros(model.config.num_hidden_layers, 2, 1, 8)
    gates[0, 0, 0, -1] = 1
    state.policy = forced(gates)
    last = [logits(model, input_ids=x, attention_mask=torch.ones_like(x))[0, -1]
            for x in (ids, other)]
    state.policy = None
    if sees:
        try:
            far(last[0], last[1], 1e-3)
        except AssertionError as error:
            raise AssertionError(f"key and value of a skipped token are lost to later tokens: {error}") from None
    else:
        assert_close(last[0], last[1], "an evicted key is still seen")


def cached_decoding_is_the_full_forward(model, state, cache=None, **inputs):
    """A prompt, three tokens at once, then one by one: logits as without a cache, which holds a key
    for every token in every layer, executed or not."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    full = logits(model, input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False)
    cache = DynamicCache(config=model.config) if cache is None else cache
    parts, start = [], 0
    for end in (12, 15, *range(16, ids.shape[1] + 1)):
        parts.append(logits(model, input_ids=ids[:, start:end], attention_mask=mask[:, :end],
                            position_ids=position[:, start:end], past_key_values=cache))
        lengths = {int(cache.get_seq_length(i)) for i in range(model.config.num_hidden_layers)}
        assert lengths == {end}, f"cache lengths {lengths} after {end} tokens"
        start = end
    real = mask.bool()
    assert_close(torch.cat(parts, 1)[real], full[real], "cached decoding")


# -- skip mode -------------------------------------------------------------------------------------
def mask_equals_skip(model, state, tolerance=REL, **inputs):
    """Same gates and logits in both modes, for the tokens that are not padding."""
    found = {}
    for mode in ("mask", "skip"):
        state.set_mode(mode)
        found[mode] = logits(model, **inputs)[state.valid], gates_of(state)[..., state.valid]
    assert torch.equal(found["mask"][1], found["skip"][1]), "the modes decide differently"
    assert_close(found["skip"][0], found["mask"][0], "skip mode", tolerance)


def only_executed_rows_are_computed(model, state, **inputs):
    """Rows through each projection, counted by hooks: k and v all; q, o and the MLP as executed."""
    rows = {}

    def count(key):
        def hook(module, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            rows[key] = rows.get(key, 0) + x.numel() // x.shape[-1]
        return hook

    hooks = []
    for i, layer in enumerate(state.layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            part = getattr(layer.self_attn, name)
            hooks.append(part.register_forward_hook(count((i, name)), with_kwargs=True))
        hooks.append(layer.mlp.register_forward_hook(count((i, "mlp")), with_kwargs=True))
    logits(model, **inputs)
    for hook in hooks:
        hook.remove()
    executed = (gates_of(state).bool() & state.valid).sum((-1, -2))
    for i, (attn, mlp) in enumerate(executed.tolist()):
        for name in ("k_proj", "v_proj"):
            assert rows[i, name] == state.valid.numel(), f"layer {i}: {name} must see every token"
        for name, n in (("q_proj", attn), ("o_proj", attn), ("mlp", mlp)):
            found = rows.get((i, name), 0)
            assert found == n, f"layer {i}: {name} has {found} rows, not {n}"


# -- counting --------------------------------------------------------------------------------------
def padding_does_not_count(model, state, **inputs):
    """Rates are means over real tokens: as computed by hand, and whatever happens at padding."""
    real = inputs["attention_mask"].bool()
    gates = random_gates(model)
    found = []
    for at_padding in (0.0, 1.0):
        state.policy = forced(torch.where(real, gates, at_padding))
        state.start_recording()
        logits(model, **inputs)
        stats = state.stats()
        found.append((stats.attn_skip, stats.mlp_skip, state.executed_fraction().item()))
        assert stats.n_tokens == int(real.sum()), f"{stats.n_tokens} tokens, {int(real.sum())} real"
    state.policy = None
    skipped = 1 - gates[..., real].mean((0, 2))
    by_hand = (*skipped.tolist(), 1 - skipped.mean().item())
    for values in found:
        assert_close(values, by_hand, f"{values}, not {by_hand}")


# -- gate, loss and schedule -----------------------------------------------------------------------
def sample_ignores_temperature():
    """Same noise, same sample; tau only scales the gradient, pi (1 - pi) / tau."""
    draw = torch.Generator().manual_seed(0)
    given = 3 * torch.randn(4000, 1, 2, generator=draw)
    noise = method.gumbel_noise(given.shape, draw)
    samples = []
    for tau in (5.0, 1.0, 0.3):
        leaf = given.clone().requires_grad_()
        gate = method.straight_through_gate(leaf, tau, noise)
        samples.append(gate.detach())
        gate.sum().backward()
        pi = torch.softmax((given + noise) / tau, -1)[..., 0]
        slope = pi * (1 - pi) / tau
        assert_close(leaf.grad[..., 0], slope, f"d gate / d logit 0 at tau {tau}")
        assert_close(leaf.grad[..., 1], -slope, f"d gate / d logit 1 at tau {tau}")
        assert ((gate == 0) | (gate == 1)).all(), "a sampled gate is neither 0 nor 1"
    for other in samples[1:]:
        assert torch.equal(samples[0], other), "the sample depends on tau"


def samples_follow_the_router():
    """P(execute) = sigmoid(l0 - l1), within 4 standard errors."""
    draw, n = torch.Generator().manual_seed(1), 20000
    for gap in (-3.0, -0.5, 0.0, 1.0, 4.0):
        given = torch.tensor([0.7 + gap, 0.7]).expand(n, 1, 2)
        rate = method.straight_through_gate(given, 2.0, method.gumbel_noise(given.shape, draw)).mean()
        p = torch.sigmoid(torch.tensor(gap))
        assert abs(rate - p) < 4 * (p * (1 - p) / n).sqrt(), f"rate {rate:.4f}, probability {p:.4f}"


def budget_pulls_towards_the_target(config=None):
    """alpha |T - skipped|, with a gradient that executes less above the budget and more below."""
    config = config or method.SkipGPTConfig()
    T, alpha, L = config.target_sparsity, config.alpha, 3
    valid = torch.ones(2, 5, dtype=torch.bool)
    for value, cost in ((1.0, alpha * T), (0.0, alpha * (1 - T))):
        gates = torch.full((L, 2, 2, 5), value, requires_grad=True)
        pairs = [tuple(pair) for pair in gates]
        loss = method.sparsity_loss(method.executed_fraction(pairs, valid), T, alpha)
        assert_close(loss, cost, f"all gates {value}: costs {loss.item()}, not {cost}")
        (slope,) = torch.autograd.grad(loss, gates)
        expected = torch.full_like(slope, (1 if value else -1) * alpha / gates.numel())
        assert_close(slope, expected, f"all gates {value}: pulls the wrong way")


def temperature_falls_linearly():
    """tau_0 at the first step; one K-th of the way above tau_1 at the last; straight between."""
    tau, K = method.SkipGPTConfig().tau, 40
    assert tau(0, K) == 5.0, f"first step: {tau(0, K)}"
    assert abs(tau(K - 1, K) - (5 - 4 * (K - 1) / K)) < 1e-12, f"last step: {tau(K - 1, K)}"
    steps = [tau(k, K) - tau(k + 1, K) for k in range(K - 1)]
    assert max(abs(step - 4 / K) for step in steps) < 1e-12, "not a straight line"
    assert tau(K, K) == tau(10 * K, K) == 1.0  # after the last step


def router_learns_from_skipped_tokens(model, state, **inputs):
    """The LM loss reaches router logits where the gate is 0: training computes both modules."""
    kept = []
    model.requires_grad_(False)
    for parameter in state.parameters():
        parameter.requires_grad_(True)
    model.train()

    def keep(module, args, out):
        out.retain_grad()
        kept.append(out)

    hooks = [router.register_forward_hook(keep) for router in state.routers().values()]
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    torch.manual_seed(0)
    model(**inputs, labels=labels, use_cache=False).loss.backward()
    for hook in hooks:
        hook.remove()
    model.eval()
    # The last token predicts nothing. A real token elsewhere has its own target, or is one's past.
    real = inputs["attention_mask"][:, :-1].bool()
    for gate, out in zip((g for pair in state.gates for g in pair), kept):
        skipped = (gate[:, :-1] == 0) & real
        assert skipped.any(), "nothing was skipped: this would prove nothing"
        assert (out.grad[:, :-1][skipped] != 0).all(), "a skipped token gave its router no gradient"
    for name, parameter in model.named_parameters():
        trained = parameter.grad is not None
        assert trained == ("router_" in name), f"{name} is trained: {trained}"
