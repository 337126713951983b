"""The default experiment on a LLaVA whose decoder was pretrained: SmolLM2-135M with thirty layers (common/standins/llava_smollm2.py).

    make reproduce-visipruner ONLY=smollm2

The paper's stages are of pretrained decoders, and two of its findings can be asked of nothing else: shallow layers recognise the
task before the answer is there, and what they attend to most are sinks. One model of one training: what is found is true of it, with
intervals over pictures. The jobs are llava.py's at this depth, with fewer questions, for a forward costs a hundred times as much;
rivals get PyramidDrop's places at this depth.

A fourth job, `recognised`, follows what the last token speaks of: of all words that answer any question, the likeliest by the logit
lens behind each layer. Whether it is of the kind that is asked for (a colour, a shape, a shade, a number), and whether it is the answer,
is for whoever reads it.
"""

from __future__ import annotations

from dataclasses import replace
from string import ascii_lowercase

import torch

from common.data import scenes
from common.runs.jobs import Job
from common.standins.llava_smollm2 import SEEDS, stand_in

from .. import analysis, scoring
from ..baselines import RIVALS
from ..method import paper
from . import equal, llava
from .llava import Depth, Set, Size

# The paper's layers 1-7 and 9-23 of 32. Every layer alone on validation pictures, and what claims and the picture need on test pictures.
THIRTY = Depth(tuple(range(7)), tuple(range(8, 22)), (0, 1, 8, 14, 22, 28, 29), half=14, sinks=3, hidden=(0, 1, 29),
               alone=(0, 1, 15, 29))
PLACES = ((7, 14, 21), (3, 11, 18), (11, 16, 22), (3, 7, 11))  # where PyramidDrop drops, of thirty layers
THRESHOLDS = (0.01, 0.03, 0.07, 0.2)  # of VisiPruner's, from which calibration chooses
SIZES = {"smoke": Size((0,), 2, 1, 1), "cpu": Size(SEEDS, 30, 30, 8)}
NUMBERS = tuple(str(n) for n in range(10))
KINDS = {"color": tuple(scenes.COLORS), "shape": scenes.SHAPES, "shade": scenes.SHADES, "number": NUMBERS}
LETTERS = tuple(word for words in KINDS.values() for word in words)  # a letter each, in this order


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("smollm2/features/test", f"{__name__}:features", {"size": size}, seconds=10)]
    return made + [Job(f"smollm2/{name}/seed{seed}", f"{__name__}:{name}", {"seed": seed, "size": size}, seconds=900,
                       after=("smollm2/features/test",)) for seed in SIZES[size].seeds
                   for name in ("knocked", "looked", "recognised", "pruned")]


def features(size: str = "cpu") -> dict:
    """As llava.features, of this experiment's pictures."""
    s = SIZES[size]
    for split, count in (("val", s.validation), ("test", s.test)):
        scoring.features(split, count)
    return {name: {"pictures": [q.picture for q in llava.asked("test", count)], "kinds": [q.kind for q in llava.asked("test", count)]}
            for name, count in (("test", s.test), ("looked", s.looked))}


def knocked(seed: int, size: str = "cpu") -> dict:
    return llava.knocked_out(stand_in(seed), SIZES[size], THIRTY)


def looked(seed: int, size: str = "cpu") -> dict:
    return llava.looked_at(stand_in(seed), SIZES[size], THIRTY)


def pruned(seed: int, size: str = "cpu") -> dict:
    """llava.pruned_by, and "equal": equal.compared with the settings that were chosen."""
    parts, s = stand_in(seed), SIZES[size]
    rivals = RIVALS | {"PyramidDrop": replace(RIVALS["PyramidDrop"], places=lambda layers: PLACES)}
    found = llava.pruned_by(parts, s, rivals, curve_at=(), thresholds=THRESHOLDS)
    config = paper(shallow=None, boundary=found["config"]["boundary"], relative=True, tokens_threshold=found["config"]["threshold"])
    return found | {"equal": equal.compared(parts, config, s, rivals)}


# -- what the last token speaks of -------------------------------------------------------------------------
def kind_of(question: str) -> str:
    """The kind of word that answers a kind of question: a number where a count, a digit, a row or a column is asked for."""
    return question if question in KINDS else "number"


@torch.no_grad()
def recognised(seed: int, size: str = "cpu") -> dict:
    """{"said": {layer: letters}, "another picture": the same, "answer": letters, "words": {letter: [word, kind]}, "kinds", "pictures"}.

    A letter a test question: the word that is likeliest behind the layer, and the answer. "another picture": with the next picture's
    visual tokens in the place of the question's own.
    """
    of = Set.of(stand_in(seed), "test", SIZES[size].test)
    other = Set(of.parts, of.asked, of.shown.roll(-1, 0))
    letter = dict(zip(LETTERS, ascii_lowercase))
    return {"said": spoken(of), "another picture": spoken(other), "answer": "".join(letter[q.answer] for q in of.asked),
            "words": {letter[word]: [word, kind] for kind, words in KINDS.items() for word in words},
            "kinds": [kind_of(q.kind) for q in of.asked], "pictures": [q.picture for q in of.asked]}


def spoken(of: Set) -> dict[str, str]:
    ids = torch.tensor(of.parts.tokenizer.convert_tokens_to_ids(list(LETTERS)))
    found: dict[int, str] = {}
    for batch in scoring.prompts(of.parts, of.asked, of.shown):
        out = of.parts.decoder(inputs_embeds=batch.embeds, use_cache=False, logits_to_keep=1, output_hidden_states=True)
        logs = analysis.logit_lens(of.parts.decoder, out.hidden_states)[..., ids]
        for layer, chosen in enumerate(logs.argmax(-1).tolist()):
            found[layer] = found.get(layer, "") + "".join(ascii_lowercase[i] for i in chosen)
    return {str(layer): letters for layer, letters in found.items()}
