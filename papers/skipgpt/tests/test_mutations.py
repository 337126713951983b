"""The tests can fail: the method is broken in one place, and the check of that place must notice.

A mutation is a function that breaks the code through monkeypatch. Each is paired with the invariant
that is there to catch it; on the unbroken code every invariant passes (first test), so that a
failure below is the mutation's doing. `why` is a piece of the message: failing for another reason
would prove nothing.
"""

import pytest
import torch
from transformers.models.llama import modeling_llama

from tests.numerics import float64

from .. import gating, method, recording, skipping
from ..gating import RoutedLayerMixin
from ..method import RoutingState, SkipGPTConfig, TokenRouter
from . import invariants as holds
from .invariants import batch, forced, random_gates, route

pytestmark = pytest.mark.numerics
SEED, GATE_OUTPUT = 2, gating.gate_output


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def mutation_router_ignored(patch):
    """Every third token executes, whatever the router answers."""
    def gate(self, index, name, router, x):
        router(x)
        return (torch.arange(x.shape[1]) % 3 == 0).float().expand(x.shape[:2])
    patch.setattr(RoutingState, "gate", gate)


def mutation_execute_and_skip_swapped(patch):
    patch.setattr(method, "straight_through_gate",
                  lambda logits, tau, noise=None: (logits[..., 0] < logits[..., 1]).float())


def mutation_mlp_router_reads_the_other_state(patch):
    """As the released code does, where the paper's way is configured."""
    gate, inputs = RoutingState.gate, {}

    def wrong(self, index, name, router, x):
        if name == "attn":
            inputs[index] = x
        return gate(self, index, name, router, inputs[index])
    patch.setattr(RoutingState, "gate", wrong)


def mutation_noise_left_on(patch):
    """Gumbel noise in evaluation too."""
    gate = method.straight_through_gate
    patch.setattr(method, "straight_through_gate", lambda logits, tau, noise=None: gate(
        logits, tau, method.gumbel_noise(logits.shape)))


def mutation_gate_soft_in_evaluation(patch):
    patch.setattr(method, "straight_through_gate",
                  lambda logits, tau, noise=None: torch.softmax(logits / tau, -1)[..., 0])


def mutation_noise_scaled_by_temperature(patch):
    """(l / tau) + G instead of (l + G) / tau: the sample then depends on tau."""
    gate = method.straight_through_gate
    patch.setattr(method, "straight_through_gate", lambda logits, tau, noise=None: gate(
        logits, tau, None if noise is None else tau * noise))


def mutation_gradient_without_temperature(patch):
    gate = method.straight_through_gate
    patch.setattr(method, "straight_through_gate",
                  lambda logits, tau, noise=None: gate(logits, 1.0, noise))


def mutation_logistic_noise(patch):
    """Noise of another law: argmax no longer follows softmax."""
    patch.setattr(method, "gumbel_noise", lambda shape, generator=None, device=None: torch.randn(
        shape, generator=generator))


def mutation_no_straight_through(patch):
    """Skipped modules not computed in training: their gates carry no gradient."""
    gate = method.straight_through_gate

    def wrong(logits, tau, noise=None):
        value = gate(logits, tau, noise)
        return torch.where(value > 0, value, value.detach())
    patch.setattr(method, "straight_through_gate", wrong)


def mutation_budget_sign_flipped(patch):
    """The target taken as the executed fraction."""
    patch.setattr(method, "sparsity_loss",
                  lambda executed, target, alpha: alpha * (target - executed).abs())


def mutation_budget_only_pushes_down(patch):
    """No price for skipping too much."""
    patch.setattr(method, "sparsity_loss",
                  lambda executed, target, alpha: alpha * (target - (1 - executed)).clamp(min=0))


def mutation_tau_off_by_one(patch):
    tau = SkipGPTConfig.tau
    patch.setattr(SkipGPTConfig, "tau", lambda self, step, total: tau(self, step + 1, total))


def mutation_tau_reaches_the_end(patch):
    """Divided by K - 1: the last step then is at tau_1 already."""
    tau = SkipGPTConfig.tau
    patch.setattr(SkipGPTConfig, "tau", lambda self, step, total: tau(self, step, total - 1))


def mutation_padding_counted(patch):
    patch.setattr(recording, "valid_tokens",
                  lambda mask, batch, seq, cache, device: torch.ones(batch, seq, dtype=torch.bool))


def mutation_budget_counts_padding(patch):
    """The loss averages over all places of the batch, as the released code does."""
    fraction = method.executed_fraction
    patch.setattr(method, "executed_fraction", lambda gates, valid, weights=(0.5, 0.5): fraction(
        gates, torch.ones_like(valid), weights))


def hidden(layer, x, gate, kwargs):
    """The arguments with the keys of skipped tokens hidden from later ones."""
    return layer._routing._eviction.hide(layer, layer._routing_index, gate, x, kwargs)


def mutation_keys_dropped_in_mask_mode(patch):
    gated = RoutedLayerMixin.gated
    patch.setattr(RoutedLayerMixin, "gated", lambda self, x, g_attn, args, kwargs: gated(
        self, x, g_attn, args, hidden(self, x, g_attn, kwargs)))


def mutation_keys_dropped_in_skip_mode(patch):
    original = skipping.skipping_attention
    patch.setattr(skipping, "skipping_attention", lambda layer, x, gate, **kwargs: original(
        layer, x, gate, **hidden(layer, x, gate, kwargs)))


def mutation_cache_forgets_skipped_layers(patch):
    """Where nobody executes attention, nothing is appended to the cache."""
    original = skipping.skipping_attention

    def wrong(layer, x, gate, **kwargs):
        return original(layer, x, gate, **kwargs) if gate.any() else x.clone()
    patch.setattr(skipping, "skipping_attention", wrong)


def mutation_positions_renumbered(patch):
    """Gathered queries get the angles of positions 0, 1, 2, … instead of their own."""
    rotate, table = modeling_llama.apply_rotary_pos_emb, {}

    def wrong(q, k, cos, sin, **kwargs):
        if k.shape[1] == 0 and cos.shape[-2:] != table.get("shape"):
            cos, sin = (renumber(table[name], like) for name, like in (("cos", cos), ("sin", sin)))
        else:
            table.update(cos=cos, sin=sin, shape=cos.shape[-2:])
        return rotate(q, k, cos, sin, **kwargs)

    def renumber(full, like):
        order = torch.arange(like.shape[-2]) % full.shape[-2]
        return full[0][order].expand_as(like)

    patch.setattr(modeling_llama, "apply_rotary_pos_emb", wrong)


def mutation_queries_out_of_order(patch):
    """The results of the attention read go back to the wrong tokens."""
    read = skipping._read
    patch.setattr(skipping, "_read", lambda *args: read(*args).roll(1, 0))


def mutation_skip_mode_multiplies_by_zero(patch):
    """What the released code does: compute all, then multiply."""
    patch.setattr(skipping, "skipping_layer", lambda layer, x, g_attn, decide, kwargs: layer.gated(x, g_attn, (), kwargs | {
        "hidden_states": x}))


def mutation_skip_mode_forgets_the_residual(patch):
    original = skipping.skipping_mlp
    patch.setattr(skipping, "skipping_mlp", lambda layer, y, gate, x=None: original(
        layer, y.clone(), gate) * gate[..., None])


def mutation_router_sees_the_whole_row(patch):
    """A gate that looks at the other tokens of its row: here, relative to their mean."""
    forward = TokenRouter.forward
    patch.setattr(TokenRouter, "forward",
                  lambda self, x: forward(self, x - x.mean(1, keepdim=True)))


def mutation_attention_gets_half(patch):
    """The gate of an executed token is not 1."""
    patch.setattr(gating, "gate_output", lambda output, gate, residual=None: GATE_OUTPUT(output, gate / 2, residual))


def mutation_gate_applied_to_the_residual(patch):
    """g (x + f(x)) instead of x + g f(x)."""
    gated = RoutedLayerMixin.gated

    def wrong(self, x, g_attn, args, kwargs):
        out, g_mlp = gated(self, x, g_attn, args, kwargs)
        return g_mlp[..., None] * out, g_mlp
    patch.setattr(RoutedLayerMixin, "gated", wrong)


def mutation_module_without_gate(patch):
    patch.setattr(gating, "gate_output", lambda output, gate, residual=None: output)


# -- what must notice ------------------------------------------------------------------------------
def forced_mask_equals_skip(model, state, **inputs):
    state.policy = forced(random_gates(model, seed=4))
    holds.mask_equals_skip(model, state, **inputs)


def all_skip_and_decode(model, state, **inputs):
    holds.decide(state, -2e4)
    holds.cached_decoding_is_the_full_forward(model, state, **inputs)


# name -> (mode of the model, the check); a check without a model has no mode.
CHECKS = {
    "router decides": ("mask", holds.router_decides),
    "gates hard": ("mask", holds.gates_are_hard),
    "deterministic": ("mask", holds.evaluation_is_deterministic),
    "past": ("mask", holds.past_ignores_future),
    "padding": ("mask", holds.padding_does_not_count),
    "keys, mask mode": ("mask", lambda m, s, **_: holds.later_tokens_see_skipped_ones(m, s)),
    "keys, skip mode": ("skip", lambda m, s, **_: holds.later_tokens_see_skipped_ones(m, s)),
    "cache, skip mode": ("skip", all_skip_and_decode),
    "mask = skip": ("mask", forced_mask_equals_skip),
    "rows": ("skip", holds.only_executed_rows_are_computed),
    "all execute": ("stock", holds.all_execute_is_the_stock_model),
    "all skip": ("stock", holds.all_skip_is_no_layer_at_all),
    "skipped tokens teach": ("mask", holds.router_learns_from_skipped_tokens),
    "sample": (None, holds.sample_ignores_temperature),
    "sample rate": (None, holds.samples_follow_the_router),
    "budget": (None, holds.budget_pulls_towards_the_target),
    "tau": (None, holds.temperature_falls_linearly),
}


@pytest.fixture
def ready(fresh):
    """ready(check) runs it. The model is routed while the code is whole, and the code breaks under
    it: `apply_skipgpt` has checks of its own, which would notice some of this first."""
    routed, stock = fresh(), fresh()
    state = route(routed, seed=SEED)

    def run(name):
        mode, check = CHECKS[name]
        if mode is None:
            return check()
        state.set_mode("skip" if mode == "skip" else "mask")
        check(routed, state, *([stock] if mode == "stock" else []), **batch())

    return run


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_passes_on_the_code_as_it_is(ready, check):
    ready(check)


@pytest.mark.parametrize("mutation, check, why", [
    (mutation_router_ignored, "router decides", "layer 0 router_attn"),
    (mutation_execute_and_skip_swapped, "router decides", "layer 0 router_attn"),
    (mutation_mlp_router_reads_the_other_state, "router decides", "reads the wrong state"),
    (mutation_router_sees_the_whole_row, "past", "depends on later tokens"),
    (mutation_noise_left_on, "deterministic", "two passes"),
    (mutation_gate_soft_in_evaluation, "gates hard", "neither 0 nor 1"),
    (mutation_noise_scaled_by_temperature, "sample", "depends on tau|d gate"),
    (mutation_gradient_without_temperature, "sample", "d gate"),
    (mutation_logistic_noise, "sample rate", "probability"),
    (mutation_no_straight_through, "skipped tokens teach", "no gradient"),
    (mutation_budget_sign_flipped, "budget", "costs"),
    (mutation_budget_only_pushes_down, "budget", "all gates 0.0"),
    (mutation_tau_off_by_one, "tau", "first step"),
    (mutation_tau_reaches_the_end, "tau", "last step"),
    (mutation_padding_counted, "padding", "47 real"),
    (mutation_budget_counts_padding, "padding", "not"),
    (mutation_keys_dropped_in_mask_mode, "keys, mask mode", "are lost"),
    (mutation_keys_dropped_in_skip_mode, "keys, skip mode", "are lost"),
    (mutation_keys_dropped_in_skip_mode, "mask = skip", "skip mode: off by"),
    (mutation_cache_forgets_skipped_layers, "cache, skip mode", "cache lengths"),
    (mutation_positions_renumbered, "mask = skip", "skip mode: off by"),
    (mutation_queries_out_of_order, "mask = skip", "skip mode: off by"),
    (mutation_skip_mode_multiplies_by_zero, "rows", "rows, not"),
    (mutation_skip_mode_forgets_the_residual, "mask = skip", "skip mode: off by"),
    (mutation_attention_gets_half, "all execute", "stock model"),
    (mutation_gate_applied_to_the_residual, "all skip", "no layers"),
    (mutation_module_without_gate, "all skip", "no layers"),
], ids=lambda value: getattr(value, "__name__", str(value)).removeprefix("mutation_"))
def test_mutation_is_noticed(ready, monkeypatch, mutation, check, why):
    mutation(monkeypatch)
    with pytest.raises(AssertionError, match=why):
        ready(check)
