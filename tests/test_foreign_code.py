"""Loading never runs foreign code, and no name in a file leads out of the file's folder. Each test really tries.

ATTEMPTS is the list; the table of docs/reliability.md counts it. An attempt plants something that makes the folder `mark` when it is
run or followed, and hands it to the code that opens such things. That the payloads work where they are let is tested, too.
"""

import contextlib
import io
import json
import os
import pickle
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from common import models
from common.claims import records
from common.claims.records import load_claims, record_path, write_record
from common.data import chains
from common.data.speech import fsdd_bank
from common.errors import DataError, ModelError, RecordError, SetupError
from common.models import load, tiny
from common.training.checkpoints import check_shards, read_checkpoint
from common.training.cli import check_checkpoint
from tests import killed_run
from tests.sample_records import claim, claims_yaml, record


class Attempt(NamedTuple):
    """act(folder, mark): raises what is expected, or returns. ends: "error" or "result"."""

    group: str
    name: str
    ends: str
    act: Callable


ATTEMPTS: list[Attempt] = []


def attempt(group: str, name: str, ends: str = "error"):
    return lambda act: ATTEMPTS.append(Attempt(group, name, ends, act)) or act


class Payload:
    """Makes the mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


TEMPLATE = ("{% for c in ''.__class__.__base__.__subclasses__() %}{% if c.__name__ == '_wrap_close' %}"
            "{{ c.__init__.__globals__['mkdir']('MARK') }}{% endif %}{% endfor %}")
TAG = "!!python/object/apply:os.mkdir ['MARK']"


def refused(call, *arguments, error, said: str = "") -> None:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert said in str(caught.value), caught.value


def test_the_payloads_work_where_they_are_let(tmp_path):
    import jinja2

    pickle.loads(pickle.dumps(Payload(tmp_path / "a")))
    yaml.unsafe_load(TAG.replace("MARK", str(tmp_path / "b")))
    jinja2.Environment().from_string(TEMPLATE.replace("MARK", str(tmp_path / "c"))).render()
    torch.save(Payload(tmp_path / "d"), tmp_path / "d.ckpt")
    torch.load(tmp_path / "d.ckpt", weights_only=False)
    assert all((tmp_path / name).is_dir() for name in "abcd")


# -- models ------------------------------------------------------------------------------------------------
def a_model(folder: Path) -> Path:
    load(tiny()).model.save_pretrained(folder / "model")
    return folder / "model"


@attempt("pickle in place of weights", "model.safetensors that is one")
def _(folder, mark):
    (a_model(folder) / "model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    refused(load, str(folder / "model"), error=ModelError, said="damaged")


@attempt("pickle in place of weights", "pytorch_model.bin alone")
def _(folder, mark):
    (a_model(folder) / "model.safetensors").unlink()
    torch.save(Payload(mark), folder / "model" / "pytorch_model.bin")
    refused(load, str(folder / "model"), error=ModelError, said="pickle")


@attempt("pickle in place of weights", "pytorch_model.bin beside safetensors", "result")
def _(folder, mark):
    torch.save(Payload(mark), a_model(folder) / "pytorch_model.bin")
    assert load(str(folder / "model")).source["kind"] == "folder"


for file, entries in (("config.json", {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}),
                      ("tokenizer_config.json", {"AutoTokenizer": ["evil.C", None]})):
    @attempt("remote code", f"auto_map in {file}")
    def _(folder, mark, file=file, entries=entries):
        path = a_model(folder) / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {"auto_map": entries}))
        (path.parent / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})")
        refused(load, str(path.parent), error=ModelError, said="code of its own")


@attempt("remote code", "a chat template that leaves the sandbox")
def _(folder, mark):
    from jinja2.exceptions import SecurityError

    words = chains.tokenizer()
    words.chat_template = TEMPLATE.replace("MARK", str(mark))
    words.save_pretrained(a_model(folder))
    loaded = load(str(folder / "model")).tokenizer
    assert "_wrap_close" in loaded.chat_template
    refused(loaded.apply_chat_template, [{"role": "user", "content": "x"}], error=SecurityError)


# -- checkpoints -------------------------------------------------------------------------------------------
@attempt("malicious checkpoint", "a .ckpt for --ckpt_path")
def _(folder, mark):
    torch.save({"state_dict": Payload(mark)}, folder / "x.ckpt")
    refused(check_checkpoint, folder / "x.ckpt", error=SetupError, said="would run code")


@attempt("malicious checkpoint", "a bare pickle for --ckpt_path")
def _(folder, mark):
    (folder / "x.ckpt").write_bytes(pickle.dumps(Payload(mark)))
    refused(check_checkpoint, folder / "x.ckpt", error=SetupError, said="no checkpoint")


@attempt("malicious checkpoint", "where TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set")
def _(folder, mark):
    torch.save({"state_dict": Payload(mark)}, folder / "x.ckpt")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        refused(read_checkpoint, folder / "x.ckpt", error=SetupError, said="would run code")
    finally:
        del os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"]


@attempt("malicious checkpoint", "last.ckpt of a run that goes on")
def _(folder, mark):
    killed_run.paper(folder)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": Payload(mark)}, folder / "run" / "checkpoints" / "last.ckpt")
    with contextlib.redirect_stderr(io.StringIO()) as line:
        refused(killed_run.train, folder, error=SystemExit, said="2")
    assert "would run code" in line.getvalue()


@attempt("malicious checkpoint", "the pickled index of one in shards")
def _(folder, mark):
    (folder / "last.ckpt").mkdir()
    (folder / "last.ckpt" / ".metadata").write_bytes(pickle.dumps(Payload(mark)))
    refused(check_checkpoint, folder / "last.ckpt", error=SetupError, said="would run code")


@attempt("malicious checkpoint", "an address")
def _(folder, mark):
    refused(check_checkpoint, Path("https://example.org/x.ckpt"), error=SetupError, said="no file")


def test_a_sound_checkpoint_in_shards_passes(tmp_path):
    import torch.distributed.checkpoint as dcp

    dcp.save({"w": torch.arange(4.0), "n": {"step": 3}}, checkpoint_id=tmp_path / "shards", no_dist=True)
    torch.save({"global_step": 3}, tmp_path / "shards" / "meta.pt")
    check_shards(tmp_path / "shards")


# -- claims and configs ------------------------------------------------------------------------------------
@attempt("YAML that makes objects", "claims.yaml")
def _(folder, mark):
    (folder / "claims.yaml").write_text("paper: " + TAG.replace("MARK", str(mark)))
    refused(load_claims, folder / "claims.yaml", error=RecordError, said="claims.yaml: not valid YAML")


def with_config(folder: Path, change: Callable[[dict], None] | str, said: str = "") -> None:
    """A training by a changed config; said: in the line by which it is refused, or nothing if it is not."""
    path = killed_run.paper(folder) / "config.yaml"
    if isinstance(change, str):
        path.write_text(path.read_text() + change)
    else:
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config))
    with contextlib.redirect_stderr(io.StringIO()) as line:
        if not said:
            killed_run.train(folder)
        else:
            refused(killed_run.train, folder, error=SystemExit, said="2")
    assert said in line.getvalue()


@attempt("YAML that makes objects", "a config")
def _(folder, mark):
    with_config(folder, "\nseed_everything: " + TAG.replace("MARK", str(mark)), "could not determine a constructor")


def process(mark: Path) -> dict:
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["mkdir", str(mark)]}}


@attempt("config that names other classes", "for the model")
def _(folder, mark):
    with_config(folder, lambda config: config.update(model=process(mark)), "subclass of LightningModule")


@attempt("config that names other classes", "for a callback")
def _(folder, mark):
    with_config(folder, lambda config: config["trainer"]["callbacks"].append(process(mark)), "subclass of Callback")


@attempt("config that names other classes", "where any value may stand", "result")
def _(folder, mark):
    with_config(folder, lambda config: config["model"].update(init_args={"anything": {"a": process(mark)}}))


@attempt("config that names other classes", "from a file beside it")
def _(folder, mark):
    (killed_run.paper(folder) / "evil_neighbour.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass")
    with_config(folder, lambda config: config.update(model={"class_path": "evil_neighbour.Evil"}), "No module named")


# -- paths -------------------------------------------------------------------------------------------------
def a_zip(folder: Path, member: zipfile.ZipInfo | str, content: bytes) -> None:
    (folder / "speech").mkdir()
    with zipfile.ZipFile(folder / "speech" / "fsdd.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)


def a_recording() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\x10" * 800)
    return buffer.getvalue()


for name in ("../../7_mark_9.wav", "/7_mark_9.wav", "recordings/../../7_mark_9.wav"):
    @attempt("path in an archive", name, "result")
    def _(folder, mark, name=name):
        a_zip(folder, name, a_recording())
        before = sorted(folder.parent.rglob("*"))
        assert fsdd_bank("train", folder).speakers == ["mark"]
        assert sorted(folder.parent.rglob("*")) == before and not Path("/7_mark_9.wav").exists()


@attempt("path in an archive", "a symbolic link to a recording elsewhere")
def _(folder, mark):
    (folder / "elsewhere.wav").write_bytes(a_recording())
    link = zipfile.ZipInfo("7_mark_9.wav")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    a_zip(folder, link, str(folder / "elsewhere.wav").encode())
    refused(fsdd_bank, "train", folder, error=DataError, said="fsdd.zip")


@attempt("path in an archive", "a recording that unpacks to 11 MB")
def _(folder, mark):
    a_zip(folder, "7_mark_9.wav", bytes(11_000_000))
    refused(fsdd_bank, "train", folder, error=DataError, said="7_mark_9.wav")


for name in ("../outside.safetensors", "/outside.safetensors", "inner/../../outside.safetensors", "weights.bin", 7):
    @attempt("path in a model's files", f"a shard called {name}")
    def _(folder, mark, name=name):
        path = a_model(folder)
        (path / "model.safetensors").rename(folder / "outside.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        refused(load, str(path), error=ModelError, said="of this very folder")


for name in ("package:common/../tests/conftest.py", "package:common//etc/passwd", "package:../common/a.gguf"):
    @attempt("path in a config", f"base {name}")
    def _(folder, mark, name=name):
        refused(load, name, error=ModelError)


for name in ("demo/../C1", "../demo/C1", "demo/C1/../../C2", "demo//C1", "demo/C1\n", "demo/C1.analytic"):
    @attempt("path in a claim", f"id {name!r}")
    def _(folder, mark, name=name):
        path = claims_yaml(folder, claim(id=name))
        refused(load_claims, path, error=RecordError, said="$.claims[0].id")


@attempt("path in a record", "a rung that climbs, where jsonschema is not installed")
def _(folder, mark):
    for rung in ("../../analytic", "/analytic", "analytic\n", ""):
        refused(record_path, folder, "demo/C1", rung, error=RecordError)
    refused(record_path, folder, "demo/..", "analytic", error=RecordError)


@attempt("path in a record", "a link in the results folder", "result")
def _(folder, mark):
    (folder / "elsewhere.json").write_text("mine")
    (folder / "results").mkdir()
    (folder / "results" / "C1.paper-scale.json").symlink_to(folder / "elsewhere.json")
    write_record(record(), folder / "results")
    assert (folder / "elsewhere.json").read_text() == "mine" and records.read_records(folder / "results") == [record()]


@pytest.mark.parametrize("attempt", [pytest.param(a, id=f"{a.group}, {a.name}") for a in ATTEMPTS])
def test_it_is_refused_or_harmless(attempt, tmp_path, monkeypatch):
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    attempt.act(tmp_path / "in", tmp_path / "mark")
    assert not (tmp_path / "mark").exists()


def test_the_hub_is_asked_for_no_code_and_no_pickle():
    endings = {pattern.rpartition(".")[2] for pattern in models.HUB_FILES}
    assert not endings & {"py", "bin", "pt", "pth", "pkl", "ckpt"} and endings
