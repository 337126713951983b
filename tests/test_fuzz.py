"""Malformed input: an error that names the file and the field or line, or a valid result. Never anything else.

Every test starts from a good file and damages it. FUZZ says how many examples each gets, the same ones every time; the
table of docs/reliability.md adds them up.
"""

import contextlib
import copy
import io
import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.benchmarks.maths import load_problems
from common.claims import records
from common.claims.intervals import summarize
from common.claims.records import load_claims
from common.claims.verdict import verdict
from common.data.speech import fsdd_bank
from common.data.text import ITEM_FILES, read_items, read_text
from common.errors import DataError, RecordError, SetupError
from common.reasoning.problems import read_problems
from common.runs.jobs import Job, read_result, run_jobs
from common.training.checkpoints import WholeCheckpoints, read_checkpoint
from papers.onpolicysft.train import cli
from tests.sample_records import claim, claims_yaml, record
from tests.test_foreign_code import a_recording

FUZZ = {"claims.yaml": 80, "records": 80, "configs": 25, "items of a benchmark": 80, "texts": 40, "mathematics": 80,
        "problems": 80, "archives of recordings": 80, "checkpoints": 60, "cached results": 60}
PIECES = [b"NaN", b"1e999", b"-0.0", b"9" * 5000, b"null", b"true", b'"', b"'", b"[" * 100_000, b"{", b"}", b", ", b": ", b"- ",
          b"\n", b"\r", b"\t", b"\0", b"\xff\xfe", b"\xc3", b'"\\ud800"', b"\\u0000", "\u2028".encode(), "\u0663".encode(), b"&a ", b"*a",
          b"<<: *a", b"!!bool x", b"!!int ''", b"!!timestamp x", b"!!map [1]", b"!!set {a}", b"!!binary x", b"? [a]\n: b",
          b"../", b"#", b"|", b"%"]
CONFIG = Path(__file__).resolve().parent.parent / "papers" / "onpolicysft" / "configs" / "cpu" / "rehearsal.yaml"


def fuzz(name: str, good, check, strategy=None) -> None:
    """Every piece once in the place of a value of `good` (bytes), then random damage, or examples of another strategy."""
    for example in planted(good) if strategy is None else []:
        check(example)
    strategy, seen = damaged(good) if strategy is None else strategy, 0

    @settings(max_examples=FUZZ[name], derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(example) -> None:
        nonlocal seen
        seen += 1
        check(example)

    one()
    assert seen >= FUZZ[name]  # what the table says was tried


def seams(data: bytes) -> list[int]:
    """Where values begin."""
    return [m.end() for m in re.finditer(rb"[:\-,] |[\n\[{\"]", data)] or [0]


def planted(good: bytes) -> list[bytes]:
    starts = [m.end() for m in re.finditer(rb": ", good)] or seams(good)
    found = []
    for i, piece in enumerate(PIECES):
        start = starts[(7 * i + 1) % len(starts)]
        found.append(good[:start] + piece + good[start + re.match(rb"[^\n,}\]]*", good[start:]).end() :])
    return found


@st.composite
def damaged(draw, good: bytes) -> bytes:
    """One to three edits, mostly where a value begins: something put in, cut out, replaced, said twice, a bit flipped."""
    data = good
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.sampled_from(seams(data)) | st.integers(0, len(data)))
        rest = re.match(rb"[^\n,}\]]*", data[start:]).end()  # of this value
        end = min(len(data), start + draw(st.just(rest) | st.integers(0, 12)))
        flipped = bytes([data[start] ^ 4]) + data[start + 1 : end] if end > start else b""
        new = draw(st.sampled_from(PIECES) | st.binary(max_size=6) | st.sampled_from([data[start:end] * 2, b"", flipped, flipped]))
        data = data[:start] + new + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def valid_or_named(call, error: type[Exception], *said: str):
    """The result, or None where it was refused with all of said (patterns) in the message."""
    try:
        return call()
    except error as refusal:
        assert all(re.search(part, str(refusal)) for part in said), str(refusal)
        return None


def encodes(value) -> bool:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() != b""


def test_claims(tmp_path):
    path = claims_yaml(tmp_path, claim("above", "cpu-small", paper_more={"stderr": 1.0}), claim(id="demo/C2"))

    def check(data: bytes) -> None:
        path.write_bytes(data)
        claims = valid_or_named(lambda: load_claims(path), RecordError, re.escape(str(path)), r"\$|YAML")
        for entry in claims or ():
            assert records.record_path(tmp_path, entry["id"], entry["rung"]).parent == tmp_path
            verdict(entry, None, blocked_by=["time"])

    fuzz("claims.yaml", path.read_bytes(), check)


def test_aliases_that_stand_for_thousands_of_millions(tmp_path):
    path = tmp_path / "claims.yaml"
    tens = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10) if i else '1'}]" for i in range(12)]
    path.write_text("\n".join(tens))
    with pytest.raises(RecordError, match="no record is that long"):
        load_claims(path)
    path.write_text("a: &a {x: 1}\nb: {<<: *a}")
    with pytest.raises(RecordError, match="merge key '<<', line 2"):
        load_claims(path)


def test_records(tmp_path):
    path = records.write_record(record(measured={**summarize([99.0, 100.0, 101.0]), "baselines": {"random": 3.0}}), tmp_path)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = valid_or_named(lambda: records.read_record(path), RecordError, re.escape(str(path)), r"\$|JSON")
        if found is not None:
            assert records.read_record(records.write_record(found, tmp_path / "again")) == found

    fuzz("records", path.read_bytes(), check)


def places(value, at=()):
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


@st.composite
def changed(draw, good: dict) -> tuple:
    """(config, where): another value at one place of it, or another key."""
    config = copy.deepcopy(good)
    *path, last = draw(st.sampled_from([place for place in places(good) if place]))
    inside = config
    for key in path:
        inside = inside[key]
    new = draw(st.sampled_from([None, True, -1, 0, 0.5, 10**20, "", "x", "../x", [], ["x"], {}, {"x": 1}, {"class_path": "os.system"},
                                float("nan"), float("inf")]))
    if isinstance(inside, dict) and draw(st.integers(0, 4)) == 0:
        inside["colour"] = new
        return config, (*path, "colour")
    inside[last] = new
    return config, (*path, last)


def test_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = yaml.safe_load(CONFIG.read_text())
    good["model"]["init_args"]["model"]["name"] = "random"  # not loaded: only the command line is built

    def check(example: tuple) -> None:
        config, where = example
        Path("config.yaml").write_text(yaml.safe_dump(config))
        with contextlib.redirect_stderr(io.StringIO()) as line:
            try:
                cli(["--config", "config.yaml"], run=False)
            except SystemExit as refusal:
                names = {str(part) for part in where if isinstance(part, str) and part not in ("init_args", "class_path")}
                assert refusal.code == 2 and any(name in line.getvalue() for name in names), (where, line.getvalue())

    fuzz("configs", good, check, changed(good))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]  # nothing written, half or whole


GOOD_ITEMS = {
    "piqa": {"query": "q", "choices": ["a", "b"], "gold": 1}, "arc_easy": {"query": "q", "choices": ["a", "b", "c"], "gold": 0},
    "winogrande": {"context_options": ["a", "b"], "continuation": "c", "gold": 0}, "lambada_openai": {"context": "a", "continuation": "b"},
}


def test_items(tmp_path):
    assert set(GOOD_ITEMS) == set(ITEM_FILES)
    (tmp_path / "text").mkdir()

    def check(example: tuple) -> None:
        name, data = example
        path = tmp_path / "text" / f"{name}.jsonl"
        path.write_bytes(data)
        for item in valid_or_named(lambda: read_items(name, tmp_path), DataError, re.escape(str(path)), r"line \d+|no items") or ():
            options = item.get("choices") or item.get("context_options") or [""]
            assert encodes(item[next(iter(ITEM_FILES[name]))]) and 0 <= item.get("gold", 0) < len(options)

    good = {name: (json.dumps(item) + "\n").encode() * 3 for name, item in GOOD_ITEMS.items()}
    for name in sorted(good):
        for data in planted(good[name]):
            check((name, data))
    fuzz("items of a benchmark", good, check, st.sampled_from(sorted(good)).flatmap(lambda n: st.tuples(st.just(n), damaged(good[n]))))


def test_texts(tmp_path):
    (tmp_path / "text").mkdir()

    def check(example: tuple) -> None:
        name, data = example
        path = tmp_path / "text" / {"ptb": "ptb.test.txt", "wikitext2": "wikitext2_word.test.txt"}[name]
        path.write_bytes(data)
        found = valid_or_named(lambda: read_text(name, data=tmp_path), DataError, re.escape(str(path)), r"at byte \d+")
        assert found is None or (encodes(found.text) and found.n_words == len(found.text.split()))

    good = b" no it was n't <unk>\n a second one \n"
    fuzz("texts", good, check, st.tuples(st.sampled_from(["ptb", "wikitext2"]), damaged(good)))


PROBLEMS = '{"problem": "What is $1 + 1$?", "answer": "2"}\n{"problem": "half of 3", "answer": 1.5}\n{"problem": "a", "answer": 7}\n'


def test_mathematics(tmp_path):
    (tmp_path / "maths").mkdir()
    path = tmp_path / "maths" / "math500.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        said = re.escape(str(path)), r"line \d+|no problems"
        for row in valid_or_named(lambda: load_problems("math500", tmp_path), DataError, *said) or ():
            assert row["problem"].strip() and isinstance(row["answer"], str) and encodes(row)

    fuzz("mathematics", PROBLEMS.replace("1.5", '"1.5"').encode(), check)


def test_problems(tmp_path):
    path = tmp_path / "train.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for row in valid_or_named(lambda: read_problems(path), SetupError, r"train\.jsonl", r"line \d+|no problem") or ():
            assert row["problem"].strip() and isinstance(row["answer"], str) and encodes(row)

    fuzz("problems", PROBLEMS.encode(), check)


@pytest.mark.parametrize("answer", ["null", "true", "{}", '["2"]', '"\\ud800"'])
def test_an_answer_is_text_or_a_number(tmp_path, answer):
    (tmp_path / "x.jsonl").write_text(f'{PROBLEMS}{{"problem": "p", "answer": {answer}}}')
    with pytest.raises(SetupError, match="x.jsonl, line 4"):
        read_problems(tmp_path / "x.jsonl")


def test_only_a_line_feed_ends_a_line(tmp_path):
    """JSON's strings may hold U+2028, U+0085 and form feeds' kin as they are."""
    (tmp_path / "maths").mkdir()
    row = {"problem": "one\u2028two\u0085three", "answer": "2"}
    for path in (tmp_path / "maths" / "math500.jsonl", tmp_path / "train.jsonl"):
        path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n" + json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert load_problems("math500", tmp_path) == [row] * 2 == read_problems(tmp_path / "train.jsonl")


def test_archives(tmp_path):
    (tmp_path / "speech").mkdir()
    path = tmp_path / "speech" / "fsdd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("7_ann_9.wav", "recordings/3_bob_11.wav"):
            archive.writestr(name, a_recording())

    def check(data: bytes) -> None:
        path.write_bytes(data)
        bank = valid_or_named(lambda: fsdd_bank("train", tmp_path), DataError, r"fsdd\.zip")
        assert bank is None or all(take.size for takes in bank.takes.values() for take in takes)

    fuzz("archives of recordings", path.read_bytes(), check)


def test_checkpoints(tmp_path):
    path, right = tmp_path / "last.ckpt", {"global_step": 5, "state_dict": {"w": torch.arange(300.0)}}
    WholeCheckpoints().save_checkpoint(right, path)

    def check(data: bytes) -> None:
        path.unlink()
        path.write_bytes(data)
        found = valid_or_named(lambda: read_checkpoint(path), SetupError, re.escape(str(path)))
        assert found is None or (found["global_step"] == 5 and torch.equal(found["state_dict"]["w"], right["state_dict"]["w"]))

    fuzz("checkpoints", path.read_bytes(), check)


def test_cached_results(tmp_path, capsys):
    job = Job("number/3", "tests.killed_run:number", {"seed": 3})
    right = run_jobs([job], tmp_path, workers=1, log=lambda text: None)["number/3"]
    (path,) = tmp_path.glob("*.json")

    def check(data: bytes) -> None:
        path.write_bytes(data)
        assert read_result(path, job.key()) in (None, right)

    fuzz("cached results", path.read_bytes(), check)
