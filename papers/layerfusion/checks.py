"""What fusion assumes of a decoder, measured on three tokens, once for a model: it is refused by the property that it lacks.

A block takes and gives one state a token, once a pass; a cache counts what was read; and for what stands beside a sub-layer
(parallel), a block adds what its attention and its MLP give to its states as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.probe import change, in_use, measurable, once, rounding


class Unfit(ModelError):
    """A decoder into which fusion cannot go: names the property that it lacks."""


def blocks_of(decoder: nn.Module) -> nn.Module:
    """The part of the model that runs the blocks. Raises Unfit where there is none with `layers`."""
    inner = decoder.get_decoder() if hasattr(decoder, "get_decoder") else decoder
    if not isinstance(getattr(inner, "layers", None), nn.ModuleList):
        raise Unfit(f"{type(decoder).__name__}: its decoder has no list of blocks called `layers`.")
    return inner


def check(decoder: nn.Module, points: Sequence[int], parallel: bool) -> None:
    """Raises Unfit, measured on three tokens, once for a model: each block takes and gives states (B, S, d), once a pass, a cache counts
    them, and, for parallel, a block adds what its attention and its MLP give to them as it is."""
    once(decoder, ("layerfusion", tuple(points), parallel), lambda model: _measure(model, points, parallel))


def _measure(model: nn.Module, points: Sequence[int], parallel: bool) -> None:
    kind, model = type(model).__name__, measurable(model)
    inner, table = blocks_of(model), model.get_input_embeddings()
    blocks: Any = inner.layers
    embeds = table(torch.tensor([[5, 7, 9]], device=next(model.parameters()).device) % table.num_embeddings).detach()
    real, through = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device), dict[int, list[tuple]]()

    def record(point: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            given, got = args[0] if args else kwargs.get("hidden_states"), output[0] if isinstance(output, tuple) else output
            through.setdefault(point, []).append((given, got))

        return hook

    def run(*hooks: Any) -> dict[int, list[tuple]]:
        through.clear()
        recorders = [blocks[p].register_forward_hook(record(p), with_kwargs=True) for p in points]
        try:
            model(inputs_embeds=embeds, attention_mask=real, use_cache=False)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise Unfit(f"{kind}: it does not run on embeddings alone ({' '.join(str(error).split())[:80]}).") from error
        finally:
            for hook in (*recorders, *hooks):
                hook.remove()
        return dict(through)

    with in_use(model):
        plain = run()
        for p in points:
            calls = plain.get(p, [])
            if len(calls) != 1:
                raise Unfit(f"{kind}: a block is run {len(calls)} times in one pass, where something is to go in once.")
            for states in calls[0]:
                if not isinstance(states, Tensor) or states.shape != embeds.shape:
                    raise Unfit(f"{kind}: a block does not take and give one state a token (B, S, d).")
        kept: Any = getattr(model(inputs_embeds=embeds, attention_mask=real, use_cache=True), "past_key_values", None)
        if not hasattr(kept, "get_seq_length") or int(kept.get_seq_length()) != embeds.shape[1]:
            raise Unfit(f"{kind}: it keeps no cache that counts the tokens read, by which a written token is told from a prompt's.")
        if not parallel:
            return
        for p in points:
            for name in ("self_attn", "mlp"):
                if not isinstance(getattr(blocks[p], name, None), nn.Module):
                    raise Unfit(f"{kind}: a block has no sub-layer `{name}` beside which cross-attention could stand.")
            _adds(kind, model, run, blocks[p], p)


def _adds(kind: str, model: nn.Module, run: Callable, block: nn.Module, p: int) -> None:
    """A known addition to a sub-layer's output arrives behind the block as it is; behind attention with the MLP silenced."""
    def shift(by: Tensor) -> Callable:
        return lambda module, args, output: (output[0] + by, *output[1:]) if isinstance(output, tuple) else output + by

    def silence(module: nn.Module, args: tuple, output: Any) -> Any:
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    attention: Any = block.self_attn
    mlp: Any = block.mlp
    size = run()[p][0][1]
    by = size.std() * torch.linspace(-1, 1, size.shape[-1], device=size.device, dtype=size.dtype)
    bare = run(mlp.register_forward_hook(silence))[p][0][1]
    both = run(mlp.register_forward_hook(silence), attention.register_forward_hook(shift(by)))[p][0][1]
    behind = run(mlp.register_forward_hook(shift(by)))[p][0][1]
    for name, moved in (("attention", both - bare), ("MLP", behind - size)):
        if change(moved, by.expand_as(moved)) > 200 * rounding(model):
            raise Unfit(f"{kind}: a block does not add what its {name} gives to its states as it is (it is normed or scaled behind), so "
                        "that nothing can stand beside it; use pre or post.")
