"""Training: what is equal by theory is equal by number, what was killed goes on, and the files are what they say."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from common.errors import SetupError
from common.models import ModelSpec
from common.vision.layout import split
from common.vision.parts import LlavaSpec, load_parts
from tests.numerics import close, truly_double
from tests.trainings import difference, trained

from .. import checkpoint, method
from ..module import ViCATraining
from .runs import FOLDER, fit, fit_in_processes, scenes, training

# Trainings are in double precision, except for what their losses are logged in: single precision, whose unit in the last place is
# 6e-8 of a term, of some dozens here. Adam magnifies roundings.
LOSSES, GRADIENTS, PARAMETERS = 1e-6, 1e-12, 1e-11


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """The reference: 3 steps of 8 pictures, each step one micro-batch on one device."""
    torch.set_num_threads(1)
    return fit(training(), tmp_path_factory.mktemp("vica-one"))


# -- equal by theory ---------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_batch_8_is_eight_of_one(one_batch, tmp_path):
    module, whole = one_batch
    parts, diary = fit(training(), tmp_path, accumulate=8)
    close(diary.losses, whole.losses, LOSSES)
    assert difference(diary.gradients[0], whole.gradients[0]) < GRADIENTS
    assert difference(trained(parts), trained(module)) < PARAMETERS


def goes_on(path, layers, reference, folder, bound):
    """The last of three steps, on one process from the checkpoint of two, is that of the unbroken run."""
    module, whole = reference
    resumed, rest = fit(training(layers), folder, resume=path)
    close(rest.losses, whole.losses[2:], LOSSES)
    assert difference(trained(resumed), trained(module)) < bound


@pytest.mark.numerics
def test_two_processes_equal_one_and_one_goes_on_from_two(one_batch, tmp_path):
    module, whole = one_batch
    codes, ranks = fit_in_processes(tmp_path, world=2, strategy="ddp", checkpoint_every=2)
    assert codes == [0, 0]
    for rank in ranks:
        close(rank["losses"], whole.losses, LOSSES)
        assert difference(rank["gradient"], whole.gradients[0]) < GRADIENTS
        assert difference(rank["parameters"], trained(module)) < PARAMETERS
    goes_on(tmp_path / "checkpoints" / "step=2.ckpt", (0, 5), one_batch, tmp_path / "resumed", PARAMETERS)


@pytest.mark.numerics
@pytest.mark.parametrize("layers, again", [((0, 5), True), (None, False)], ids=["vica, checkpointing", "dense"])
def test_fsdp2_equals_one_process(layers, again, one_batch, tmp_path):
    """Blocks in shards, the rest whole; keys and values of the picture are made from gathered weights and reach their gradients."""
    module, whole = one_batch if layers == (0, 5) else fit(training(layers), tmp_path / "one")
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy="fsdp2", checkpoint_every=2,
                                    module={"cross_layers": layers, "gradient_checkpointing": again})
    assert codes == [0, 0]
    for rank in ranks:
        close(rank["losses"], whole.losses, LOSSES)
        assert difference(rank["parameters"], trained(module)) < PARAMETERS
    goes_on(tmp_path / "two" / "checkpoints" / "step=2.ckpt", layers, (module, whole), tmp_path / "resumed", PARAMETERS)
    saved = load_file(tmp_path / "two" / "model" / "decoder" / "model.safetensors")
    last = trained(module)["decoder.model.layers.5.self_attn.k_proj.weight"]
    close(saved["model.layers.5.self_attn.k_proj.weight"], last, PARAMETERS)


@pytest.mark.numerics
def test_fsdp2_of_stage_1_clips_where_no_shard_has_a_gradient(tmp_path):
    """The decoder's blocks are in shards and frozen; all that is trained stays whole."""
    module, whole = fit(training(stage="pretrain"), tmp_path / "one")
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy="fsdp2", module={"stage": "pretrain"})
    assert codes == [0, 0]
    for rank in ranks:
        close(rank["losses"], whole.losses, LOSSES)
        assert difference(rank["parameters"], trained(module)) < PARAMETERS


@pytest.mark.numerics
def test_text_alone_leaves_no_process_waiting_for_the_projector():
    """A micro-batch without pictures gives the projector gradients of zero, not none: DDP and FSDP wait for each."""
    module = training()
    module.configure_model()
    ids = torch.tensor([[1, 6, 7, 8], [1, 9, 10, 11]])
    layout = split(ids, module.parts.image_token_id)
    layout.targets = ids.roll(-1, 1)
    loss, count = module.loss_sum({"layout": layout})
    loss.backward()
    assert count == 8 and all((p.grad == 0).all() for p in module.projector.parameters())
    with torch.no_grad():
        stock = module.decoder(ids).logits
    close(loss, torch.nn.functional.cross_entropy(stock.flatten(0, 1), layout.targets.flatten(), reduction="sum"), LOSSES)


def test_features_of_other_layers_than_the_projector_reads_are_named():
    module = training()
    module.configure_model()
    layout, width = split(torch.tensor([[1, 6, 7, 8]]), module.parts.image_token_id), module.projector.linear_1.in_features
    with pytest.raises(SetupError, match=f"data.layers: the data's features are {width // 3} wide, and this projector reads {width}"):
        module.loss_sum({"layout": layout, "features": torch.zeros(1, 4, width // 3)})


@pytest.mark.numerics
def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    options = dict(steps=6, accumulate=2, checkpoint_every=2)
    unbroken, diary = fit(training(), tmp_path / "unbroken", **options)
    codes, saved = fit_in_processes(tmp_path / "killed", kill_at=9, **options)
    assert codes == [-9] and not saved
    assert not (tmp_path / "killed" / "model").exists()
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step=2.ckpt", "step=4.ckpt"]
    resumed, rest = fit(training(), tmp_path / "killed", resume=checkpoints[-1], **options)
    for name, value in trained(resumed).items():
        assert torch.equal(value, trained(unbroken)[name]), name
    assert rest.losses == diary.losses[4:]
    for layers, says in (((0, 4), r"cross_layers = \[0, 5\]; the config says \[0, 4\]"), (None, "cross_layers")):
        with pytest.raises(SetupError, match=says):
            fit(training(layers), tmp_path / "other", resume=checkpoints[-1], **options)


@pytest.mark.numerics
def test_vica_with_all_layers_trains_on_the_frozen_dense_loss_and_dense_on_the_dense_one(tmp_path):
    from common.vision.llava import dense_hidden

    from ..reference import frozen_dense

    losses = {}
    for name, layers in (("vica", range(8)), ("dense", None)):
        module, diary = fit(training(layers, learning_rate=0.0), tmp_path / name, steps=1)
        losses[name] = diary.losses[0]
    data = scenes()
    data.trainer = SimpleNamespace(lightning_module=module)
    rows, parts = data.rows(0), load_parts(LlavaSpec(stand_in=str(FOLDER / "seed0")))
    from common.training.steps import StepBatches

    step = next(iter(StepBatches(rows, batch_size=8, micro_batch=8, seed=5)))
    truly_double(parts.decoder.double())
    parts.projector.double()
    with torch.no_grad():
        visual = parts.visual(step["layout"], step["features"])
        for name, hidden in (("vica", frozen_dense(parts.decoder, step["layout"], visual, "all")),
                             ("dense", dense_hidden(parts.decoder, step["layout"], visual))):
            total, count = method.loss_sum(parts.decoder.lm_head(hidden), step["layout"].targets)
            close(losses[name], total / count, LOSSES)
            assert count == step["step_targets"] == 24


# -- what is trained, and what is written ------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_stage_1_trains_the_projector_alone_and_stage_2_the_decoder_too(stage, tmp_path):
    module, diary = fit(training(stage=stage), tmp_path, steps=1, checkpoint_every=1)
    names = {name.partition(".")[0] for name in diary.gradients[0]}
    assert names == ({"projector"} if stage == "pretrain" else {"projector", "decoder"})
    assert not any(p.requires_grad for p in module.parts.tower.parameters())
    stored = torch.load(tmp_path / "checkpoints" / "step=1.ckpt", weights_only=True)["state_dict"]
    assert {n.partition(".")[0] for n in stored} == names
    product = tmp_path / "model"
    assert checkpoint.load(product) == method.ViCAConfig((0, 5))
    assert json.loads((product / "training.json").read_text())["stage"] == stage
    assert (product / "decoder" / "model.safetensors").is_file() == (stage == "finetune")
    spec = LlavaSpec(stand_in=str(FOLDER / "seed0"), projector=str(product / "projector.safetensors"))
    assert torch.equal(load_parts(spec).projector.linear_1.weight, module.projector.linear_1.weight.float())


@pytest.mark.numerics
def test_gradient_checkpointing_gives_the_same_gradients(one_batch, tmp_path):
    _, diary = fit(training(gradient_checkpointing=True), tmp_path, steps=1)
    assert difference(diary.gradients[0], one_batch[1].gradients[0]) < GRADIENTS


@pytest.mark.parametrize("make, error, says", [
    (lambda: training((1, 1)), ValueError, "distinct"),
    (lambda: fit(training((0, 8)), None, steps=1), SetupError, "layers 0 to 7"),
])
def test_what_a_user_gets_wrong_is_said(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_no_layer_that_looks_is_a_choice_too():
    assert ViCATraining(LlavaSpec(decoder=ModelSpec("random", config={}), tower="x"), []).config.cross_layers == ()


@pytest.mark.parametrize("setting", [{"beta2": 1.0}, {"beta2": float("nan")}, {"beta2": -0.1}, {"lora_rank": -4}])
def test_settings_that_mean_nothing_are_refused_at_once(setting):
    with pytest.raises(ValueError, match=f"model.{next(iter(setting))} is"):
        ViCATraining(LlavaSpec(decoder=ModelSpec("random", config={}), tower="x"), [0], **setting)
