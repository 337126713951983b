"""Two models of one vocabulary, and a model's way from last hidden states to logits: its own forward behind its decoder.

Softcaps, scales, biases differ from family to family and have a dozen names. So the model's own forward is called, with a
stand-in for its decoder that gives back the hidden states: whatever the family does to them is done. That forward and
decoder are indeed such two parts is probed once, by numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from common.errors import ModelError
from common.reasoning.rollouts import Rollout, packed_batch


class Head:
    """head(hidden (n, d)) -> logits (n, V) of a causal LM, `decoder` the part that makes hidden states of ids.

    Raises ModelError, naming the property, for a model that cannot be taken apart so: no decoder by itself; trained weights
    besides decoder and output embedding; logits that are not those of the whole model.
    """

    def __init__(self, model: nn.Module):
        self.model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        wrong, way_out = "", "set token_chunk to 0, which takes the logits of a whole micro-batch at once"
        parts = self._parts()
        if not parts or self.model.get_output_embeddings() is None:
            wrong = "no decoder and output embedding that can be called apart"
        elif any(hasattr(p, "full_tensor") for p in self.model.parameters()):
            wrong = "weights in shards, which only the whole model gathers"
        else:
            inside = {id(p) for p in self.model.base_model.parameters()} | {id(p) for p in self.parameters()}
            if extra := [n for n, p in self.model.named_parameters() if id(p) not in inside and p.requires_grad]:
                wrong = f"trained weights besides decoder and output embedding ({extra[0]})"
        if wrong:
            raise ModelError(f"Chunks of tokens need a head that can be called alone, and this model has {wrong}; {way_out}.")
        differences = []
        for self.owner, self.name in parts:
            self.decoder = getattr(self.owner, self.name)
            differences.append(self._difference())
            if differences[-1] < 1e-2:  # of bfloat16, too; another path is off by far more
                return
        raise ModelError("Chunks of tokens need logits that follow from the last hidden states alone, and this model's head gives others "
                         f"than the whole model; {way_out} (they are off by {min(differences):.2g} of their size).")

    def _parts(self) -> list[tuple[nn.Module, str]]:
        """(owner, name) of what may be the decoder: the model's base, and what it calls its decoder."""
        candidates = [getattr(self.model, "base_model", None)]
        if hasattr(self.model, "get_decoder"):
            candidates.append(self.model.get_decoder())
        found: list[tuple[nn.Module, str]] = []
        for candidate in candidates:
            if candidate is not None and candidate is not self.model:
                owners = ((owner, name) for owner in self.model.modules() for name, child in owner.named_children() if child is candidate)
                found.append(next(owners))
        return found

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the output embedding."""
        return self.model.get_output_embeddings().parameters()

    @property
    def linear(self) -> nn.Module:
        """The output embedding."""
        return self.model.get_output_embeddings()

    def hidden(self, ids: Tensor) -> Tensor:
        """(K, T, d) last hidden states of ids (K, T)."""
        return self.decoder(input_ids=ids, use_cache=False).last_hidden_state

    def __call__(self, hidden: Tensor) -> Tensor:
        modules = self.owner._modules
        modules[self.name] = _Given(hidden[None])
        try:
            return self.model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device), use_cache=False).logits[0]
        finally:
            modules[self.name] = self.decoder

    @torch.no_grad()
    def _difference(self) -> float:
        """Largest difference to the whole model's logits, in units of their largest value."""
        training = [m for m in self.model.modules() if m.training]
        self.model.eval()
        try:
            device, V = next(self.model.parameters()).device, self.model.get_input_embeddings().weight.shape[0]
            ids = torch.randint(V, (1, 8), generator=torch.Generator().manual_seed(0)).to(device)
            whole, ours = self.model(input_ids=ids, use_cache=False).logits[0].float(), self(self.hidden(ids)[0]).float()
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError, KeyError):  # not to be called so
            return float("inf")
        finally:
            for module in training:
                module.training = True
        return float((whole - ours).abs().max() / whole.abs().max().clamp(min=1e-30)) if whole.shape == ours.shape else float("inf")


class _Behind(BaseModelOutputWithPast):
    """What a decoder gives, with None for all that a family's own output has besides (router logits, states)."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class _Given(nn.Module):
    """In the decoder's place."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.given = hidden

    def forward(self, *_, **__) -> BaseModelOutputWithPast:
        return _Behind(last_hidden_state=self.given)


def response_hidden(head: Head, prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout]) -> Tensor:
    """(N, d) the hidden states that predict the responses' tokens, response after response."""
    ids, response = (x.to(next(head.model.parameters()).device) for x in packed_batch(prompts, rollouts))
    return head.hidden(ids)[:, :-1][response[:, 1:]]


def check_pair(student: nn.Module, student_words: Any, teacher: nn.Module, teacher_words: Any) -> None:
    """Raises ModelError unless the two models have one vocabulary: as many logits, and tokens of the same name."""
    ours, theirs = (m.get_output_embeddings().weight.shape[0] for m in (student, teacher))
    if ours != theirs:
        raise ModelError(f"Distillation compares the two models' whole distributions, and the student has {ours} tokens and the teacher "
                         f"{theirs}: take two models of one vocabulary, or pad or cut the output embedding of one to the other's size.")
    if student_words is None or teacher_words is None:
        if student_words is not teacher_words:
            warnings.warn(f"the {'student' if student_words is None else 'teacher'} has no tokenizer: that both vocabularies mean the same "
                          "tokens cannot be checked", stacklevel=2)
        return
    ours, theirs = student_words.get_vocab(), teacher_words.get_vocab()
    if odd := sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)):
        raise ModelError(f"Distillation compares tokens by their number, and the two tokenizers differ in {len(odd)} of them, e.g. "
                         f"{odd[0]!r} ({ours.get(odd[0])} in the student's, {theirs.get(odd[0])} in the teacher's): take two models "
                         "of one tokenizer.")
