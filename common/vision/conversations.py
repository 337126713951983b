"""LLaVA's training files: conversations as JSON and a folder of images, tokenised as LLaVA-1.5's two stages do.

A micro-batch, as steps (training/steps.py): layout (layout.py), the pixels of the rows' pictures one after the other (M, 3, H, W)
or None, and step_targets, the scored tokens of the whole optimiser step. A training module brings `parts` (parts.py): tokenizer,
image token, picture size. Template "plain" is stage 1 (captions), "v1" is stage 2 (Vicuna's chat).
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.text import is_text
from ..errors import SetupError
from ..training.steps import StepData
from .layout import IGNORED, Layout, split
from .tower import padded_pixels

SYSTEM_V1 = ("A chat between a curious user and an artificial intelligence assistant. "
             "The assistant gives helpful, detailed, and polite answers to the user's questions.")
IMAGE = "<image>"
# What PIL ends in, beside OSError, by where a file is broken, or of a kind that it reads in part.
DAMAGED = (ValueError, SyntaxError, EOFError, NotImplementedError, struct.error, zlib.error)


class ConversationRows:
    """Conversations, tokenised when they are needed. encode(conversation) -> (ids, labels) with the image token expanded."""

    def __init__(self, conversations: list[dict], encode, picture):
        self.conversations, self.picture = conversations, picture
        self.encode = functools.lru_cache(maxsize=4096)(lambda i: encode(self.conversations[i]))
        self.counts = {"step_targets": _Scored(self)}

    def __getitem__(self, i: int) -> dict:
        ids, labels = self.encode(i)
        name = self.conversations[i].get("image")  # null, or none: text alone
        return {"ids": ids, "labels": labels, "picture": None if name is None else self.picture(name)}

    def layout(self, samples: Sequence[dict]) -> Layout:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([s["ids"] for s in samples], batch_first=True)
        labels = pad([s["labels"] for s in samples], batch_first=True, padding_value=IGNORED)
        real = pad([torch.ones_like(s["ids"]) for s in samples], batch_first=True)
        return split(ids, self.image_token_id, real, labels)

    image_token_id: int = -1

    def collate(self, samples: list[dict], sample_index: list[int], totals: dict[str, int]) -> dict:
        shown = [s["picture"] for s in samples if s["picture"] is not None]
        return {"layout": self.layout(samples), "pixels": torch.stack(shown) if shown else None, "sample_index": sample_index, **totals}

    def blank(self, batch: dict) -> dict:
        batch["layout"].targets.fill_(IGNORED)
        return batch


class _Scored:
    """Scored tokens by row, counted when asked for: tokenising 665,000 conversations first would take an hour."""

    def __init__(self, rows: ConversationRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.conversations)

    def __getitem__(self, which: list[int]) -> np.ndarray:
        return np.array([int((self.rows.layout([{"ids": ids, "labels": labels}]).targets != IGNORED).sum())
                         for ids, labels in map(self.rows.encode, which)])


class Conversations(StepData):
    """LLaVA's JSON (a list of {"id", "image"?, "conversations": [{"from", "value"}, ...]}) and its image folder.

    template: "plain" is stage 1: <image>, a line break, the caption. "v1" is Vicuna's chat. The line break in "plain" is
    ours: a Layout scores text slots, and without one between picture and caption nothing that sees the picture could
    predict the caption's first word. max_tokens: of a conversation, visual ones counted; longer ones are cut,
    behind their picture: SetupError for one whose picture would be cut, with the entry, before anything is trained.
    validation: a file of its own, of which the first val_samples are used; without one the last val_samples of `train`
    are held out. No conversation is in both: ValueError where one file is named for both, SetupError (naming val_samples)
    where holding out would leave none to train on; ValueError, too, for an unknown template.
    """

    def __init__(self, train: str, images: str, template: str = "v1", validation: str | None = None, val_samples: int = 128,
                 max_tokens: int = 2048, batch_size: int = 128, seed: int = 1, num_workers: int = 0):
        super().__init__(batch_size, seed, num_workers)
        if template not in ("plain", "v1"):
            raise ValueError(f"data.template {template!r} is neither plain nor v1")
        if val_samples < 0:
            raise ValueError(f"data.val_samples {val_samples}: 0 or more")
        if validation and Path(validation).expanduser().resolve() == Path(train).expanduser().resolve():
            raise ValueError(f"data.validation is data.train ({Path(train).name}): a model is not validated on what it is trained on; "
                             "leave it out, and the last val_samples are held out")
        self.train, self.images, self.template, self.validation = train, images, template, validation
        self.val_samples, self.max_tokens = val_samples, max_tokens

    def prepare_data(self) -> None:
        """Before any model is loaded: a missing file should not cost ten minutes of loading."""
        if self.validation:
            read_conversations(Path(self.validation))
        self._training(read_conversations(Path(self.train)))
        if not Path(self.images).expanduser().is_dir():
            raise SetupError(f"data.images: there is no folder {self.images}")

    def sequences(self) -> tuple[ConversationRows, ConversationRows]:
        train = read_conversations(Path(self.train))
        kept = self._training(train)
        held = read_conversations(Path(self.validation)) if self.validation else train[len(kept) :]
        self._whole_pictures(Path(self.train), train)
        if self.validation:
            self._whole_pictures(Path(self.validation), held)
        return self._rows(kept), self._rows(held[: self.val_samples])

    def _whole_pictures(self, path: Path, conversations: list[dict]) -> None:
        """Raises SetupError, with file, entry and setting, for a picture that max_tokens would cut. Only what stands before a picture
        is tokenised, and in all files of LLaVA's that is the same few texts."""
        parts = self.trainer.lightning_module.parts
        ends: dict[str, int] = {}
        for number, entry in enumerate(conversations):
            if entry.get("image") is None:
                continue
            before = "" if self.template == "plain" else text_v1(parts.tokenizer, entry)[0].partition(IMAGE)[0]
            if before not in ends:
                ends[before] = (parts.tokenizer.bos_token_id is not None) + parts.n_visual + len(
                    parts.tokenizer(before, add_special_tokens=False).input_ids if before else [])
            if ends[before] > self.max_tokens:
                raise SetupError(f"{path.name}, entry {number}: its picture's {parts.n_visual} places end at token {ends[before]}, and "
                                 f"data.max_tokens {self.max_tokens} would cut them. Set it to {ends[before]} or more, and to more still "
                                 "for the text behind the picture to be read.")

    def _training(self, conversations: list[dict]) -> list[dict]:
        """Those that are trained on: all but the last val_samples, or all where validation has a file. None is in both."""
        if self.validation:
            return conversations
        if self.val_samples >= len(conversations):
            raise SetupError(f"data.val_samples {self.val_samples}: {Path(self.train).name} has {len(conversations)} conversations, and "
                             "holding out so many of them leaves none to train on. Set it lower, or name another file in data.validation.")
        return conversations[: len(conversations) - self.val_samples]

    def _rows(self, conversations: list[dict]) -> ConversationRows:
        parts = self.trainer.lightning_module.parts
        encode = functools.partial(encode_plain if self.template == "plain" else encode_v1, parts.tokenizer,
                                   n_visual=parts.n_visual, image_token_id=parts.image_token_id, max_tokens=self.max_tokens)

        def picture(name: str) -> Tensor:
            from PIL import Image

            inside = Path(os.path.normpath(name))  # by its name: a folder of links, as a hub's cache or a shared disk has, is a folder
            path = Path(self.images).expanduser() / inside
            if inside.is_absolute() or inside.parts[:1] == ("..",) or not path.is_file():
                raise SetupError(f"data.images: no picture {name} in the folder")
            try:
                return padded_pixels(path, parts.image_size, parts.image_mean, parts.image_std)
            except (*DAMAGED, Image.DecompressionBombError) as error:
                raise SetupError(f"data.images: {name} is damaged ({type(error).__name__}: {error}); mend it, or leave it out") from error

        rows = ConversationRows(conversations, encode, picture)
        rows.image_token_id = parts.image_token_id
        return rows


def read_conversations(path: Path) -> list[dict]:
    """The entries, each with its turns: human and gpt by turns. As LLaVA does, a first turn of gpt is left out: it answers nothing.

    `image`: a name, or null, or absent, which are text alone; there, `<image>` of an absent one is text like any other. Raises
    SetupError naming file, entry and what is wrong with it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SetupError(f"data: there is no file {path.name}; LLaVA's conversations are one JSON list")
    try:
        conversations = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(conversations, list) or not conversations:
        raise SetupError(f"{path.name}: expected a list of conversations")
    for number, entry in enumerate(conversations):
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list) or not turns or not all(
                isinstance(t, dict) and t.get("from") in ("human", "gpt") and is_text(t.get("value")) for t in turns):
            raise SetupError(f"{path.name}, entry {number}: 'conversations' must be turns of human and gpt with a text each")
        if turns[0]["from"] == "gpt":
            turns = turns[1:]
        if not turns or any(turn["from"] != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)):
            raise SetupError(f"{path.name}, entry {number}: human and gpt must take turns, and human ask first, or an answer would be "
                             "learnt without its question")
        image = entry.get("image")
        if not (image is None or (is_text(image) and image)):
            raise SetupError(f"{path.name}, entry {number}: 'image' {str(image)[:40]!r} is no file's name; leave it out for text alone")
        asked = sum(t["value"].count(IMAGE) for t in turns)
        if "image" in entry and asked != (image is not None):
            raise SetupError(f"{path.name}, entry {number}: {asked} {IMAGE} in its text, {int(image is not None)} picture"
                             + (" ('image' is null)" if image is None else ""))
        entry["conversations"] = turns
    return conversations


def encode_plain(tokenizer, conversation: dict, *, n_visual: int, image_token_id: int, max_tokens: int) -> tuple[Tensor, Tensor]:
    """<bos> picture "\\n" caption "\\n"; caption and the last line break are scored. (ids, labels), each (S,)."""
    caption = conversation["conversations"][-1]["value"].strip()
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    line = tokenizer("\n", add_special_tokens=False).input_ids
    scored = [token for part in literal(caption) for token in tokenizer(part, add_special_tokens=False).input_ids] + line
    before = bos + ([image_token_id] * n_visual if conversation.get("image") is not None else []) + line
    return _cut(before + scored, [IGNORED] * len(before) + scored, max_tokens)


def encode_v1(tokenizer, conversation: dict, *, n_visual: int, image_token_id: int, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Vicuna's chat; answers and the end token behind each are scored. (ids, labels), each (S,).

    Text before and after the picture is tokenised apart, as LLaVA does; a token is scored if it ends inside an answer.
    """
    text, spans = text_v1(tokenizer, conversation)
    pictures = conversation.get("image") is not None
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    labels, start = [IGNORED] * len(ids), 0
    for number, part in enumerate(text.split(IMAGE) if pictures else literal(text)):
        if number and pictures:
            ids += [image_token_id] * n_visual
            labels += [IGNORED] * n_visual
            start += len(IMAGE)
        pieces = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
        for token, (_, stop) in zip(pieces.input_ids, pieces.offset_mapping):
            ids.append(token)
            labels.append(token if any(a < start + stop <= b for a, b in spans) else IGNORED)
        start += len(part)
    return _cut(ids, labels, max_tokens)


def literal(text: str) -> list[str]:
    """A text in parts that no tokenizer reads a picture's place in, where a text without a picture speaks of `<image>`."""
    return re.split(r"(?<=<)(?=image>)", text)


def text_v1(tokenizer, conversation: dict) -> tuple[str, list[tuple[int, int]]]:
    """Vicuna's chat as one text, and where in it the answers stand, each with the end token behind it."""
    end = tokenizer.eos_token or "</s>"
    text, spans = SYSTEM_V1 + " ", []
    for turn in conversation["conversations"]:
        if turn["from"] == "human":
            value = turn["value"]
            if IMAGE in value and conversation.get("image") is not None:
                # the picture first, whatever the file says: LLaVA's preprocess_multimodal
                value = IMAGE + "\n" + value.replace(IMAGE, "").strip()
            text += f"USER: {value} ASSISTANT:"
        else:
            spans.append((len(text), len(text) + len(turn["value"]) + 1 + len(end)))
            text += f" {turn['value']}{end}"
    return text, spans


def _cut(ids: list[int], labels: list[int], max_tokens: int) -> tuple[Tensor, Tensor]:
    return torch.tensor(ids[:max_tokens]), torch.tensor(labels[:max_tokens])
