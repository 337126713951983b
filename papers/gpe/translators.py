"""The committed translators of toy languages, batch-trained on whole sentences, and their training (a CPU-minute each)."""

from __future__ import annotations

from pathlib import Path

from common.files import write_json
from common.models import Loaded, ModelSpec, load
from common.training.fit import fit

from . import method
from .data import ToyPairs
from .module import TextPretraining
from .scoring import text_scores
from .toy import CONFIG, Language, Recipe

TRANSLATORS = Path(__file__).parent / "standins"


SIZES = {"smoke": Recipe(steps=2, batch=4, test=8), "cpu": Recipe(steps=1000, batch=32, test=256)}


def train_translator(seed: int, folder: Path | None = None, size: str = "cpu") -> dict:
    """The batch translator of a seed: AdamW 2e-3, 20 steps of warm-up, linear decay, next-token loss on all tokens."""
    language, s = Language.draw(seed), SIZES[size]
    tokenizer = language.tokenizer()
    spec = ModelSpec("random", config=CONFIG | {"vocab_size": len(language.pieces())}, seed=seed)
    module = TextPretraining(spec, seed=seed)
    data = ToyPairs([None], train_samples=s.steps * s.batch, batch_size=s.batch, seed=seed)
    losses = fit(module, data, s.steps, bar=True)
    score = text_scores(module.model, method.arm("contiguous"), seed, s.test, (None,))["batch"]
    folder = folder or TRANSLATORS / f"seed{seed}"
    module.model.half().save_pretrained(folder)  # half precision on disk: 0.6 MB
    tokenizer.save_pretrained(folder)
    result = {"seed": seed, "steps": s.steps, "bleu": score["bleu"], "exact": score["exact"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, s.steps, 25)]}
    write_json(folder / "training.json", result)
    return result


def translator(seed: int) -> Loaded:
    folder = TRANSLATORS / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of standins/ is missing: restore it or run `make standins-gpe`")
    return load(ModelSpec(str(folder)))
