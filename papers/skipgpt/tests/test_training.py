"""Training: what is equal by theory is equal by number, and what is frozen stays frozen."""

import math

import numpy as np
import pytest
import torch

from common.errors import SetupError
from common.families import FAMILIES
from common.lora import merge
from common.models import load, tiny
from common.training.steps import StepBatches, ValidationBatches
from tests.numerics import close, far, float64

from ..data import RaggedRows, Rows, TextWindows, TokenDifficulty, collate
from ..difficulty import KINDS, token_difficulty
from ..layers import find_stack
from ..losses import distillation_loss, lm_loss, sample_noise, targets_of
from ..method import SkipGPTConfig, routing_of
from ..module import JointModule, LoraRecoveryModule, RouterTuningModule
from ..router_files import load_routers
from ..tuning import tune
from .invariants import REL
from .runs import Uneven, alone, fit, fit_in_processes, router_tuning

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with float64():
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


AFTER_ADAM = 1e-10  # of parameters: where a gradient is nearly 0, Adam divides its rounding by its size


def uneven_batch(*lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 96, (n,), generator=draw) for n in lengths]
    return collate(rows, list(range(len(rows))), sum(lengths), sum(lengths) - len(lengths))


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


# -- losses and optimiser --------------------------------------------------------------------------
def test_end_token_is_a_target_even_if_it_is_the_padding_id():
    row = torch.tensor([5, 0, 6, 0])  # 0 pads, and ends texts
    batch = collate([row, row[:2]], [0, 1], 6, 4)
    assert targets_of(batch).tolist() == [[0, 6, 0], [0, -100, -100]]
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    log = logits.log_softmax(-1)
    expected = -(log[0, 0, 0] + log[0, 1, 6] + log[0, 2, 0] + log[1, 0, 0])
    close(lm_loss(logits, batch), expected, REL)
    left = dict(input_ids=torch.tensor([[0, 5, 7]]), attention_mask=torch.tensor([[0, 1, 1]]))
    assert targets_of(left).tolist() == [[-100, 7]]  # padding predicts nothing


def test_distillation_is_the_divergence_from_the_dense_model():
    module = alone(router_tuning(distill_weight=0.5))
    batch = uneven_batch(5, 9)
    module.route(batch, 0)
    part = module.losses(batch)["distill"]
    assert module.state.mode == "mask" and part.requires_grad
    with torch.no_grad():
        student = module.logits(batch)
        inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        dense = load(tiny()).model(**inputs).logits
    divergence = sum((dense[b, t].log_softmax(-1).exp() * (
        dense[b, t].log_softmax(-1) - student[b, t].log_softmax(-1))).sum()
        for b, n in enumerate((5, 9)) for t in range(n - 1))
    close(part, 0.5 * divergence / 12, REL)
    assert distillation_loss(dense, dense, batch).abs() < REL * divergence


def test_rates_of_weights_and_biases_and_schedules(tmp_path):
    module = router_tuning(bias_learning_rate=0.1, schedule="cosine", warmup_steps=2)
    fit(module, tmp_path, steps=4)
    scheduler = module.lr_schedulers()
    assert scheduler.base_lrs == [1e-2, 0.1]
    factors = [scheduler.lr_lambdas[0](k) for k in range(5)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-9)


def test_the_loop_of_the_cpu_experiments_is_the_same_training(tmp_path):
    """tuning.tune, with its noise replaced by that of the samples, equals the Lightning module."""
    data = TokenDifficulty(length=12, train_samples=32, val_samples=4, batch_size=8, seed=5)
    module, _ = fit(router_tuning(), tmp_path, steps=4, data=data)
    twin = alone(router_tuning())
    stream = iter(StepBatches(data.rows(0), batch_size=8, micro_batch=8, seed=5))

    def batch(step):
        rows = next(stream)
        twin.state.noise = sample_noise(2 * len(twin.state.layers), rows, 5, step)
        return rows["input_ids"]

    learned = list(twin.state.parameters())
    list(tune(twin.model, batch, torch.optim.AdamW(learned, lr=1e-2, weight_decay=0.01), 4, state=twin.state))
    for ours, theirs in zip(learned, module.state.parameters()):
        close(ours, theirs, AFTER_ADAM)


def test_without_max_steps_there_is_no_schedule(tmp_path):
    with pytest.raises(SetupError, match="max_steps"):
        fit(router_tuning(), tmp_path, steps=-1)


def test_validation_reports_argmax_rates(tmp_path):
    module = router_tuning()
    fit(module, tmp_path, steps=2, limit_val_batches=1.0, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0)
    metrics = module.trainer.callback_metrics
    data = Uneven()
    rows = data.rows(1)
    module.model.eval()
    module.state.start_recording()
    with torch.no_grad():
        batch = collate([rows[i] for i in range(4)], [0, 1, 2, 3], 0, 1)
        module.state.noise = None
        loss = lm_loss(module.logits(batch), batch) / (rows.lengths.sum() - 4)
    stats = module.state.stats()
    close(metrics["val/loss"], loss, REL)
    close(metrics["val/attn_skip"], stats.attn_skip, REL)
    close(metrics["val/sparsity"], stats.sparsity, REL)


def test_noise_and_policy_do_not_outlive_training(tmp_path):
    module, _ = fit(router_tuning(), tmp_path, steps=1)
    assert module.state.noise is None and module.state.policy is None and module.state.temperature == 1.0


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


def test_a_model_without_the_modules_is_named():
    config = FAMILIES["falcon_h1"].settings | {"model_type": "falcon_h1"}
    module = RouterTuningModule(tiny().__class__("random", config=config), SkipGPTConfig())
    with pytest.raises(SetupError, match=r"random:falcon_h1: 2 submodules of the layer look at other tokens .* Layer 0"):
        module.configure_model()


# -- data ------------------------------------------------------------------------------------------
def test_a_step_is_the_same_however_it_is_cut():
    rows = Uneven().rows(0)

    def steps(micro, ranks, start=0, count=6, workers=0):
        """[(sample_index, ids)] of steps start … count-1, put together from all ranks."""
        out = []
        for rank in range(ranks):
            batches = StepBatches(rows, batch_size=8, micro_batch=micro, seed=3, start_step=start,
                                  rank=rank, world_size=ranks)
            loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers)
            it = iter(loader)
            for _ in range((count - start) * 8 // (micro * ranks)):
                batch = next(it)
                for index, row, n in zip(batch["sample_index"], batch["input_ids"],
                                         batch["lengths"]):
                    out.append((index, row[:n].tolist(), batch["step_tokens"]))
        return sorted(out)

    whole = steps(8, 1)
    assert [index for index, *_ in whole] == list(range(48))
    assert steps(1, 1) == steps(2, 2) == steps(4, 2) == whole
    assert steps(2, 2, start=4) == whole[32:]
    assert steps(4, 1, workers=2) == whole
    for k in range(6):
        step = whole[8 * k : 8 * k + 8]
        assert {tokens for *_, tokens in step} == {sum(len(ids) for _, ids, _ in step)}
    first = sorted(ids for _, ids, _ in whole[:36])  # one pass over 36 rows: each of them once
    assert first == sorted(rows[i].tolist() for i in range(36))
    assert [ids for _, ids, _ in whole[36:48]] != [ids for _, ids, _ in whole[:12]]


def test_ranks_validate_equally_often_and_each_row_once():
    """Sharded weights are gathered in every forward pass: a rank that stops early would hang the rest."""
    rows = Rows(torch.arange(5)[:, None].expand(5, 6) + 3)
    ranks = [list(ValidationBatches(rows, micro_batch=1, rank=r, world_size=3)) for r in range(3)]
    assert [len(batches) for batches in ranks] == [2, 2, 2]
    real = [b for batches in ranks for b in batches if b["attention_mask"].any()]
    assert sorted(int(b["input_ids"][0, 0]) for b in real) == [3, 4, 5, 6, 7]
    (padding,) = [b for batches in ranks for b in batches if not b["attention_mask"].any()]
    module = alone(router_tuning()).eval()
    module.on_validation_start()
    module.validation_step(real[0], 0)
    held_out, stats = module._held_out.clone(), module.state.stats()
    module.validation_step(padding, 1)
    assert torch.equal(module._held_out, held_out) and module.state.stats().n_tokens == stats.n_tokens


def test_a_step_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(SetupError, match="batch_size 8 is not a multiple of 3 x 1"):
        fit(router_tuning(), tmp_path, accumulate=3)


def test_windows_need_a_tokenizer(tmp_path):
    with pytest.raises(SetupError, match="needs a tokenizer"):
        fit(router_tuning(), tmp_path, data=TextWindows(batch_size=8))


def test_rows_have_lengths():
    assert Rows(torch.zeros(3, 5, dtype=torch.int64)).lengths.tolist() == [5, 5, 5]
    ragged = RaggedRows(np.arange(9, dtype=np.int32), np.array([0, 2, 5, 9]), np.array([2, 0]))
    assert ragged.lengths.tolist() == [4, 2] and ragged[0].tolist() == [5, 6, 7, 8]


def test_token_difficulty_is_what_it_says():
    """Every label re-derived from the tokens alone."""
    ids, kinds = token_difficulty(200, 64, seed=1)
    assert ids.shape == kinds.shape == (200, 64) and ids.min() >= 0 and ids.max() == 36
    for row, kind in zip(ids.tolist(), kinds.tolist()):
        bound = {}
        for t in range(1, 64):
            if kind[t] == KINDS["cycle"]:
                assert row[t] == (row[t - 1] + 1) % 16 and row[t - 1] < 16
            if 16 <= row[t - 1] < 24:  # a key; its value follows
                known = row[t - 1] in bound
                assert kind[t] == KINDS["recall" if known else "recall_new"]
                assert 24 <= row[t] < 32 and bound.setdefault(row[t - 1], row[t]) == row[t]
            if kind[t] == KINDS["triple"]:
                x, y, z = (v - 32 for v in row[t - 2 : t + 1])
                assert z == (x + y) % 5
    share = torch.bincount(kinds.flatten(), minlength=5) / kinds.numel()
    mean = 0.28 * 5.5 + 0.27 * 2 + 0.45 * 3  # tokens a segment
    assert share[KINDS["cycle"]] == pytest.approx(0.28 * 4.5 / mean, abs=0.02)
    assert share[KINDS["triple"]] == pytest.approx(0.45 / mean, abs=0.02)
    values = share[KINDS["recall"]] + share[KINDS["recall_new"]]
    assert values == pytest.approx(0.27 / mean, abs=0.01)


def test_token_difficulty_is_a_function_of_seed_and_number():
    ids, kinds = token_difficulty(6, 64, seed=1)
    for part, whole in zip(token_difficulty(2, 64, seed=1, first=3), (ids, kinds)):
        assert torch.equal(part, whole[3:5])
    assert torch.equal(token_difficulty(6, 128, seed=1)[0][:, :64], ids)
    assert not torch.equal(token_difficulty(6, 64, seed=2)[0], ids)
    data = TokenDifficulty(train_samples=4, val_samples=2, seed=1)
    assert torch.equal(data.rows(0).ids, ids[:4]) and len(data.rows(1).ids) == 2
