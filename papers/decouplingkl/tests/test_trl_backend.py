"""trl's trainers have our loss and gradient in the cells that they can express, and what they cannot is refused."""

from types import SimpleNamespace

import pytest
import torch

from common.models import load, tiny
from tests.numerics import close

from ..method import DistillConfig
from .exact import truly_double
from .runs import ROWS, training

pytest.importorskip("trl")
pytestmark = pytest.mark.usefixtures("one_thread")

CELLS = {"TF": ("teacher", 0.0), "TR": ("teacher", 1.0), "SF": ("student", 0.0), "SR": ("student", 1.0)}


@pytest.fixture(scope="module")
def pair():
    return [truly_double(load(tiny("llama", num_hidden_layers=1, hidden_size=h, seed=s)).model) for h, s in ((32, 0), (48, 1))]


def ours_and_inputs(pair, lam, mix="linear"):
    """Our summed loss over tokens and the gradient, of ROWS behind three prompts of different length; and the rows as ids."""
    prompts = [[1, 5, 9, 8], [1, 6], [1, 7, 3]]
    found = training(config={"lam": lam, "mix": mix})
    found.given, found.given_teacher = (pair[0], None, {}), (pair[1], None, {})
    found.configure_model()
    loss = found.loss_sum([SimpleNamespace(prompt=p) for p in prompts], ROWS) / sum(len(r.ids) for r in ROWS)
    own = [p for p in pair[0].parameters() if p.requires_grad]
    return loss, torch.autograd.grad(loss, own), own, prompts


@pytest.mark.numerics
@pytest.mark.parametrize("lam, mix", [(0.0, "linear"), (1.0, "linear"), (0.3, "linear"), (0.3, "jsd")])
def test_trls_distillation_trainer_has_our_loss_and_gradient(lam, mix, pair):
    """SF and SR, and the mixes: the stock one is the JSD, the subclass is linear. No trainer is built: its loss is asked by itself."""
    from ..trl_backend import distillation_class

    loss, expected, own, prompts = ours_and_inputs(pair, lam, mix)
    width, longest = max(map(len, prompts)), max(len(r.ids) for r in ROWS)
    inputs = {"prompt_ids": torch.zeros(3, width, dtype=torch.long), "completion_ids": torch.zeros(3, longest, dtype=torch.long)}
    inputs |= {"prompt_mask": torch.zeros(3, width, dtype=torch.long), "completion_mask": torch.zeros(3, longest, dtype=torch.long)}
    for i, (prompt, r) in enumerate(zip(prompts, ROWS)):
        inputs["prompt_ids"][i, width - len(prompt) :], inputs["prompt_mask"][i, width - len(prompt) :] = torch.tensor(prompt), 1
        inputs["completion_ids"][i, : len(r.ids)], inputs["completion_mask"][i, : len(r.ids)] = torch.tensor(r.ids), 1
    kind = distillation_class(mix == "linear" and 0 < lam < 1)
    stub = kind.__new__(kind)
    stub.teacher_model, stub.beta, stub.temperature, stub.model_kwarg_keys, stub._is_vlm = pair[1], lam, 1.0, {"logits_to_keep"}, False
    stub.accelerator = SimpleNamespace(unwrap_model=lambda m: m, is_main_process=False)
    stub._forward_redirection = lambda wrapped, inner, function, *args, **how: function(*args, **how)
    theirs, *_ = kind._compute_loss(stub, pair[0], inputs, torch.tensor(float(sum(len(r.ids) for r in ROWS))))
    close(theirs, loss, 1e-6)
    for a, b in zip(torch.autograd.grad(theirs, own, allow_unused=True), expected):
        close(a, b, 1e-5)


@pytest.mark.numerics
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("linear", [False, True])
def test_trls_gkd_trainer_spans_the_four_cells(cell, linear, pair, tmp_path):
    """(lmbda, seq_kd) is the prefix source, beta the direction: the loss of a batch that its collator made is ours."""
    from ..trl_backend import collate, gkd_arguments, gkd_class

    prefix, lam = CELLS[cell]
    lam = 0.3 if linear else lam
    arguments = gkd_arguments(DistillConfig(prefix=prefix, lam=lam))
    assert (arguments["lmbda"], arguments["seq_kd"], arguments["beta"]) == (float(prefix == "student"), prefix == "teacher", lam)
    loss, expected, own, prompts = ours_and_inputs(pair, lam)
    batch = collate(0)([{"prompt_ids": p, "completion_ids": r.ids} for p, r in zip(prompts, ROWS)])
    kind = gkd_class(linear)
    stub = kind.__new__(kind)
    stub.teacher_model, stub.beta = pair[1], lam
    theirs = kind.compute_loss(stub, pair[0], batch, num_items_in_batch=sum(len(r.ids) for r in ROWS))
    close(theirs, loss, 1e-9)
    for a, b in zip(torch.autograd.grad(theirs, own, allow_unused=True), expected):
        close(a, b, 1e-8)


@pytest.mark.parametrize("options, says", [({"estimator": "sampled"}, "estimator is 'sampled'"), ({"mix": "by_entropy"}, "mix is"),
                                           ({"prefix": "teacher", "loss_temperature": 2.0}, "loss_temperature is 2.0"),
                                           ({"micro_batch_size": 5}, "do not split"), ({"stop_token_ids": (1,)}, "stop_token_ids")])
def test_what_trl_cannot_do_is_refused(options, says):
    from ..trl_backend import gkd_arguments

    with pytest.raises(ValueError, match=says):
        gkd_arguments(DistillConfig(**options))


@pytest.mark.parametrize("text", ["x", "5", "[1]", "null", "[" * 100_000])
def test_settings_that_are_none_by_name_are_told(text, capsys):
    from .. import train_trl

    with pytest.raises(SystemExit) as left:
        train_trl.main(["--config", "papers/decouplingkl/configs/cpu/chains.yaml", "--trl", text])
    assert left.value.code == 2 and "argument --trl: " in capsys.readouterr().err
