"""Which use of SkipGPT works on which family of models: the rows that `make families` fills (docs/families.md).

Each function uses the method as its user would, on a model that it may use up, and compares with stock passes: returns where all
is right, lets the method's own refusal through, raises AssertionError where the method accepted the model and was wrong. The oracle
is the stock model with layers that are wrapped from outside: a token that runs both modules has the stock layer's output, one that
runs neither has its input, and gates of one module only are held to what stock layers say of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import baselines
from .layers import find_stack, layer_list, tensor_of
from .method import RoutingState, SkipGPTConfig, apply_skipgpt, remove_skipgpt, sparsity_loss

# How far from the oracle, in units of its norm.
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}


def _close(ours: Tensor, theirs: Tensor, what: str) -> None:
    difference = (ours - theirs).norm() / theirs.norm().clamp(min=1e-30)
    assert difference <= CLOSE.get(theirs.dtype, 5e-2), f"{what}: off by {difference:.1e}"


def _routed(model: PreTrainedModel, **config) -> tuple[PreTrainedModel, RoutingState]:
    """An untouched twin, and the state of the model, now with routers of fixed random weights."""
    stock = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stock, apply_skipgpt(model, SkipGPTConfig(**config))


def _gates(layers: int, ids: Tensor, seed: int = 0, modules: int = 1) -> Tensor:
    """Random gates (L, modules, B, S)."""
    draw = torch.rand(layers, modules, *ids.shape, generator=torch.Generator().manual_seed(seed))
    return (draw < 0.6).float().to(ids.device)


def _play(state: RoutingState, gates: Tensor) -> None:
    """gates (L, 1 or 2, B, S); in decoding those of the last positions."""
    state.policy = lambda layer, name, x, valid: gates[layer, min(int(name == "mlp"), gates.shape[1] - 1), :, -x.shape[1] :]


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor, **options) -> Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **{"use_cache": False} | options).logits


def _oracle(stock: PreTrainedModel, ids: Tensor, gates: Tensor) -> Tensor:
    """Logits of stock layers, each followed by: where the gate (L, 1, B, S) is 0, what came in."""
    hooks = []

    def passing(index: int):
        def hook(layer, args, kwargs, output):
            x, value = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], tensor_of(output)
            mixed = torch.where(gates[index, 0].bool()[..., None], value, x)
            return mixed if isinstance(output, Tensor) else (mixed, *output[1:])
        return hook

    for index, layer in enumerate(layer_list(find_stack(stock))[1]):
        hooks.append(layer.register_forward_hook(passing(index), with_kwargs=True))
    try:
        return _logits(stock, ids)
    finally:
        for hook in hooks:
            hook.remove()


def training(model: PreTrainedModel, ids: Tensor) -> None:
    """Mode "mask": everything executed is the stock model; tokens pass skipped layers unchanged; one training step teaches routers."""
    stock, state = _routed(model)
    depth = len(state.layers)
    _play(state, torch.ones(depth, 1, *ids.shape))
    _close(_logits(model, ids), _logits(stock, ids), "everything executed")
    gates = _gates(depth, ids)
    _play(state, gates)
    _close(_logits(model, ids), _oracle(stock, ids, gates), "layers skipped by token")
    state.policy = None
    model.requires_grad_(False)
    for parameter in state.parameters():
        parameter.requires_grad_(True)
    model.train()
    model.config.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
        (loss + sparsity_loss(state.executed_fraction().to(loss.dtype), 0.25, 8.0)).backward()
    for name, router in state.routers().items():
        weight = router.layers[-1].weight
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().max() > 0, f"{name} learns nothing"
    assert all(p.grad is None for name, p in model.named_parameters() if "router_" not in name), "the backbone is trained"
    model.eval()


def modules_apart(model: PreTrainedModel, ids: Tensor) -> None:
    """Attention and MLP decide apart: with one of them skipped by all tokens of one layer, its contribution is missing, and only it.

    By stock passes: in a last layer whose attention (MLP) is skipped, what is added is the layer's output less what the other adds;
    both contributions, taken apart, must add up to the stock layer's where the branches stand side by side, and the MLP's must be
    that of the stock layer where attention is executed.
    """
    stock, state = _routed(model)
    last = len(state.layers) - 1
    seen: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module, skipped: tuple[str, ...], called: nn.Module) -> None:
        def hook(module, args, kwargs, output):
            seen["x"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            seen[name] = tensor_of(output)

        state.policy = lambda index, what, x, valid: torch.full(valid.shape, float(index < last or what not in skipped))
        handle = layer.register_forward_hook(hook, with_kwargs=True)
        try:
            _logits(called, ids)
        finally:
            handle.remove()

    watch("both", layer_list(find_stack(stock))[1][last], (), stock)
    watch("no mlp", state.layers[last], ("mlp",), model)
    watch("no attention", state.layers[last], ("attn",), model)
    x, both, attention, mlp = (seen[name] for name in ("x", "both", "no mlp", "no attention"))
    assert not torch.equal(attention, both) and not torch.equal(mlp, both), "skipping a module changes nothing"
    assert not torch.equal(attention, x) and not torch.equal(mlp, x), "skipping one module skips both"
    # What the MLP adds alone looks at no other token, and what attention adds does.
    changed = ids.clone()
    changed[:, 0] = ids[:, -1]

    def changes(skipped: tuple[str, ...]) -> Tensor:
        state.policy = lambda index, what, x, valid: torch.full(valid.shape, float(index == 0 and what not in skipped))
        first, second = (_hidden(model, state.layers[0], tokens) for tokens in (ids, changed))
        return (first - second)[:, 1:].abs().amax()

    assert changes(("attn",)) <= 1e-9 * both.abs().max(), "with attention skipped, tokens still see each other"
    assert changes(("mlp",)) > 0, "with the MLP skipped, tokens do not see each other"


def _hidden(model: nn.Module, layer: nn.Module, ids: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(tensor_of(output)))
    try:
        _logits(model, ids)
    finally:
        handle.remove()
    return kept[0]


def skipping(model: PreTrainedModel, ids: Tensor) -> None:
    """Mode "skip": prefill as the stock layers say, then decoding upon its cache as without a cache, with gates of both modules."""
    stock, state = _routed(model)
    depth = len(state.layers)
    state.set_mode("skip")
    gates = _gates(depth, ids)
    _play(state, gates)
    _close(_logits(model, ids), _oracle(stock, ids, gates), "prefill")
    gates = _gates(depth, ids, 1, 2)
    _play(state, gates)
    whole = _logits(model, ids)
    state.set_mode("mask")
    _close(whole, _logits(model, ids), "prefill against the reference")
    state.set_mode("skip")
    cut = ids.shape[1] - 3
    mask, cache, parts = torch.ones_like(ids), None, []
    for start, end in ((0, cut), *((at, at + 1) for at in range(cut, ids.shape[1]))):
        _play(state, gates[..., start:end])
        with torch.no_grad():
            out = model(input_ids=ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    _close(torch.cat(parts, 1), whole, "decoding upon the cache")


def generating(model: PreTrainedModel, ids: Tensor) -> None:
    """`generate` with routers that decide, greedily and with beams, with a cache and without, in a padded batch and row by row; and
    with everything executed as the stock model."""
    stock, state = _routed(model)
    modes = ("mask",) if state.no_skip else ("mask", "skip")
    options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    written: dict[str, Tensor] = {}
    for mode in modes:
        state.set_mode(mode)
        state.policy = None
        for beams in (1, 2):
            both = [model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=beams, use_cache=cache, **options)
                    for cache in (True, False)]
            assert torch.equal(*both), f"mode {mode}, {beams} beams: with a cache something else is written than without"
            assert torch.equal(written.setdefault(str(beams), both[0]), both[0]), f"{beams} beams: the modes write different tokens"
        state.policy = baselines.no_op()
        ours, theirs = (m.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options) for m in (model, stock))
        assert torch.equal(ours, theirs), f"mode {mode}: everything executed, and another text than the stock model's"


def static_pruning(model: PreTrainedModel, ids: Tensor) -> None:
    """Every training-free plan, and LaCo: as many modules as asked for, the model left as it was, and a plan does what it says."""
    before = _logits(model, ids)
    depth = len(layer_list(find_stack(model))[1])
    plans = [baselines.block_influence(model, ids, 1), baselines.shortened_ppl(model, ids, 1), baselines.joint_layer_drop(model, ids, 2),
             baselines.greedy_drop(model, ids, 2)]
    if depth > 2:  # the first and the last block are no candidates
        plans.append(baselines.shortened_taylor(model, ids, 1))
    for plan in plans:
        assert len(plan.dropped) == 2, f"{plan.label}: {plan.dropped}"
    assert torch.equal(_logits(model, ids), before), "calibration changed the model"
    block = plans[0].dropped[0][0]
    stock, state = _routed(model)
    gates = torch.ones(depth, 1, *ids.shape)
    gates[block] = 0
    state.policy = plans[0].policy()
    _close(_logits(model, ids), _oracle(stock, ids, gates), "a dropped block")
    remove_skipgpt(model)
    assert torch.equal(_logits(model, ids), before), "remove_skipgpt does not give the stock model back"


def merging(model: PreTrainedModel, ids: Tensor) -> None:
    """LaCo merges two layers into one, whose weights are the formula's."""
    before = _logits(model, ids)
    merged = baselines.laco(model, ids, threshold=-2.0, group=2, blocks=1)
    layers = layer_list(find_stack(merged.model))[1]
    assert len(layers) == len(layer_list(find_stack(model))[1]) - 1 and torch.isfinite(_logits(merged.model, ids)).all()
    assert torch.equal(_logits(model, ids), before), "merging changed the model"


METHODS: dict[str, Callable[[PreTrainedModel, Tensor], None]] = {
    "training": training,
    "attention and MLP apart": modules_apart,
    "real skipping": skipping,
    "generate": generating,
    "static pruning": static_pruning,
    "LaCo": merging,
}
