"""common/data: splits share nothing, windows lose nothing, absent files are named."""

import json
from itertools import combinations

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from common.data import prose, text
from common.data.prose import SPLITS, docstrings, library, token_ids, topics, windows
from common.data.text import cloze_file, cloze_items, read_items, read_text
from common.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tokenizer():
    """One token per byte, and an end token."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<end>"] = len(vocabulary)
    backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def paragraphs(texts):
    bare = ("".join(part.split()) for document in texts for part in document.split("\n\n"))
    return {part for part in bare if part}


def test_topics_splits_share_no_paragraph():
    corpus = topics()
    for a, b in combinations(SPLITS, 2):
        assert not paragraphs(corpus[a]) & paragraphs(corpus[b])
        assert not set(corpus[a]) & set(corpus[b])
    sizes = {split: corpus.source[split]["characters"] for split in SPLITS}
    total = sum(sizes.values())
    assert total > 300_000
    assert 0.13 < sizes["test"] / total < 0.25 and 0.08 < sizes["validation"] / total < 0.20


def test_topics_are_the_same_each_time_and_the_hash_notices_a_change():
    first, second = topics(), topics()
    assert first == second
    facts = first.source["test"]
    assert facts["sha256"] == prose.texts_sha256(first["test"])
    assert prose.texts_sha256(["ab", "c"]) != prose.texts_sha256(["a", "bc"])
    json.dumps(first.source)


def make_package(root):
    """Sources with a docstring that occurs in two files, a short one, a foreign one and a table."""
    sentence = "This is the sentence of a file and it is as long as the others that are with it. "
    for i in range(30):
        own = f"Number {i}. " + f"File {i} says this on its own and for it. " * 20
        copied = sentence * 10
        source = f'def f():\n    """{own}\n\n    {copied}\n    """\n\ndef g():\n    """Short."""\n'
        (root / f"m{i}.py").write_text(source)
    (root / "foreign.py").write_text(f'"""{"Ceci n est pas une phrase anglaise. " * 40}"""\n')
    (root / "broken.py").write_text('"""unfinished')


def test_docstrings_of_a_package(tmp_path):
    root = tmp_path / "site"
    root.mkdir()
    make_package(root)
    corpus = docstrings(min_chars=200, root=root)
    texts = [document for split in SPLITS for document in corpus[split]]
    assert len(texts) == 30
    assert sum("sentence of a file" in document for document in texts) == 1  # the copy is kept once
    assert not any("phrase" in document for document in texts)
    for a, b in combinations(SPLITS, 2):
        assert not paragraphs(corpus[a]) & paragraphs(corpus[b])
    assert docstrings(min_chars=200, root=root) == corpus  # from the cache
    small = docstrings(min_chars=200, max_chars=3000, root=root)
    assert 3000 <= sum(small.source[split]["characters"] for split in SPLITS) < 6000
    (root / "m0.py").write_text("")
    assert docstrings(min_chars=200, root=root).source != corpus.source  # a changed file is noticed


def test_the_library_is_a_document_a_module_all_of_it_test(tmp_path):
    make_package(tmp_path)
    (tmp_path / "pdb.py").write_text(f'"""{"This is copied and it is as long as the others. " * 60}"""\n')
    corpus = library(min_chars=600, root=tmp_path)
    assert corpus["train"] == corpus["validation"] == () and len(corpus["test"]) == 30
    assert sum("sentence of a file" in document for document in corpus["test"]) == 1
    assert not any("copied" in document for document in corpus["test"])
    assert library(min_chars=600, root=tmp_path) == corpus and len(library()["test"]) > 60


def test_windows_pack_everything_with_end_tokens(tokenizer):
    texts = ["hello", "you there"]
    end = tokenizer.eos_token_id
    ids = token_ids(texts, tokenizer)
    assert ids.tolist() == [
        *tokenizer("hello").input_ids,
        end,
        *tokenizer("you there").input_ids,
        end,
    ]
    packed = windows(texts, tokenizer, 4)
    assert packed.dtype == torch.int64 and packed.shape == (len(ids) // 4, 4)
    assert torch.equal(packed.flatten(), ids[: packed.numel()])
    overlapping = windows(texts, tokenizer, 4, stride=1)
    assert overlapping.shape == (len(ids) - 3, 4)
    assert torch.equal(overlapping[5], ids[5:9])


def test_token_cache_is_keyed_by_content_and_survives_damage(tokenizer, cache):
    ids = token_ids(["one", "two"], tokenizer)
    (file,) = cache.glob("tokens-*.npy")
    assert torch.equal(token_ids(["one", "two"], tokenizer), ids)
    token_ids(["onet", "wo"], tokenizer)
    assert len(list(cache.glob("tokens-*.npy"))) == 2
    file.write_bytes(file.read_bytes()[:-3])
    assert torch.equal(token_ids(["one", "two"], tokenizer), ids)
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="a")
    assert token_ids(["one", "two"], other)[3] == other.eos_token_id  # not the first one's ids


def test_padding_settings_do_not_change_the_tokenizers_hash(tokenizer):
    before = prose.tokenizer_sha256(tokenizer)
    tokenizer.pad_token = "<end>"
    tokenizer(["a", "bcd"], padding=True)
    assert prose.tokenizer_sha256(tokenizer) == before


def test_windows_refuse_what_cannot_be(tokenizer):
    with pytest.raises(ValueError, match="do not fill one window"):
        windows(["abc"], tokenizer, 10)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        windows(["abc"], tokenizer, 2)


# --- text.py


def test_missing_data_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"set NINEFOLD_DATA .* text/piqa.jsonl"):
        read_items("piqa")
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"text/ptb.test.txt is missing"):
        read_text("ptb")


@pytest.mark.parametrize(
    "line", ["{", '{"query": "a", "choices": ["b"]}', '{"query": 1, "choices": [], "gold": 0}']
)
def test_a_wrong_line_is_named(tmp_path, line):
    (tmp_path / "text").mkdir()
    good = json.dumps({"query": "a", "choices": ["b", "c"], "gold": 1})
    (tmp_path / "text" / "piqa.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=r"piqa.jsonl, line 2"):
        read_items("piqa", tmp_path)


def test_texts_are_defined(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "ptb.test.txt").write_text(" a <unk> b \n c N \n")
    (tmp_path / "text" / "wikitext2_word.valid.txt").write_text(" \n = T = \n w \n")
    ptb = read_text("ptb", data=tmp_path)
    assert ptb.text == "a <unk> b c N" and ptb.n_words == 5
    assert ptb.definition["sha256"] == prose.text_hash(ptb.text)
    assert str(tmp_path) not in json.dumps(ptb.definition)
    wiki = read_text("wikitext2", split="validation", data=tmp_path)
    assert wiki.text == " \n = T = \n w \n" and "<unk>" in wiki.definition["level"]
    with pytest.raises(ValueError, match="wikitext2"):
        read_text("c4")


def test_hub_texts_are_joined_as_defined(monkeypatch):
    import datasets

    def load_dataset(path, name, split, revision):
        assert split == "test"
        column = {"Salesforce/wikitext": "text"}.get(path, "sentence")
        return {column: ["a b", "", " c "]}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_text("wikitext2", "hub").text == "a b\n\n\n\n c "
    assert read_text("ptb", "hub").text == "a b  c"
    assert read_text("ptb", "hub").definition["revision"] == "refs/convert/parquet"


def test_no_hub_is_said_with_the_alternative(monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="Salesforce/wikitext.*NINEFOLD_DATA"):
        read_text("wikitext2", "hub")


def test_cloze_items_are_fair():
    items = cloze_items()
    assert len(items) == text.CLOZE_ITEMS and items == cloze_items()
    held_out = " ".join(" ".join(topics()["test"] + topics()["validation"]).split())
    train = " ".join(" ".join(topics()["train"]).split())
    places, longest, shortest = [0] * 4, 0, 0
    for item in items:
        true = item["choices"][item["gold"]]
        assert len(set(item["choices"])) == 4
        assert item["context"] + " " + true in held_out
        assert item["context"] + " " + true not in train
        assert not any(item["context"] + " " + c in held_out for c in item["choices"] if c != true)
        lengths = [len(choice) for choice in item["choices"]]
        longest += max(lengths) == len(true)
        shortest += min(lengths) == len(true)
        places[item["gold"]] += 1
    assert places == [50] * 4
    # always choosing the longest, or the shortest, ending is no better than chance
    assert longest < 0.35 * len(items) and shortest < 0.35 * len(items)
    assert len({item["context"] for item in items}) == len(items)


def test_cloze_file_is_written_once_and_mended():
    path = cloze_file()
    content = path.read_bytes()
    assert read_items("pydoc_cloze") == cloze_items()
    path.write_bytes(content[:-10])
    assert cloze_file() == path and path.read_bytes() == content
