"""Real translations: Multi30k en-de and en-fr (NINEFOLD_DATA), from nothing to BLEU-latency curves on two CPU cores.

29,000 image captions and their human translations. A byte-level BPE of 4,000 pieces is learned from the training text, a
Llama of a million parameters translates whole captions after five passes, and copies of it are tuned for 200 steps in the
main arms. They then stream the first 500 captions of the 2016 test set at every k. Word ends show only when the next word
begins here, so the roll-back of decoding.py is at work. One seed; intervals are over sentences. About 25 minutes a pair
of languages on one core; `make reproduce-gpe ONLY=multi30k`.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.files import data_file
from common.models import Loaded, ModelSpec, load
from common.runs.jobs import Job
from common.streaming.units import Template
from common.streaming.words import Boundary
from common.training.fit import fit

from .. import method
from ..data import TextPairs, read_pairs
from ..decoding import stream
from ..module import StreamingTraining, TextPretraining
from ..scoring import scores
from ..toy import CHAT, PAD, SOURCE, SOURCE_END, TARGET, TARGET_END, UNKNOWN

LANGUAGES, KS = ("de", "fr"), (1, 3, 5, 7)
VOCABULARY, BATCH = 4000, 64
CONFIG = dict(model_type="llama", hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
              eos_token_id=None, pad_token_id=None)
ARMS = ("interleaved", "batch_streaming", "group")


@dataclass(frozen=True)
class Size:
    """base: steps of the batch training; tune: of each arm. test: captions that are streamed."""

    base: int
    tune: int
    test: int


SIZES = {"smoke": Size(base=2, tune=2, test=4), "cpu": Size(base=2265, tune=200, test=500)}  # 2,265 steps: five passes


def files(language: str, split: str) -> list[str]:
    """The two sides of a split, line-aligned. Raises DataError where NINEFOLD_DATA lacks one."""
    return [str(data_file(f"translation/multi30k.{split}.{side}.gz")) for side in ("en", language)]


def data_files() -> tuple[str, ...]:
    """All that the experiment reads, relative to NINEFOLD_DATA."""
    return tuple(f"translation/multi30k.{split}.{side}.gz" for split in ("train", "val", "test_2016_flickr") for side in ("en", *LANGUAGES))


def jobs(size: str = "cpu") -> list[Job]:
    """Raises DataError where NINEFOLD_DATA lacks a file."""
    data = tuple(dict.fromkeys(path for language in LANGUAGES for split in ("train", "val", "test_2016_flickr")
                               for path in files(language, split)))
    return [Job(f"multi30k/en-{language}", f"{__name__}:translate", {"language": language, "size": size}, data,
                1500 if size == "cpu" else 1) for language in LANGUAGES]


def tokenizer(texts: list[str]):
    """Byte-level BPE learned from the texts, with the toy languages' turn markers, as a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [PAD, UNKNOWN, SOURCE, SOURCE_END, TARGET, TARGET_END]
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, unk_token=UNKNOWN, bos_token=SOURCE,
                                   eos_token=TARGET_END, chat_template=CHAT, additional_special_tokens=[SOURCE_END, TARGET])


def translate(language: str, seed: int = 0, size: str = "cpu") -> dict:
    """One pair of languages: the batch model, the arms, their scores by k, and batch mode."""
    s = SIZES[size]
    train = files(language, "train")
    learned = tokenizer([text for pair in read_pairs(*map(Path, train)) for text in pair])
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec("random", config=CONFIG | {"vocab_size": len(learned)}, seed=seed)
        load(spec).model.save_pretrained(folder)
        learned.save_pretrained(folder)
        start = load(ModelSpec(folder))

    def data(ks, steps_seed: int) -> TextPairs:
        return TextPairs(list(ks), train, files(language, "val"), instruction="", max_tokens=160, batch_size=BATCH, seed=steps_seed)

    module = TextPretraining(ModelSpec("multi30k"), seed=seed)
    module.loaded = start
    losses = fit(module, data((None,), seed), s.base)
    template = Template.of(start.tokenizer, "")
    boundary = Boundary.of_tokenizer(start.tokenizer, template.stop)
    examples = [template.example(*pair) for pair in read_pairs(*map(Path, files(language, "test_2016_flickr")))[: s.test]]

    def measure(model, arm: method.Arm, ks=KS) -> dict:
        rows = {}
        for k in ks:
            streams = [out for at in range(0, len(examples), 125)
                       for out in stream(model, arm, examples[at : at + 125], boundary, k, max_target=60)]
            rows[str(k or "batch")] = scores([out.text(start.tokenizer) for out in streams], [out.delays for out in streams],
                                             examples, truncated=sum(out.truncated for out in streams))
        return rows

    result = {"parameters": sum(p.numel() for p in start.model.parameters()), "test sentences": len(examples),
              "curve": [[step, round(losses[step], 4)] for step in range(0, s.base, 50)],
              "untuned": {"batch": measure(start.model, method.arm("contiguous"), (None,))["batch"],
                          "kv_reencoding": measure(start.model, method.arm("kv_reencoding"))}}
    for name in ARMS:
        tuned = StreamingTraining(ModelSpec("multi30k"), name, 0.0, 1e-3, weight_decay=0.01, beta2=0.98, warmup_steps=10, seed=seed)
        tuned.loaded = Loaded(copy.deepcopy(start.model), start.tokenizer, start.source)
        losses = fit(tuned, data(KS, seed + 1), s.tune)
        result[name] = {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": measure(tuned.model, method.arm(name))}
        if name == "batch_streaming":
            result[name]["kv_reencoding"] = measure(tuned.model, method.arm("kv_reencoding"))
        if name == "group":
            result[name]["batch"] = measure(tuned.model, method.arm(name), (None,))["batch"]
    return result
