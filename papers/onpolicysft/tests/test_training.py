"""Training: on policy means that policy, one number divides a step's loss, and what is equal by theory is equal by number."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from common.errors import SetupError
from common.models import ModelSpec, load
from common.reasoning.rollouts import sample
from tests.trainings import difference

from .. import method
from .runs import Coin, fit, fit_in_processes, training, weights


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    torch.set_num_threads(1)
    return fit(training(), tmp_path_factory.mktemp("onpolicysft-one"))


# -- on policy ---------------------------------------------------------------------------------------------
def test_every_update_has_fresh_rollouts_of_the_weights_that_it_updates(tmp_path, monkeypatch):
    from common.reasoning import sampled

    seen = []

    def watched(model, *args, **kwargs):
        seen.append((float(sum(p.detach().double().sum() for p in model.parameters())), kwargs["temperature"]))
        return original(model, *args, **kwargs)

    original = sampled.sample
    monkeypatch.setattr(sampled, "sample", watched)
    found = training()
    fit(found, tmp_path, steps=3)
    assert len(seen) == found.done == 3 and len({weight for weight, _ in seen}) == 3
    assert {t for _, t in seen} == {1.0} and found.config.on_policy
    assert not training(config={"updates_per_rollout": 2}).config.on_policy


class Engine:
    """What VllmSampler is to a training: it is given the weights before every sampling."""

    def __init__(self):
        self.loaded = []

    def load(self, model):
        self.loaded.append(float(sum(p.detach().double().sum() for p in model.parameters())))
        self.model = model

    def sample(self, prompts, n, limit, **how):
        return sample(self.model, prompts, n, limit, **how)


def test_an_engine_samples_instead_is_kept_up_to_date_and_is_missed_in_a_line(tmp_path):
    found = training()
    found.sampler = engine = Engine()
    fit(found, tmp_path, steps=2)
    assert len(set(engine.loaded)) == 2
    plain = fit(training(), tmp_path / "plain", steps=2)
    assert difference(weights(found), weights(plain)) < 1e-12
    with pytest.raises(SetupError, match="model.engine: VllmSampler needs vllm"):
        fit(training(engine={}), tmp_path / "none", steps=1)


def test_what_was_cut_is_not_kept_unless_the_authors_code_is_asked_for(tmp_path):
    kept = []
    for require in (True, False):
        found = training(config={"require_eos": require, "max_new_tokens": 1, "lr": 1e-9})
        fit(found, tmp_path / str(require), steps=1)
        kept.append(found.history[0]["kept"])
        assert found.history[0]["cut"] > 0.8
    assert kept[0] < 0.2 < kept[1] == found.history[0]["right"]


def test_fixed_data_come_from_the_start_and_other_selections_are_what_they_say(tmp_path):
    found = training("FixedData", {"lr": 0.1})
    fit(found, tmp_path, steps=3)
    torch.manual_seed(0)
    start = training("FixedData")
    start.configure_model()
    for a, b in zip(found.start[0].parameters(), start.start[0].parameters()):
        assert torch.equal(a, b) and not a.requires_grad
    by_engine = training("FixedData", {"lr": 0.1})
    by_engine.sampler = Engine()  # which is not given what was learnt
    fit(by_engine, tmp_path / "engine", steps=3)
    assert len(by_engine.sampler.loaded) == 3 and len(set(by_engine.sampler.loaded)) == 1
    assert difference(weights(found), weights(start)) > 1e-3
    lot, best = fit(training("ByLot"), tmp_path / "lot", steps=1), fit(training("BestOfN"), tmp_path / "best", steps=1)
    assert lot.history[0]["kept"] == lot.history[0]["right"] and best.history[0]["kept"] <= 4 / 16


# -- equal by theory ---------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("norm", ["max", "token", "const", "seq"])
def test_micro_batches_do_not_matter(norm, tmp_path):
    runs = [fit(training(config={"micro_batch_size": size, "length_norm": norm}), tmp_path / f"{norm}{size}", steps=1)
            for size in (1, 2, 64)]
    for other in runs[:2]:
        assert difference(weights(other), weights(runs[2])) < 1e-9
        for name in ("loss per token", "norm"):
            assert other.history[0][name] == pytest.approx(runs[2].history[0][name], rel=1e-12)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["OnPolicySFT", "GRPO"])
def test_two_processes_equal_one(kind, one, tmp_path):
    """They sample what one would, keep different numbers, and divide by one number."""
    whole = one if kind == "OnPolicySFT" else fit(training(kind), tmp_path / "one")
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy="ddp", kind=kind)
    assert codes == [0, 0]
    for rank in ranks:
        for name in ("right", "length", "kept", "kept length", "norm"):
            assert [row[name] for row in rank["history"]] == pytest.approx([row[name] for row in whole.history], rel=1e-9), name
        assert difference(rank["weights"], weights(whole)) < 1e-9


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["OnPolicySFT", "GRPO"])
def test_shards_equal_one_process_and_leave_a_whole_product(kind, one, tmp_path):
    """FSDP2: whole copies sample and shards learn, the reference of GRPO is whole; then one process goes on where two were killed."""
    whole = one if kind == "OnPolicySFT" else fit(training(kind), tmp_path / "one")
    folder = tmp_path / "two"
    codes, ranks = fit_in_processes(folder, world=2, strategy="fsdp2", kind=kind, sample_dtype="float32", checkpoint_every=1)
    assert codes == [0, 0]
    for rank in ranks:
        assert [row["kept"] for row in rank["history"]] == [row["kept"] for row in whole.history]
        assert [row["norm"] for row in rank["history"]] == pytest.approx([row["norm"] for row in whole.history], rel=1e-9)
        assert difference(rank["weights"], weights(whole)) < 1e-9
    saved = load(ModelSpec(str(folder / "model"))).model  # opened in single precision
    assert difference({n: p.detach() for n, p in saved.named_parameters()}, {n: p.float() for n, p in ranks[0]["weights"].items()}) == 0
    resumed = training(kind, sample_dtype="float32")
    fit(resumed, tmp_path / "alone", resume=folder / "checkpoints" / "step=1.ckpt")
    assert resumed.done == 2 and difference(weights(resumed), weights(whole)) < 1e-9


def test_shards_without_anything_to_sample_by_are_refused():
    found = training()
    found._device_mesh = {"data_parallel": None}
    with pytest.raises(SetupError, match="sample_dtype"):
        found.configure_model()


@pytest.mark.numerics
def test_a_copy_samples_as_the_model_does_and_is_never_stale(tmp_path, one):
    found = fit(training(sample_dtype="float32"), tmp_path)
    assert difference(weights(found), weights(one)) < 1e-12
    assert [row["length"] for row in found.history] == [row["length"] for row in one.history]
    rounded = fit(training(dtype="float32", sample_dtype="bfloat16"), tmp_path, precision="bf16-mixed")
    before = training(dtype="float32")
    before.configure_model()
    for name, value in weights(rounded).items():  # AdamW's first step moves each weight by about the rate, 0.01
        assert value.dtype == torch.float32 and (value - weights(before)[name]).abs().max() > 1e-3, name
    assert next(rounded._copy[0].parameters()).dtype == torch.bfloat16 and not any("_copy" in n for n in rounded.state_dict())


def test_a_rank_that_keeps_nothing_does_not_stop_the_other(tmp_path, one):
    """The first problem alone is ever right: rank 1 has blank rows only."""
    codes, ranks = fit_in_processes(tmp_path, world=2, strategy="ddp", config={"prompts_per_step": 2, "rollouts_per_prompt": 8})
    assert codes == [0, 0] and difference(ranks[0]["weights"], ranks[1]["weights"]) == 0


@pytest.mark.numerics
def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    unbroken = fit(training(), tmp_path / "unbroken", steps=4, checkpoint_every=2)
    codes, saved = fit_in_processes(tmp_path / "killed", steps=4, checkpoint_every=2, kill_at=3)
    assert codes == [-9] and not saved
    checkpoint = tmp_path / "killed" / "checkpoints" / "step=2.ckpt"
    resumed = fit(training(), tmp_path / "killed", steps=4, checkpoint_every=2, resume=checkpoint)
    assert difference(weights(resumed), weights(unbroken)) < 1e-12
    assert [row["length"] for row in resumed.history] == [row["length"] for row in unbroken.history]
    with pytest.raises(SetupError, match="lr = 0.01; the config says 0.5"):
        fit(training(config={"lr": 0.5}), tmp_path / "other", steps=4, resume=checkpoint)
    with pytest.raises(SetupError, match="data.count = 16; the config says 8"):
        fit(training(), tmp_path / "other", steps=4, resume=checkpoint, data=Coin(count=8, seed=5))
    with pytest.raises(SetupError, match="module = OnPolicySFT; the config says GRPO"):
        fit(training("GRPO"), tmp_path / "other", steps=4, resume=checkpoint)
    longer = fit(training(), tmp_path / "longer", steps=5, resume=checkpoint)  # the rate does not depend on the number of steps
    assert longer.done == 5
    assert (tmp_path / "unbroken" / "model" / "model.safetensors").is_file()


# -- groups without a difference ---------------------------------------------------------------------------
@pytest.mark.parametrize("kind, right, moves", [("OnPolicySFT", True, True), ("GRPO", True, False), ("OnPolicySFT", False, False),
                                               ("GRPO", False, False)])
def test_groups_that_are_all_right_or_all_wrong(kind, right, moves, tmp_path):
    """All right: On-Policy SFT learns, and group normalisation sees nothing. All wrong: neither."""
    data = Coin(count=16, seed=5)
    data.right = lambda rollout: right
    found = training(kind, **({"beta": 0.0} if kind == "GRPO" else {}))
    found.configure_model()
    before = weights(found)
    fit(found, tmp_path, steps=1 if moves else -1, data=data, max_epochs=1, limit_train_batches=1)
    moved = difference(weights(found), before)
    assert moved > 1e-3 if moves else moved == 0
    assert found.skipped == (0 if moves else 1) and found.done == 1


def test_counting_all_scales_with_the_pass_rate_and_counting_the_kept_does_not():
    lengths = [3, 5]
    assert method.denominator(lengths, "max") == method.denominator(lengths, "max", n_all=20)
    assert method.denominator(lengths, "max", count="all", n_all=20) == 10 * method.denominator(lengths, "max")


def test_two_updates_on_a_batch_are_two_halves_of_it(tmp_path):
    found = training(config={"updates_per_rollout": 2, "count": "all"})
    fit(found, tmp_path, steps=2)  # optimiser steps: one batch of rollouts
    assert found.done == 1 and len(found.history) == 1
    with pytest.raises(ValueError, match="must be 1 for GRPO"):
        training("GRPO", {"updates_per_rollout": 2})


# -- bad input ---------------------------------------------------------------------------------------------
def test_accumulation_is_refused(tmp_path):
    """A step's responses are cut by micro_batch_size; Lightning says it itself, and the command line in a line."""
    with pytest.raises(MisconfigurationException, match="accumulate_grad_batches=2"):
        fit(training(), tmp_path, accumulate_grad_batches=2)
