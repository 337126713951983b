"""Text to be scored: benchmark files from $NINEFOLD_DATA, and a cloze task from packaged prose.

$NINEFOLD_DATA names a folder of public benchmark data for machines that cannot reach the hub. Read
here, files of its folder `text`: WikiText-2 and Penn Treebank (word level, with <unk>), and PIQA,
ARC-Easy, WinoGrande, LAMBADA as JSON lines. Nothing is copied; a missing file is named.

`cloze_items()` needs no data: it cuts sentences of the held-out help pages in two and asks which of
four endings is the true one. It is made for seeing whether a change to a model hurts it, without a
download. It is not a published benchmark, and its scores compare with nothing but themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, needed
from ..files import cache_dir, data_file, file_sha256, replacing
from .prose import text_hash, topics

# Entries of each JSON-lines file: name -> type
ITEM_FILES: dict[str, dict[str, type]] = {
    "piqa": {"query": str, "choices": list, "gold": int},
    "arc_easy": {"query": str, "choices": list, "gold": int},
    "winogrande": {"context_options": list, "continuation": str, "gold": int},
    "lambada_openai": {"context": str, "continuation": str},
}
CLOZE = "pydoc_cloze"
CLOZE_ITEMS = 200


def items_file(name: str, data: str | Path | None = None) -> tuple[str, Path]:
    """Name for records and path of the items of a local task: a benchmark's file or the cloze."""
    if name == CLOZE:
        path = cloze_file()
        return path.name, path
    return f"text/{name}.jsonl", data_file(f"text/{name}.jsonl", data)


def read_items(name: str, data: str | Path | None = None) -> list[dict]:
    """Items of a local task. DataError names the line that lacks an entry or has another type."""
    _, path = items_file(name, data)
    entries = ITEM_FILES.get(name, {"context": str, "choices": list, "gold": int})
    items = []
    for number, line in lines(path):
        try:
            item = json.loads(line)
            for entry, kind in entries.items():
                if not isinstance(item[entry], kind) or isinstance(item[entry], bool):
                    raise TypeError(f"{entry!r} is no {kind.__name__}")
            _check_item(item)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: {error!r}; expected {entries}.") from error
        items.append(item)
    if not items:
        raise DataError(f"{path} holds no items.")
    return items


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file. Lines end at line feeds only: JSON's strings may hold U+2028 and its like.

    Raises DataError, with the line, for what is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: no UTF-8 ({error.reason}).") from error


def is_text(value) -> bool:
    """A string without half a surrogate pair, which JSON can spell and nothing can encode."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _check_item(item: dict) -> None:
    """Raises ValueError for what has the right types and cannot be asked."""
    for entry, value in item.items():
        if not all(map(is_text, value if isinstance(value, list) else [value] if isinstance(value, str) else [])):
            raise ValueError(f"{entry!r} holds what is no text")
    options = item.get("choices", item.get("context_options"))
    if options is not None and not (len(options) > 1 and 0 <= item["gold"] < len(options)):
        raise ValueError(f"'gold' {item['gold']} is none of {len(options)} options")


def lm_eval_dataset(name: str, data: str | None = None, **_) -> dict:
    """The `custom_dataset` of the task files in common/benchmarks/tasks: one split, "test"."""
    from datasets import Dataset

    return {"test": Dataset.from_list(read_items(name, data))}


@dataclass(frozen=True)
class Text:
    """A text to take perplexity on. definition says exactly which, for records: two copies of
    "WikiText-2" differ by far more than two models do."""

    text: str
    definition: dict

    @property
    def n_words(self) -> int:
        """White-space separated; the same for every tokenizer."""
        return len(self.text.split())


HUB_TEXTS = {
    # The PTB repository is a loading script, which datasets 5 refuses: take its parquet conversion.
    "wikitext2": dict(path="Salesforce/wikitext", name="wikitext-2-raw-v1", column="text"),
    "ptb": dict(path="ptb-text-only/ptb_text_only", column="sentence", rev="refs/convert/parquet"),
}
LOCAL_TEXTS = {"wikitext2": "text/wikitext2_word.{}.txt", "ptb": "text/ptb.{}.txt"}


def read_text(name: str, origin: str = "local", split: str = "test", data=None) -> Text:
    """WikiText-2 ("wikitext2") or Penn Treebank ("ptb").

    origin "local": the word-level files of $NINEFOLD_DATA (or of the folder `data`); WikiText-2 as
    the file is, rare words replaced by <unk>. origin "hub": WikiText-2 raw, its lines joined by
    blank lines, as GPTQ and most after it do. PTB: sentences joined by a space.
    """
    if name not in LOCAL_TEXTS or origin not in ("local", "hub"):
        raise ValueError(f"No text {name!r} from {origin!r}: {[*LOCAL_TEXTS]} from local or hub.")
    definition: dict = {"name": name, "origin": origin, "split": split}
    if origin == "local":
        file = LOCAL_TEXTS[name].format({"validation": "valid"}.get(split, split))
        path = data_file(file, data)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: no UTF-8 at byte {error.start}.") from error
        if name == "ptb":
            text = " ".join(line.strip() for line in text.splitlines() if line.strip())
        form = "sentences joined by a space" if name == "ptb" else "the file as it is"
        definition |= {"file": file, "level": "word, with <unk>", "form": form}
    else:
        text, facts = _from_hub(split=split, **HUB_TEXTS[name])
        definition |= facts | {"level": "raw" if name == "wikitext2" else "word, with <unk>"}
    definition["sha256"] = text_hash(text)
    definition["n_words"] = len(text.split())
    return Text(text, definition)


def _from_hub(path: str, column: str, split: str, name=None, rev=None) -> tuple[str, dict]:
    with needed("datasets", f"{path} from the hub"):
        from datasets import load_dataset

    try:
        lines = load_dataset(path, name, split=split, revision=rev)[column]
    except Exception as error:  # hub, http and offline errors share no useful base class
        raise DataError(
            f"Cannot get {path} from the hub ({type(error).__name__}). Offline, origin='local' and "
            "NINEFOLD_DATA read a local copy (of another definition: see read_text)."
        ) from error
    raw = column == "text"
    text = ("\n\n" if raw else " ").join(lines if raw else (line.strip() for line in lines))
    form = "lines joined by blank lines" if raw else "sentences joined by a space"
    return text, {"dataset": path, "config": name, "revision": rev, "form": form}


def cloze_file() -> Path:
    """Write the cloze items to the cache, once per content, and return the file."""
    lines = "".join(json.dumps(item) + "\n" for item in cloze_items()).encode()
    path = cache_dir() / f"{CLOZE}-{hashlib.sha256(lines).hexdigest()[:16]}.jsonl"
    if not path.exists() or file_sha256(path) != hashlib.sha256(lines).hexdigest():
        with replacing(path) as f:
            f.write(lines)
    return path


def cloze_items(n: int = CLOZE_ITEMS) -> list[dict]:
    """Up to n items {"context", "choices" (4), "gold"} from the held-out help pages.

    Context: the paragraph up to the middle of a sentence. Choices: how that sentence ends, and the
    endings of three sentences of *other* pages, of the nearest length, so that length gives nothing
    away. The same items on every machine with the same Python. Test pages come first, validation
    pages fill up where they do not suffice.
    """
    corpus = topics()
    found: dict[str, tuple[str, str, int]] = {}  # ending -> (context, split, page)
    contexts: set[str] = set()
    for split in ("test", "validation"):
        halves = [(*half, page) for page, doc in enumerate(corpus[split]) for half in _halves(doc)]
        for context, ending, page in sorted(halves, key=lambda half: text_hash(half[0])):
            if context not in contexts:  # pages also repeat single sentences
                found.setdefault(ending, (context, split, page))
                contexts.add(context)
    pool = [(ending, *rest) for ending, rest in list(found.items())[:n]]
    items = []
    for number, (ending, context, *source) in enumerate(pool):
        others = [other for other, _, *other_source in pool if other_source != source]
        others.sort(key=lambda other: (abs(len(other) - len(ending)), text_hash(other)))
        # three of the twelve nearest in length, so that the same ones do not return all the time
        choices = sorted(others[:12], key=lambda other: text_hash(other + context))[:3]
        gold = number % 4  # each place equally often; the order of the items is that of hashes
        choices.insert(gold, ending)
        items.append({"context": context, "choices": choices, "gold": gold})
    return items


def _halves(document: str) -> list[tuple[str, str]]:
    """Sentences of at least 14 words -> (what stands before, with the first half; second half)."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", document):
        # grammar, examples, headings and tables are not prose
        if any(mark in paragraph for mark in ("::=", ">>>", "***", "===", "---", "->", " = ", "|")):
            continue
        prose = re.sub(r"^[*·•-]\s+", "", " ".join(paragraph.split()))
        before = ""
        for sentence in re.split(r"(?<=[a-z)\"”’][.])\s+(?=[A-Z*\"“])", prose):
            words = sentence.split(" ")
            middle = len(words) // 2
            if 14 <= len(words) <= 60 and sentence[0].isupper() and sentence.endswith("."):
                context = (before + " " + " ".join(words[:middle])).strip()
                parts.append((context, " ".join(words[middle:])))
            before = sentence  # one sentence of context keeps the prompts short
    return parts
