"""common/benchmarks/maths: five lm-eval tasks with one template, and their scores by hand."""

import json

import pytest
import yaml

from common.benchmarks import maths
from common.benchmarks.maths import BENCHMARKS, evaluate, load_problems, task_manager
from common.benchmarks.sampled import Response, sampling_lm
from common.errors import DataError, ModelError, TaskError

PROBLEMS = [
    {"problem": "What is {{1}} + 1?", "answer": "2"},  # braces are the problem's own, no template's
    {"problem": "Half of 1?\n\nSay it.", "answer": r"\frac{1}{2}"},
    {"problem": "What is 6 - 2?", "answer": "4"},
]
RIGHT = [r"so \boxed{2}", r"so \boxed{0.5}", r"so \boxed{4}"]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "maths").mkdir()
    for name in BENCHMARKS:
        lines = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS)
        (tmp_path / "maths" / f"{name}.jsonl").write_text(lines)
    return tmp_path


def table_lm(table, **more):
    """A model that answers sample i of a problem by table[problem][i]; it keeps what it was asked."""
    from lm_eval.api.model import LM

    class Table(LM):
        tokenizer_name = "table"
        asked: list = []

        def apply_chat_template(self, chat, add_generation_prompt=True):
            assert add_generation_prompt
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat) + "<assistant>"

        def generate_until(self, requests, disable_tqdm=False):
            self.asked = [request.args for request in requests]
            left = {doc: iter(row) for doc, row in table.items()}
            return [next(left[request.doc_id]) for request in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    for name, value in more.items():
        setattr(Table, name, value)
    return Table()


def exact(text, tokens, stop=True):
    return Response(text, tokens, stop)


# --- scores


def test_scores_by_hand(data):
    lm = table_lm({
        0: [exact(RIGHT[0], 10), exact(r"\boxed{3}", 20), exact(RIGHT[0], 30), exact("none", 40)],
        1: [exact(RIGHT[1], 60, False), exact("on and", 60, False), exact(r"\boxed{1/3}", 5), exact("?", 5)],
        2: [exact(r"\boxed{4}</think>", 60), exact(RIGHT[2], 10), exact(RIGHT[2], 10), exact(RIGHT[2], 10)],
    })  # fmt: skip
    found = evaluate(lm, ["math500"], data=data, max_tokens=60)["math500"]
    assert found["correct"] == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]]  # right but cut: wrong
    assert found["avg_at_n"] == pytest.approx(5 / 12) and found["pass_at_n"] == pytest.approx(2 / 3)
    assert found["lengths"] == [[10, 20, 30, 40], [60, 60, 5, 5], [60, 10, 10, 10]]
    assert found["tokens"] == pytest.approx(320 / 12) and found["tokens_by"] == "sampler"
    assert found["at_cap"] == pytest.approx(2 / 12)  # the third of 60 tokens had its end
    assert (found["problems"], found["samples"], found["size"]) == (3, 4, 500)
    assert (found["timeouts"], found["errors"]) == (0, 0)
    cut = evaluate(lm, ["math500"], data=data, max_tokens=60, require_end=False)["math500"]
    assert cut["correct"][1] == [1, 0, 0, 0] and cut["tokens"] == found["tokens"]


def test_a_text_is_encoded_again_and_without_an_encoder_there_are_no_tokens(data):
    table = {0: ["a b " + RIGHT[0]] * 2, 1: ["x " * 9 + RIGHT[1]] * 2, 2: ["no"] * 2}
    words = table_lm(table, tok_encode=lambda self, text, add_special_tokens: text.split())
    found = evaluate(words, ["aime24"], data=data, repeats=2, max_tokens=8)["aime24"]
    assert found["lengths"] == [[5, 5], [8, 8], [2, 2]]  # words and an end; 11 words are 8 and a cut
    assert found["correct"] == [[1, 1], [0, 0], [0, 0]] and found["at_cap"] == pytest.approx(1 / 3)
    assert found["tokens_by"] == "encoding again"
    with pytest.raises(TaskError, match="no tok_encode"):
        evaluate(table_lm(table), ["aime24"], data=data, repeats=2)


def test_what_the_model_is_asked(data):
    table = {i: [exact(text, 3)] * 16 for i, text in enumerate(RIGHT)}
    lm = table_lm(table)
    generation, prompts = [], []
    for name, benchmark in BENCHMARKS.items():
        found = evaluate(lm, [name], data=data, verifier=lambda response, gold: True)[name]  # any callable will do
        assert found["samples"] == benchmark.repeats and len(lm.asked) == 3 * benchmark.repeats
        assert found["avg_at_n"] == found["pass_at_n"] == 1 and found["at_cap"] == 0
        generation.append(lm.asked[0][1])
        prompts.append(list(dict.fromkeys(prompt for prompt, _ in lm.asked)))
    plain = dict(do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_gen_toks=32768, until=[])
    assert generation == [plain] * 5
    assert prompts == [[f"<user>{problem['problem']}<assistant>" for problem in PROBLEMS]] * 5  # one template, and bare
    found = evaluate(lm, ["amc23", "gsm8k"], data=data, temperature=0.6, max_tokens=9, repeats={"amc23": 2}, suffix=" Box!",
                     chat_template=False, limit=2, verifier=lambda response, gold: True)  # fmt: skip
    assert list(found) == ["amc23", "gsm8k"] and [found[name]["samples"] for name in found] == [2, 4]
    assert found["gsm8k"]["problems"] == 2 and lm.asked[0][0] == "What is {{1}} + 1? Box!"
    assert lm.asked[0][1] == plain | {"temperature": 0.6, "max_gen_toks": 9} == found["amc23"]["generation"]


def test_lm_eval_alone_gives_the_same(data):
    """The task files under lm-eval's own command score by the same verifier."""
    from lm_eval import simple_evaluate

    table = {0: [RIGHT[0], "no", "no", RIGHT[0]], 1: ["no"] * 4, 2: [RIGHT[2]] * 4}
    lm, manager = table_lm(table), task_manager(data)
    output = simple_evaluate(lm, tasks=["gsm8k_sampled"], task_manager=manager, apply_chat_template=True, bootstrap_iters=0)
    result = output["results"]["gsm8k_sampled"]
    assert result["avg_at_n,all_samples"] == pytest.approx(0.5)
    assert result["pass_at_n,all_samples"] == pytest.approx(2 / 3)


def test_the_task_files_differ_in_name_data_and_repeats_only():
    folder = maths.Path(maths.__file__).parent / "tasks" / "reasoning"
    assert {path.stem for path in folder.glob("*.yaml")} == {*BENCHMARKS, "_sampled"}
    for name, benchmark in BENCHMARKS.items():
        assert yaml.safe_load((folder / f"{name}.yaml").read_text()) == {
            "include": "_sampled.yaml", "task": f"{name}_sampled", "dataset_kwargs": {"name": name},
            "repeats": benchmark.repeats}  # fmt: skip
    assert {name: (b.size, b.repeats) for name, b in BENCHMARKS.items()} == {
        "gsm8k": (1319, 4), "math500": (500, 4), "amc23": (40, 16), "aime24": (30, 16), "aime25": (30, 16)}  # fmt: skip


# --- a real model


def test_the_sampling_model_counts_its_tokens(data):
    """A tiny model over bytes: lengths within the cap, ends seen, the same seed the same responses."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    from common.models import load, tiny

    vocabulary = {"<end>": 0} | {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    model = load(tiny("llama", vocab_size=257, hidden_size=16, num_hidden_layers=1)).model
    model.generation_config.eos_token_id = [*range(60)]  # an untrained model ends about one token in four
    lm = sampling_lm(model, tokenizer)
    ask = dict(data=data, repeats=3, max_tokens=12, chat_template=False, verifier=lambda response, gold: False)
    first, again = (evaluate(lm, ["amc23"], seed=5, **ask)["amc23"] for _ in range(2))
    assert first["lengths"] == again["lengths"] and first["tokens_by"] == "sampler"
    assert all(1 <= n <= 12 for row in first["lengths"] for n in row)
    assert first["tokens"] < 12  # some ended
    requests = [type("R", (), {"args": (text, {"max_gen_toks": 5, "do_sample": True, "temperature": 1.0})}) for text in "aab"]
    texts = lm.generate_until(requests)
    assert len(texts) == 3 and all(len(tokenizer.encode(t)) == t.tokens - t.finished or "\ufffd" in t for t in texts)
    assert all(t.finished or t.tokens == 5 for t in texts)
    with pytest.raises(ModelError, match="positions"):
        evaluate(lm, ["amc23"], data=data, repeats=1, chat_template=False, max_tokens=10**6)
    requests[0].args[1]["top_p"] = 0.9
    with pytest.raises(TaskError, match="top_p"):
        lm.generate_until(requests[:1])


# --- data


def test_data_in_their_authors_forms(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "math").mkdir()
    line = {"question": "How much?", "answer": "9 * 200 = <<9*200=1800>>1800.\n#### 1,800"}
    (tmp_path / "math" / "gsm8k_test.jsonl").write_text(json.dumps(line) + "\n")
    row = {"prompt": [{"content": "2?", "role": "user"}], "reward_model": {"ground_truth": "2", "style": "rule"}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "math" / "aime.parquet")
    assert load_problems("gsm8k", tmp_path) == [{"problem": "How much?", "answer": "1800"}]
    assert load_problems("aime24", tmp_path) == [{"problem": "2?", "answer": "2"}]
    (tmp_path / "math" / "amc23.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="amc23.parquet is no parquet"):
        load_problems("amc23", tmp_path)


def test_bad_data_is_named(data, monkeypatch):
    file = data / "maths" / "gsm8k.jsonl"
    good = json.dumps(PROBLEMS[0])
    for bad, said in [("{", "line 2: no JSON"), ('{"problem": "a"}', "line 2: answer is None"), ("[]", "line 2: list"),
                      ('{"problem": " ", "answer": "1"}', "line 2: problem is ' '"),
                      ('{"problem": "a", "answer": true}', "line 2: answer is True")]:  # fmt: skip
        file.write_text(f"{good}\n{bad}\n")
        with pytest.raises(DataError, match=f"gsm8k.jsonl, {said}"):
            load_problems("gsm8k", data)
    file.write_text("")
    with pytest.raises(DataError, match="holds no problems"):
        load_problems("gsm8k", data)
    file.write_text('{"problem": "a", "answer": 204}')
    monkeypatch.setenv("NINEFOLD_DATA", str(data))
    assert load_problems("gsm8k")[0]["answer"] == "204"
    file.unlink()
    with pytest.raises(DataError, match="gsm8k.jsonl is missing, and so is .*gsm8k_test.jsonl"):
        load_problems("gsm8k")
    monkeypatch.delenv("NINEFOLD_DATA")
    with pytest.raises(DataError, match="cannot get openai/gsm8k from the hub"):
        load_problems("gsm8k")
    with pytest.raises(TaskError, match="aime26"):
        evaluate(None, ["aime26"])
