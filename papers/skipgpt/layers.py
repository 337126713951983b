"""What a decoder layer does to its residual stream, found by numbers: where a gate can stand, without knowing the family.

SkipGPT needs of a layer that it adds two things to what enters it, one that looks at other tokens (attention, or another mixer)
and one that does not (the MLP):

    y = x + a(x)       x_next = y + m(y)   in series     or     x_next = x + a(x) + m(x)   side by side

What stands around the two (norms before or after, a multiplier, one norm for both) is the family's business. Eight tokens are
sent through every layer while its submodules are watched, and then again with the first token changed: the submodule that passes
the change on to later tokens is the mixer, what enters the MLP tells y, and from y the rest follows. No name of a family, of a
norm or of a projection is asked for. `probe.py` then holds a routed layer against the stock one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError

TOKENS = 8


class UnfitModel(UserError, TypeError):
    """A model that lacks what the method needs. The first sentence names the property; the rest, where, and what to do."""


@dataclass(frozen=True)
class Branch:
    """What the layer adds, as names of its submodules in the order in which they run.

    before: norms in front; modules: what computes; after: norms and dropouts behind. scale: what the last one gives is multiplied by
    it and added; None: the last one has added the residual stream already, and gives the sum. A branch without modules is all that
    the layer does after y, taken as a whole: x_next - y.
    """

    before: tuple[str, ...]
    modules: tuple[str, ...]
    after: tuple[str, ...]
    scale: float | None

    @property
    def first(self) -> str:
        return (*self.before, *self.modules)[0]

    @property
    def last(self) -> str:
        return (*self.modules, *self.after)[-1]


@dataclass(frozen=True)
class Anatomy:
    """A layer's two branches. series: the MLP reads y, as in the paper; else both read x."""

    attn: Branch
    mlp: Branch
    series: bool

    @property
    def whole(self) -> bool:
        """Whether the MLP's branch is all that follows y."""
        return not self.mlp.modules


class Passed(NamedTuple):
    """One layer's part of a forward pass: what it was called with (x first), and its output."""

    layer: nn.Module
    x: Tensor
    args: tuple
    kwargs: dict[str, Any]
    out: Tensor

    def again(self, x: Tensor | None = None, **kwargs) -> Tensor:
        """The layer's output once more, for another x (1, S, d) or other arguments."""
        x = self.x if x is None else x
        named = self.kwargs | kwargs
        return tensor_of(self.layer(**named | {"hidden_states": x}) if "hidden_states" in named else self.layer(x, *self.args, **named))


class Call(NamedTuple):
    """One call of a submodule: what went in and what came out, (1, S, ...)."""

    name: str
    given: Tensor
    gave: Tensor


# -- where the layers are ----------------------------------------------------------------------------------
def find_stack(model: nn.Module) -> nn.Module:
    """The submodule that owns the token embeddings and, beside them, the decoder layers; through any wrapper, and in a model with
    vision or audio. Raises UnfitModel where there is none."""
    for module in model.modules():
        embeddings = _embeddings(module)
        if embeddings is None:
            continue
        for owner in module.modules():
            children = list(owner.children())
            if any(child is embeddings for child in children) and any(_is_list(child) for child in children):
                return owner
        break
    raise UnfitModel(f"{type(model).__name__} has no list of decoder layers beside its token embeddings: SkipGPT needs a decoder-only "
                     "transformer of `transformers`, alone or as the language model of a multimodal one.")


def _embeddings(module: nn.Module) -> nn.Module | None:
    getter = getattr(module, "get_input_embeddings", None)
    try:
        return getter() if callable(getter) else None
    except (NotImplementedError, AttributeError):
        return None


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) > 0


def layer_list(stack: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the decoder layers: the longest list of modules that the stack has."""
    lists = [(name, child) for name, child in stack.named_children() if isinstance(child, nn.ModuleList) and _is_list(child)]
    return max(lists, key=lambda pair: len(pair[1]))


def embeddings_of(stack: nn.Module) -> Tensor:
    """The table (V, d) of the token embeddings."""
    embeddings = _embeddings(stack)
    children = [child for child in stack.children() if isinstance(child, nn.Embedding)]
    weight = getattr(embeddings if embeddings is not None else children[0], "weight", None)
    if not isinstance(weight, Tensor):
        raise UnfitModel(f"{type(stack).__name__} has no table of token embeddings that could be read.")
    return weight


def width_of(stack: nn.Module) -> int:
    """d, the width of the residual stream (that of the embeddings may be another)."""
    return getattr(getattr(stack, "config", None), "hidden_size", None) or embeddings_of(stack).shape[1]


# -- watching ----------------------------------------------------------------------------------------------
def tensor_of(value) -> Tensor:
    """A module's main output: the tensor, or the first of a tuple."""
    return value if isinstance(value, Tensor) else value[0]


def given_to(args: tuple, kwargs: dict) -> Tensor | None:
    """The states that a module is called with: the first tensor, by place or by name."""
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return kwargs["hidden_states"]
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def passes(stack: nn.Module) -> list[Passed]:
    """TOKENS tokens through the stack, as every layer sees them. Raises UnfitModel if it does not run on tokens alone, or does not run
    each layer once, in order, on what the one before has given."""
    weight, (_, layers) = embeddings_of(stack), layer_list(stack)
    if weight.is_meta:
        raise UnfitModel("The model's weights are on the meta device: what its layers do cannot be measured. Load the weights first.")
    seen: list[Passed] = []

    def watch(layer, args, kwargs, out):
        x = given_to(args, kwargs)
        rest = args if "hidden_states" in kwargs else args[1:]
        if x is not None:
            seen.append(Passed(layer, x.clone(), rest, dict(kwargs), tensor_of(out).clone()))

    hooks = [layer.register_forward_hook(watch, with_kwargs=True) for layer in layers]
    tokens = torch.arange(1, TOKENS + 1, device=weight.device)[None] % weight.shape[0]
    try:
        stack(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    except Exception as error:
        raise UnfitModel(f"The decoder does not run on token ids alone. {type(stack).__name__}: {type(error).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if [id(one.layer) for one in seen] != [id(layer) for layer in layers]:
        raise UnfitModel(f"Its layers do not run once each, one after the other. {type(stack).__name__} calls {len(seen)} times one of "
                         f"{len(layers)} layers: SkipGPT needs a stack of layers with weights of their own.")
    for index, (before, after) in enumerate(zip(seen, seen[1:])):
        if before.out.shape != after.x.shape or not torch.equal(before.out, after.x):
            raise UnfitModel(f"Its layers are connected by more than one residual stream. {type(stack).__name__}: layer {index + 1} does "
                             f"not get what layer {index} gives.")
    return seen


def calls(one: Passed, x: Tensor, within: str = "", push: tuple[str, Tensor] | None = None) -> list[Call]:
    """The calls of a layer's submodules for x (1, S, d), those that take and give a state for each token; or of the submodules `within`
    one of them. push: a submodule, and what is added to its output (1, S, d). The last call is the layer's own."""
    made: list[Call] = []

    def watch(name: str):
        def hook(module, args, kwargs, out):
            given, tokens = given_to(args, kwargs), x.shape[0] * x.shape[1]
            gave = out if isinstance(out, Tensor) else next((value for value in out or () if isinstance(value, Tensor)), None)
            if given is not None and gave is not None and all(t.dim() > 1 and t.numel() % tokens == 0 for t in (given, gave)):
                made.append(Call(name, *(t.reshape(*x.shape[:2], -1).clone() for t in (given, gave))))
        return hook

    def pushed(module, args, out):
        value = tensor_of(out)
        value = value + more.reshape(value.shape)
        return value if isinstance(out, Tensor) else type(out)((value, *out[1:]))

    target, more = push or ("", x)
    parts = one.layer.get_submodule(within).named_modules() if within else one.layer.named_children()
    hooks = [one.layer.get_submodule(target).register_forward_hook(pushed)] if target else []
    hooks += [part.register_forward_hook(watch(name), with_kwargs=True) for name, part in parts]
    try:
        out = one.again(x)
        made.append(Call("", x, out))
    finally:
        for hook in hooks:
            hook.remove()
    return made


# -- what is what ------------------------------------------------------------------------------------------
def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, held against the largest value."""
    if a.shape != b.shape:
        return False
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(a.dtype, 3e-2)
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-30))


def differs(a: Tensor, b: Tensor) -> bool:
    """Whether some token's state (1, S, d) differs by more than the last digit of its own size. What a first token changes in those
    behind it may be small: 3 % of what layer 0 of a trained model writes, and less beside one token with a huge state."""
    if a.shape != b.shape:
        return True
    smallest = {torch.float64: 1e-10, torch.float32: 1e-5}.get(a.dtype, torch.finfo(a.dtype).eps / 2)
    a, b = a.double(), b.double()
    return bool(((a - b).norm(dim=-1) > smallest * b.norm(dim=-1).clamp(min=1e-30)).any())


def computes(layer: nn.Module, name: str) -> bool:
    """Whether a submodule has matrices; norms, activations and dropouts have none."""
    return any(p.dim() > 1 for p in layer.get_submodule(name).parameters())


@torch.no_grad()
def anatomy(one: Passed, where: str) -> Anatomy:
    """The branches of one layer. Raises UnfitModel naming the property that it lacks; `where` names the layer."""
    layer, x = one.layer, one.x

    def refuse(what: str) -> UnfitModel:
        return UnfitModel(f"{what} {where} ({type(layer).__name__}): SkipGPT gates one attention and one MLP that each layer adds to its "
                          "residual stream.")

    if one.out.shape != x.shape:
        raise refuse("What leaves the layer has another shape than what enters it.")
    changed = x.clone()
    changed[:, 0] = x[:, -1]
    made, other = calls(one, x)[:-1], calls(one, changed)[:-1]
    names = [call.name for call in made]
    if names != [call.name for call in other]:
        raise refuse("Which of its submodules run depends on the tokens.")
    # Up to the mixer later tokens get the very same numbers. Behind it the change may be small beside the residual stream's largest.
    unchanged = [i for i, (a, b) in enumerate(zip(made, other)) if torch.equal(a.given[:, 1:], b.given[:, 1:])]
    mixers = [i for i in unchanged if differs(made[i].gave[:, 1:], other[i].gave[:, 1:])]
    if not mixers:  # one whose output is zero, as in blocks that were added to a trained model, is known by what happens in it
        mixers = [i for i in unchanged if computes(layer, names[i]) and any(
            a.given.shape == b.given.shape and differs(a.given[:, 1:], b.given[:, 1:])
            for a, b in zip(calls(one, x, names[i]), calls(one, changed, names[i])))]
    if len(mixers) != 1:
        raise refuse("No single submodule of the layer looks at other tokens." if not mixers else
                     f"{len(mixers)} submodules of the layer look at other tokens ({', '.join(names[i] for i in mixers)}).")
    mixer = mixers[0]
    dense = [i for i, name in enumerate(names) if i > mixer and computes(layer, name)]
    if not dense:
        raise refuse("The layer has no MLP beside what looks at other tokens.")
    # Norms change what they get; dropouts do not, here, and a gate may stand on either side of one.
    norms = [i for i, name in enumerate(names) if not computes(layer, name) and not torch.equal(made[i].given, made[i].gave)]

    def before(at: int) -> list[int]:
        found = [i for i in norms if i < at and torch.equal(made[i].gave, made[at].given)]
        return [*before(found[-1]), found[-1]] if found else []

    def after(at: int, taken: list[int]) -> list[int]:
        found = [i for i in norms if i > at and i not in taken and torch.equal(made[i].given, made[at].gave)]
        return [found[0], *after(found[0], taken)] if found else []

    def branch(first: int, last: int, taken: list[int]) -> Branch:
        front, inner, behind = (tuple(names[i] for i in part) for part in (before(first), range(first, last + 1), after(last, taken)))
        return Branch(front, inner, behind, 1.0)

    attn, mlp = branch(mixer, mixer, before(dense[0])), branch(dense[0], dense[-1], [])
    of = {call.name: call for call in made}
    if twice := {name for name in (attn.first, attn.last, mlp.first, mlp.last) if names.count(name) > 1}:
        raise refuse(f"The layer runs {', '.join(sorted(twice))} twice.")
    if not torch.equal(of[attn.first].given, x):
        raise refuse("What looks at other tokens reads something else than the residual stream.")
    y, gave = of[mlp.first].given, of[attn.last].gave
    push = x.roll(1, -1)

    def pushed(name: str) -> dict[str, Call]:
        return {call.name: call for call in calls(one, x, push=(name, push))}

    moved = pushed(attn.last)[mlp.first].given - y if gave.shape == x.shape else y - x
    series = bool(moved.abs().max() > 0)
    if not series:
        both = x + gave + of[mlp.last].gave
        if not same(both, one.out):
            raise refuse("Attention and MLP stand side by side, and the layer does not add just the two.")
        return Anatomy(attn, mlp, False)
    attn = Branch(attn.before, attn.modules, attn.after, _scale(layer, x, gave, y, moved, push, refuse))
    try:
        gave, moved = of[mlp.last].gave, pushed(mlp.last)[""].gave - one.out
        mlp = Branch(mlp.before, mlp.modules, mlp.after, _scale(layer, y, gave, one.out, moved, push, refuse))
    except UnfitModel:
        mlp = Branch(mlp.before or mlp.modules[:1], (), (), None)  # more than one thing is added, or a norm stands behind the sum
    return Anatomy(attn, mlp, True)


def _scale(layer: nn.Module, before: Tensor, gave: Tensor, after: Tensor, moved: Tensor, push: Tensor,
           refuse: Callable[[str], UnfitModel]) -> float | None:
    """s with after = before + s gave, None where gave is the sum itself. A multiplier other than 1 is one that the layer holds.
    moved: how far `after` moves where `push` is added to gave."""
    if torch.equal(gave, after):
        return None
    ratio = ((moved.double() * push.double()).sum() / push.double().square().sum()).item()
    held = [value for value in vars(layer).values() if type(value) is float]
    for scale in sorted({1.0, *held}, key=lambda value: abs(value - ratio)):
        if abs(scale - ratio) < 0.05 * abs(ratio) and gave.shape == before.shape and same(before + scale * gave, after):
            return scale
    raise refuse("What a submodule gives is not added to the residual stream as it is.")


def anatomies(stack: nn.Module, seen: list[Passed] | None = None) -> list[Anatomy]:
    """Of every layer of a stock stack. Raises UnfitModel. seen: what `passes` gives, where the caller has it."""
    with evaluating(stack):
        return [anatomy(one, f"Layer {index}") for index, one in enumerate(passes(stack) if seen is None else seen)]
