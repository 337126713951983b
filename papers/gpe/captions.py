"""Captions of pictures and their translations (Multi30k, NINEFOLD_DATA), and the recipe of the batch model that streaming starts from.

A byte-level BPE of 4,000 pieces is learnt from the training pairs, and a Llama of 1.2 M parameters translates whole captions after five
passes. No caption that validates or tests is trained on: rows of training whose English is a caption of either are left out. A
killed training goes on from its last checkpoint; a base that translates worse than LEAST on the validation captions is refused.
Where bases are kept: `captioners.py`, so that what makes one does not depend on those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.benchmarks.translation import bleu
from common.data.apart import apart
from common.errors import ModelError
from common.files import data_file, write_json
from common.models import Loaded, ModelSpec, load
from common.streaming.units import Example, Template
from common.streaming.words import Boundary
from common.training.fit import quiet

from . import method
from .data import TextPairs, read_pairs
from .decoding import Streamed, stream
from .module import TextPretraining
from .toy import CHAT, PAD, SOURCE, SOURCE_END, TARGET, TARGET_END, UNKNOWN

LANGUAGES, SPLITS = ("de", "fr"), ("train", "val", "test_2016_flickr")
CONFIG = dict(model_type="llama", hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
              eos_token_id=None, pad_token_id=None)
MAX_TOKENS, MAX_TARGET = 160, 60  # of a pair that is trained on; of an answer
LEAST = 25.0  # BLEU on whole validation captions; the first that was trained this way, en-de, had 29.5 on those of the test


@dataclass(frozen=True)
class Recipe:
    """steps: of the training. batch: pairs a step. pieces: of the vocabulary. held: validation captions that are translated."""

    steps: int
    batch: int
    pieces: int
    held: int
    least: float = LEAST


SIZES = {"smoke": Recipe(steps=2, batch=4, pieces=300, held=4, least=0.0), "cpu": Recipe(steps=2265, batch=64, pieces=4000, held=1014)}


# -- the captions ------------------------------------------------------------------------------------------
def names(*languages: str) -> tuple[str, ...]:
    """The files of these pairs of languages, relative to NINEFOLD_DATA; English once."""
    return tuple(f"translation/multi30k.{split}.{side}.gz" for split in SPLITS for side in ("en", *languages))


def files(language: str, split: str) -> list[str]:
    """The two sides of a split, line-aligned. Raises DataError where NINEFOLD_DATA lacks one."""
    return [str(data_file(f"translation/multi30k.{split}.{side}.gz")) for side in ("en", language)]


def pairs(language: str, split: str) -> list[tuple[str, str]]:
    """(English, translation) of a split; of training, those whose English is no caption of validation or test."""
    found = read_pairs(*map(Path, files(language, split)))
    if split != "train":
        return found
    return apart(found, [pair for other in SPLITS[1:] for pair in pairs(language, other)], lambda pair: pair[0].strip())


class Captions(TextPairs):
    """Training pairs as batches; validation captions beside them."""

    def __init__(self, ks: Sequence[int | None], language: str, batch_size: int, seed: int):
        super().__init__(list(ks), files(language, "train"), files(language, "val"), instruction="", max_tokens=MAX_TOKENS,
                         batch_size=batch_size, seed=seed)
        self.language = language

    def pairs(self, split: str) -> list[tuple[str, str]]:
        return pairs(self.language, "train" if split == "train" else "val")


def tokenizer(texts: Sequence[str], pieces: int):
    """Byte-level BPE learnt from the texts, with the toy languages' turn markers, as a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [PAD, UNKNOWN, SOURCE, SOURCE_END, TARGET, TARGET_END]
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=pieces, special_tokens=special, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, bos_token=SOURCE,
                                   eos_token=TARGET_END, chat_template=CHAT, additional_special_tokens=[SOURCE_END, TARGET])


# -- how they are translated -------------------------------------------------------------------------------
def examples(words, language: str, split: str, count: int) -> list[Example]:
    """The first `count` captions of a split, in units of words. words: the tokenizer."""
    template = Template.of(words, "")
    return [template.example(*pair) for pair in pairs(language, split)[:count]]


def caption_streams(model: nn.Module, words, arm: method.Arm, some: Sequence[Example], k: int | None, rows: int = 125) -> list[Streamed]:
    """These captions, streamed at k (None: all is read first). rows: at once, of like length."""
    template = Template.of(words, "")
    boundary = Boundary.of_tokenizer(words, template.stop)
    order = sorted(range(len(some)), key=lambda i: len(some[i].source))
    out: dict[int, Streamed] = {}
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        out |= zip(part, stream(model, arm, [some[i] for i in part], boundary, k, max_target=MAX_TARGET))
    return [out[i] for i in range(len(some))]


def whole_bleu(model: nn.Module, words, some: Sequence[Example]) -> float:
    """Of whole captions, as a batch model reads them."""
    streams = caption_streams(model, words, method.arm("contiguous"), some, None)
    return bleu([s.text(words) for s in streams], [e.reference for e in some])["score"]


# -- the base ----------------------------------------------------------------------------------------------
class BatchTraining(TextPretraining):
    def keeps_product(self) -> bool:
        return False  # it is rounded and scored before it is saved


def train_captioner(language: str, seed: int, folder: Path, work: Path, size: str = "cpu", bar: bool = True) -> dict:
    """The batch translator of captions of a seed: AdamW 2e-3, 20 steps of warm-up, linear decay, next-token loss on all tokens.

    folder: gets model and tokenizer in the hub's format, and training.json; returns what that says. work: of checkpoints, one every
    100 steps, from which a killed training goes on. Raises ModelError for a base below the recipe's least BLEU, and writes nothing.
    """
    s = SIZES[size]
    words = tokenizer([text for pair in pairs(language, "train") for text in pair], s.pieces)
    start = load(ModelSpec("random", config=CONFIG | {"vocab_size": len(words)}, seed=seed))
    module = BatchTraining(ModelSpec("captions"), seed=seed)
    module.loaded = Loaded(start.model, words, start.source)
    losses = fit_resumably(module, Captions((None,), language, s.batch, seed), s.steps, work, bar)
    held = examples(words, language, "val", s.held)
    full = whole_bleu(module.model, words, held)
    rounded = module.model.half().float()
    score = whole_bleu(rounded, words, held)
    if score < s.least:
        raise ModelError(f"the batch model of en-{language}, seed {seed}, gets {score:.1f} BLEU on whole validation captions and needs "
                         f"{s.least:g}: it did not learn its task in {s.steps} steps, and what was tuned from it would show that alone")
    rounded.half().save_pretrained(folder)  # half precision on disk: 2.4 MB
    words.save_pretrained(folder)
    result = {"language": language, "seed": seed, "steps": s.steps, "batch": s.batch, "training pairs": len(pairs(language, "train")),
              "parameters": sum(p.numel() for p in rounded.parameters()), "validation captions": len(held), "bleu": score,
              "bleu before rounding": full, "curve": [[step, round(losses[step], 4)] for step in range(0, s.steps, 50)]}
    write_json(folder / "training.json", result)
    return result


def fit_resumably(module, data, steps: int, work: Path, bar: bool = False, every: int = 100) -> list[float]:
    """As common.training.fit, but from the last checkpoint in `work`, where there is one. Returns the losses of all steps."""
    import lightning as L
    from lightning.pytorch.callbacks import TQDMProgressBar

    from common.training.checkpoints import WholeCheckpoints, keeper, resume_from

    class Losses(L.Callback):
        def __init__(self):
            self.values: list[float] = []

        def on_train_batch_end(self, trainer, *_):
            self.values.append(round(float(trainer.callback_metrics["train/loss"]), 5))

        def state_dict(self) -> dict:
            return {"values": self.values}

        def load_state_dict(self, state: dict) -> None:
            self.values = list(state["values"])

    losses, (checkpoint, _) = Losses(), resume_from(work)
    with quiet():
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                            enable_progress_bar=bar, enable_model_summary=False, limit_val_batches=0, default_root_dir=work,
                            callbacks=[losses, keeper(work, every), *([TQDMProgressBar(25)] if bar else [])], plugins=[WholeCheckpoints()])
        trainer.fit(module, data, ckpt_path=checkpoint)
    module.eval()
    return losses.values
