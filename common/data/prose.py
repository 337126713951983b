"""English text that every installation carries, split once and for all, turned into token windows.

`topics()`: the help pages of the Python language, packaged with CPython (`pydoc_data.topics`; 0.4
MB after removing repeats). Real prose on one subject, mixed with code and grammar. It differs a
little between Python versions.

`docstrings()`: long English docstrings of the installed packages, megabytes of them, for longer
training. It depends on what is installed, so its sha256 belongs into the record of every run.

`library()`: docstrings of the standard library, a document a module, a hundred of them. It is a
test split and nothing else, for results whose evidence is counted in documents.

The first two give a `Corpus` of three splits in which no paragraph occurs twice: help pages include each
other and docstrings are copied between classes, so that a plain split by page or docstring leaks.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import SEAL, cache_dir, replacing, seal, sealed

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Corpus:
    """Documents per split, and for records: origin, version, sha256 and characters per split."""

    name: str
    splits: dict[str, tuple[str, ...]]
    source: dict

    def __getitem__(self, split: str) -> tuple[str, ...]:
        return self.splits[split]


def topics(test: float = 0.15, validation: float = 0.10) -> Corpus:
    """Python's help pages, one document a page. test, validation: fractions of the characters.

    Pages stay whole and are taken in the order of the hash of their names: first test is filled,
    then validation, the rest is train. A page above a tenth of the corpus always goes to train, so
    that no split is one page.
    """
    from pydoc_data.topics import topics as pages

    # Longest first: "compound statements" contains the page of "with", and keeps its context.
    names = sorted(pages, key=lambda name: (-len(pages[name]), name))
    documents = dict(zip(names, _without_repeats((pages[name] for name in names), set())))
    total = sum(map(len, documents.values()))
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in sorted(documents, key=text_hash):
        filled = {split: sum(map(len, splits[split])) / total for split in SPLITS}
        split = "train"
        if len(documents[name]) <= total / 10:
            if filled["test"] < test:
                split = "test"
            elif filled["validation"] < validation:
                split = "validation"
        splits[split].append(documents[name])
    origin = {"origin": "CPython pydoc_data.topics", "version": platform.python_version()}
    return _corpus("pydoc-topics", splits, origin)


def docstrings(
    max_chars: int = 4_000_000, min_chars: int = 600, root: Path | None = None
) -> Corpus:
    """Docstrings of at least `min_chars` characters in the sources below `root`.

    root: default, the folder of the installed packages. Files are read in the order of the hash of
    their relative path, which mixes the packages, until `max_chars` characters are together. A file
    belongs to one split (5% test, 5% validation). Parsing takes some 5 s per megabyte; the result
    is cached by the names and sizes of the files.
    """
    root = Path(root or sysconfig.get_paths()["purelib"])
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    key = text_hash(
        json.dumps([platform.python_version(), max_chars, min_chars, sizes], sort_keys=True)
    )
    cached = cache_dir() / f"docstrings-{key[:24]}.json"
    if sealed(cached):
        splits = json.loads(cached.read_bytes()[:-SEAL])
    else:  # absent or damaged
        splits = _read_docstrings(paths, max_chars, min_chars)
        with replacing(cached) as f:
            f.write(json.dumps(splits).encode())
            seal(f)
    origin = {"origin": "docstrings of installed packages", "version": platform.python_version()}
    return _corpus("docstrings", splits, origin | dict(max_chars=max_chars, min_chars=min_chars))


COPIED = ("argparse", "pdb")  # modules whose docstrings installed packages have copied: `docstrings()` may hold them


def library(min_chars: int = 1500, root: Path | None = None) -> Corpus:
    """The standard library's docstrings of 200 characters and more, one document a module, all of them test.

    root: default, the folder of the standard library; its modules and packages (of these the first file) are read in the
    order of their names. min_chars: of a document, below which it is left out. It differs a little between Python versions.
    """
    root = Path(root or sysconfig.get_paths()["stdlib"])
    documents: list[str] = []
    seen: set = set()
    for path in sorted([*root.glob("*.py"), *root.glob("*/__init__.py")]):
        if "site-packages" in path.parts or {path.stem, path.parent.name} & set(COPIED):
            continue
        texts = _without_repeats([text for text in _docstrings_of(path) if len(text) >= 200], seen)
        document = "\n\n".join(text for text in texts if text)
        if len(document) >= min_chars and _is_english(document):
            documents.append(document)
    origin = {"origin": "docstrings of the standard library", "version": platform.python_version(), "min_chars": min_chars}
    return _corpus("library", {"train": [], "validation": [], "test": documents}, origin)


def document_windows(texts: Sequence[str], tokenizer, length: int, each: int = 1) -> tuple[Tensor, list[int]]:
    """Token windows (N, length), int64, that never cross from one document into the next, and of each the number of its document.

    each: at most so many of a document, from even distances; a document shorter than one window gives none. ValueError if
    none gives one.
    """
    rows, numbers = [], []
    for number, text in enumerate(texts):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)
        fitting = len(ids) // length
        for i in range(min(each, fitting)):
            start = (2 * i + 1) * fitting // (2 * min(each, fitting)) * length  # the middle of each part
            rows.append(ids[start : start + length])
            numbers.append(number)
    if not rows:
        raise ValueError(f"no document fills a window of {length} tokens.")
    return torch.stack(rows), numbers


def windows(texts: Sequence[str], tokenizer, length: int, stride: int | None = None) -> Tensor:
    """Documents -> token windows (N, length), int64: packed, an end token after each document.

    stride: distance between the starts of windows, default `length`, so that none overlap. What
    does not fill the last window is dropped. ValueError if there is not one full window, or if the
    tokenizer has no end token.
    """
    ids = token_ids(texts, tokenizer)
    if len(ids) < length:
        raise ValueError(f"{len(ids)} tokens of text do not fill one window of {length} tokens.")
    return ids.unfold(0, length, stride or length).contiguous()


def token_ids(texts: Sequence[str], tokenizer) -> Tensor:
    """Documents -> one stream of ids (n_tokens,), int64, an end token after each document.

    Cached on disk by the content of the texts and of the tokenizer, whatever they are called.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no end token to put between documents: set eos_token.")
    key = text_hash(f"{texts_sha256(texts)} {tokenizer_sha256(tokenizer)} {tokenizer.eos_token_id}")
    path = cache_dir() / f"tokens-{key[:24]}.npy"
    if sealed(path):  # else absent or damaged
        return torch.from_numpy(np.load(path).astype(np.int64))
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.eos_token_id)
    with replacing(path) as f:
        np.save(f, np.asarray(ids, dtype=np.int32))
        seal(f)
    return torch.tensor(ids, dtype=torch.int64)


def tokenizer_sha256(tokenizer) -> str:
    """Hash of what decides the ids: vocabulary, merges, normalisation; not padding, truncation."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"padding": None, "truncation": None}
    return text_hash(json.dumps(backend, sort_keys=True))


def texts_sha256(texts: Iterable[str]) -> str:
    """Hash of a list of documents, sensitive to where each ends."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _corpus(name: str, splits: dict[str, list[str]], origin: dict) -> Corpus:
    kept = {split: tuple(text for text in splits[split] if text) for split in SPLITS}
    facts = {
        split: {
            "sha256": texts_sha256(texts),
            "documents": len(texts),
            "characters": sum(map(len, texts)),
        }
        for split, texts in kept.items()
    }
    return Corpus(name, kept, {"name": name, **origin, **facts})


def _without_repeats(texts: Iterable[str], seen: set[str]) -> list[str]:
    """Each text without the paragraphs already in `seen` (compared without white space)."""
    kept = []
    for text in texts:
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
            bare = "".join(paragraph.split())
            if bare and bare not in seen:
                seen.add(bare)
                paragraphs.append(paragraph)
        kept.append("\n\n".join(paragraphs))
    return kept


def _read_docstrings(paths: dict[str, Path], max_chars: int, min_chars: int) -> dict:
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    total = 0
    for name in sorted(paths, key=text_hash):
        percent = int(text_hash(name), 16) % 100  # the low digits; the order follows the high ones
        split = "test" if percent < 5 else "validation" if percent < 10 else "train"
        long = [text for text in _docstrings_of(paths[name]) if len(text) >= min_chars]
        for text in _without_repeats(long, seen):
            if len(text) >= min_chars and _is_english(text):
                splits[split].append(text)
                total += len(text)
        if total >= max_chars:
            break
    return splits


def _docstrings_of(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []  # templates, odd encodings, sources for another Python
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text]


COMMON_WORDS = frozenset(
    "a an and are as be by can for from if in is it not of on or that the to".split()
)


def _is_english(text: str) -> bool:
    """Nearly all ASCII, every tenth word a common English one: no tables, no other languages."""
    words = text.lower().split()
    ascii_enough = sum(map(str.isascii, text)) > 0.97 * len(text)
    return ascii_enough and sum(word in COMMON_WORDS for word in words) > 0.1 * len(words)


def text_hash(text: str) -> str:
    """sha256 of a text; also our order for "at random, but the same everywhere"."""
    return hashlib.sha256(text.encode()).hexdigest()
