"""Training: what is equal by theory is equal by number, on two processes as on one, and what is written can be read again."""

import json
import sys
from pathlib import Path

import pytest
import torch

from common.errors import ModelError, SetupError
from common.vision.layout import packed
from tests.numerics import close
from tests.trainings import difference, trained

from ..module import FusedTraining, load_new
from ..train import cli
from .runs import fit, fit_in_processes, parts, text_batch, training

# Trainings are in double precision, except for what their losses are logged in, and what stock norms and rotations are computed in.
LOSSES, GRADIENTS, PARAMETERS = 1e-6, 1e-7, 1e-6


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The reference: 3 steps of 4 rows, each step one micro-batch on one device, internal modular with its gates open."""
    torch.set_num_threads(1)
    return fit(training(), tmp_path_factory.mktemp("layerfusion-one"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_tower_is_read_in_eval_mode_and_gets_no_gradient(stage):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    given = parts()
    given.tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=8, num_attention_heads=2,
                                                   image_size=8, patch_size=4, projection_dim=16, attention_dropout=0.5)).double().eval()
    seen = []
    given.tower.register_forward_hook(lambda tower, args, kwargs, out: seen.append(
        (tower.training, torch.is_grad_enabled(), out.last_hidden_state.requires_grad)), with_kwargs=True)
    module = training(stage=stage)
    module.given = given
    module.configure_model()
    module.train()
    layout = packed([1, 2], [[([5, 6, 7], [-100, 8, 9])]], 4)
    losses = [module.loss_sum({"layout": layout, "pixels": torch.ones(1, 3, 8, 8, dtype=torch.float64)})[0] for _ in range(2)]
    losses[0].backward()
    assert seen == [(False, False, False)] * 2 and torch.equal(*losses), "dropout would tell them apart"
    assert not any(p.grad is not None for p in given.tower.parameters())
    assert not any("tower" in name for name, _ in module.named_parameters()), "the optimiser never sees it"
    assert all(p.grad is not None for p in module.fusion.projector.parameters())
    assert any(p.grad is not None for p in module.decoder.parameters()) == (stage == "finetune")


def test_a_step_of_four_is_four_of_one_recomputed_or_not(one, tmp_path):
    module, whole = one
    for again in (False, True):
        parts, diary = fit(training(gradient_checkpointing=again), tmp_path / str(again), accumulate=4)
        close(diary.losses, whole.losses, LOSSES)
        assert difference(diary.gradients[0], whole.gradients[0]) < GRADIENTS
        assert difference(trained(parts), trained(module)) < PARAMETERS


def test_two_processes_equal_one_and_one_goes_on_from_two(one, tmp_path):
    module, whole = one
    codes, ranks = fit_in_processes(tmp_path, checkpoint_every=2)
    assert codes == [0, 0]
    for rank in ranks:
        close(rank["losses"], whole.losses, LOSSES)
        assert difference(rank["gradient"], whole.gradients[0]) < GRADIENTS
        assert difference(rank["parameters"], trained(module)) < PARAMETERS
    path = tmp_path / "checkpoints" / "step=2.ckpt"
    resumed, rest = fit(training(), tmp_path / "resumed", resume=path)
    close(rest.losses, whole.losses[2:], LOSSES)
    assert difference(trained(resumed), trained(module)) < PARAMETERS
    with pytest.raises(SetupError, match="variant = pre; the config says post"):
        fit(training(variant="post"), tmp_path / "other", resume=path)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "variant": "parallel"}], ids=["pre", "parallel, recomputed"])
def test_fsdp2_equals_one_process(options, one, tmp_path):
    module, whole = one if not options else fit(training(**options), tmp_path / "one")
    codes, ranks = fit_in_processes(tmp_path / "two", strategy="fsdp2", module=options)
    assert codes == [0, 0]
    for rank in ranks:
        close(rank["losses"], whole.losses, LOSSES)
        assert difference(rank["parameters"], trained(module)) < PARAMETERS


@pytest.mark.parametrize("stage, names", [("pretrain", {"fusion"}), ("finetune", {"fusion", "decoder"})])
def test_what_a_stage_trains_and_writes(stage, names, tmp_path):
    module, diary = fit(training(stage=stage, position="external", points=None), tmp_path, steps=1, checkpoint_every=1)
    assert {n.partition(".")[0] for n in diary.gradients[0]} == names
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (about["stage"], about["layers"], about["pattern"], about["steps"]) == (stage, "triple", "modular", 1)
    assert (tmp_path / "model" / "decoder").is_dir() == (stage == "finetune")
    again = training(position="external", points=None, fusion=str(tmp_path / "model" / "fusion.safetensors"))
    again.configure_model()
    assert all(torch.equal(a, b) for a, b in zip(again.fusion.state_dict().values(), module.fusion.state_dict().values()))
    other = training()
    other.configure_model()
    with pytest.raises(ModelError, match="does not fit"):
        load_new(other.fusion, tmp_path / "model" / "fusion.safetensors")
    with pytest.raises(ModelError, match="no file nowhere"):
        load_new(other.fusion, Path("nowhere"))


@pytest.mark.parametrize("position, changes, says", [
    ("internal", {"variant": "post"}, "another variant"), ("internal", {"layers": [1, 5, 7]}, "another layers"),
    ("internal", {"points": [0, 2, 3]}, "another points"), ("external", {"layers": [1, 5, 7]}, "another layers")])
def test_weights_of_another_stage_1_of_the_same_shapes_are_refused(position, changes, says, tmp_path):
    """Layers by their numbers are the set that they make, and a setting that this kind does not read may differ."""
    place: dict = dict(position=position, pattern="modular" if position == "internal" else "direct",
                       points=[0, 1, 3] if position == "internal" else None)
    fit(training(stage="pretrain", **place), tmp_path, steps=1, checkpoint_every=1)
    place["fusion"] = str(tmp_path / "model" / "fusion.safetensors")
    training(**place | {"layers": [1, 6, 7]} | ({} if position == "internal" else {"variant": "post"})).configure_model()
    with pytest.raises(ModelError, match=f"fusion.safetensors was trained with {says}"):
        training(**place | changes).configure_model()
    (tmp_path / "model" / "training.json").write_text("[]")
    with pytest.raises(ModelError, match="training.json beside fusion.safetensors names no fusion"):
        training(**place).configure_model()
    (tmp_path / "model" / "training.json").unlink()
    training(**place | changes).configure_model()  # nothing says otherwise


def test_text_alone_leaves_no_process_waiting_and_is_the_decoders_own():
    module = training(position="external", pattern="direct", points=None)
    module.configure_model()
    loss, count = module.loss_sum(text_batch())
    loss.backward()
    assert count == 2 and all((p.grad == 0).all() for p in module.fusion.parameters())
    ids = torch.tensor([[1, 2, 5, 6, 7]])
    with torch.no_grad():
        logs = module.decoder(ids).logits.log_softmax(-1)
    close(loss, -(logs[0, 3, 8] + logs[0, 4, 9]), LOSSES)


def test_features_of_other_layers_are_refused():
    module = training(position="external", pattern="direct", points=None)
    module.configure_model()
    from .runs import Rows

    rows = Rows().sequences()[0]
    batch = rows.collate([(features[:, :32], texts) for features, texts in rows.entries[:2]], [0, 1], {"step_targets": 4})
    with pytest.raises(SetupError, match=r"32 wide; layers \[1, 6, 7\] need 48"):
        module.loss_sum(batch)


def test_sets_of_the_code_and_single_layers_by_config():
    spec = training().llava
    assert FusedTraining(spec, layers="single", compat=True).config.layers.parts == ((18,), (23,))
    assert FusedTraining(spec, layers=[23]).config.layers.parts == ((23,),)
    with pytest.raises(ValueError, match="returns None"):
        FusedTraining(spec, layers="double", compat=True)


def test_two_steps_of_the_rehearsal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    config = Path(__file__).parents[1] / "configs" / "cpu" / "rehearsal.yaml"
    cli(["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false",
         f"--trainer.callbacks.dirpath={tmp_path}", "--data.init_args.scenes=2", "--data.init_args.train_samples=16"])
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (about["layers"], about["points"], about["steps"]) == ("triple", [0, 5, 6], 2) and (tmp_path / "model" / "decoder").is_dir()


@pytest.mark.parametrize("beta2", [1.0, -0.1, float("nan")])
def test_a_beta_that_means_nothing_is_refused_at_once(beta2):
    with pytest.raises(ValueError, match="model.beta2 is"):
        training(beta2=beta2)


@pytest.mark.parametrize("options, says", [({"points": [0, 1, 4]}, "blocks of a decoder with 4 are 0 to 3"),
                                           ({"points": None, "layers": "all"}, "its 8 layers fall on blocks")])
def test_blocks_that_the_decoder_has_not_are_told_when_it_is_there(options, says):
    """As an error that the command line answers in a line."""
    with pytest.raises(SetupError, match=says):
        training(**options).configure_model()
