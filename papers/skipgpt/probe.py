"""A routed model held against the stock one, once, before it is used: eight tokens, layer by layer.

A layer is right if a token that runs both modules gets what the stock layer gives it, whatever its neighbours do, and one that
runs neither passes unchanged, to the last bit. The stock layer's own output on the same states is the oracle. Mode "skip" is then
held against mode "mask" in the same way; what only it cannot do is kept in `RoutingState.no_skip`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layers import Passed, UnfitModel, same
from .projections import measured


@torch.no_grad()
def check(state: Any, seen: list[Passed]) -> None:
    """state: of the routed model, in eval mode; seen: what its stock layers did. Raises UnfitModel if the routed layers compute
    something else. Leaves state in mode "mask"."""
    config, state.config = state.config, _without_eviction(state.config)
    state.valid = torch.ones(seen[0].x.shape[:2], dtype=torch.bool, device=seen[0].x.device)
    state.gates = [None] * len(seen)
    try:
        for index, one in enumerate(seen):
            _reference(state, index, one)
        try:
            for index, one in enumerate(seen):
                _skipping(state, index, one)
        except UnfitModel as reason:
            state.no_skip = str(reason)
        state.config = config
        if config.kv_policy == "evict":
            for index, one in enumerate(seen):
                _eviction(state, index, one)
    finally:
        state.config, state.mode, state.policy, state.gates, state.valid = config, "mask", None, [], None


def _without_eviction(config):
    from dataclasses import replace

    return replace(config, kv_policy="dense")  # "evict" always has a mask, which may mean another kernel


def _run(state: Any, one: Passed, mode: str, attn: Tensor, mlp: Tensor | None = None, **changes) -> Tensor:
    """A routed layer's output with these gates (S,)."""
    gates = {"attn": attn, "mlp": attn if mlp is None else mlp}
    state.mode, state.policy = mode, lambda index, name, x, valid: gates[name].to(x.device).expand(x.shape[:2])
    if state.valid.device != one.x.device:
        state.valid = state.valid.to(one.x.device)
    return one.again(**changes)


def _name(one: Passed) -> str:
    return type(one.layer).__name__.removeprefix("Routed")


def _patterns(one: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Gates (S,): all; every second token; pairs."""
    places = torch.arange(one.x.shape[1])
    return torch.ones(len(places)), (places % 2).float(), (places // 2 % 2).float()


def _reference(state: Any, index: int, one: Passed) -> None:
    every, second, _ = _patterns(one)
    for gates in (every, second):
        executed = gates.bool().to(one.x.device)
        out = _run(state, one, "mask", gates)
        if not same(out[:, executed], one.out[:, executed]) or not torch.equal(out[:, ~executed], one.x[:, ~executed]):
            raise UnfitModel("What a token gets from the layer is not its own residual state and what two modules add to it. Layer "
                             f"{index} ({_name(one)}) changes tokens that skip, or gives others something else because of them.")


def _reads_ahead(state: Any, one: Passed) -> bool:
    """Whether a token's output changes with a token behind it: a prefix that is read both ways."""
    changed = one.x.clone()
    changed[:, -1] = one.x[:, 0] - one.x[:, -1]
    before, after = (_run(state, one, "mask", torch.ones(one.x.shape[1]), x=x) for x in (one.x, changed))
    return not same(after[:, :-1], before[:, :-1])


def _skipping(state: Any, index: int, one: Passed) -> None:
    """Raises UnfitModel naming what mode "skip" cannot do here."""
    layer, anatomy = one.layer, one.layer._anatomy
    where, name = f"Layer {index}", _name(one)
    if len(anatomy.attn.modules) != 1 or anatomy.attn.scale is None or anatomy.whole or anatomy.mlp.scale is None:
        raise UnfitModel(f"Its modules do not hand over what they add apart from what they add it to. {where} ({name}).")
    if _reads_ahead(state, one):
        raise UnfitModel("A token sees tokens behind it, so that what was cached before they came is not what a whole pass gives. "
                         f"{where} ({name}).")
    state.mode = "dense"  # the stock layer, for what its keys are
    layer._projections = measured(one, anatomy, where)
    every, second, pairs = _patterns(one)
    for attn, mlp in ((every, every), (second, pairs)):
        reference = _run(state, one, "mask", attn, mlp)
        try:
            out = _run(state, one, "skip", attn, mlp)
        except Exception as error:
            raise UnfitModel(f"Its attention cannot be run for some tokens alone. {where} ({name}): {type(error).__name__}: {error}."
                             ) from error
        if not _close(out, reference):
            raise UnfitModel(f"Its attention does more with queries and keys than mode 'skip' knows. {where} ({name}) differs from the "
                             f"reference by {((out - reference).norm() / reference.norm()).item():.1e}.")


def _close(out: Tensor, reference: Tensor) -> bool:
    """Equal but for the rounding of matrix products over other row counts (on a GPU perhaps in tf32)."""
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-2 if out.is_cuda else 1e-4}.get(out.dtype, 5e-2)
    return bool((out - reference).norm() <= tolerance * reference.norm())


def _eviction(state: Any, index: int, one: Passed) -> None:
    """A changed token that skips attention must change no other token."""
    kept = torch.ones(one.x.shape[1])
    kept[2] = 0
    changed = one.x.clone()
    changed[:, 2] = one.x[:, -1]
    try:
        before, after = (_run(state, one, "mask", kept, x=x) for x in (one.x, changed))
    except Exception as error:
        raise UnfitModel(f"What looks at other tokens takes no attention mask, so that kv_policy 'evict' cannot hide a token from it. "
                         f"Layer {index} ({_name(one)}): {type(error).__name__}: {error}.") from error
    others = torch.arange(one.x.shape[1], device=one.x.device) != 2
    if not same(after[:, others], before[:, others]):
        raise UnfitModel("What looks at other tokens does not follow the attention mask, so that kv_policy 'evict' cannot hide a token "
                         f"from it. Layer {index} ({_name(one)}).")
