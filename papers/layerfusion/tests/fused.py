"""Small fusions and what they are asked: of a tower and a decoder without a picture or a weight that was downloaded."""

import torch

from ..internal import Internal, Pictures
from ..method import Fusion, FusionConfig, Sizes, few

TOWER, DV, N, D, BLOCKS = 6, 16, 4, 32, 6  # blocks and width of a tower, patches, width and blocks of a decoder
CONFIG = dict(hidden_size=D, intermediate_size=48, num_hidden_layers=BLOCKS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
              vocab_size=60, initializer_range=0.3, eos_token_id=None, bos_token_id=None)
TRIPLE = few("triple", (1, 3, 5), TOWER)
INSIDE = [FusionConfig(TRIPLE, "internal", "direct", points=(0, 2, 4)),
          *(FusionConfig(TRIPLE, "internal", "modular", variant=v, points=(0, 2, 4)) for v in ("pre", "post", "parallel"))]
KINDS = [FusionConfig(TRIPLE), FusionConfig(TRIPLE, "external", "modular"), *INSIDE]


def name_of(config):
    return f"{config.kind} {config.variant}"


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
