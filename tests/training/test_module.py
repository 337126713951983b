"""The training that all papers share, on a line through points: sums over the step, groups, clipping, whose checkpoint it is."""

from dataclasses import dataclass

import lightning as L
import pytest
import torch
from torch import nn

from common.errors import SetupError
from common.training.module import OneRun, StepTraining
from common.training.steps import StepData
from tests.numerics import close, far

pytestmark = pytest.mark.numerics


class Rows:
    """Points (x, y) of a row that has `weight` targets; what a step divides by is known beforehand."""

    def __init__(self, first, count):
        draw = torch.Generator().manual_seed(first)
        self.x = torch.randn(count, 3, generator=draw, dtype=torch.float64)
        self.y = self.x.sum(1) + torch.randn(count, generator=draw, dtype=torch.float64)
        self.counts = {"step_targets": torch.randint(1, 5, (count,), generator=draw)}

    def __getitem__(self, index):
        return self.x[index], self.y[index], self.counts["step_targets"][index]

    def collate(self, samples, sample_index, totals):
        x, y, weight = map(torch.stack, zip(*samples))
        return {"x": x, "y": y, "weight": weight, "sample_index": sample_index} | totals

    def blank(self, batch):
        return batch | {"weight": torch.zeros_like(batch["weight"])}


class Points(StepData):
    def __init__(self, batch_size=8, seed=1):
        super().__init__(batch_size, seed)

    def sequences(self):
        return Rows(self.seed, 64), Rows(100, 12)


@dataclass(frozen=True)
class Shape:
    bias: bool = True
    power: int = 2


class Line(StepTraining):
    PAPER, SETTINGS = "line", ("learning_rate", "shape")

    def __init__(self, shape=Shape(), learning_rate=0.05, fast=None, **more):
        super().__init__(learning_rate, **more)
        self.shape, self.fast, self.tokenizer = shape, fast, object()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = nn.Linear(3, 3).double().requires_grad_(False)
            self.trained = nn.Linear(3, 1, bias=shape.bias if shape else True).double()

    def error(self, batch):
        return (self.trained(self.frozen(batch["x"]))[:, 0] - batch["y"]).abs() ** (self.shape.power if self.shape else 2) * batch["weight"]

    def losses(self, batch):
        error = self.error(batch).sum() / batch["step_targets"]
        return {"loss": error, "shown": error.detach()}

    def held_out(self, batch):
        return self.error(batch).sum(), batch["weight"].sum()

    def rate_of(self, name):
        return self.fast if self.fast and name.endswith("bias") else super().rate_of(name)


def fit(module, tmp_path, steps=4, batch_size=8, seed=1, ckpt=None, **options):
    usual = dict(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, precision="64-true", logger=False, enable_progress_bar=False,
                 enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0, enable_checkpointing=False)
    trainer = L.Trainer(**(usual | options))
    trainer.fit(module, Points(batch_size, seed), ckpt_path=ckpt)
    return trainer


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.trained.parameters()])


def saved(tmp_path, **settings):
    module = Line(**settings)
    path = tmp_path / "a.ckpt"
    fit(module, tmp_path, steps=2).save_checkpoint(path)
    return module, path


class Gaps(Points):
    """Every second row has no target at all."""

    def sequences(self):
        train, held = super().sequences()
        train.counts["step_targets"][::2] = 0
        return train, held


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_of_which_nothing_is_scored_moves_nothing_and_is_counted(tmp_path, accumulate):
    """Not nan, and no step of the optimiser's: with weight decay and momentum a gradient of zero would still move the weights."""
    module, seen = Line(weight_decay=0.5, schedule="constant"), []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if (batch_idx + 1) % accumulate == 0:
                seen.append((batch["step_targets"] == 0, weights(module).clone(), trainer.callback_metrics["train/loss"].item()))

    usual = dict(accelerator="cpu", devices=1, max_steps=16, max_epochs=-1, precision="64-true", logger=False, enable_checkpointing=False,
                 enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, gradient_clip_val=1.0)
    trainer = L.Trainer(**usual, default_root_dir=tmp_path, accumulate_grad_batches=accumulate, callbacks=[Watch()])
    trainer.fit(module, Gaps(batch_size=accumulate))
    empty = [e for e, _, _ in seen]
    assert len(seen) == 16 and 0 < sum(empty) < 16 and module.skipped_steps == sum(empty)
    assert trainer.callback_metrics["train/skipped_steps"] == sum(empty)
    before = weights(Line())
    for none, after, loss in seen:
        assert torch.equal(after, before) == none and after.isfinite().all() and (loss == 0) == none
        before = after
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {16 - sum(empty)}


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_changes_nothing(tmp_path, accumulate):
    """Rows have other numbers of targets, so a mean of means would be another loss."""
    whole, parts = Line(), Line()
    logged = [fit(module, tmp_path, accumulate_grad_batches=n, gradient_clip_val=1.0).callback_metrics
              for module, n in ((whole, 1), (parts, accumulate))]
    close(weights(parts), weights(whole), rel=1e-12)
    close(logged[1]["train/loss"], logged[0]["train/loss"], rel=1e-12)
    close(logged[1]["train/shown"], logged[1]["train/loss"], rel=1e-12)
    far(weights(whole), weights(Line()))


def test_only_what_is_trained_is_in_a_checkpoint_and_comes_back(tmp_path):
    module, path = saved(tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert set(state) == {"trained.weight", "trained.bias"}
    unbroken, resumed = Line(), Line()
    fit(unbroken, tmp_path, steps=2)
    close(weights(unbroken), weights(module), rel=1e-12)
    assert fit(resumed, tmp_path, steps=2, ckpt=path).global_step == 2
    close(weights(resumed), weights(module), rel=1e-12)


@pytest.mark.parametrize(("changes", "says"), [
    ({"learning_rate": 0.1}, "learning_rate = 0.05; the config says 0.1"),
    ({"shape": Shape(power=4)}, "shape.power = 2; the config says 4"),
    ({"shape": None}, "shape = Shape; the config says None"),
    ({"seed": 3}, "seed = 1; the config says 3"),
])  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused_and_what_differs_is_named(tmp_path, changes, says):
    _, path = saved(tmp_path)
    with pytest.raises(SetupError, match=says):
        fit(Line(**changes), tmp_path, steps=2, ckpt=path)


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(SetupError, match=r"another training: trained.bias is \(1,\) in the file and absent here"):
        Line(shape=Shape(bias=False)).load_state_dict(Line().state_dict())
    with pytest.raises(SetupError, match=r"trained.weight is \(1, 2\) in the file and \(1, 3\) here"):
        Line().load_state_dict({"trained.weight": torch.zeros(1, 2), "trained.bias": torch.zeros(1)})


def test_a_checkpoint_of_another_paper_or_another_run_length_is_refused(tmp_path):
    _, path = saved(tmp_path)

    class Other(Line):
        PAPER = "other"

    with pytest.raises(SetupError, match="not written by a training of papers/other"):
        fit(Other(), tmp_path, steps=2, ckpt=path)
    with pytest.raises(SetupError, match="max_steps = 2; the config says 3"):
        fit(Line(), tmp_path, steps=3, ckpt=path)
    with pytest.raises(SetupError, match="samples per step = 8; the config says 4"):
        fit(Line(), tmp_path, steps=2, batch_size=4, ckpt=path)


def test_parameters_with_a_rate_of_their_own_are_a_group():
    module = Line(fast=0.5)
    module.trainer = L.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [(g["initial_lr"], [p.numel() for p in g["params"]]) for g in groups] == [(0.05, [3]), (0.5, [1])]


@pytest.mark.parametrize(("warmup", "schedule", "rates"), [
    (0, "constant", [1, 1, 1, 1]), (0, "linear", [1, 0.75, 0.5, 0.25]), (2, "linear", [0, 0.5, 1, 0.5]), (0.5, "linear", [0, 0.5, 1, 0.5]),
    (0, "cosine", [1, 0.8535533905932737, 0.5, 0.1464466094067262]),
])  # fmt: skip
def test_warm_up_is_a_number_of_steps_or_a_share_of_them(warmup, schedule, rates):
    module = Line(learning_rate=1.0, warmup_steps=warmup, schedule=schedule)
    module.trainer = L.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    made = module.configure_optimizers()
    found = []
    for _ in range(4):
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert found == pytest.approx(rates, rel=1e-9)


def test_without_a_number_of_steps_there_is_no_schedule():
    module = Line()
    module.trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(SetupError, match="max_steps is not set"):
        module.configure_optimizers()


class Shard(torch.Tensor):
    """Stands in for a DTensor: what FSDP2 keeps in shards has these two."""

    def full_tensor(self):
        return self.as_subclass(torch.Tensor)

    def to_local(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_clipping_takes_shards_and_whole_gradients_together(monkeypatch, shards):
    """3-4-5: the norm is that of all of them, whether none, one or all is sharded."""
    module = Line()
    parameters = [module.trained.weight, module.trained.bias]
    for i, (parameter, value) in enumerate(zip(parameters, ([[3.0, 0.0, 0.0]], [4.0]))):
        gradient = torch.tensor(value, dtype=torch.float64)
        parameter.grad = gradient.as_subclass(Shard) if i < shards else gradient
    module.trainer = L.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(type(module), "device_mesh", property(lambda self: "a mesh"), raising=False)
    module.configure_gradient_clipping(None, 1.0)
    clipped = torch.cat([p.grad.as_subclass(torch.Tensor).flatten() for p in parameters])
    close(clipped, torch.tensor([0.6, 0, 0, 0.8], dtype=torch.float64), rel=1e-6)
    module.configure_gradient_clipping(None, 10.0)
    close(parameters[1].grad.as_subclass(torch.Tensor), torch.tensor([0.8], dtype=torch.float64), rel=1e-6)  # below the limit nothing moves


def test_clipping_takes_a_gradient_of_no_dimension(monkeypatch):
    """FSDP2 leaves a scalar whole: it is scaled as the others are, and the factor has one dimension more."""
    module = Line()
    module.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    module.scale.grad, module.trained.bias.grad = torch.tensor(3.0, dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    module.trainer = L.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(type(module), "device_mesh", property(lambda self: "a mesh"), raising=False)
    module.configure_gradient_clipping(None, 1.0)
    assert module.scale.grad.shape == ()
    close(torch.cat([module.scale.grad[None], module.trained.bias.grad]), torch.tensor([0.6, 0.8], dtype=torch.float64), rel=1e-6)


class Broken(Line):
    """Its loss, or only its gradient (an infinite slope at zero), is none in the third step."""

    def __init__(self, how):
        super().__init__(schedule="constant")
        self.how, self.seen = how, []

    def losses(self, batch):
        self.seen.append(weights(self).clone())
        parts = super().losses(batch)
        if self.global_step == 2:
            bias = self.trained.bias.sum()
            parts["loss"] = parts["loss"] * float(self.how) if self.how != "slope" else parts["loss"] + (bias - bias.detach()).abs().sqrt()
        return parts


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("how", ["nan", "inf", "slope"])
def test_a_loss_or_gradient_that_is_none_ends_the_training_before_a_weight_moves(tmp_path, how, accumulate):
    module, good = Broken(how), Line(schedule="constant")
    with pytest.raises(SetupError, match=r"Optimiser step 3: its loss or a gradient is NaN or infinite \(loss .*--ckpt_path last"):
        fit(module, tmp_path, steps=4, accumulate_grad_batches=accumulate)
    fit(good, tmp_path, steps=2)
    close(weights(module), weights(good), rel=1e-12)
    assert len(module.seen) == 3 * accumulate


def test_validation_is_a_mean_over_targets_and_not_over_batches(tmp_path):
    module = Line(learning_rate=0.0)
    trainer = fit(module, tmp_path, steps=1, limit_val_batches=1.0, num_sanity_val_steps=0, val_check_interval=1,
                  check_val_every_n_epoch=None)
    rows = Rows(100, 12)
    batch = rows.collate([rows[i] for i in range(12)], list(range(12)), {})
    with torch.no_grad():
        expected = module.error(batch).sum() / batch["weight"].sum()
    close(trainer.callback_metrics["val/loss"].double(), expected.double(), rel=1e-6)  # logged in single precision


def test_a_validation_of_which_nothing_is_scored_has_no_loss(tmp_path):
    class Blank(Points):
        def sequences(self):
            train, held = super().sequences()
            held.counts["step_targets"][:] = 0
            return train, held

    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
                        precision="64-true", default_root_dir=tmp_path, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="no token of the validation rows is scored"):
        (found,) = trainer.validate(Line(), Blank(), verbose=False)
    assert found["val/loss"] != found["val/loss"], "nan, and not the best loss there is"


@pytest.mark.parametrize("which", [0, 1])
def test_data_without_a_row_are_refused(tmp_path, which):
    class Empty(Points):
        def sequences(self):
            return tuple(Rows(1, 0 if i == which else 8) for i in range(2))

    trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
                        precision="64-true", default_root_dir=tmp_path, enable_checkpointing=False)
    with pytest.raises(SetupError, match=f"Empty: no row is left to {('train', 'validate')[which]} on"):
        trainer.fit(Line(), Empty())
    with pytest.raises(SetupError, match="data.batch_size 0: an optimiser step has one sample or more"):
        trainer.fit(Line(), Points(batch_size=0))


def test_a_run_without_a_folder_for_checkpoints_keeps_no_product(tmp_path):
    module = Line()
    fit(module, tmp_path, steps=1)
    assert not module.keeps_product()


def test_what_every_training_says_of_its_base(recwarn):
    class Bare(OneRun):
        def __init__(self, source):
            super().__init__()
            self.source = source

    def said():  # beside what others say meanwhile, e.g. of a file that was left open
        return [text for text in (str(warning.message) for warning in recwarn) if "revision" in text]

    Bare({"kind": "folder", "name": "x"}).warn_unpinned(None)
    Bare({"kind": "hub", "name": "x/y", "revision": "abc"}).warn_unpinned("abc")
    assert not said()
    Bare({"kind": "hub", "name": "x/y", "revision": "abc"}).warn_unpinned(None)
    assert "no revision in the config. This run uses commit abc" in said()[0]
