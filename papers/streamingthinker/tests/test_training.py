"""Training: what is equal by theory is equal by number, and what was killed goes on."""

import json
import types

import pytest
import torch

from common.errors import SetupError
from common.lora import LoraSpec
from common.models import load, tiny
from common.streaming.live import open_checkpoint
from tests.numerics import close, float64
from tests.small_tokenizers import tokenizer
from tests.trainings import difference, trained

from .. import method, worded
from ..data import DataError, JsonTraces, Rows, StoryTraces, pieces, read_row
from ..module import StreamingTraining
from .runs import fit, fit_in_processes, traces, training


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory):
    """The reference: 3 steps of 4 stories, each step one micro-batch on one device."""
    torch.set_num_threads(1)
    return fit(training(), tmp_path_factory.mktemp("one"))


# -- equal by theory ---------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_batch_4_is_four_of_one(one_batch, tmp_path):
    module, losses = one_batch
    parts, found = fit(training(), tmp_path, accumulate=4)
    assert found == pytest.approx(losses, rel=1e-9) and difference(trained(parts), trained(module)) < 1e-9


@pytest.mark.numerics
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_equal_one_and_one_goes_on_from_two(strategy, one_batch, tmp_path):
    """Three steps on two processes, and the last of them again on one, from the checkpoint of two: the unbroken run."""
    module, losses = one_batch
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy=strategy, checkpoint_every=2)
    assert codes == [0, 0]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(losses, rel=1e-9) and difference(rank["parameters"], trained(module)) < 1e-9
    resumed, rest = fit(training(), tmp_path / "resumed", resume=tmp_path / "two" / "checkpoints" / "step=2.ckpt")
    assert rest == pytest.approx(losses[2:], rel=1e-9) and difference(trained(resumed), trained(module)) < 1e-9
    for name, value in load(str(tmp_path / "two" / "model")).model.state_dict().items():
        close(value, module.model.state_dict()[name], rel=1e-7)  # `load` rounds to fp32


def test_a_killed_run_goes_on_as_if_unbroken(tmp_path):
    """SIGKILL inside an accumulation; resumed from the last checkpoint: equal bits, adapters with dropout."""
    setup = dict(lora=LoraSpec(rank=4, alpha=8, dropout=0.2), warmup_steps=2)
    options = dict(steps=4, accumulate=2, checkpoint_every=2)
    unbroken, losses = fit(training(**setup), tmp_path / "unbroken", **options)
    codes, saved = fit_in_processes(tmp_path / "killed", module=setup, kill_at=5, **options)
    assert codes == [-9] and not saved and not (tmp_path / "killed" / "model").exists()
    resumed, rest = fit(training(**setup), tmp_path / "killed", resume=tmp_path / "killed" / "checkpoints" / "step=2.ckpt", **options)
    assert rest == losses[2:] and all(torch.equal(value, trained(unbroken)[name]) for name, value in trained(resumed).items())


def test_checkpoint_of_another_run_is_refused(tmp_path):
    fit(training(), tmp_path, steps=2, checkpoint_every=1)
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    for module, more, says in (
        (training(layout="interleaved"), {}, "layout_name = streaming; the config says interleaved"),
        (training(start=7), {}, "start = 0; the config says 7"),
        (training(), dict(data=traces(order="context")), "data.order = question; the config says context"),
    ):
        with pytest.raises(SetupError, match=f"This checkpoint was made with {says}"):
            fit(module, tmp_path, **(dict(steps=2, resume=path) | more))


@pytest.mark.parametrize("layout", ["batch", "interleaved"])
def test_the_loss_is_that_of_the_layout(layout, tmp_path):
    """The first step's loss is the stock model's, under the layout's mask, mean over learnt tokens."""
    with float64():
        found = load(tiny(vocab_size=103)).model
        rows = traces()
        rows.trainer = type("T", (), {"lightning_module": training(layout=layout)})()
        train, _ = rows.sequences()
        stream = [train[i] for i in order(train, 4)]
        batch = method.collate(stream, layout)
        with torch.no_grad():
            total, count = method.loss_sum(method.forward(found, batch), batch)
    _, losses = fit(training(layout=layout), tmp_path, steps=1)
    assert losses[0] == pytest.approx(float(total / count), rel=1e-9) and count == sum(sum(s.learnt) for s in stream)


def order(rows, count):
    from common.training.steps import StepBatches

    batches = StepBatches(rows, batch_size=count, micro_batch=count, seed=5)
    return [batches.row(i) for i in range(count)]


def test_products_open_with_what_they_were_trained_for(tmp_path):
    fit(training(start=9), tmp_path, steps=1, checkpoint_every=1)
    about = json.loads((tmp_path / "model" / "streamingthinker.json").read_text())
    assert (about["start"], about["layout"], about["steps"], about["data.task"]) == (9, "streaming", 1, "totals")
    worded.stories.tokenizer().save_pretrained(tmp_path / "model")
    model, _, facts = open_checkpoint(str(tmp_path / "model"), "streamingthinker.json")
    assert facts["start"] == 9 and model.config.vocab_size == 103


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="positions rope: where the target begins is not known"):
        StreamingTraining(tiny(), positions="rope")
    with pytest.raises(ValueError, match="task 'chess'"):
        StoryTraces(task="chess")
    with pytest.raises(SetupError, match="no sample"):
        Rows([], 1)
    bad = StreamingTraining(tiny(attn_implementation="eager"))
    bad.loaded = load(bad.base)
    bad.loaded.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(SetupError, match="takes no dense mask"):
        bad.configure_model()


# -- real text ---------------------------------------------------------------------------------------------
ROW = {"Instruct_Context": {"context": "The cat has 3 dogs. <EOS> We see 2 more. <EOS>", "instruct": "How many dogs? <EOQ>"},
       "streaming_reasoning": "we ask <EOQ> it has 3 <EOT> <Skip> <EOT>", "deep_reasoning": "3 and 2 <EOR>", "answer": "\\boxed{5}",
       "self_check": "Wait, 3 + 2 = 5."}


def test_rows_of_the_released_form():
    read = read_row(ROW)
    assert read == {"source": ["How many dogs?", "The cat has 3 dogs.", "We see 2 more."], "units": ["we ask", "it has 3", ""],
                    "deep": "3 and 2", "answer": "5", "question": 0}
    plain = ROW | {"Instruct_Context": ROW["Instruct_Context"] | {"context": "The cat has 3 dogs. We see 2 more."}}
    assert read_row(plain) == read
    assert read_row(ROW | {"answer": "\\box{\\frac{1}{2}}"})["answer"] == "\\frac{1}{2}"
    with pytest.raises(DataError, match="would be lost: 'and so'"):
        pieces("one <EOT> and so")
    with pytest.raises(DataError, match=r"3 sentences .* and 2 units"):
        read_row(ROW | {"streaming_reasoning": "we ask <EOQ> it has 3 <EOT>"})
    with pytest.raises(DataError, match="lacks 'answer'"):
        read_row({k: v for k, v in ROW.items() if k != "answer"})


def chat(rows=512):
    return worded.Chat.of(tokenizer("qwen2"), rows)


def test_segments_are_the_whole_text_cut_and_every_structure_is_one_token(tmp_path):
    of = chat()
    sample = of.sample(**read_row(ROW), depth=2)
    whole = [t for s in sample.source for t in s]
    text = of.tokenizer.decode(whole)
    assert of.tokenizer.encode(text, add_special_tokens=False) == whole and text.count("<EOS>") >= 2
    ends = [s[-1] for s in sample.source[1:4]]
    assert ends == [of.id("<EOQ>"), of.id("<EOS>"), of.id("<EOS>")] and sample.closed
    assert sample.target[3] == (of.id("<Skip>"), of.id("<EOT>"))
    tokens = of.tokens()
    assert sample.target[0] == tokens.header and sample.source[0] == tokens.instruction and sample.source[-1] == tokens.closing
    assert sample.target[-1][: sample.forced] == tokens.cues[2] and tokens.answer in sample.target[-1]
    escaped = of.segment("I write <EOT> and <|im_end|> myself.")
    assert not tokens.forbidden & set(escaped[:-1])
    of.tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again.encode(t, add_special_tokens=False) for t in worded.SPECIAL] == [[of.id(t)] for t in worded.SPECIAL]
    with pytest.raises(worded.ModelError, match="has no row in an embedding of 360"):
        chat(360)


def test_files_of_traces(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(ROW) + "\n" for _ in range(39)) + json.dumps(ROW | {"streaming_reasoning": "x <EOT>"}) + "\n")
    of, more = chat(), dict(batch_size=2)
    made = JsonTraces(str(path), str(path), depths=[1, 2, 3], **more)
    found = made._file(str(path), of)
    assert len(found) == 39 and set(found[0]) == {1, 2, 3} and "1 of 40 rows" in capsys.readouterr().out
    lengths = {d: len(found[0][d].target[-1]) for d in (1, 2, 3)}
    assert lengths[1] < lengths[2] < lengths[3]
    last = JsonTraces(str(path), str(path), context_first=True, **more)._file(str(path), of)[0][2]
    assert last.source[3][-1] == of.id("<EOQ>") and last.target[3][-1] == of.id("<EOQ>")
    with pytest.raises(SetupError, match="40 of 40 rows cannot be used; the first is line 1: .* of at most 20"):
        JsonTraces(str(path), str(path), max_tokens=20, **more)._file(str(path), of)
    with pytest.raises(SetupError, match="there is no file absent.jsonl"):
        made._file(str(tmp_path / "absent.jsonl"), of)
    with pytest.raises(SetupError, match="are both rows.jsonl"):
        JsonTraces(str(path), f"{tmp_path}/./rows.jsonl", **more).samples()


def test_rows_of_a_file_are_text_and_lines_end_at_line_feeds_alone(tmp_path):
    made, of, path = JsonTraces("train", "held", refused=0.0), chat(), tmp_path / "rows.jsonl"
    broken = ROW | {"deep_reasoning": "3\u2028and\u00852 <EOR>"}
    path.write_text(json.dumps(broken, ensure_ascii=False) + "\n" + json.dumps(ROW) + "\n", encoding="utf-8")
    assert len(made._file(str(path), of)) == 2
    half = chr(0xD800)
    for wrong, says in (({"answer": None}, "answer holds no text, but None"), ({"deep_reasoning": ["a"]}, "deep_reasoning holds no text"),
                        ({"streaming_reasoning": 3}, "streaming_reasoning holds no text, but 3"), ({"answer": half}, "answer holds no"),
                        ({"self_check": 1}, "self_check holds no text, but 1"),
                        ({"Instruct_Context": ROW["Instruct_Context"] | {"instruct": None}}, "Instruct_Context.instruct holds no text")):
        path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | wrong) + "\n")
        with pytest.raises(SetupError, match=f"1 of 2 rows cannot be used; the first is line 2: {says}"):
            made._file(str(path), of)
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"answer": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: no UTF-8"):
        made._file(str(path), of)


def test_what_a_held_out_row_asks_is_not_trained_on(tmp_path, monkeypatch, capsys):
    """Copied files are found by what they hold, whatever they are called; an answer put otherwise makes no new question."""
    def row(asked, answer="5"):
        return ROW | {"Instruct_Context": ROW["Instruct_Context"] | {"instruct": f"{asked} <EOQ>"}, "answer": f"\\boxed{{{answer}}}"}

    def samples(train, held):
        for name, rows in (("train", train), ("held", held)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        data = JsonTraces(str(tmp_path / "train.jsonl"), str(tmp_path / "held.jsonl"), depths=[1, 2])
        model = types.SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(512, 1))
        data.trainer = types.SimpleNamespace(lightning_module=types.SimpleNamespace(model=model))
        monkeypatch.setattr(data, "tokenizer", lambda: tokenizer("qwen2"))
        return data.samples()

    train, held = samples([row("How many dogs?"), row("How many cats?"), row("How many cats?", "6")], [row("How many cats?")])
    assert len(train) == len(held) == 1 and train[0][1].source != held[0][1].source
    assert "2 rows of train.jsonl ask what held.jsonl asks" in capsys.readouterr().out
    with pytest.raises(SetupError, match="every row of train.jsonl asks what a row of held.jsonl asks"):
        samples([row("How many dogs?")] * 2, [row("How many dogs?")])
