"""Training in stages on decoders that are no plain Llama."""

import types

import pytest
import torch

from common.families import build, text_ids
from common.vision.layout import split
from common.vision.parts import LlavaSpec
from tests.numerics import close

from ..module import StagedTraining


@pytest.mark.parametrize("family", ["granite", "cohere", "llama"])
def test_a_loss_is_of_the_stock_model_s_own_logits(family):
    """Granite and Cohere scale what their output embeddings give."""
    stock = build(family)
    ids = text_ids(2, 7)
    layout = split(ids, -1, labels=ids)
    of = StagedTraining(LlavaSpec(stand_in="none"))
    of.decoder, of.parts, of.projector = stock, types.SimpleNamespace(visual=lambda *_: torch.zeros(2, 0, 32, dtype=torch.float64)), None
    ours, count = of.eval().loss_sum({"layout": layout})
    logits = stock(input_ids=ids, use_cache=False).logits[:, :-1]
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
    assert count == 12
    close(ours.detach(), theirs.detach(), 1e-6)  # an eager softmax is in single precision
    assert "forward" not in stock.get_decoder().__dict__
