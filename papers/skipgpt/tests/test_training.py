"""Training: what is equal by theory is equal by number, and what is frozen stays frozen."""

import math

import pytest
import torch

from common.errors import SetupError
from common.lora import merge
from common.models import load, tiny
from tests.numerics import close, far, float64

from ..layers import find_stack
from ..losses import sample_noise
from ..method import SkipGPTConfig, routing_of
from ..module import JointModule, LoraRecoveryModule, RouterTuningModule
from ..router_files import load_routers
from .invariants import REL
from .runs import AFTER_ADAM, Uneven, alone, fit, fit_in_processes, router_tuning, uneven_batch

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


def trained(module):
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def difference(a, b):
    """Largest difference of two {name: tensor}, in units of the largest value of the second."""
    assert a.keys() == b.keys()
    scale = max(t.abs().max().item() for t in b.values())
    return max((a[n] - b[n]).abs().max().item() for n in a) / scale


def same_steps(ours, theirs, *names):
    """What was reported at each step."""
    assert len(ours) == len(theirs)
    for name in names:
        close([step[name] for step in ours], [step[name] for step in theirs], REL)


# -- equal by theory -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """The reference: 3 steps of 8 uneven samples, each step one micro-batch on one device."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    module, diary = fit(router_tuning(), folder)
    torch.set_num_threads(threads)
    diary.folder = folder  # numbered by pytest: another test file may have taken the first "one"
    return module, diary


def test_language_loss_does_not_depend_on_the_micro_batch(tmp_path):
    """Batch 8 = 1 x accumulate 8, with samples of different lengths, in loss and in gradient."""
    whole, a = fit(router_tuning(alpha=0.0), tmp_path / "a")
    parts, b = fit(router_tuning(alpha=0.0), tmp_path / "b", accumulate=8)
    same_steps(b.steps, a.steps, "lm", "executed")
    assert difference(b.gradients[0], a.gradients[0]) < REL
    assert difference(trained(parts), trained(whole)) < AFTER_ADAM


def test_budget_term_under_accumulation(one_batch, tmp_path):
    """Equal while all micro-batches are on one side of the target; else it can only be larger."""
    _, a = fit(router_tuning(target=0.0), tmp_path / "a", steps=2)
    _, b = fit(router_tuning(target=0.0), tmp_path / "b", steps=2, accumulate=8)
    same_steps(b.steps, a.steps, "budget")
    assert difference(b.gradients[0], a.gradients[0]) < REL
    _, parts = fit(router_tuning(), tmp_path / "c", steps=1, accumulate=8)
    assert parts.steps[0]["budget"] >= one_batch[1].steps[0]["budget"]


def test_padding_does_not_matter():
    """Two more columns of anything: the same noise, gates, losses."""
    module, batch = alone(router_tuning()), uneven_batch(5, 9, 3)
    wider = dict(batch)
    wider["input_ids"] = torch.cat([batch["input_ids"], torch.full((3, 2), 77)], 1)
    wider["attention_mask"] = torch.cat([batch["attention_mask"], torch.zeros(3, 2).long()], 1)
    parts = []
    for one in (batch, wider):
        module.route(one, step=1)
        parts.append(module.losses(one))
    for name in ("lm", "budget", "executed"):
        close(parts[0][name], parts[1][name], REL)


def test_noise_belongs_to_the_sample():
    """A function of (seed, step, sample): not of neighbours, padding, or what was drawn before."""
    batch = uneven_batch(5, 9, 3)
    noise = sample_noise(6, batch, seed=1, step=4)
    assert noise.shape == (6, 3, 9, 2) and not noise[:, 0, 5:].any() and noise[:, 2, :3].all()
    second = dict(input_ids=torch.zeros(1, 20), sample_index=[1], lengths=[9])
    assert torch.equal(sample_noise(6, second, 1, 4)[:, 0, :9], noise[:, 1])
    for other in (dict(seed=2, step=4), dict(seed=1, step=5)):
        assert not torch.equal(sample_noise(6, batch, **other)[:, 1], noise[:, 1])
    many = dict(input_ids=torch.zeros(1, 2000), sample_index=[0], lengths=[2000])
    values = sample_noise(8, many, 0, 0)  # Gumbel: mean 0.5772, variance pi^2 / 6
    assert values.mean() == pytest.approx(0.5772, abs=0.03)
    assert values.var() == pytest.approx(math.pi**2 / 6, abs=0.08)


def goes_on(path, reference, folder):
    """The last of three steps, on one process from the checkpoint of two, is that of the unbroken run."""
    module, diary = reference
    resumed, rest = fit(router_tuning(), folder, resume=path)
    (last,) = rest.steps
    same_steps([last], diary.steps[2:], "lm", "budget", "executed")
    assert difference(trained(resumed), trained(module)) < AFTER_ADAM


def test_two_processes_equal_one_and_one_goes_on_from_two(one_batch, tmp_path):
    """DDP over gloo: the same losses and, to rounding, the same routers on both ranks."""
    codes, ranks = fit_in_processes(tmp_path, world=2, strategy="ddp", checkpoint_every=2)
    assert codes == [0, 0]
    module, diary = one_batch
    for rank in ranks:
        same_steps(rank["steps"], diary.steps, "lm", "budget", "executed")
        assert difference(rank["parameters"], trained(module)) < AFTER_ADAM
    assert (tmp_path / "routers" / "skipgpt.json").exists()
    goes_on(tmp_path / "checkpoints" / "step=2.ckpt", one_batch, tmp_path / "resumed")


def test_fsdp2_equals_one_process(one_batch, tmp_path):
    """The backbone in shards, routers whole; a checkpoint holds the routers alone."""
    codes, ranks = fit_in_processes(tmp_path, world=2, strategy="fsdp2", checkpoint_every=2)
    assert codes == [0, 0]
    module, diary = one_batch
    for rank in ranks:
        same_steps(rank["steps"], diary.steps, "lm")
        assert difference(rank["parameters"], trained(module)) < AFTER_ADAM
    stored = torch.load(tmp_path / "checkpoints" / "step=2.ckpt", weights_only=True)["state_dict"]
    assert stored.keys() == trained(module).keys()
    goes_on(tmp_path / "checkpoints" / "step=2.ckpt", one_batch, tmp_path / "resumed")
    state = load_routers(load(tiny()).model, tmp_path / "routers")
    for own, saved in zip(module.state.parameters(), state.parameters()):
        close(own, saved, AFTER_ADAM)


def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    """SIGKILL in the middle of an accumulation; resumed from the last checkpoint: equal bits."""
    options = dict(steps=6, accumulate=2, checkpoint_every=2)
    unbroken, diary = fit(router_tuning(), tmp_path / "unbroken", **options)
    codes, saved = fit_in_processes(tmp_path / "killed", kill_at=9, **options)
    assert codes == [-9] and not saved
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step=2.ckpt", "step=4.ckpt"]
    assert all(path.stat().st_size < 30_000 for path in checkpoints)  # no backbone in it
    resumed, rest = fit(router_tuning(), tmp_path / "killed", resume=checkpoints[-1], **options)
    for name, value in trained(resumed).items():
        assert torch.equal(value, trained(unbroken)[name]), name
    assert rest.steps == diary.steps[4:]
    assert rest.temperatures == diary.temperatures[8:]


def test_temperature_follows_the_optimiser_step(tmp_path, one_batch):
    """k = 0: 5.0; k = K-1: 5 - 4 (K-1)/K; once per step, however often a layer runs in it."""
    expected = [5.0, 5 - 4 / 3, 5 - 8 / 3]
    assert one_batch[1].temperatures == pytest.approx(expected)
    module = router_tuning(gradient_checkpointing=True)
    _, diary = fit(module, tmp_path, accumulate=2)
    assert diary.temperatures == pytest.approx([t for t in expected for _ in range(2)])


# -- frozen and trained ----------------------------------------------------------------------------
def test_stage_1_trains_routers_and_nothing_else(one_batch):
    module, diary = one_batch
    routers = {name for name, _ in module.named_parameters() if ".router_" in name}
    assert len(routers) == 3 * 2 * 2
    for gradients in diary.gradients:
        assert gradients.keys() == routers
    original = load(tiny()).model.state_dict()
    for name, value in module.model.state_dict().items():
        assert ".router_" in name or torch.equal(value, original[name]), name


@pytest.fixture(scope="module")
def stage_2(one_batch, tmp_path_factory):
    """LoRA on the routed model of `one_batch`. (module, its folder, the routers' folder)"""
    routers = one_batch[1].folder / "routers"
    folder = tmp_path_factory.mktemp("lora")
    module = LoraRecoveryModule(tiny(), str(routers), rank=4, learning_rate=0.02, seed=5)
    fit(module, folder, steps=4)
    return module, folder, routers


def test_stage_2_leaves_the_routers_alone(stage_2):
    module, folder, routers = stage_2
    state = load_routers(load(tiny()).model, routers)
    for name, router in module.state.routers().items():
        for own, before in zip(router.parameters(), state.routers()[name].parameters()):
            assert own.grad is None and not own.requires_grad and torch.equal(own, before), name
    assert (folder / "routers" / "routers.safetensors").read_bytes() == (
        routers / "routers.safetensors").read_bytes()
    adapted = {n.rpartition(".lora_")[0].rpartition(".")[2] for n in trained(module)}
    assert adapted == {"q_proj", "v_proj", "gate_proj"}
    assert len(trained(module)) == 3 * 3 * 2  # layers, projections, A and B
    assert all(".lora_" in name for name in trained(module))
    gates = torch.stack([torch.stack(pair) for pair in module.state.gates])
    assert 0 < gates.mean() < 1  # it did train with gates, and they skip something


def test_merged_lora_equals_unmerged(stage_2):
    module, folder, routers = stage_2
    batch = uneven_batch(7, 12)
    merged = load(tiny()).model
    load_routers(merged, routers)
    merged = merge(merged, folder / "lora").eval()
    plain = load(tiny()).model
    load_routers(plain, routers)
    with torch.no_grad():
        inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        expected = module.model.eval()(**inputs).logits
        real = batch["attention_mask"].bool()
        close(merged(**inputs).logits[real], expected[real], REL)
        far(plain(**inputs).logits[real], expected[real])  # the adapters do something
    assert routing_of(merged).routers()


def test_sampled_gates_in_stage_2_are_an_option(one_batch, stage_2):
    module = alone(LoraRecoveryModule(tiny(), str(stage_2[2]), rank=4, sample_gates=True, seed=5))
    batch = uneven_batch(9, 9)
    gates = []
    for step in (0, 0, 1):
        module.route(batch, step)
        module.losses(batch)["lm"].backward()
        gates.append(torch.stack([torch.stack(pair) for pair in module.state.gates]))
    assert torch.equal(gates[0], gates[1]) and not torch.equal(gates[0], gates[2])
    assert all(p.grad is None for p in module.state.parameters())


def test_dense_control_has_no_routing(tmp_path):
    module, _ = fit(LoraRecoveryModule(tiny(), None, rank=4, seed=5), tmp_path, steps=2)
    assert module.state is None and all(".lora_" in name for name in trained(module))
    assert not (tmp_path / "routers").exists()
    assert (tmp_path / "lora" / "adapter_model.safetensors").exists()


def test_joint_trains_both(tmp_path):
    module = JointModule(tiny(), SkipGPTConfig(target_sparsity=0.4), rank=4, learning_rate=1e-2,
                         lora_learning_rate=1e-3, seed=5)
    _, diary = fit(module, tmp_path, steps=2)
    adapted = {n.rpartition(".lora_")[0].rpartition(".")[2] for n in trained(module)
               if ".lora_" in n}
    assert adapted == {"q_proj", "v_proj"}
    assert {n for n in trained(module) if ".router_" in n} and diary.steps[0]["budget"] > 0
    assert diary.gradients[0].keys() == trained(module).keys()
    rates = {group["lr"]: len(group["params"]) for group in module.optimizers().param_groups}
    assert rates == {1e-2: 12, 1e-3: 12}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lora", "routers"]


def test_gradient_checkpointing_changes_nothing_but_memory(one_batch, tmp_path):
    """Equal losses and gradients; the MLP runs twice a step; statistics count evaluation, once."""
    module, calls = router_tuning(gradient_checkpointing=True), []
    module.configure_model()
    mlp = find_stack(module.model).layers[1].mlp
    hook = mlp.register_forward_hook(lambda *args: calls.append(torch.is_grad_enabled()))
    _, diary = fit(module, tmp_path)
    assert len(calls) == 2 * 3
    reference, plain = one_batch
    same_steps(diary.steps, plain.steps, "lm")
    assert difference(diary.gradients[0], plain.gradients[0]) < REL
    assert difference(trained(module), trained(reference)) < AFTER_ADAM
    hook.remove()

    batch, state = uneven_batch(5, 9), module.state
    inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    state.start_recording()
    alone(module).route(batch, 0)
    module.losses(batch)["lm"].backward()
    module.model.eval()
    state.noise = None
    with torch.no_grad():
        hidden = module.model(**inputs, output_hidden_states=True).hidden_states
    assert state.stats().n_tokens == 14 and len(hidden) == 3 + 1


# -- checkpoints that do not fit -------------------------------------------------------------------
def test_checkpoint_of_another_training_is_refused(tmp_path):
    fit(router_tuning(), tmp_path, steps=2, checkpoint_every=1)
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    for options, word in ((dict(seed=6), "seed = 5"), (dict(), "max_steps = 2")):
        with pytest.raises(SetupError, match=word):
            fit(router_tuning(**options), tmp_path, steps=2 if options else 3, resume=path)
    for options, word in ((dict(target=0.25), "routing.target_sparsity = 0.4"), (dict(alpha=20.0), "routing.alpha = 8.0"),
                          (dict(learning_rate=1e-3), "learning_rate = 0.01")):
        with pytest.raises(SetupError, match=word):
            fit(router_tuning(**options), tmp_path, steps=2, resume=path)
    wider = alone(RouterTuningModule(tiny(), SkipGPTConfig(router_hidden=4), seed=5))
    with pytest.raises(SetupError, match=r"router_attn\.layers\.0\.bias is \(2,\) in the file"):
        wider.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    with pytest.raises(SetupError, match="samples per step"):
        fit(router_tuning(), tmp_path, steps=2, resume=path, data=Uneven(batch_size=4))
    strange = tmp_path / "strange.ckpt"
    stored = torch.load(path, weights_only=True)
    del stored["skipgpt"]
    torch.save(stored, strange)
    with pytest.raises(SetupError, match="not written by a training of papers/skipgpt"):
        fit(router_tuning(), tmp_path, steps=2, resume=strange)
