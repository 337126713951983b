"""Training: what is equal by theory is equal by number, and what was killed goes on."""

import json
from pathlib import Path

import pytest
import torch

from common.errors import SetupError
from common.lora import LoraSpec
from common.models import load, tiny
from common.streaming.live import open_checkpoint
from common.streaming.units import Template
from tests.numerics import close, far
from tests.small_tokenizers import ENGLISH, FRENCH, tokenizer
from tests.trainings import difference, trained

from .. import data, method
from ..data import Pairs, TextPairs, ToyPairs, toy_examples
from ..module import StreamingTraining, TextPretraining, whole_text
from ..segments import Batch
from ..toy import Language
from ..train import cli
from .double import Double
from .runs import DoubleTraining, fit, fit_in_processes, pairs, streaming


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double():
    with Double():
        yield


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """The reference: 3 steps of 8 sentences, each step one micro-batch on one device."""
    torch.set_num_threads(1)
    return fit(streaming(), tmp_path_factory.mktemp("one"))


# -- equal by theory ---------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_batch_8_is_eight_of_one(one_batch, tmp_path):
    module, whole = one_batch
    parts, diary = fit(streaming(), tmp_path, accumulate=8)
    assert diary.losses == pytest.approx(whole.losses, rel=1e-9)
    assert difference(diary.gradients[0], whole.gradients[0]) < 1e-9
    assert difference(trained(parts), trained(module)) < 1e-9


@pytest.mark.numerics
@pytest.mark.parametrize("strategy, setup", [
    ("ddp", {}),
    ("fsdp2", {}),
    ("fsdp2", dict(lora=LoraSpec(rank=4, alpha=8, dropout=0.0), gradient_checkpointing=True)),
], ids=["DDP", "FSDP2", "FSDP2, LoRA"])
def test_two_processes_equal_one_and_one_goes_on_from_two(strategy, setup, one_batch, tmp_path):
    """Three steps on two processes, and the last of them again on one, from the checkpoint of two: the unbroken run."""
    module, whole = fit(streaming(**setup), tmp_path / "one") if setup else one_batch
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy=strategy, module=setup, checkpoint_every=2)
    assert codes == [0, 0]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(whole.losses, rel=1e-9)
        if strategy == "ddp":  # with FSDP2 a callback sees gradients before those of whole parameters are averaged
            assert difference(rank["gradient"], whole.gradients[0]) < 1e-9
        assert difference(rank["parameters"], trained(module)) < 1e-9
    resumed, rest = fit(streaming(**setup), tmp_path / "resumed", resume=tmp_path / "two" / "checkpoints" / "step=2.ckpt")
    assert rest.losses == pytest.approx(whole.losses[2:], rel=1e-9)
    assert difference(trained(resumed), trained(module)) < 1e-9
    product = load(str(tmp_path / "two" / "model")).model if not setup else None
    for name, value in product.state_dict().items() if product else ():
        close(value, module.model.state_dict()[name], rel=1e-7)  # `load` rounds to fp32


def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    """SIGKILL inside an accumulation; resumed from the last checkpoint: equal bits, LoRA's dropout included."""
    setup = dict(lora=LoraSpec(rank=4, alpha=8, dropout=0.2), warmup_steps=2)
    options = dict(steps=6, accumulate=2, checkpoint_every=2)
    unbroken, diary = fit(streaming(**setup), tmp_path / "unbroken", **options)
    codes, saved = fit_in_processes(tmp_path / "killed", module=setup, kill_at=9, **options)
    assert codes == [-9] and not saved
    assert not (tmp_path / "killed" / "model").exists()
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step=2.ckpt", "step=4.ckpt"]
    stored = torch.load(checkpoints[0], weights_only=True)["state_dict"]
    assert stored.keys() == trained(unbroken).keys() and all(".lora_" in name for name in stored)
    resumed, rest = fit(streaming(**setup), tmp_path / "killed", resume=checkpoints[-1], **options)
    for name, value in trained(resumed).items():
        assert torch.equal(value, trained(unbroken)[name]), name
    assert rest.losses == diary.losses[4:]
    files = [(tmp_path / name / "model" / "adapter_model.safetensors").read_bytes() for name in ("unbroken", "killed")]
    assert files[0] == files[1]


def test_checkpoint_of_another_run_is_refused(tmp_path):
    fit(streaming(), tmp_path, steps=2, checkpoint_every=1)
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    for module, more, says in (
        (streaming(seed=6), {}, "seed = 5; the config says 6"),
        (streaming("interleaved"), {}, "arm_name = group; the config says interleaved"),
        (streaming(phi=0.5), {}, "phi = 0.0; the config says 0.5"),
        (streaming(learning_rate=1e-3), {}, "learning_rate = 0.01; the config says 0.001"),
        (streaming(), dict(steps=3), "max_steps = 2; the config says 3"),
        (streaming(), dict(data=pairs(ks=[3])), r"data.ks = \[1, 3, 5, 7\]; the config says \[3\]"),
        (streaming(), dict(data=pairs(batch_size=4)), "samples per step = 8; the config says 4"),
        (streaming(lora=LoraSpec(rank=4)), {}, "lora = None; the config says LoraSpec"),
        (streaming(base=tiny(vocab_size=163, seed=1)), {}, "base = "),
    ):
        with pytest.raises(SetupError, match=f"This checkpoint was made with {says}"):
            fit(module, tmp_path, **(dict(steps=2, resume=path) | more))
    strange = tmp_path / "strange.ckpt"
    stored = torch.load(path, weights_only=True)
    del stored["gpe"]
    torch.save(stored, strange)
    with pytest.raises(SetupError, match="not written by a training of papers/gpe"):
        fit(streaming(), tmp_path, steps=2, resume=strange)
    adapted = streaming(lora=LoraSpec(rank=4))
    adapted.configure_model()
    with pytest.raises(SetupError, match=r"of another training: model\.\S+lora_A\S+ is absent in the file and \(4, 64\) here"):
        adapted.load_state_dict(torch.load(path, weights_only=True)["state_dict"])


# -- losses ------------------------------------------------------------------------------------------------
def examples(count=6):
    return toy_examples(Language.draw(0), range(count))


@pytest.mark.numerics
def test_batch_pretraining_is_next_token_loss_on_the_whole_text(double):
    model, few = load(tiny(vocab_size=163)).model.double(), examples(3)
    module = TextPretraining(tiny(vocab_size=163))
    module.model = model
    expected = [], []
    for example in few:
        ids = torch.cat([example.source, example.target])[None]
        logits = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        expected[0].append(-logits.sum())
        expected[1].append(-logits[len(example.source) :].sum())  # from the first word on; v_0 is one token here
    batch = Batch.of(few, [None] * 3)
    for all_tokens, values in zip((True, False), expected):
        module.all_tokens = all_tokens
        loss, count = module.loss_sum(batch)
        close(loss, sum(values))
        assert count == sum(len(e.target) + (len(e.source) if all_tokens else 0) - 1 for e in few)
    ids, real, scored = whole_text(batch)
    assert real.sum(1).tolist() == [len(e.source) + len(e.target) for e in few] and (scored & ~real).sum() == 0


@pytest.mark.numerics
def test_the_loss_of_a_step_is_its_mean_over_tokens(one_batch, double):
    """The first logged loss, computed again from the sentences that the step is made of."""
    _, diary = one_batch
    datamodule = pairs()
    found = examples(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(data.seed_of("order", 5, 0)))[:8].tolist()
    ks = [(1, 3, 5, 7)[data.seed_of("k", 5, index) % 4] for index in range(8)]
    batch = Batch.of([found[i] for i in order], ks)
    model, arm = load(tiny(vocab_size=163)).model.double(), method.arm("group")
    logits = method.forward(model, arm, batch.source, batch.target, batch.layout)
    mean = method.loss_sum(logits, batch.target, batch.scored) / batch.scored.sum()
    close(diary.losses[0], mean)
    assert datamodule.batch_size == 8 and len(set(ks)) > 1


@pytest.mark.numerics
def test_validation_is_a_mean_over_all_held_out_tokens(tmp_path, double):
    module, _ = fit(streaming(), tmp_path, steps=1, accumulate=2, limit_val_batches=1.0, val_check_interval=2,
                    check_val_every_n_epoch=None, num_sanity_val_steps=0)
    held = toy_examples(Language.draw(0), range(10**9, 10**9 + 6))  # none of these six is among the forty of the training
    ks = [(1, 3, 5, 7)[data.seed_of("k", 5, index) % 4] for index in range(6)]
    batch = Batch.of(held, ks)
    module.model.eval()
    with torch.no_grad():
        loss, count = module.loss_sum(batch)
    close(module.trainer.callback_metrics["val/loss"], loss / count)


@pytest.mark.numerics
@pytest.mark.parametrize("arm", ["group", "position_reencoding"])
def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, arm):
    """Also where the arm brings an attention of its own, which the layers must find again in the backward pass."""
    whole, plain = fit(streaming(arm), tmp_path / "a", steps=2)
    parts, diary = fit(streaming(arm, gradient_checkpointing=True), tmp_path / "b", steps=2)
    assert diary.losses == pytest.approx(plain.losses, rel=1e-9)
    assert difference(diary.gradients[0], plain.gradients[0]) < 1e-9
    assert parts.model.config._attn_implementation == whole.model.config._attn_implementation == "sdpa"


# -- KV re-encoding: a row is a word -----------------------------------------------------------------------
def test_refresh_has_a_row_for_every_target_word():
    few = examples(3)
    rows = Pairs(few, None, by_word=True)
    units = [e.target_units for e in few]
    assert len(rows.which) == sum(len(u) - 1 for u in units)
    assert rows.counts["step_targets"].tolist() == [n for u in units for n in u[1:]]
    assert rows.counts["step_targets"].sum() == Pairs(few, None).counts["step_targets"].sum()
    assert rows[0] == (few[0], 1) and rows[len(units[0]) - 1] == (few[1], 1)
    assert rows.counts["step_tokens"].tolist() == [len(e.source) + len(e.target) for e in few for _ in e.target_units[1:]]


@pytest.mark.numerics
def test_refresh_trains_on_what_its_decoder_sees(tmp_path, double):
    """A row equals the stock model on [source read so far][target]; the counts are those of its one word."""
    arm, (example,) = method.arm("kv_reencoding"), examples(1)
    model = load(tiny(vocab_size=163)).model.double()
    for unit in (1, 2, len(example.target_units) - 1):
        batch = Batch.of([example], [3], arm, [unit])
        read = sum(example.source_units[: min(1 + 3 + unit - 1, len(example.source_units))])
        first = sum(example.target_units[:unit])
        assert batch.source.shape[1] == read
        assert batch.scored[0].nonzero()[:, 0].tolist() == list(range(first, first + example.target_units[unit]))
        ids = torch.cat([example.source[:read], example.target])[None]
        expected = model(input_ids=ids).logits[0, read - 1 : -1]
        logits = method.forward(model, arm, batch.source, batch.target, batch.layout)[0]
        close(logits[1:], expected[1:])
    module, whole = fit(streaming("kv_reencoding"), tmp_path / "a", steps=2)
    _, parts = fit(streaming("kv_reencoding"), tmp_path / "b", steps=2, accumulate=4)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-9)
    micro = next(iter(module.trainer.datamodule.train_dataloader()))
    assert int(micro["batch"].scored.sum()) == micro["step_targets"] and len(micro["sample_index"]) == 8


# -- data --------------------------------------------------------------------------------------------------
def test_k_belongs_to_seed_and_place():
    few = examples(4)

    def drawn(datamodule, which):
        micro = datamodule.collate([(few[i % 4], 0) for i in which], list(which), {})
        layout = micro["batch"].layout  # what v_0 sees tells k: u_0 and k words, one token each being the least
        return [next(k for k in datamodule.ks if layout.visible[b, 0] == sum(few[i % 4].source_units[: 1 + k]))
                for b, i in enumerate(which)]

    def fresh(seed=5):
        datamodule = pairs(ks=(1, 2, 3), seed=seed)
        datamodule.trainer = type("T", (), {"lightning_module": None})
        return datamodule

    whole = drawn(fresh(), range(60))
    assert drawn(fresh(), range(20, 60)) == whole[20:] and drawn(fresh(), [7]) == [whole[7]]
    assert drawn(fresh(seed=6), range(60)) != whole
    assert {whole.count(k) > 10 for k in (1, 2, 3)} == {True}


def test_bad_values_are_named(tmp_path):
    for ks, says in (([], r"data.ks: \[\]"), ([0, 3], r"data.ks: \[0, 3\]; give one wait-k or more, each at least 1 or null")):
        with pytest.raises(ValueError, match=says):
            ToyPairs(ks)
    with pytest.raises(SetupError, match=r"data.batch_size 8 is not a multiple of 3 x 1 \(trainer.accumulate"):
        fit(streaming(), tmp_path, accumulate=3)
    with pytest.raises(SetupError, match="trainer.max_steps is not set"):
        fit(streaming(), tmp_path, steps=-1)
    with pytest.raises(SetupError, match="ToyPairs: no validation sentence pair"):
        fit(streaming(), tmp_path, data=pairs(val_samples=0))
    with pytest.raises(SetupError, match="TextPairs needs a tokenizer and the model has none"):
        write(tmp_path, "train", ENGLISH, FRENCH)
        fit(streaming(), tmp_path, data=TextPairs([3], files(tmp_path, "train"), files(tmp_path, "train"), batch_size=8))
    with pytest.raises(ValueError, match="give either train and validation"):
        TextPairs([3])
    with pytest.raises(ValueError, match="no arm 'grupo'; there is: interleaved,"):
        streaming("grupo")
    module = StreamingTraining(tiny(attn_implementation="flex_attention"))
    with pytest.raises(SetupError, match="model.base random:llama: .* uses attention 'flex_attention', which takes no mask"):
        module.configure_model()
    with pytest.raises(SetupError, match="model.base random:llama: .* has no query for LoRA to adapt; its linear layers are down_proj, "):
        streaming(lora=LoraSpec(targets=("query",))).configure_model()


def write(folder, name, source, target):
    for side, lines in (("en", source), ("fr", target)):
        (folder / f"{name}.{side}").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def files(folder, name):
    return [str(folder / f"{name}.{side}") for side in ("en", "fr")]


def text_pairs(folder, **options):
    return TextPairs([3], files(folder, "train"), files(folder, "held"), instruction="Translate to French",
                     batch_size=4, seed=5, **options)


@pytest.mark.numerics
@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "plain"])
def test_text_files_train_a_model_with_its_own_tokenizer(tmp_path, monkeypatch, chat):
    """Files, tokenizer in the hub's format, LoRA: the product opens, alone by its base's name, and is what was trained."""
    base = tmp_path / "tiny-base"
    tokens = tokenizer("qwen2", chat)
    load(tiny("qwen2", vocab_size=len(tokens), tie_word_embeddings=True)).model.save_pretrained(base)
    tokens.save_pretrained(base)
    write(tmp_path, "train", ENGLISH, FRENCH)
    write(tmp_path, "held", ["", *ENGLISH[-3:]], ["vide", *FRENCH[-3:]])  # a pair with an empty side is left out
    module = DoubleTraining(load_spec(base), learning_rate=1e-2, lora=LoraSpec(rank=4, alpha=8), seed=5)
    datamodule = text_pairs(tmp_path)
    fit(module, tmp_path / "run", steps=2, data=datamodule, checkpoint_every=2)
    assert [len(datamodule.rows(i).examples) for i in (0, 1)] == [5, 3]  # what is held out is not trained on
    example = datamodule.rows(0).examples[0]
    assert example.n_units == 6 and len(example.target_units) == 6 + 2
    text = tokens.decode(torch.cat([example.source, example.target]))
    start = "<|im_start|>system\nTranslate to French<|im_end|>\n<|im_start|>user\n" if chat else "Translate to French\n"
    assert text.startswith(start + ENGLISH[0]) and text.endswith(FRENCH[0] + ("<|im_end|>" if chat else "<|endoftext|>"))

    monkeypatch.chdir(tmp_path)  # gpe.json names the base: on the hub an id, here a folder
    for name in (None, str(base)):
        model, found, about = open_checkpoint("run/model", "gpe.json", name)
        assert about["trained_from"] == "tiny-base" and about["arm_name"] == "group" and about["data.ks"] == [3]
        assert (about["steps"], about["attn_implementation"], about["revision"]) == (2, "sdpa", None)
        assert found("the cat")["input_ids"] == tokens("the cat")["input_ids"]
        batch = Batch.of([example], [3])
        module.model.eval()
        models = [m.double() for m in (module.model, model, load(str(base)).model)]
        with torch.no_grad(), Double():
            ours, theirs, plain = (method.forward(m, module.arm, batch.source, batch.target, batch.layout)[:, 1:] for m in models)
        close(theirs, ours, rel=1e-5)  # what was opened was rounded to fp32, 6e-8 of a weight, when the adapter was put in
        far(plain, ours)


def load_spec(folder):
    from common.models import ModelSpec

    return ModelSpec(str(folder))


def test_text_files_that_do_not_fit_are_named(tmp_path, capsys):
    write(tmp_path, "train", ENGLISH, FRENCH)
    with pytest.raises(SetupError, match="there is no file held.en in "):
        text_pairs(tmp_path).prepare_data()
    write(tmp_path, "held", ENGLISH, FRENCH[:-1])
    with pytest.raises(SetupError, match="held.en has 8 lines and held.fr 7: they must be aligned line by line"):
        text_pairs(tmp_path).prepare_data()
    (tmp_path / "held.en").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SetupError, match="held.en cannot be read as text"):
        text_pairs(tmp_path).prepare_data()
    with pytest.raises(SetupError, match="data.validation: name two files, source and target"):
        TextPairs([3], files(tmp_path, "train"), [str(tmp_path / "held.en")]).prepare_data()

    short = text_pairs(tmp_path, max_tokens=40)
    cut = Template.of(tokenizer(), "Translate to French").example
    lengths = [len(e.source) + len(e.target) for e in map(cut, ENGLISH, FRENCH)]
    short.max_tokens = sorted(lengths)[5]
    assert len(short._cut(cut, list(zip(ENGLISH, FRENCH)))) == 6
    assert f"2 of 8 pairs have more than {short.max_tokens} tokens and are left out" in capsys.readouterr().out


def test_a_pair_that_cannot_be_cut_ends_no_run(tmp_path, capsys):
    def cut(source, target):
        if source == "bad":
            raise ValueError("token 'x' lies in two units")
        return toy_examples(Language.draw(0), [0])[0]

    datamodule = text_pairs(tmp_path)
    assert len(datamodule._cut(cut, [("good", "g")] * 199 + [("bad", "b")])) == 199
    assert "1 of 200 pairs cannot be cut into words" in (out := capsys.readouterr().out) and "token 'x' lies" in out
    with pytest.raises(SetupError, match="3 of 200 pairs cannot be cut into words; the first: token 'x' lies in two units"):
        datamodule._cut(cut, [("good", "g")] * 197 + [("bad", "b")] * 3)


def test_the_product_says_how_it_was_made(one_batch, tmp_path):
    module, _ = fit(streaming(phi=0.5), tmp_path, steps=2, checkpoint_every=2)
    about = json.loads((Path(tmp_path) / "model" / "gpe.json").read_text())
    assert about["trained_from"] == "random:llama" and about["phi"] == 0.5 and about["data.ks"] == [1, 3, 5, 7]
    again = load(str(tmp_path / "model")).model.state_dict()
    assert all(torch.equal(again[name], value.float()) for name, value in module.model.state_dict().items())


@pytest.mark.parametrize("key, value", [
    ("trainer.accumulate_grad_batches", "0"), ("trainer.accumulate_grad_batches", "-1"), ("trainer.gradient_clip_val", "-1"),
    ("model.init_args.learning_rate", "-0.1"), ("model.init_args.learning_rate", ".inf"), ("model.init_args.warmup_steps", "-3"),
    ("model.init_args.weight_decay", "-1"),
])  # fmt: skip
def test_numbers_that_would_climb_or_divide_by_nothing_are_one_line(key, value, capsys):
    with pytest.raises(SystemExit) as left:
        cli(["fit", "--config", "papers/gpe/configs/cpu/rehearsal.yaml", f"--{key}", value])
    assert left.value.code == 2
    assert f"gpe: {key} is " in (error := capsys.readouterr().err) and "a number from " in error
