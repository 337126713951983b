"""Faults, each of which ends in a clear error or in the right result, and never in a wrong record.

FAULTS is the list; the table of docs/reliability.md counts it. A fault is a function of a `Demo`, a made-up paper in a folder of its
own; it causes the fault, and says what it got. After every fault the records are the right ones or the ones from before,
nothing half-written is left, and a run without the fault gives the right records.
"""

import datetime
import errno
import fcntl
import gzip
import os
import re
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from common import files
from common.claims import machine
from common.claims.records import load_claims, read_record, read_records, same_result, stale
from common.data import prose, speech
from common.errors import FileError, ModelError, SetupError
from common.models import load, tiny
from common.runs import experiment, reproduce
from common.runs.experiment import Experiment
from common.runs.jobs import Job, run_jobs
from common.training.checkpoints import WholeCheckpoints, read_checkpoint, resume_from
from common.training.cli import check_checkpoint
from common.vision import tower as vision
from tests import killed_run
from tests.sample_records import RUN, claim, claims_yaml, held

VALUES = [killed_run.number(i)["value"] for i in range(3)]


class Fault(NamedTuple):
    """group, name: for the table and the test's id. ends: "error" or "result". known: why it is lost, if it is."""

    group: str
    name: str
    ends: str
    act: Callable
    known: str = ""


FAULTS: list[Fault] = []


def fault(group: str, name: str, ends: str):
    return lambda act: FAULTS.append(Fault(group, name, ends, act)) or act


class Demo:
    """A paper with one claim. run(): its exit status and what it said to stderr."""

    def __init__(self, folder: Path, monkeypatch, capsys):
        self.here, self.monkeypatch, self.capsys, self.measured = folder / "papers" / "demo", monkeypatch, capsys, 0
        self.cache, self.results = folder / "cache", self.here / "results"
        self.scratch = self.results / ".scratch"
        self.here.mkdir(parents=True)
        (self.here / "eval.py").write_text("")
        claims_yaml(self.here, claim("above", "cpu-small"))
        facts = {key: value for key, value in RUN.items() if key != "sources"}  # as a run begins: sources are known at its end
        monkeypatch.setattr(reproduce, "start_run", lambda command: facts | {"command": command})
        monkeypatch.setattr(reproduce, "git_state", lambda: (RUN["commit"], RUN["dirty"]))

    def run(self, measure=None, *options: str) -> tuple[int, str]:
        def plain(rung, log) -> reproduce.Outcome:
            self.measured += 1
            return self.outcome()

        self.capsys.readouterr()
        status = reproduce.main(self.here, measure or plain, list(options))
        self.said = self.capsys.readouterr()
        return status, self.said.err

    def outcome(self, values=tuple(VALUES)) -> reproduce.Outcome:
        return reproduce.Outcome({"C1": held(list(values))}, documents={"all": {"values": list(values)}})

    def by_jobs(self, trouble: str = "") -> tuple[int, str]:
        """The same, measured by jobs in a worker. trouble: what happens to the second one, once."""
        extra = {"trouble": trouble, "once": str(self.cache.parent / "once")} if trouble else {}
        jobs = [Job(f"number/{i}", "tests.killed_run:number", {"seed": i} | (extra if i == 1 else {})) for i in range(3)]
        return self.run(lambda rung, log: self.outcome(r["value"] for r in run_jobs(jobs, self.cache, workers=1, log=log).values()))

    def fails(self, module, name: str, code: int, inside: Path | None = None) -> None:
        """From now on a call fails as the system would let it fail, where it concerns the folder `inside`."""
        original = getattr(module, name)

        def failing(*arguments, **options):
            if inside is None or str(arguments[0]).startswith(str(inside)):
                raise OSError(code, os.strerror(code), str(arguments[0]) if inside else None)
            return original(*arguments, **options)

        self.monkeypatch.setattr(module, name, failing)


def refused(call, *arguments, error=SetupError) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    return str(caught.value)


# -- full and closed disks ---------------------------------------------------------------------------------
@fault("disk full", "from the start", "error")
def _(demo):
    demo.fails(os, "fsync", errno.ENOSPC)
    status, said = demo.run()
    assert status == 2 and "disk is full" in said and demo.measured == 0


@fault("disk full", "since the run began, under a new record", "error")
def _(demo):
    status, said = demo.run(lambda *_: demo.fails(os, "fsync", errno.ENOSPC) or demo.outcome())
    assert status == 2 and "disk is full" in said and "C1.cpu-small.json" in said


@fault("disk full", "under a record that was there", "error")
def _(demo):
    assert demo.run() == (0, "")
    before = (demo.scratch / "C1.cpu-small.json").read_bytes()
    status, said = demo.run(lambda *_: demo.fails(os, "replace", errno.ENOSPC) or demo.outcome([0.9, 0.8, 0.7]))
    assert status == 2 and "intact" in said and (demo.scratch / "C1.cpu-small.json").read_bytes() == before


@fault("disk full", "under a job's result", "error")
def _(demo):
    demo.fails(os, "replace", errno.ENOSPC, demo.cache)
    status, said = demo.by_jobs()
    assert status == 2 and "job number/0 failed" in said and "disk is full" in said


@fault("disk full", "under a checkpoint", "error")
def _(demo):
    path = demo.cache / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"global_step": 5}, path)
    demo.fails(os, "fsync", errno.ENOSPC)
    assert "disk is full" in refused(WholeCheckpoints().save_checkpoint, {"global_step": 6}, path)
    assert read_checkpoint(path) == {"global_step": 5}


@fault("disk full", "for real: no file may grow past 300 bytes", "error")
def _(demo):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    demo.capsys.readouterr()
    with demo.capsys.disabled():  # what pytest keeps of the output is a file, too
        said = ""
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        try:
            from common.files import write_atomic

            write_atomic(demo.scratch / "C1.cpu-small.json", "x" * 4000)
        except FileError as error:
            said = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "ulimit -f" in said and not (demo.scratch / "C1.cpu-small.json").exists()


for code, word in ((errno.EROFS, "read-only"), (errno.EACCES, "no permission")):
    @fault("read-only results folder", f"{errno.errorcode[code]} for every file in it", "error")
    def _(demo, code=code, word=word):
        demo.fails(os, "open", code, demo.results)
        status, said = demo.run()
        assert status == 2 and word in said and str(demo.scratch) in said and demo.measured == 0  # said before the work


@fault("read-only results folder", "which cannot be made either", "error")
def _(demo):
    demo.fails(Path, "mkdir", errno.EACCES, demo.results)
    status, said = demo.run()
    assert status == 2 and "no permission" in said and demo.measured == 0


# -- what is read back -------------------------------------------------------------------------------------
def damaged_job(name: str, damage: Callable[[str, Path], str]) -> None:
    @fault("corrupt cache", name, "result")
    def _(demo):
        demo.by_jobs()
        file, other = (next(demo.cache.glob(f"number.{i}.*.json")) for i in (1, 2))
        file.write_text(damage(file.read_text(), other))
        shutil.rmtree(demo.scratch)
        status, said = demo.by_jobs()
        assert status == 0 and said.count("is damaged") == 1 and file.name in said


damaged_job("a job's result cut short", lambda text, other: text[: len(text) // 2])
damaged_job("other JSON", lambda text, other: "[1, 2]")
damaged_job("the result of another job", lambda text, other: other.read_text())
damaged_job("a number become NaN", lambda text, other: re.sub(r'("value": )[\d.]+', r"\1NaN", text))
damaged_job("a digit changed", lambda text, other: re.sub(r'("value": 0\.)\d', lambda m: m[1] + "0", text))
damaged_job("nested a hundred thousand deep", lambda text, other: "[" * 100_000)


@fault("corrupt cache", "a flipped bit in token ids", "result")
def _(demo):
    from common.data import chains

    demo.monkeypatch.setenv("NINEFOLD_CACHE", str(demo.cache))
    first = prose.token_ids(["a b", "c"], chains.tokenizer())
    flip(next(demo.cache.glob("tokens-*.npy")), -40)
    assert torch.equal(prose.token_ids(["a b", "c"], chains.tokenizer()), first)
    assert files.sealed(next(demo.cache.glob("tokens-*.npy")))


@fault("corrupt cache", "features of pictures cut short", "result")
def _(demo):
    asked, black = [], np.zeros((2, 2, 3), np.uint8)
    demo.monkeypatch.setenv("NINEFOLD_CACHE", str(demo.cache))
    demo.monkeypatch.setattr(vision, "onnx_file", lambda: Path(__file__))
    demo.monkeypatch.setattr(vision, "dinov2", lambda: None)
    demo.monkeypatch.setattr(vision, "encode", lambda *_: asked.append(1) or torch.arange(64.0).half())
    vision.features("black", [black], [1])
    path = next((demo.cache / "features").glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-60])
    again = vision.features("black", [black], [1])
    assert torch.equal(again, torch.arange(64.0).half()) and len(asked) == 2
    assert torch.equal(vision.features("black", [black], [1]), again) and len(asked) == 2


@fault("corrupt cache", "a flipped bit in the spoken words", "result")
def _(demo):
    demo.cache.mkdir()
    path = demo.cache / "bank.npz"
    np.savez_compressed(path, rate=8000, **{"a|one": np.arange(200, dtype=np.int16)})
    assert speech._read_bank(path)[0] == 8000
    with zipfile.ZipFile(path) as archive:
        flip(path, archive.getinfo("a|one.npy").header_offset + 120)
    assert speech._read_bank(path) is None  # which espeak_bank makes anew


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.unlink()  # a new file: the old one may be mapped
    path.write_bytes(data)


def model(demo) -> Path:
    load(tiny()).model.save_pretrained(demo.cache / "model")
    return demo.cache / "model" / "model.safetensors"


@fault("corrupt checkpoint", "safetensors cut short", "error")
def _(demo):
    path = model(demo)
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged or cut short" in refused(load, str(path.parent), error=ModelError)


@fault("corrupt checkpoint", "a flipped bit in a safetensors header", "error")
def _(demo):
    flip(path := model(demo), 9)
    assert "model" in refused(load, str(path.parent), error=ModelError)


@fault("corrupt checkpoint", "a flipped bit in safetensors, whose hash is in the record", "result")
def _(demo):
    path = model(demo)
    first = load(str(path.parent)).source["weights_sha256"]
    flip(path, -3)
    assert load(str(path.parent)).source["weights_sha256"] != first


def checkpoint(demo) -> Path:
    path = demo.cache / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"global_step": 5, "state_dict": {"w": torch.arange(500.0)}}, path)
    return path


@fault("corrupt checkpoint", ".ckpt cut short", "error")
def _(demo):
    path = checkpoint(demo)
    path.write_bytes(path.read_bytes()[:-200])
    assert str(path) in refused(check_checkpoint, path)


@fault("corrupt checkpoint", "a flipped bit in a .ckpt, which torch itself would not see", "error")
def _(demo):
    path = checkpoint(demo)
    at = path.read_bytes().index(torch.arange(500.0).numpy().tobytes()[400:800])
    flip(path, at)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], torch.arange(500.0))
    assert "checksum" in refused(check_checkpoint, path) and "checksum" in refused(WholeCheckpoints().load_checkpoint, path)


@fault("corrupt checkpoint", "a flipped bit in last.ckpt of a run that goes on", "error")
def _(demo):
    folder = demo.cache / "again"
    killed_run.paper(folder)
    product = killed_run.train(folder).read_bytes()
    path = next((folder / "run" / "checkpoints").glob("last.ckpt"))
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if "/data/" in n)
        at = path.read_bytes().index(archive.read(name))
    flip(path, at)
    demo.capsys.readouterr()
    assert refused(killed_run.train, folder, error=SystemExit) == "2" and "checksum" in demo.capsys.readouterr().err
    assert (folder / "run" / "model.safetensors").read_bytes() == product


@fault("corrupt checkpoint", "in a training's cache, which then begins anew", "result")
def _(demo):
    path = checkpoint(demo)
    assert resume_from(path.parent) == (path, 5)
    path.write_bytes(b"PK")
    assert resume_from(path.parent) == (None, 0) and "Training again from the start" in demo.capsys.readouterr().err


@fault("corrupt record", "cut short, in results/", "error")
def _(demo):
    demo.run(None, "--publish")
    path = demo.results / "C1.cpu-small.json"
    whole = path.read_text()
    path.write_text(whole[:300])
    status, said = demo.run()
    assert status == 2 and str(path) in said and "not valid JSON" in said
    path.write_text(whole)


@fault("corrupt record", "cut short, in results/.scratch, where it is written anew", "result")
def _(demo):
    demo.run()
    path = demo.scratch / "C1.cpu-small.json"
    path.write_text(path.read_text()[:300])
    assert demo.run() == (0, "")


@fault("corrupt record", "a folder in its place", "error")
def _(demo):
    (demo.scratch / "C1.cpu-small.json").mkdir(parents=True)
    status, said = demo.run()
    assert status == 2 and "is a folder" in said and demo.measured == 0
    (demo.scratch / "C1.cpu-small.json").rmdir()


# -- locks, two runs, clocks -------------------------------------------------------------------------------
@fault("stale lock", "what a killed run was writing", "result")
def _(demo):
    demo.scratch.mkdir(parents=True)
    (demo.scratch / ".C1.cpu-small.json.0a1b2c3d.tmp").write_text('{"half')
    (demo.scratch / ".folder.0a1b2c3d.tmp").mkdir()
    assert demo.run() == (0, "")


@fault("two runs at once", "one cleans up while the other one writes", "result")
def _(demo):
    with files.replacing(demo.scratch / "C9.analytic.json") as file:
        file.write(b"{}")
        assert files.sweep(demo.scratch) == 0
    assert (demo.scratch / "C9.analytic.json").read_bytes() == b"{}"
    (demo.scratch / "C9.analytic.json").unlink()


@fault("two runs at once", "one takes a file for a leftover before its writer has locked it", "result")
def _(demo):
    flock, swept = fcntl.flock, []

    def late(handle, how):
        if not swept and how == fcntl.LOCK_EX:
            swept.append(files.sweep(demo.scratch))
        return flock(handle, how)

    demo.monkeypatch.setattr(fcntl, "flock", late)
    assert demo.run() == (0, "") and swept == [1]


@fault("two runs at once", "both build one folder of the cache", "result")
def _(demo):
    with files.building(demo.cache / "model") as slow:
        with files.building(demo.cache / "model") as quick:
            (quick / "first").touch()
        (slow / "second").touch()
    assert os.listdir(demo.cache) == ["model"] and os.listdir(demo.cache / "model") == ["first"]


@fault("clock set back", "to 1970 between two runs", "result")
def _(demo):
    demo.run()
    first = read_record(demo.scratch / "C1.cpu-small.json")

    class Early(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1970, 1, 1, tzinfo=tz)

    demo.monkeypatch.setattr(machine, "datetime", Early)
    demo.monkeypatch.setattr(time, "time", lambda: 0.0)
    demo.monkeypatch.setattr(reproduce, "start_run", machine.start_run)
    demo.monkeypatch.setattr(reproduce, "git_state", machine.git_state)
    (demo.scratch / "C1.cpu-small.json").unlink()
    assert demo.run() == (0, "")
    second = read_record(demo.scratch / "C1.cpu-small.json")
    assert second["run"]["started_at"].startswith("1970") and second["run"]["seconds"] >= 0 and same_result(first, second)


@fault("clock set back", "so that finished work is of the future", "result")
def _(demo):
    demo.by_jobs()
    for path in (demo.cache, demo.scratch):
        for file in path.iterdir():
            os.utime(file, (4e9, 4e9))
    assert demo.by_jobs() == (0, "") and "reusing 3 of 3" in demo.said.out


# -- what changes under a run ------------------------------------------------------------------------------
def changing(demo, text: str) -> Callable:
    def measure(rung, log):
        path = demo.here / "claims.yaml"
        path.write_text(text or path.read_text().replace("above: 0.1", "above: 0.0"))
        return demo.outcome()

    return measure


for name, text in (("to a milder threshold", ""), ("to something that is no YAML", "claims: [")):
    @fault("claims.yaml changed during the run", name, "result")
    def _(demo, text=text):
        before = (demo.here / "claims.yaml").read_text()
        claims = load_claims(demo.here / "claims.yaml")
        assert demo.run(changing(demo, text)) == (0, "") and "count as stale" in demo.said.out
        (found,) = read_records(demo.scratch)
        assert found["protocol"]["rule"]["above"] == 0.1 and not stale(found, claims)
        if not text:
            assert stale(found, load_claims(demo.here / "claims.yaml"))
        (demo.here / "claims.yaml").write_text(before)


@fault("code changed during the run", "whose records were to name a commit", "error")
def _(demo):
    def measure(rung, log):
        demo.monkeypatch.setattr(reproduce, "git_state", lambda: (RUN["commit"], True))
        return demo.outcome()

    status, said = demo.run(measure, "--publish")
    assert status == 2 and "the tree changed during the run" in said and not read_records(demo.results)
    assert demo.run(measure) == (0, "") and read_record(demo.scratch / "C1.cpu-small.json")["run"]["dirty"]


# -- inputs ------------------------------------------------------------------------------------------------
def damaged_input(name, files):
    @fault("input empty, cut short or unequal", name, "error")
    def _(demo):
        paths = [demo.cache.parent / file for file in files]
        for path, content in zip(paths, files.values()):
            path.mkdir() if content is None else path.write_bytes(content)
        job = Job("number/0", "tests.killed_run:number", {"seed": 0}, tuple(map(str, paths)))
        reads = Experiment("reads", "cpu", jobs=lambda size: [job])
        demo.monkeypatch.setattr(experiment, "run_jobs", lambda *_, **__: pytest.fail("a job was started"))
        status, said = demo.run(lambda rung, log: experiment.measure("demo", (reads,), None, rung, log))
        assert status == 2 and str(paths[-1]) in said and len(said.splitlines()) == 1 and not read_records(demo.scratch)


damaged_input("a text without a byte", {"wikitext.txt": b""})
damaged_input("an archive cut short", {"train.en.gz": gzip.compress(bytes(range(256)) * 9)[:-40]})
damaged_input("an error page in place of lines of JSON", {"gsm8k.jsonl": b"<!DOCTYPE html>"})
damaged_input("a folder of the file's name", {"fsdd.zip": None})
damaged_input("a translation that lacks a line", {"val.en.gz": gzip.compress(b"a dog\na cat\n"), "val.de.gz": gzip.compress(b"ein Hund\n")})


# -- workers -----------------------------------------------------------------------------------------------
@fault("worker lost", "killed, as the system kills when memory runs out", "error")
def _(demo):
    status, said = demo.by_jobs("killed")
    assert status == 2 and "number/1" in said and "memory" in said and "run again" in said
    assert demo.by_jobs("killed") == (0, "") and "reusing 1 of 3" in demo.said.out


@fault("worker lost", "out of memory", "error")
def _(demo):
    status, said = demo.by_jobs("memory")
    assert status == 2 and "job number/1 failed: MemoryError: no room for 16 GB" in said
    assert demo.by_jobs("memory") == (0, "")


# -- all of them -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [pytest.param(f, id=f"{f.group}, {f.name}", marks=[pytest.mark.xfail(strict=True)] if f.known else [])
                                   for f in FAULTS])
def test_a_fault_ends_in_an_error_or_the_right_record(fault, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as caused:
        fault.act(Demo(tmp_path / "demo", caused, capsys))
    reference = Demo(tmp_path / "reference", monkeypatch, capsys)
    assert reference.run() == (0, "")
    (right,) = read_records(reference.scratch)
    demo = tmp_path / "demo" / "papers" / "demo"
    for folder in (demo / "results", demo / "results" / ".scratch"):
        for found in read_records(folder):
            assert same_result(found, right)
    again = Demo.__new__(Demo)
    again.__dict__.update(reference.__dict__, here=demo, results=demo / "results", scratch=demo / "results" / ".scratch")
    assert again.run() == (0, "") and [same_result(r, right) for r in read_records(again.scratch)] == [True]
    run_jobs([], tmp_path / "demo" / "cache")  # as every run begins
    assert not list((tmp_path / "demo").rglob("*.tmp"))


def test_a_wrong_record_would_be_seen(tmp_path, monkeypatch, capsys):
    demo = Demo(tmp_path / "demo", monkeypatch, capsys)
    demo.run()
    (right,) = read_records(demo.scratch)
    demo.run(lambda *_: demo.outcome([VALUES[0], VALUES[1], VALUES[2] + 1e-9]))
    assert not same_result(read_records(demo.scratch)[0], right)
