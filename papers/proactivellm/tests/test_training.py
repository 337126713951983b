"""Training: what is equal by theory is equal by number, what was killed goes on, and what the arms are."""

import json
import random

import pytest
import torch

from common.errors import SetupError
from common.lora import LoraSpec
from common.models import load
from common.streaming.live import open_checkpoint
from common.training.steps import StepBatches
from tests.numerics import close
from tests.small_tokenizers import tokenizer
from tests.trainings import difference, trained

from .. import method
from ..data import Answered, Drawn, Generated, Rows, batch_of, cut, read_rows
from ..method import Law, read_path
from ..module import ProactiveTraining
from ..tasks import FEATURES, Task
from .runs import BASE, fit, fit_in_processes, streams, training


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """The reference: 3 steps of 8 streams, each step one micro-batch on one device."""
    torch.set_num_threads(1)
    return fit(training(), tmp_path_factory.mktemp("one"))


# -- equal by theory ---------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_batch_8_is_four_of_two(one_batch, tmp_path):
    module, diary = one_batch
    parts, other = fit(training(), tmp_path, accumulate=4)
    assert other.losses == pytest.approx(diary.losses, rel=1e-9) and difference(trained(parts), trained(module)) < 1e-9


@pytest.mark.numerics
@pytest.mark.parametrize("strategy, setup", [("ddp", {}), ("fsdp2", {}), ("fsdp2", dict(
    lora=LoraSpec(rank=4, alpha=8, dropout=0.0), gradient_checkpointing=True))], ids=["DDP", "FSDP2", "FSDP2, LoRA"])
def test_two_processes_equal_one_and_one_goes_on_from_two(strategy, setup, one_batch, tmp_path):
    """Three steps on two processes, and the last of them again on one, from the checkpoint of two: the unbroken run."""
    module, diary = fit(training(**setup), tmp_path / "one") if setup else one_batch
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy=strategy, module=setup, checkpoint_every=2)
    assert codes == [0, 0]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(diary.losses, rel=1e-9)
        assert difference(rank["parameters"], trained(module)) < 1e-9
    resumed, rest = fit(training(**setup), tmp_path / "resumed", resume=tmp_path / "two" / "checkpoints" / "step=2.ckpt")
    assert rest.losses == pytest.approx(diary.losses[2:], rel=1e-9) and difference(trained(resumed), trained(module)) < 1e-9
    if not setup:
        product = load(str(tmp_path / "two" / "model")).model
        for name, value in product.state_dict().items():
            close(value, module.model.state_dict()[name], rel=1e-7)  # `load` rounds to fp32


def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    setup, options = dict(lora=LoraSpec(rank=4, alpha=8, dropout=0.2), warmup_steps=2), dict(steps=4, accumulate=2, checkpoint_every=2)
    unbroken, diary = fit(training(**setup), tmp_path / "unbroken", **options)
    codes, saved = fit_in_processes(tmp_path / "killed", module=setup, kill_at=6, **options)
    assert codes == [-9] and not saved and not (tmp_path / "killed" / "model").exists()
    checkpoint = tmp_path / "killed" / "checkpoints" / "step=2.ckpt"
    assert all(".lora_" in name for name in torch.load(checkpoint, weights_only=True)["state_dict"])
    resumed, rest = fit(training(**setup), tmp_path / "killed", resume=checkpoint, **options)
    assert all(torch.equal(value, trained(unbroken)[name]) for name, value in trained(resumed).items()) and rest.losses == diary.losses[2:]
    about = json.loads((tmp_path / "killed" / "model" / "proactivellm.json").read_text())
    assert (about["lam"], about["k"], about["data.task"], about["data.law"], about["steps"]) == (0.1, 100, "qa", "multinomial", 4)
    for other, says in ((dict(lam=0.2), "lam = 0.1"), (dict(k=5), "k = 100"), (dict(stream=0.5), "stream = 1")):
        with pytest.raises(SetupError, match=says):
            fit(training(**(setup | other)), tmp_path / "other", resume=checkpoint, **options)
    with pytest.raises(SetupError, match="data.law = multinomial"):
        fit(training(**setup), tmp_path / "other", resume=checkpoint, data=streams(law="slack"), **options)


# -- arms --------------------------------------------------------------------------------------------------
def test_a_loss_is_the_sum_of_its_weighted_parts_over_tokens(one_batch, double):
    """Of the first step, by hand; parts that have no weight and no view are not computed."""
    _, diary = one_batch
    module = training()
    module.configure_model()
    module.model.eval()
    rows = Rows(streams().items()[0], Law(), 5, False)
    micro = next(iter(StepBatches(rows, batch_size=8, micro_batch=8, seed=5)))
    batch = micro["batch"]
    with torch.no_grad():
        stream = method.cross_entropies(method.forward(module.model, batch), batch)
        whole = batch._replace(visible=batch.source_lengths[:, None].expand_as(batch.visible))
        read_all = method.cross_entropies(method.forward(module.model, whole), batch)
        views = method.two_views(module.model, batch)
        kl = method.topk_kl(views.batch[:, :-1], views.stream[:, :-1], 100)[batch.scored[:, 1:]].sum()
    n = int(batch.scored.sum())
    assert micro["step_targets"] == n == 24
    assert diary.parts[0] == pytest.approx([float(x) / n for x in (read_all, stream, kl)], rel=1e-9)
    assert diary.losses[0] == pytest.approx(float(read_all + stream + 0.1 * kl) / n, rel=1e-9)
    for weights, expected in (((1, 0, 0), (read_all, 0, 0)), ((0, 1, 0), (0, stream, 0)), ((1, 1, 0), (read_all, stream, kl)),
                              ((1, 0, 0.1), (read_all, stream, kl))):
        module.batch, module.stream, module.lam = weights
        with torch.no_grad():
            found = module.sums(batch)
        close(torch.stack([torch.as_tensor(float(x)) for x in found]), torch.tensor([float(x) for x in expected]), rel=1e-9)


def test_bad_weights_are_refused():
    for bad in (dict(batch=0, stream=0, lam=0), dict(lam=-1), dict(k=0)):
        with pytest.raises(ValueError, match="no weight below 0"):
            training(**bad)


def test_gradient_checkpointing_changes_nothing_but_memory(one_batch, tmp_path):
    module, diary = one_batch
    other, found = fit(training(gradient_checkpointing=True), tmp_path)
    assert found.losses == pytest.approx(diary.losses, rel=1e-9) and difference(trained(other), trained(module)) < 1e-9


# -- data --------------------------------------------------------------------------------------------------
def test_a_path_belongs_to_seed_and_place():
    items = streams().items()[0]
    rows, again, other = (Rows(items, Law(), seed, False) for seed in (5, 5, 6))
    paths = [rows.path(items[0], index) for index in range(20)]
    assert paths == [again.path(items[0], index) for index in range(20)] != [other.path(items[0], index) for index in range(20)]
    assert len({tuple(path) for path in paths}) > 10  # the same item is read in another way each time
    told = Rows(items, Law(), 5, True)
    assert told.path(items[0], 3) == items[0].oracle
    micro = told.collate([items[0], items[1]], [0, 1], {"step_targets": 6})
    batch, _ = batch_of([items[0].example, items[1].example], [items[0].oracle, items[1].oracle])
    assert torch.equal(micro["batch"].visible, batch.visible) and micro["step_targets"] == 6


def test_items_are_made_once_and_splits_are_apart():
    drawn = Drawn(Task("qa"), "train", 5, 7)
    assert len(drawn) == 5 and drawn[2] is drawn[2] and drawn[2].oracle == Task("qa").item(9).oracle
    with pytest.raises(IndexError):
        drawn[5]
    sources = [tuple(Task("qa").item(3, split).example.source.tolist()) for split in ("train", "calibration", "test")]
    assert len(set(sources)) == 3


def test_speech_trains_its_encoder(tmp_path, monkeypatch):
    """Frames become embeddings in both views, and the encoder learns; without one the data are refused."""
    item = Task("qa").item(0)
    features = torch.randn(len(item.example.source), FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = item.example.source.clone()
    source[2:-1] = -1
    spoken = item._replace(example=type(item.example)(source, item.example.source_units, item.example.target, item.example.target_units,
                                                      features=features))
    monkeypatch.setattr(Generated, "items", lambda self: ([spoken] * 8, [spoken]))
    module, diary = fit(training(features=FEATURES), tmp_path, data=streams())
    fresh = training(features=FEATURES)
    fresh.configure_model()
    assert difference(dict(module.encoder.named_parameters()), dict(fresh.encoder.double().named_parameters())) > 1e-3
    assert diary.losses[-1] < diary.losses[0]
    with pytest.raises(SetupError, match="set model.features"):
        fit(training(), tmp_path, data=streams())


# -- real text ---------------------------------------------------------------------------------------------
def test_text_is_cut_into_words_with_its_question_before_it(tmp_path):
    words = tokenizer("qwen2")
    rows = [("the cat sat on the mat", "the mat", "where is the cat"), ("we see a small dog", "a dog", "")]
    items = cut(words, "answer", rows, 400)
    assert [i.example.n_units for i in items] == [6, 5] and [len(i.example.target_units) - 2 for i in items] == [2, 2]
    instruction = words.decode(items[0].example.source[: items[0].example.source_units[0]])
    assert "answer" in instruction and "where is the cat" in instruction and items[0].oracle == ()
    assert read_path(Law(), 7, 3, random.Random(0))[-1] == 7
    assert cut(words, "answer", rows, 3) == []
    file = tmp_path / "rows.jsonl"
    file.write_text('{"source": "a b", "target": "c"}\n{"source": "a", "target": " "}\n')
    with pytest.raises(SetupError, match="line 2"):
        read_rows(file)
    with pytest.raises(SetupError, match="no file"):
        read_rows(tmp_path / "none.jsonl")
    for line, says in (("{", "line 2: no JSON"), ("[" * 9999, "line 2: no JSON"), ("[]", "line 2"),
                       ('{"source": "a", "target": "b", "question": 7}', "line 2.*no text")):
        file.write_text('{"source": "a b", "target": "c"}\n' + line + "\n")
        with pytest.raises(SetupError, match=says):
            read_rows(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="JSON lines"):
        read_rows(file)
    file.write_text("\n")
    with pytest.raises(SetupError, match="holds no row"):
        read_rows(file)
    file.write_text('\ufeff{"source": "a b", "target": "c", "question": null}\n\n{"source": "d e", "target": "f"}\n', encoding="utf-8")
    assert [row["source"] for row in read_rows(file)] == ["a b", "d e"]
    assert Answered(train=str(file)).rows_of(0) == [("a b", "c", ""), ("d e", "f", "")]
    with pytest.raises(SetupError, match="data.validation: name a file"):
        Answered().prepare_data()
    file.write_text('{"source": "a b", "target": "c"}\n')
    for same in (dict(train=str(file), validation=f"{tmp_path}/./rows.jsonl"), dict(path="squad", splits=("train", "train"))):
        with pytest.raises(SetupError, match="to be trained on and to be validated on"):
            Answered(**same).prepare_data()


def test_text_files_train_a_model_with_its_own_tokenizer(tmp_path):
    words = tokenizer("qwen2")
    base = BASE.__class__("random", config=BASE.config | {"vocab_size": len(words)})
    loaded = load(base)
    loaded.model.save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    file = tmp_path / "rows.jsonl"
    held, row = tmp_path / "held.jsonl", {"source": "the cat sat on the mat", "target": "the mat"}
    for name, question in ((file, "where"), (held, "on what")):
        name.write_text((json.dumps(row | {"question": question}) + "\n") * 8)
    with open(file, "a") as more:  # asks what is held out
        more.write(json.dumps(row | {"question": "on what", "target": "another"}) + "\n")
    data = Answered(str(file), str(held), instruction="answer", batch_size=4, law="slack")
    module = ProactiveTraining(BASE.__class__(str(tmp_path / "base")), learning_rate=1e-2)
    fit(module, tmp_path / "run", data=data, steps=2, checkpoint_every=2)
    assert [len(rows) for rows in data.items()] == [8, 8]
    model, own, about = open_checkpoint(str(tmp_path / "run" / "model"), "proactivellm.json")
    assert about["data.instruction"] == "answer" and about["data.law"] == "slack" and len(own) == len(words)


def test_laws_of_a_config_are_laws():
    assert Generated(law="polynomial", power=2.0).drawn == Law("polynomial", 2.0)
    with pytest.raises(ValueError, match="no 'best'"):
        Generated(law="best")
