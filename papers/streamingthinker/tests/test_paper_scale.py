"""The paper's configs, walked end to end with a tiny Qwen3 in the hub's format, and its tables filled from what they leave."""

import json
import shutil
import sys

import pytest
import torch
import yaml

from common.errors import DataError, SetupError, TaskError, UserError
from common.models import load, tiny
from tests.small_tokenizers import tokenizer

from .. import data, harness, latency, quantities_paper, questions, reported, tables, worded
from ..eval import HERE
from ..experiments import paper
from ..train import cli

CUDA = sorted((HERE / "configs" / "cuda").glob("*.yaml"))
RUNS = ["qwen3-4b_batch_d2", "qwen3-4b_batch-spe_d2", "qwen3-4b_interleaved_d2", "qwen3-4b_streaming_d3", "qwen3-4b_streaming-context_d3",
        "qwen3-4b_batch-sft", "qwen3-4b_batch-sft-spe"]
HOW = {"tasks": ["pubmedqa"], "items": 2, "cap": 3, "unit_cap": 3, "rows": 2, "clock_task": "pubmedqa", "clock_items": 1,
       "seconds_a_word": 0.001}
ITEM = {"question": "How many dogs?", "context": "The cat has 3 dogs. We see 2 more.", "answer": "5"}
ROW = {"Instruct_Context": {"context": "The cat has 3 dogs. <EOS> We see 2 more. <EOS>", "instruct": "How many dogs? <EOQ>"},
       "streaming_reasoning": "we ask <EOQ> it has 3 <EOT> <Skip> <EOT>", "deep_reasoning": "3 and 2 <EOR>", "answer": "\\boxed{5}",
       "self_check": "Wait, 3 + 2 = 5."}
WHOLE = {"Instruct_Context": {"context": "", "instruct": "How many dogs?\n\nThe cat has 3 dogs.\nWe see 2 more. <EOQ>"},
         "streaming_reasoning": "It has 3. We see 2 more. So 5. <EOQ>", "deep_reasoning": "<EOR>", "answer": "\\boxed{5}"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A model, traces in the released form, and two of the six tasks."""
    folder, words = tmp_path_factory.mktemp("hub"), tokenizer("qwen2")
    model = load(tiny("qwen3", vocab_size=400, hidden_size=32, num_hidden_layers=1, eos_token_id=words.eos_token_id,
                      max_position_embeddings=4096)).model
    model.save_pretrained(folder / "qwen3-4b")
    words.save_pretrained(folder / "qwen3-4b")
    for name, asked in (("traces", "How many dogs? <EOQ>"), ("held", "How many cats? <EOQ>")):
        row = ROW | {"Instruct_Context": ROW["Instruct_Context"] | {"instruct": asked}}
        at_once = WHOLE | {"Instruct_Context": {"context": "", "instruct": f"The cat has 3 dogs.\n\n{asked}"}}
        for of, kind in (("", row), ("whole-", at_once)):
            (folder / f"{of}{name}.jsonl").write_text("".join(json.dumps(kind) + "\n" for _ in range(4)))
    (folder / "data" / "streaming").mkdir(parents=True)
    for name in ("gsm_symbolic", "pubmedqa"):
        rows = [ITEM, ITEM | {"context": ["One.", "Two.", "Three."]}, ITEM | {"context": "Too short."}]
        (folder / "data" / "streaming" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory):
    """Each layout, batch with both kinds of positions, and the other order, one step of each; a second training of the same kind would
    show nothing."""
    folder, threads, arguments = tmp_path_factory.mktemp("runs"), torch.get_num_threads(), sys.argv
    torch.set_num_threads(1)
    sys.argv = ["train"]  # LightningCLI dislikes pytest's own arguments
    try:
        for name in RUNS:
            run, of = folder / name, "whole-" * ("-sft" in name)
            cli(["fit", "--config", str(HERE / "configs" / "cuda" / f"{name}.yaml"), "--model.init_args.base.name", str(hub / "qwen3-4b"),
                 f"--data.init_args.train={hub / f'{of}traces.jsonl'}", f"--data.init_args.validation={hub / f'{of}held.jsonl'}",
                 "--data.init_args.batch_size=2", "--data.init_args.instruction=Think.",
                 "--data.init_args.num_workers=0", f"--trainer.default_root_dir={run}",
                 f"--trainer.logger.init_args.save_dir={run}", "--trainer.accelerator=cpu", "--trainer.devices=1",
                 "--trainer.strategy=auto", "--trainer.precision=32-true", "--trainer.max_steps=1", "--trainer.accumulate_grad_batches=1",
                 "--trainer.limit_val_batches=0", "--trainer.callbacks=[]",
                 "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])
    finally:
        sys.argv = arguments
        torch.set_num_threads(threads)
    return folder


def test_tables_of_the_paper_from_what_trainings_leave(trained, hub, monkeypatch):
    monkeypatch.setenv("STREAMINGTHINKER_RUNS", str(trained))
    monkeypatch.chdir(hub)  # the card names the base: there a hub id, here a folder
    found = paper.measure_paper(lambda text: None, "cpu", HOW, hub / "data")
    assert set(found) == {*RUNS, "qwen3-4b_original", "qwen3-4b_original-context"}
    for name, ways in (("batch-sft", {"batch"}), ("batch-sft-spe", {"batch"}), ("batch_d2", {"batch"}), ("batch-spe_d2", {"batch"}),
                       ("interleaved_d2", {"blocking", "buffered"}), ("streaming_d3", {"streaming"})):
        row = found[f"qwen3-4b_{name}"]["by"]["pubmedqa"]
        assert row["items"] == 2 and row["right"] == 0 and set(row["delay"]) == ways and row["harness"].startswith("lm-eval")
        assert (row["waited"] < row["heard"]) == (not name.startswith("batch"))
    whole = found["qwen3-4b_original"]["by"]["pubmedqa"]
    costs = latency.Costs()
    assert whole["delay"] == {"batch": pytest.approx(costs.whole + costs.tau * whole["tokens"])} and whole["tokens"] <= 3
    first, last = (found[f"qwen3-4b_streaming{order}_d3"] for order in ("", "-context"))
    assert first["by"]["pubmedqa"]["waited"] != last["by"]["pubmedqa"]["waited"]
    clock = first["clock"]
    assert clock["items"] == 1 and min(clock[name] for name in ("first", "delay", "join")) > 0 and "peak" not in clock  # of a GPU
    text = "\n".join(tables.paper({"paper": found}))
    assert "qwen3-4b_streaming-context_d3" in text and "by the clock" in text
    assert set(quantities_paper.paper({"paper": found})) == {"C9", "C10p"}  # the others want six tasks, and stay not-run


def test_the_peak_is_that_of_thinking_alone(monkeypatch):
    """Reset before each thought and read behind it: what `joining` holds counts for no item, the first, the last or one between."""
    from types import SimpleNamespace as Of

    most = [0]
    thoughts = iter((7, 9, 8))

    def think(told, depth, way, heard):
        list(told)
        most[0] = max(most[0], next(thoughts) * 2**20)
        heard(Of(kind="end"))
        return Of(units=[[1]], rest=[2], truncated=False)

    def made(model, tokens, start, choose, **caps):
        choose(torch.ones(1))
        return Of(think=think)

    monkeypatch.setattr(paper, "Reasoner", made)
    monkeypatch.setattr(paper, "joining", lambda *of: most.__setitem__(0, 100 * 2**20) or 0.5)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: most.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: most[0])
    monkeypatch.setattr(paper.harness, "chat_of", lambda *of: Of(tokens=lambda: None))
    monkeypatch.setattr(paper.harness, "segments_of", lambda *of: ([[1]], [0]))
    monkeypatch.setattr(questions, "load_items", lambda *of: [None] * 3)
    monkeypatch.setattr(questions, "prompt_of", lambda item: None)
    found = paper.clock(Of(model=None, tokenizer=None), {}, 2, HOW, "cuda")
    assert (found["peak"], found["join"], found["items"]) == (9, 0.5, 3)


def test_what_is_kept_of_the_same_weights_is_not_asked_again(trained, hub, tmp_path, monkeypatch):
    asked, lines = [], []
    monkeypatch.setattr(harness, "evaluate", lambda lm, task, **how: asked.append((task, how["cap"])) or {"right": 0.5})
    run, folder = tmp_path / RUNS[0], trained / RUNS[0] / "model"
    card, how = harness.read_card(folder), HOW | {"tasks": ["gsm_symbolic"]}

    def scores(model=folder, **changes):
        return paper.by_task(run, paper.ModelSpec(str(model)), card, 2, how | changes, "cpu", lines.append, hub / "data")

    assert scores() == scores() == scores(rows=1) == {"gsm_symbolic": {"right": 0.5}} and asked == [("gsm_symbolic", 3)]
    scores(cap=4)
    assert asked[1:] == [("gsm_symbolic", 4)], "another question"
    trained_anew = shutil.copytree(folder, tmp_path / "trained anew")
    load(tiny("qwen3", vocab_size=400, hidden_size=32, num_hidden_layers=1, seed=7)).model.save_pretrained(trained_anew)
    scores(trained_anew, cap=4)
    assert asked[2:] == [("gsm_symbolic", 4)] and "other weights" in lines[-2], "other weights under the same name"


def test_an_answer_is_what_batched_decoding_writes_and_the_trace_counts_it(trained, hub):
    folder = trained / "qwen3-4b_streaming_d3" / "model"
    of, card = load(str(folder)), harness.read_card(folder)
    lm = harness.thinking_lm(of.model, of.tokenizer, card, 3, rows=2, unit_cap=4)
    item = questions.load_items("pubmedqa", hub / "data", 1)[0]
    request = type("Request", (), {"args": (questions.prompt_of(item), {"max_gen_toks": 5, "do_sample": False})})
    answer = lm.generate_until([request])[0]
    chat = harness.chat_of(of.model, of.tokenizer, card)
    segments, words = harness.segments_of(chat, questions.prompt_of(item), "question")
    from ..reasoner import Reasoner

    alone = Reasoner(of.model, chat.tokens(), unit_cap=4, rest_cap=5).think(segments, 3)
    assert answer.trace.units == tuple(map(len, alone.units)) and alone.rest
    assert str(answer) == harness.answered(of.tokenizer, alone.rest, chat.id("<EOR>"), chat.tokens().stop)
    assert answer.trace.read == tuple(map(len, segments)) and answer.trace.words == tuple(words)
    cue = len(chat.tokens().cues[3])
    assert answer.trace.m == alone.m == cue + 5 and answer.tokens == sum(map(len, alone.units)) + 5 + cue
    assert answer.trace.waited("streaming") == len(segments[0]) and answer.trace.waited("batch") == sum(map(len, segments))
    for kwargs in ({"max_gen_toks": 5, "do_sample": True}, {"max_gen_toks": 5, "until": ["x"]}, {}):
        with pytest.raises(TaskError, match="writing is greedy"):
            lm.generate_until([type("Request", (), {"args": (questions.prompt_of(item), kwargs)})])
    with pytest.raises(TaskError, match="layout 'chess'"):
        harness.thinking_lm(of.model, of.tokenizer, card | {"layout": "chess"}, 3)


def test_a_whole_chain_is_asked_as_it_was_trained(trained, hub):
    """One segment of all of the input and one unit, as long as what is asked for; the order is the card's."""
    folder = trained / "qwen3-4b_batch-sft-spe" / "model"
    of, card = load(str(folder)), harness.read_card(folder)
    assert card["whole"] and card["instruction"] == "Think." and {int(d): text for d, text in card["cues"].items()} == worded.WHOLE_CUES
    chat = harness.chat_of(of.model, of.tokenizer, card)
    item = {"question": "How many dogs?", "context": ["The cat has 3 dogs.", "We see 2."]}
    (segment,), (words,) = harness.segments_of(chat, questions.prompt_of(item), "question", whole=True)
    learnt = data.JsonTraces("a", "b", [1], "Think.", whole=True).sample(
        WHOLE | {"Instruct_Context": {"context": "", "instruct": "How many dogs?\n\nThe cat has 3 dogs.\nWe see 2. <EOQ>"}}, chat)[1]
    assert learnt.source[1] == tuple(segment) and words == 11
    (other,), _ = harness.segments_of(chat, questions.prompt_of(item), "context", whole=True)
    assert other == chat.segment("The cat has 3 dogs.\nWe see 2.\n\nHow many dogs?", question=True)
    lm = harness.thinking_lm(of.model, of.tokenizer, card, 1, rows=2, unit_cap=1)
    (answer,) = lm.generate_until([type("Request", (), {"args": (questions.prompt_of(item), {"max_gen_toks": 5, "do_sample": False})})])
    assert answer.trace.read == (len(segment),) and answer.trace.units == (5,), "the cap of a unit is not that of a chain"
    assert answer.trace.waited("batch") == len(segment)
    with pytest.raises(DataError, match="3 sentences with a unit each: data.whole reads rows of one"):
        data.JsonTraces("a", "b", [1], whole=True).sample(ROW, chat)
    with pytest.raises(SetupError, match=r"data.depths \[2\]: .* has one depth"):
        data.JsonTraces("a", "b", whole=True)


def test_a_box_in_the_reasoning_is_no_answer(trained):
    """What is graded stands behind <EOR>, which is a special token; without it there is no answer."""
    of = load(str(trained / "qwen3-4b_streaming_d3" / "model"))
    chat = harness.chat_of(of.model, of.tokenizer, {})
    end, stop, box = chat.id("<EOR>"), chat.tokens().stop, chat.plain(" perhaps \\boxed{5}")

    def right(*rest):
        return questions.grade("number", [harness.answered(of.tokenizer, list(rest), end, stop)], ["5"])[0]

    assert right(*box, end, *box, stop) and right(end, *box) and right(*box, end, *box, end, stop)
    assert not right(*box, stop) and not right(*box, end, stop) and not right(*box, end, *chat.plain(" I do not know."), stop)
    assert harness.answered(of.tokenizer, [*box, end, *chat.plain(" no"), stop], end, stop) == " no"


# -- the tasks ---------------------------------------------------------------------------------------------
def test_rows_of_the_hub_by_hand():
    def read(name, row):
        question, context, answer = questions.TASKS[name].read(row)
        return question, questions.sentences(context), answer

    assert read("gsm_symbolic", {"question": "A has 3. B has 2. How many?", "answer": "3+2\n#### 1,005"}) == (
        "How many?", ["A has 3.", "B has 2."], "1005")
    assert read("metamath", {"query": "A has 3. How many?", "response": "So.\nThe answer is: 3"}) == ("How many?", ["A has 3."], "3")
    assert read("proofwriter", {"theory": "Ann is red. If red then big.", "question": "Ann is big.", "answer": "True"}) == (
        "Ann is big.", ["Ann is red.", "If red then big."], "True")
    assert read("logicnli", {"premise": "It rains.", "hypothesis": "It is wet.", "label": "neutral"})[2] == "neutral"
    assert read("hotpotqa", {"question": "Who?", "context": {"title": ["a", "b"], "sentences": [["One.", " Two."], ["3."]]},
                             "answer": "Bo"}) == ("Who?", ["One.", "Two.", "3."], "Bo")
    assert read("pubmedqa", {"question": "Is it?", "context": {"contexts": ["We ask.", "It is."]}, "final_decision": "yes"}) == (
        "Is it?", ["We ask.", "It is."], "yes")


def test_grading_by_hand():
    assert questions.grade("label", ["so \\boxed{True}", "\\boxed{false}", "True"], ["True"] * 3) == [True, False, False]
    assert questions.grade("text", ["\\boxed{\\text{The  Beatles!}}", "\\boxed{beatle}"], ["Beatles"] * 2) == [True, False]
    assert questions.grade("label", ["<think> \\boxed{yes}"], ["yes"]) == [False]  # a thought that never ended
    assert questions.normal("self_contradiction") == "self contradiction"
    assert questions.grade("text", ["\\boxed{US}", "\\boxed{OBrien}", "\\boxed{The}", "\\boxed{}"], ["U.S.", "O'Brien", "A", "The"]) == [
        True, True, False, False], "as SQuAD drops punctuation; and an article is no empty answer"
    for kind, answer in (("hotpotqa", "..."), ("gsm_symbolic", " ")):
        with pytest.raises(DataError, match="here: ValueError the answer"):
            questions._item("here", lambda answer=answer: ("Who?", "A b. C d.", answer), questions.TASKS[kind])
    assert questions.process_results({"kind": "label", "answer": "no"}, ["\\boxed{no}"]) == {"right": 1.0}


def test_prompts_are_cut_where_they_were_joined(hub, tmp_path):
    item = {"question": "How?", "context": ["One.", "Two."], "answer": ""}
    assert questions.parts_of(questions.prompt_of(item)) == ("How?", ["One.", "Two."])
    assert questions.prompt_of(item, context_first=True) == "One.\nTwo.\n\nHow?"
    with pytest.raises(TaskError, match="a question, an empty line"):
        questions.parts_of("How?")
    assert len(questions.load_items("gsm_symbolic", hub / "data")) == 2  # one is too short
    assert questions.load_items("pubmedqa", hub / "data")[0]["question"] == "How many dogs? Answer with yes, no or maybe."
    with pytest.raises(TaskError, match="none of the tasks gsm_symbolic, "):
        questions.load_items("chess")
    (tmp_path / "streaming").mkdir()
    for line, says in (('{"question": "a"}', "line 1: KeyError 'context'"), ("{", "line 1: JSONDecodeError"),
                       (json.dumps(ITEM | {"context": "One."}), "no item of three")):
        (tmp_path / "streaming" / "pubmedqa.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match=says):
            questions.load_items("pubmedqa", tmp_path)


def test_items_of_a_file_are_text_and_lines_end_at_line_feeds_alone(tmp_path):
    """U+2028 and U+0085 part no line of JSON; null, lists and what is no number are no answers, "None" is none either."""
    (tmp_path / "streaming").mkdir()
    path = tmp_path / "streaming" / "pubmedqa.jsonl"
    item = ITEM | {"context": ["The cat\u2028has 3 dogs.", "We\u0085see 2 more."]}
    path.write_text(json.dumps(item, ensure_ascii=False) + "\n" + json.dumps(ITEM | {"answer": True}) + "\n", encoding="utf-8")
    found = questions.load_items("pubmedqa", tmp_path)
    assert sorted(each["answer"] for each in found) == ["5", "True"]
    assert ["The cat has 3 dogs.", "We see 2 more."] in [each["context"] for each in found]
    half = chr(0xD800)
    for wrong, says in (({"question": None}, "the question is None and no text"), ({"answer": None}, "the answer is None and no text"),
                        ({"answer": ["yes"]}, "the answer is"), ({"answer": float("nan")}, "the answer is nan and no text"),
                        ({"context": ["One.", None, "Three."]}, "the context is None and no text"), ({"context": None}, "question"),
                        ({"question": f"a {half}"}, "the question is"), ({"question": ["a", "b"]}, "the question is")):
        path.write_text(json.dumps(ITEM) + "\n" + json.dumps(ITEM | wrong) + "\n")
        with pytest.raises(DataError, match=f"pubmedqa.jsonl, line 2: .*{says}"):
            questions.load_items("pubmedqa", tmp_path)
    path.write_bytes(json.dumps(ITEM).encode() + b"\n" + b'{"question": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: no UTF-8"):
        questions.load_items("pubmedqa", tmp_path)


def test_what_is_asked_is_checked(tmp_path, monkeypatch):
    how = paper.asked()
    assert how["tasks"] == list(questions.TASKS) and how["seconds_a_word"] == latency.Costs().r
    for entry, value, says in (("tasks", ["chess"], "'chess' is no task"), ("items", 0, "1 or more"), ("clock_task", "x", "one of the")):
        (tmp_path / "asked.json").write_text(json.dumps(how | {entry: value}))
        with pytest.raises(UserError, match=says):
            paper.asked(tmp_path / "asked.json")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        paper.measure_paper()
    monkeypatch.setenv("STREAMINGTHINKER_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="no trained model"):
        paper.measure_paper(device="cpu")


def test_values_follow_from_a_config_s_name():
    names = {path.stem for path in CUDA}
    assert names >= {f"qwen3-4b_{layout}_d{d}" for layout in ("batch", "streaming", "interleaved") for d in (1, 2, 3)} | {RUNS[3]}
    assert names >= {f"qwen3-4b_{layout}_d{d}" for layout in ("batch-spe", "streaming-context") for d in (1, 2, 3)}
    assert names >= {f"qwen3-4b_batch-sft{positions}" for positions in ("", "-spe")}
    assert names >= {name.replace("-4b", "-1.7b") for name in names if "context" not in name}, "every cell of tables 1 to 3"
    for path in CUDA:
        read, (base, layout, *depth) = yaml.safe_load(path.read_text()), path.stem.split("_")
        sft = "-sft" in layout  # of one depth
        options, data, trainer = (read[k].get("init_args", read[k]) for k in ("model", "data", "trainer"))
        assert options["base"]["name"].lower() == f"qwen/{base}" and options["layout"] == layout.partition("-")[0], path.stem
        assert options["positions"] == ("rope" if layout in ("batch", "batch-sft") else "spe"), path.stem
        assert data["depths"] == ([1] if sft else [int(depth[0][1])]) and data.get("whole", False) == sft, path.stem
        assert all(data[split].startswith("data/streaming_cot/whole-") == sft for split in ("train", "validation")), path.stem
        assert data.get("context_first", False) == layout.endswith("-context"), path.stem
        assert trainer["default_root_dir"].endswith(path.stem) and options["learning_rate"] == 1e-5 and data["batch_size"] == 16
        assert f"configs/cuda/{path.name}" in path.read_text()
    assert worded.CUES.keys() == {1, 2, 3}


def test_what_a_config_expects_is_what_the_paper_prints():
    """The two mathematics sets, of the table and the row that the config's name says; of 1.7B the paper prints batch mode alone."""
    tables_of = {"4b": reported.TABLE_1_4B, "1.7b": reported.TABLE_1_17B}
    for path in CUDA:
        base, layout, depth = (path.stem.removeprefix("qwen3-") + "_SFT" * ("-sft" in path.stem)).split("_")
        layout = layout.replace("-sft", "")
        row = {"batch": tables_of[base][f"{depth.upper()} rope"], "batch-spe": tables_of[base][f"{depth.upper()} spe"],
               "streaming": reported.TABLE_2.get(f"streaming {depth.upper()}"), "streaming-context": reported.TABLE_3.get(depth.upper()),
               "interleaved": reported.TABLE_2.get(f"interleaved {depth.upper()}")}[layout]
        if base == "1.7b" and layout == "streaming":
            row = tables_of[base][f"{depth.upper()} spe"]
        (expect,) = [line.partition("expect:")[2] for line in path.read_text().splitlines() if line.startswith("# expect:")]
        if base == "1.7b" and layout == "interleaved":
            assert "no figure" in expect
        else:
            gsm, meta = (float(part.split()[1].rstrip(",")) for part in (expect[expect.index(n):] for n in reported.MATH))
            assert (gsm, meta) == pytest.approx((row[0][0], row[1][0]), abs=6e-4), path.stem  # three digits
