"""common/runs/inputs.py: an input that is empty, cut or unequal is named with its path before any work."""

import gzip
import importlib
import io
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import DataError
from common.runs import experiment, inputs
from common.runs.experiment import Experiment
from common.runs.jobs import Job

PAIR = ("multi30k.val.en.gz", "multi30k.val.de.gz")


def zipped(*names):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, "a recording")
    return archive.getvalue()


GOOD = {"a.txt": b"a line\n", "a.jsonl": b'{"question": "x"}\n{}\n', "a.gz": gzip.compress(b"one\ntwo\n"), "a.zip": zipped("0_jo_0.wav"),
        "a.parquet": b"PAR1 and pages PAR1", "model.safetensors": b"\0", **dict.fromkeys(PAIR, gzip.compress(b"a dog\na cat\n"))}
BAD = {  # name, content, what is said of it
    "empty text": ("a.txt", b"", r"is empty \(0 bytes\): copy the whole file there"),
    "blank text": ("a.txt", b"\n \n", "holds no line of text"),
    "empty archive of lines": ("a.gz", b"", "is empty"),
    "archive of no line": ("a.gz", gzip.compress(b""), "holds no line of text"),
    "archive cut short": ("a.gz", gzip.compress(os.urandom(4096))[:-600], "cut short or no .gz file"),
    "end of an archive lost": ("a.gz", gzip.compress(b"one\n")[:-3], "cut short or no .gz file"),
    "another archive": ("a.gz", zipped("x"), "cut short or no .gz file"),
    "a bit turned": ("a.gz", (whole := gzip.compress(b"one"))[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:], "cut short or no .gz file"),
    "zip cut short": ("a.zip", zipped("x")[:-20], "cut short or no .zip file"),
    "zip of nothing": ("a.zip", zipped(), "an archive with nothing in it"),
    "no JSON": ("a.jsonl", b'{"question": "x', "its first line is no JSON object"),
    "JSON, no object": ("a.jsonl", b"[1]\n", "its first line is no JSON object"),
    "a page of an index": ("a.jsonl", b"<!DOCTYPE html>", "its first line is no JSON object"),
    "bytes": ("a.jsonl", b"\xff\xfe{}", "its first line is no JSON object"),
    "nested beyond reading": ("a.jsonl", b"[" * 200_000, "its first line is no JSON object"),
    "parquet cut short": ("a.parquet", b"PAR1 and pages PA", "cut short or no .parquet file"),
    "parquet of three bytes": ("a.parquet", b"PAR", "cannot be read|cut short"),
    "empty weights": ("model.safetensors", b"", "is empty"),
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    for name, content in GOOD.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def refused(path):
    """What is said of the file, which begins with its whole path and is one line."""
    with pytest.raises(DataError) as caught:
        inputs.look([path])
    said = str(caught.value)
    assert said.startswith(str(path)) and len(said.splitlines()) == 1
    return said


def test_whole_files_pass(data):
    inputs.look(data / name for name in GOOD)
    inputs.look([])


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_whole_is_named(case, data):
    name, content, says = BAD[case]
    (data / name).write_bytes(content)
    assert re.search(says, refused(data / name))


def test_what_is_no_file_is_named(data, monkeypatch):
    (data / "a.txt").unlink()
    assert "is not there" in refused(data / "a.txt")
    (data / "a.txt").symlink_to(data / "gone.txt")
    assert "is not there, or a link to nothing" in refused(data / "a.txt")
    (data / "folder.gz").mkdir()
    assert "is a folder" in refused(data / "folder.gz")
    os.mkfifo(data / "pipe.txt")  # to open it would wait for ever
    assert "no file that can be read twice" in refused(data / "pipe.txt")
    assert "cannot be read (Not a directory)" in refused(data / "a.zip" / "a.txt")

    def denied(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inputs, "open", denied, raising=False)  # whoever runs the tests as root may read everything
    assert "cannot be read (Permission denied): let this user read it" in refused(data / "a.gz")


def test_sides_of_a_translation_have_equally_many_lines(data):
    longer = data / PAIR[1]
    longer.write_bytes(gzip.compress(b"ein Hund\neine Katze\nein Fisch"))  # the last line needs no end
    with pytest.raises(DataError) as caught:
        inputs.look(data / name for name in PAIR)
    assert str(caught.value).startswith(f"{longer} has 3 lines and {data / PAIR[0]} has 2: line n of one")
    inputs.look([data / PAIR[1], data / "a.gz"])  # one side alone has nothing to be equal to
    (data / "elsewhere").mkdir()
    (data / "elsewhere" / PAIR[0]).write_bytes(GOOD[PAIR[0]])
    inputs.look([data / PAIR[1], data / "elsewhere" / PAIR[0]])  # nor has that of another folder


def test_lines_are_those_of_the_file_wherever_a_block_ends(data, monkeypatch):
    monkeypatch.setattr(inputs, "BLOCK", 3)
    for text, lines in ((b"a\n\nbc d\n", 3), (b"abcd\r\nef", 2), (b"\n\n\n\na", 5)):
        (data / "a.gz").write_bytes(gzip.compress(text))
        assert inputs._look_at(data / "a.gz") == lines


# --- by the command -------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """command(paper, experiment) -> its line of error; a job that starts fails the test."""
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEEDS", raising=False)
    monkeypatch.setattr(experiment, "run_jobs", lambda *_, **__: pytest.fail("a job was started"))

    def run(paper, only):
        of = importlib.import_module(f"papers.{paper}.eval")
        capsys.readouterr()
        experiments = tuple(replace(e, ready=None) for e in of.EXPERIMENTS)  # a package that is missing would be named before
        assert experiment.main(of.HERE, experiments, ["--rung", "cpu", "--only", only]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"reproduce-{paper}: ")
        return line

    return run


def files_of(paper, only):
    of = importlib.import_module(f"papers.{paper}.eval")
    (found,) = (e for e in of.EXPERIMENTS if e.name == only)
    return found.data


READ = [("streamingthinker", "realtext"), ("proactivellm", "multi30k"), ("proactivellm", "digits"), ("gpe", "multi30k"),
        ("gpe", "digits"), ("skipgpt", "real"), ("proactivellm", "whisper"), ("proactivellm", "abstracts")]  # fmt: skip


def test_every_experiment_that_reads_data_is_tried():
    of = {path.parent.name: importlib.import_module(f"papers.{path.parent.name}.eval").EXPERIMENTS
          for path in Path(experiment.__file__).parents[2].glob("papers/*/eval.py")}
    assert {(paper, e.name) for paper, experiments in of.items() for e in experiments if e.data} == set(READ)


@pytest.mark.parametrize(("paper", "only"), READ)
def test_empty_files_are_named_before_any_work(paper, only, command, tmp_path):
    names = files_of(paper, only)
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    assert f"{tmp_path / 'data' / names[0]} is empty (0 bytes)" in command(paper, only)
    (tmp_path / "data" / names[-1]).unlink()
    (tmp_path / "data" / names[-1]).mkdir()
    first = tmp_path / "data" / names[0]
    if len(names) == 1:
        assert f"{first} is a folder" in command(paper, only)
    else:
        first.unlink()
        assert f"{first} is missing" in command(paper, only)


@pytest.mark.parametrize("paper", ["gpe", "proactivellm"])
def test_unequal_sides_are_named_before_any_work(paper, command, tmp_path):
    names = files_of(paper, "multi30k")
    for name in names:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"a dog\n" * (3 if ".val.de." in name else 2)))
    line = command(paper, "multi30k")
    assert f"{tmp_path}/data/translation/multi30k.val.de.gz has 3 lines and {tmp_path}/data/translation/multi30k.val.en.gz has 2" in line


def test_a_file_that_a_job_alone_names_is_looked_at_too(command, tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    one = Experiment("one", "cpu", jobs=lambda size: [Job("one", "tests.killed_run:number", {"seed": 0}, (str(weights),))])
    with pytest.raises(DataError, match=f"{weights} is empty"):
        experiment.measure("demo", (one,), None, "cpu", lambda text: None)
