"""Real translations: Multi30k en-de (NINEFOLD_DATA), from nothing to BLEU against AIL, RCO and AL on two CPU cores.

29,000 image captions and their human translations. A byte-level BPE of 4,000 pieces is learnt from the training text, a Llama of a
million parameters translates whole captions after five passes; copies of it are tuned by the full arm, by batch training alone, and for
each wait-k. They stream the first 500 captions of the 2016 test set: wait-k by its own model, wait-k on the full model, and the entropy and
the attention head at quantiles of scores on validation captions. Word ends show only when the next word begins. One seed; an hour.
"""

from __future__ import annotations

import copy
import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from common.files import data_file
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.streaming.units import Template
from common.streaming.words import Boundary
from common.training.fit import fit

from .. import baselines, heads
from ..data import Streams, cut
from ..module import ProactiveTraining
from ..tasks import Item
from . import paper
from .arms import ARMS, LAM, Arm

SPLITS = ("train", "val", "test_2016_flickr")
DATA = tuple(f"translation/multi30k.{split}.{side}.gz" for split in SPLITS for side in ("en", "de"))
PAD, UNKNOWN, SOURCE, SOURCE_END, TARGET, TARGET_END = "<pad>", "<unk>", "<source>", "</source>", "<target>", "</target>"
CHAT = ("{% for turn in messages %}{% if turn['role'] == 'user' %}<source> {{ turn['content'] }} </source> "
        "{% elif turn['role'] == 'assistant' %}<target> {{ turn['content'] }} </target>{% endif %}{% endfor %}")
CONFIG = dict(model_type="llama", hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
              tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None, pad_token_id=None)
BATCH, KS = 64, (1, 3, 5, 7)


@dataclass(frozen=True)
class Size:
    """base: steps of the batch training; tune: of each arm. pieces: of the vocabulary. test, held: captions that are streamed and that
    thresholds come from."""

    base: int
    tune: int
    pieces: int
    test: int
    held: int
    quantiles: tuple[float, ...]


SIZES = {"smoke": Size(1, 1, 400, 4, 4, (0.9,)), "cpu": Size(2265, 400, 4000, 500, 128, (0.5, 0.7, 0.8, 0.9, 0.95, 0.98))}


class Captions(Streams):
    """Captions in units of words, ready."""

    def __init__(self, train: Sequence[Item], held: Sequence[Item], arm: Arm, seed: int):
        super().__init__(arm.law or "multinomial", k=arm.k, batch_size=min(BATCH, len(train)), seed=seed)
        self.pair = train, held

    def items(self) -> tuple[Sequence[Item], Sequence[Item]]:
        return self.pair


def jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks a file."""
    return [Job("multi30k/en-de", f"{__name__}:translate", {"size": size}, tuple(str(data_file(name)) for name in DATA),
                3600 if size == "cpu" else 5)]


def pairs(split: str) -> list[tuple[str, str, str]]:
    sides = []
    for side in ("en", "de"):
        with gzip.open(data_file(f"translation/multi30k.{split}.{side}.gz"), "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in file])
    return [(source, target, "") for source, target in zip(*sides) if source and target]


def tokenizer(texts: list[str], pieces: int):
    """Byte-level BPE learnt from the texts, with markers of turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=[PAD, UNKNOWN, SOURCE, SOURCE_END, TARGET, TARGET_END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, bos_token=SOURCE, eos_token=TARGET_END,
                                   chat_template=CHAT, additional_special_tokens=[SOURCE_END, TARGET])


def translate(size: str = "cpu", seed: int = 0) -> dict:
    """The job: {"batch-trained", "full", "batch only", "wait-k ...": {way to stream: {"bleu", "AIL", "RCO", "n"}}}."""
    of = SIZES[size]
    texts = pairs("train")
    words = tokenizer([text for source, target, _ in texts for text in (source, target)], of.pieces)
    train, held, test = (cut(words, "", rows, 160) for rows in (
        texts, pairs("val")[: of.held], pairs("test_2016_flickr")[: of.test]))
    template = Template.of(words, "")
    boundary = Boundary.of_tokenizer(words, template.stop)
    with tempfile.TemporaryDirectory() as folder:
        load(ModelSpec("random", config=CONFIG | {"vocab_size": len(words)}, seed=seed)).model.save_pretrained(folder)
        words.save_pretrained(folder)
        base = load(ModelSpec(folder))

    def trained(start, arm: Arm, steps: int, rate: float):
        module = ProactiveTraining(ModelSpec("multi30k"), arm.batch, arm.stream, arm.lam, learning_rate=rate, weight_decay=0.01, beta2=0.98,
                                   warmup_steps=20, seed=seed)
        module.loaded = Loaded(copy.deepcopy(start), words, base.source)
        fit(module, Captions(train, held, arm, seed + 1), steps)
        return module.model.eval()

    def measured(model, policies: dict[str, heads.Policy]) -> dict[str, dict]:
        return {way: paper.scores(paper.streamed(model, test, policy, boundary), test, words, "bleu") for way, policy in policies.items()}

    def sure(model) -> dict[str, heads.Policy]:
        found: dict[str, heads.Policy] = {"batch": baselines.Always(False)} | {f"wait-{k}": baselines.WaitK(k) for k in KS}
        for name in ("entropy", "attention"):
            head = heads.HEADS[name]()
            scores = paper.full_view(model, head, held, boundary)
            found |= {f"{name}, {q:g}": heads.Decide(head, heads.threshold(scores, q)) for q in of.quantiles}
        return found

    start = trained(base.model, ARMS["batch only"], of.base, 2e-3)
    result = {"parameters": sum(p.numel() for p in start.parameters()), "batch-trained": measured(start, sure(start))}
    for name in ("full", "batch only"):
        model = trained(start, ARMS[name], of.tune, 1e-3)
        result[name] = measured(model, sure(model))
    for k in KS:
        model = trained(start, Arm(0.0, 1.0, 0.0, "waitk", k), of.tune, 1e-3)
        result[f"trained for wait-{k}"] = measured(model, {"own": baselines.WaitK(k)})
    return result | {"lambda": LAM, "test captions": len(test)}
