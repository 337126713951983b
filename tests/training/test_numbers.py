"""Numbers of a training's config that torch and Lightning take, and that train something else than they say, are refused."""

import contextlib
import errno
import io
import os

import pytest
from jsonargparse import Namespace

from common.errors import SetupError
from common.training.cli import check_numbers


def test_what_a_config_holds_deeper_is_looked_at_and_what_means_something_is_left():
    check_numbers(Namespace(model=Namespace(init_args={"config": {"lr": 0.0, "grad_clip": None}, "learning_rate": 1, "warmup_steps": 0})))
    for name in ("lr", "grad_clip"):
        with pytest.raises(SetupError, match=rf"model.config.{name} is nan: a number from 0 on"):
            check_numbers(Namespace(model={"config": {name: float("nan")}}))
    for name in ("samples", "cap", "router_hidden"):
        with pytest.raises(SetupError, match=rf"model.{name} is 0: a number from 1 on"):
            check_numbers(Namespace(model={name: 0}))


@pytest.fixture
def rehearsal(tmp_path):
    """rehearsal(folder, more options): the line that a training into this folder ends with, before it computes anything."""
    from papers.skipgpt.train import cli

    def begin(folder, *more):
        said = io.StringIO()
        with pytest.raises(SystemExit) as left, contextlib.redirect_stderr(said):
            cli(["fit", "--config", "papers/skipgpt/configs/cpu/rehearsal.yaml", f"--trainer.default_root_dir={folder}",
                 f"--trainer.logger.init_args.save_dir={tmp_path / 'log'}",
                 f"--trainer.callbacks.init_args.dirpath={tmp_path / 'kept'}", *more])
        assert left.value.code == 2
        (line,) = (each for each in said.getvalue().splitlines() if each.startswith("skipgpt:"))
        return line

    return begin


def test_where_a_training_could_keep_nothing_is_said_before_it(tmp_path, rehearsal, monkeypatch):
    """A file, a pipe or a closed folder in the place of the product, the checkpoints or the log: not after hours, not by a traceback."""
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *args, **kwargs: pytest.fail("the training has begun"))
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe"):
        assert f"trainer, default_root_dir: {tmp_path / name} is no folder" in rehearsal(tmp_path / name)
        assert f"trainer, default_root_dir: {tmp_path / name} is no folder" in rehearsal(tmp_path / name / "deeper")
        for option in ("logger.init_args.save_dir", "callbacks.init_args.dirpath"):
            line = rehearsal(tmp_path / "new", f"--trainer.{option}={tmp_path / name / 'x y'}")
            assert f"trainer, {option.rpartition('.')[2]}: {tmp_path / name} is no folder" in line
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "routers").write_text("x")
    assert f"{tmp_path / 'old' / 'routers'} is no folder" in rehearsal(tmp_path / "old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert f"nothing can be written to {tmp_path}: the disk is full; make room" in rehearsal(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old", "pipe"]  # and no folder was made


def test_a_config_that_is_no_text_is_said_in_a_line(tmp_path, rehearsal):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "a config is no text in UTF-8" in rehearsal(tmp_path / "new", f"--config={tmp_path / 'b.yaml'}")


@pytest.mark.parametrize("every", [1, 1000])
def test_weights_that_are_not_finite_are_neither_kept_nor_called_a_product(tmp_path, every):
    """On-Policy SFT in float16 trains one step: Adam's 1e-8 is 0 there, and a weight without a gradient becomes 0 / 0."""
    from papers.onpolicysft.train import cli

    said, folder = io.StringIO(), tmp_path / "run"
    with pytest.raises(SystemExit) as left, contextlib.redirect_stderr(said):
        cli(["fit", "--config", "papers/onpolicysft/configs/cpu/rehearsal.yaml", f"--trainer.default_root_dir={folder}",
             f"--trainer.logger.init_args.save_dir={folder}", f"--trainer.callbacks.init_args.dirpath={folder / 'kept'}",
             "--model.init_args.model={name: common/standins/reasoner-weights/seed0, dtype: float16}", "--trainer.max_steps=1",
             "--trainer.limit_val_batches=0", f"--trainer.callbacks.init_args.every_n_train_steps={every}"])
    assert left.value.code == 2
    assert "onpolicysft: the trained weights are not finite after step 1, and are not kept" in said.getvalue()
    assert not (folder / "model").exists() and not list(folder.rglob("*.ckpt"))
