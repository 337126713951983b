"""Training: one number that divides a step's loss, a teacher that is never saved, and equalities by number."""

import json
from types import SimpleNamespace

import pytest
import torch

from common.errors import ModelError, SetupError
from common.models import ModelSpec, load, tiny
from tests.numerics import close, far
from tests.trainings import difference

from .. import baselines, module
from ..heads import Head, check_pair
from ..scoring import divergences, entropies, scores
from .runs import ROWS, SMALL, Coin, fit, fit_in_processes, model, ready, training, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    torch.set_num_threads(1)
    return fit(training(config={"lam": 0.4}), tmp_path_factory.mktemp("dkl-one"))


def by_hand(found, problems, rows, lam, direction_of=None):
    """The sum over response tokens, a response at a time, from position t - 1, the end included and nothing behind it."""
    total = 0.0
    for r in rows:
        prompt = list(problems[r.prompt].prompt)
        whole = torch.tensor([[*prompt, *r.ids]])
        with torch.no_grad():
            q, p = (m(whole).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for m in (found.model, found.teacher))
        total += float((lam * q.exp() * (q - p) + (1 - lam) * p.exp() * (p - q)).sum())
    return total


# -- the loss ----------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_loss_by_hand_over_ragged_prompts(lam, chunk):
    """A batch of prompts and responses of different length is the sum of its rows: no column is cut by another row's prompt."""
    found, problems = ready(training(config={"lam": lam, "token_chunk": chunk}))
    assert len({len(problems[r.prompt].prompt) for r in ROWS}) > 1
    whole = found.loss_sum(problems, ROWS)
    close(whole, by_hand(found, problems, ROWS, lam), 1e-9)
    close(sum(found.loss_sum(problems, [r]) for r in ROWS), whole, 1e-10)
    blank = found.loss_sum(problems, [])
    assert blank == 0 and blank.requires_grad


@pytest.mark.numerics
@pytest.mark.parametrize("prefix", ["student", "teacher"])
def test_a_teacher_that_is_the_student_teaches_nothing(prefix, tmp_path):
    """Loss and gradient 0 for every lam, estimator and chunk, and no weight moves."""
    for lam in (0.0, 0.5, 1.0):
        for extra in ({}, {"token_chunk": 3}, {"mix": "jsd"}, {"estimator": "topk", "top_tokens": 3}):
            found = training(config={"prefix": prefix, "lam": lam, **extra})
            found.given_teacher = (baselines.itself(found.given[0]), *found.given[1:])
            if lam == 0.5 and not extra:
                before = {n: p.detach().clone() for n, p in found.given[0].named_parameters()}
                fit(found, tmp_path / prefix, steps=1)
                first = found.history[0]
                assert abs(first["loss per token"]) < 1e-15 and first["norm"] < 1e-14  # 0 but for what a processor rounds
                assert difference(weights(found), before) < 1e-6  # AdamW makes a step of any rounding; the weights must not
                continue
            found, problems = ready(found)
            loss = found.loss_sum(problems, ROWS)
            loss.backward()
            assert abs(float(loss.detach())) < 1e-15
            assert max(float(p.grad.abs().max()) for p in found.model.parameters() if p.grad is not None) < 1e-13


@pytest.mark.numerics
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("itself", [False, True])
def test_the_side_that_pads_lie_on_does_not_matter(lam, itself):
    """Our batches are padded on the right. Padded on the left, as generation pads, and told so by mask and positions, both models give the
    same loss over the same tokens; and a teacher that is the student gives none."""
    from ..method import mixed_kl

    found = training(config={"lam": lam})
    if itself:
        found.given_teacher = (baselines.itself(found.given[0]), *found.given_teacher[1:])
    found, problems = ready(found)
    prompts = [list(problems[r.prompt].prompt) for r in ROWS]
    width = max(len(p) + len(r.ids) for p, r in zip(prompts, ROWS))
    ids, mask, where = (torch.zeros(len(ROWS), width, dtype=kind) for kind in (torch.long, torch.long, torch.bool))
    for row, (prompt, r) in enumerate(zip(prompts, ROWS)):
        whole = [*prompt, *r.ids]
        ids[row, width - len(whole) :], mask[row, width - len(whole) :] = torch.tensor(whole), 1
        where[row, width - len(r.ids) - 1 : width - 1] = True  # position t - 1 predicts token t
    assert len(set(mask.sum(1).tolist())) == len(ROWS)
    with torch.no_grad():
        zq, zp = (m(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[where]
                  for m in (found.model.eval(), found.teacher))
    left, right = mixed_kl(zq, zp, lam).sum(), found.loss_sum(problems, ROWS)
    if itself:
        assert left.abs() < 1e-13 and right.abs() < 1e-13
    else:
        close(left, right, 1e-9)
        shifted = mixed_kl(zq.roll(1, 0), zp, lam).sum()
        far(shifted, right, 0.01)


@pytest.mark.numerics
@pytest.mark.parametrize("estimator", ["full", "sampled", "topk"])
def test_micro_batches_do_not_matter(estimator, tmp_path):
    """The mean is over the tokens of the whole step: one response at a time is not one response one vote (spec 6.3)."""
    config = {"estimator": estimator, "lam": 0.4, "top_tokens": 5}
    runs = [fit(training(config=config | {"micro_batch_size": size}), tmp_path / str(size), steps=1) for size in (1, 3, 64)]
    for other in runs[:2]:
        assert difference(weights(other), weights(runs[2])) < 1e-8
        for name in ("loss per token", "norm"):
            assert other.history[0][name] == pytest.approx(runs[2].history[0][name], rel=1e-9)


@pytest.mark.numerics
@pytest.mark.parametrize("prefix, lam", [("student", 0.0), ("teacher", 1.0)])
def test_fresh_labels_have_the_full_gradient_in_the_mean(prefix, lam):
    """SF and TR over many draws at fixed text. (In SR and TF the text is the label; test_method enumerates these.)"""
    config = {"prefix": prefix, "lam": lam}
    full, problems = ready(training(config=config))
    full.loss_sum(problems, ROWS).backward()
    expected = full.model.get_output_embeddings().weight.grad.clone()
    found, problems = ready(training(config=config | {"estimator": "sampled"}))
    total = torch.zeros_like(expected)
    for draw in range(400):
        found.done = draw
        found.model.zero_grad()
        found.loss_sum(problems, ROWS).backward()
        total += found.model.get_output_embeddings().weight.grad
    assert float((total / 400 - expected).norm() / expected.norm()) < 0.3
    far(total / 400, torch.zeros_like(expected), 0.5)


# -- two models --------------------------------------------------------------------------------------------
def test_vocabularies_are_refused_with_both_sizes():
    sizes = [SimpleNamespace(get_output_embeddings=lambda n=n: SimpleNamespace(weight=torch.empty(n, 1, device="meta")))
             for n in (151_936, 152_064)]
    with pytest.raises(ModelError, match="student has 151936 tokens and the teacher 152064"):
        check_pair(sizes[0], None, sizes[1], None)
    words = [SimpleNamespace(get_vocab=lambda v=v: v) for v in ({"a": 0, "b": 1}, {"a": 1, "b": 0})]
    with pytest.raises(ModelError, match=r"differ in 2 of them, e.g. 'a' \(0 in the student's, 1 in the teacher's\)"):
        check_pair(sizes[0], words[0], sizes[0], words[1])
    check_pair(sizes[0], words[0], sizes[0], words[0])
    with pytest.warns(UserWarning, match="the teacher has no tokenizer"):
        check_pair(sizes[0], words[0], sizes[0], None)


def test_the_teacher_is_in_no_optimiser_no_checkpoint_and_no_product(tmp_path):
    teacher = model("float32", 7, 96)
    before = {n: p.clone() for n, p in teacher.named_parameters()}
    found = training(dtype="float32", teacher=teacher.bfloat16().train())
    found.given = (model("float32", 0, 64), *found.given[1:])
    fit(found, tmp_path, steps=1, checkpoint_every=1)
    teacher = found.teacher
    assert not teacher.training and next(teacher.parameters()).dtype == torch.bfloat16
    assert not any(p.requires_grad for p in teacher.parameters())
    ids = {id(p) for group in found.trainer.optimizers[0].param_groups for p in group["params"]}
    assert ids == {id(p) for p in found.model.parameters()}
    saved = torch.load(tmp_path / "checkpoints" / "step=1.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"model.{n}" for n, _ in found.model.named_parameters()}
    student = sum(p.numel() * 4 for p in found.model.parameters())
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 1.2 * student
    assert (tmp_path / "checkpoints" / "step=1.ckpt").stat().st_size < 3 * 1.2 * student  # with AdamW's two moments
    assert all(torch.equal(p, before[n].bfloat16()) for n, p in teacher.named_parameters())
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert about["distilled_from"] == "teacher" and about["teacher"] == "y" and about["lam"] == 1.0


def test_heads_that_cannot_be_called_alone_are_refused_by_property():
    odd = load(tiny("llama", num_hidden_layers=1)).model
    odd.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"trained weights besides decoder and output embedding \(extra.weight\)"):
        Head(odd)
    wrong = load(tiny("llama", num_hidden_layers=1)).model
    forward = wrong.model.forward
    wrong.model.forward = lambda **how: forward(**how) if "position_ids" in how else type(forward(**how))(
        last_hidden_state=2 * forward(**how).last_hidden_state)  # the whole model hands position ids on, a call alone does not
    with pytest.raises(ModelError, match="head gives others than the whole model"):
        Head(wrong)


def test_a_shuffled_teacher_is_as_sharp_and_wrong():
    teacher = model("float64", 7)
    ids = torch.tensor([[1, 5, 9]])
    other = baselines.shuffled(teacher, keep=(2,))
    p, s = (m(ids).logits.softmax(-1) for m in (teacher, other))
    close(s.sort(-1).values, p.sort(-1).values, 1e-12)
    far(s, p, 0.1)
    close(s[..., 2], p[..., 2], 1e-12)
    assert torch.equal(teacher.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_an_infinite_loss_is_said_in_a_line(tmp_path):
    found = training(config={"lam": 1.0})
    teacher = found.given_teacher[0]
    teacher.register_forward_hook(lambda m, a, out: setattr(out, "logits", out.logits.index_fill(-1, torch.arange(5, 28), -float("inf"))))
    with pytest.raises(ModelError, match="loss of step 0 is inf"):
        fit(found, tmp_path, steps=1)


def test_a_problem_that_leaves_no_room_is_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sample", lambda *_, **__: pytest.fail("sampled before it was refused"))
    data = Coin(count=16, held_out=4, seed=5)
    longest = max(len(p.prompt) for p in data.rows(0).problems)
    for who in ("given", "given_teacher"):  # a teacher reads what the student wrote
        found = training()
        getattr(found, who)[0].config.max_position_embeddings = longest + SMALL["max_new_tokens"] - 1
        with pytest.raises(ModelError, match=f"a prompt of {longest} tokens and 6 to come"):
            fit(found, tmp_path, data=data)
    with pytest.raises(ModelError, match="tokens and 600 to come"):  # of a validation that is to come
        found = training()
        found.cap = 600
        fit(found, tmp_path, data=data, limit_val_batches=1.0)


# -- processes, shards, kills ------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("kind, config", [("Distilling", {"lam": 0.4}), ("GRPO", {"rollouts_per_prompt": 4}),
                                          ("Distilling", {"lam": 0.4, "estimator": "sampled", "prefix": "teacher"})])
def test_two_processes_equal_one(kind, config, one, tmp_path):
    """They sample what one would, and divide by one number."""
    whole = one if config == {"lam": 0.4} else fit(training(kind, config), tmp_path / "one")
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy="ddp", kind=kind, config=config)
    assert codes == [0, 0]
    for rank in ranks:
        for name in ("length", "right", "loss per token", "norm"):
            assert [row[name] for row in rank["history"]] == pytest.approx([row[name] for row in whole.history], rel=1e-8), name
        assert difference(rank["weights"], weights(whole)) < 1e-8


@pytest.mark.numerics
def test_two_processes_share_a_cache_and_a_gate(tmp_path):
    config, gate = {"prefix": "teacher", "lam": 0.0}, dict(ladder=[2, 4, 6], h_min=0.99, stage_steps=1, prompts=3)
    whole = fit(training(config=config, trajectories=str(tmp_path / "one.jsonl")), tmp_path / "one", steps=3, curriculum=gate)
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy="ddp", config=config, steps=3, curriculum=gate,
                                    trajectories=str(tmp_path / "two.jsonl"))
    assert codes == [0, 0] and difference(ranks[0]["weights"], weights(whole)) < 1e-8
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    ours = whole.trainer.callbacks[0].decisions
    for rank in ranks:
        assert [row["action"] for row in rank["decisions"]] == [row["action"] for row in ours]
        assert [row["entropy"] for row in rank["decisions"]] == pytest.approx([row["entropy"] for row in ours], rel=1e-8)


@pytest.mark.numerics
def test_shards_equal_one_process_and_leave_a_whole_product(one, tmp_path):
    """FSDP2: whole copies sample and shards learn; the teacher is whole on each; chunks of a head in shards are refused."""
    codes, ranks = fit_in_processes(tmp_path, world=2, strategy="fsdp2", config={"lam": 0.4}, sample_dtype="float32", checkpoint_every=1)
    assert codes == [0, 0]
    for rank in ranks:
        assert [row["norm"] for row in rank["history"]] == pytest.approx([row["norm"] for row in one.history], rel=1e-8)
        assert difference(rank["weights"], weights(one)) < 1e-8
    saved = load(ModelSpec(str(tmp_path / "model"))).model
    assert difference({n: p.detach() for n, p in saved.named_parameters()}, {n: p.float() for n, p in ranks[0]["weights"].items()}) == 0


@pytest.mark.numerics
def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    config = {"prefix": "teacher"}
    unbroken = fit(training(config=config, trajectories=str(tmp_path / "a.jsonl")), tmp_path / "unbroken", steps=3, checkpoint_every=1)
    codes, saved = fit_in_processes(tmp_path / "killed", steps=3, checkpoint_every=1, kill_at=2, config=config,
                                    trajectories=str(tmp_path / "b.jsonl"))
    assert codes == [-9] and not saved
    checkpoint = tmp_path / "killed" / "checkpoints" / "step=1.ckpt"  # a step before what the file of trajectories has seen
    resumed = fit(training(config=config, trajectories=str(tmp_path / "b.jsonl")), tmp_path / "killed", steps=3, resume=checkpoint)
    assert difference(weights(resumed), weights(unbroken)) < 1e-12
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    with pytest.raises(SetupError, match="lam = 1.0; the config says 0.0"):
        fit(training(config=config | {"lam": 0.0}), tmp_path / "other", steps=3, resume=checkpoint)
    other = training(config=config)
    other.given_teacher = (*other.given_teacher[:2], {"name": "another", "weights_sha256": "z"})
    with pytest.raises(SetupError, match="teacher = y; the config says z"):
        fit(other, tmp_path / "other", steps=3, resume=checkpoint)


# -- scores ------------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_entropies_and_divergences_are_sums_over_response_tokens_alone():
    student, teacher = model("float64", 0), model("float64", 7, 24)
    prompts = [[1, 5, 9, 8], [1, 6], [1, 7, 3]]
    found, expected, kls = entropies(student, prompts, ROWS, batch=2), [], []
    for r in ROWS:
        whole = torch.tensor([[*prompts[r.prompt], *r.ids]])
        with torch.no_grad():
            q, p = (m(whole).logits[0, len(prompts[r.prompt]) - 1 : -1].log_softmax(-1) for m in (student, teacher))
        expected.append(float(-(q.exp() * q).sum()))
        kls.append([float((p.exp() * (p - q)).sum()), float((q.exp() * (q - p)).sum())])
    close(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64), 1e-9)
    tokens = sum(len(r.ids) for r in ROWS)
    assert divergences(student, teacher, prompts, ROWS, 2) == pytest.approx(
        {"forward": sum(k[0] for k in kls) / tokens, "reverse": sum(k[1] for k in kls) / tokens}, rel=1e-9)


def test_pass_at_k_rises_with_k_and_begins_at_avg():
    """Of any pattern of right answers; it stands still only where more responses cannot help."""
    draw = torch.Generator().manual_seed(0)
    for n in (1, 3, 8):
        right = (torch.rand(12, n, generator=draw) < torch.rand(12, 1, generator=draw)).tolist()
        rows = [{"correct": row, "lengths": [5] * n, "finished": [True] * n} for row in right]
        found = scores(rows, 9)
        passed = [found["pass_at"][k] for k in sorted(found["pass_at"], key=int)]
        assert passed[0] == pytest.approx(found["avg"]) and all(a <= b + 1e-12 for a, b in zip(passed, passed[1:]))
        assert passed[-1] == pytest.approx(sum(map(any, right)) / 12) and (len(passed) == 1 or passed[0] < passed[-1])
