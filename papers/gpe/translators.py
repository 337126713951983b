"""Translators of toy languages, batch-trained on whole sentences, and their training (a CPU-minute each).

Three are committed; that of any other seed is trained where the cache lacks it, by the same recipe.
"""

from __future__ import annotations

from pathlib import Path

from common.files import building, cache_dir, write_json
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.training.fit import fit

from . import method
from .data import ToyPairs
from .module import TextPretraining
from .scoring import text_scores
from .toy import CONFIG, Language, Recipe

TRANSLATORS = Path(__file__).parent / "standins"
COMMITTED = (0, 1, 2)

SIZES = {"smoke": Recipe(steps=2, batch=4, test=8), "cpu": Recipe(steps=1000, batch=32, test=256)}


def train_translator(seed: int, folder: Path | None = None, size: str = "cpu", bar: bool = True) -> dict:
    """The batch translator of a seed: AdamW 2e-3, 20 steps of warm-up, linear decay, next-token loss on all tokens."""
    language, s = Language.draw(seed), SIZES[size]
    tokenizer = language.tokenizer()
    spec = ModelSpec("random", config=CONFIG | {"vocab_size": len(language.pieces())}, seed=seed)
    module = TextPretraining(spec, seed=seed)
    data = ToyPairs([None], train_samples=s.steps * s.batch, batch_size=s.batch, seed=seed)
    losses = fit(module, data, s.steps, bar=bar)
    score = text_scores(module.model, method.arm("contiguous"), seed, s.test, (None,))["batch"]
    folder = folder or TRANSLATORS / f"seed{seed}"
    module.model.half().save_pretrained(folder)  # half precision on disk: 0.6 MB
    tokenizer.save_pretrained(folder)
    result = {"seed": seed, "steps": s.steps, "bleu": score["bleu"], "exact": score["exact"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, s.steps, 25)]}
    write_json(folder / "training.json", result)
    return result


def translator_folder(seed: int) -> Path:
    """Where the translator of a seed is: committed, or in the cache, named by all that its training depends on."""
    if seed in COMMITTED:
        return TRANSLATORS / f"seed{seed}"
    key = Job("standin", f"{__name__}:train_translator", {"seed": seed}).key()
    return cache_dir() / "standins-gpe" / f"translator-seed{seed}-{key}"


def translator(seed: int) -> Loaded:
    folder = translator_folder(seed)
    if not folder.is_dir():
        if seed in COMMITTED:
            raise FileNotFoundError(f"{folder.name} of standins/ is missing: restore it or run `make standins-gpe`")
        with building(folder) as made:
            train_translator(seed, made, bar=False)
    return load(ModelSpec(str(folder)))
