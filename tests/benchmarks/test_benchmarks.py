"""common/benchmarks: perplexity and tasks by hand, and against lm-eval's own task files."""

import json
import logging
import math
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from common.benchmarks import language, maths, speech, translation
from common.benchmarks.language import evaluate, retain
from common.benchmarks.perplexity import text_perplexity, token_perplexity
from common.benchmarks.sampled import sampling_lm
from common.data.text import CLOZE, Text
from common.errors import DataError, ModelError, SetupError, TaskError
from common.lora import LoraSpec, add_lora
from common.models import SMOLLM2, ModelSpec, load, tiny
from tests.numerics import float64

# Made up; only the shape is that of the benchmarks.
PIQA = [
    {"query": "Question: dry a cup\n", "choices": ["use a towel", "use a brick"], "gold": 0},
    {"query": "Question: cut bread\n", "choices": ["with soup", "with a knife, slowly"], "gold": 1},
    {"query": "Question: fill a jug\n", "choices": ["add sand", "add water"], "gold": 1},
]
ARC = [
    {"query": "Question: What is hot?", "choices": ["ice", "fire", "rain", "fog"], "gold": 1},
    {"query": "Question: What flies?", "choices": ["a stone", "a mole", "a bird"], "gold": 2},
]
WINOGRANDE = [
    {
        "context_options": ["The cup hit the jug, so the cup", "The cup hit the jug, so the jug"],
        "continuation": "broke.",
        "gold": 1,
    },
    {
        "context_options": ["Ann thanked Bea, as Ann", "Ann thanked Bea, as Bea"],
        "continuation": "had helped.",
        "gold": 1,
    },
]
LAMBADA = [
    {"context": "She had a cat. Every day she fed the", "continuation": "cat"},
    {"context": "He lost his key. He looked for the\n\nold", "continuation": "key"},
]


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte; 0 is the end token, which no text contains."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {letter: i for i, letter in enumerate(letters, 1)}
    backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>", model_max_length=512)


@pytest.fixture
def model():
    with float64():
        yield load(tiny(vocab_size=257, hidden_size=16, num_hidden_layers=2)).model.double()


@pytest.fixture
def data(tmp_path):
    (tmp_path / "text").mkdir()
    for name, items in dict(piqa=PIQA, arc_easy=ARC, winogrande=WINOGRANDE, lambada_openai=LAMBADA).items():
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (tmp_path / "text" / f"{name}.jsonl").write_text(lines)
    return tmp_path


class Fixed(nn.Module):
    """A "model" whose logits for the next token depend on the current one only: table[current]."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids, attention_mask, use_cache):
        assert attention_mask.shape == input_ids.shape and not use_cache
        return CausalLMOutput(logits=self.table[input_ids])


# --- perplexity


@pytest.mark.numerics
def test_uniform_logits_have_the_vocabulary_as_perplexity():
    with float64():
        result = token_perplexity(Fixed(torch.zeros(50, 50)), torch.arange(40) % 50, window=7)
    assert result["ppl"] == pytest.approx(50, rel=1e-9)
    assert result["n_windows"] == 6 and result["n_tokens"] == 5 * 6 + 4  # the last window has 5
    assert result["window_tokens"] == [6, 6, 6, 6, 6, 4]


@pytest.mark.numerics
def test_perplexity_by_hand():
    # After 0 comes 1 with probability 3/4; after 1 comes 0 with 1/4.
    table = torch.log(torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=torch.float64))
    with float64():
        result = token_perplexity(Fixed(table), torch.tensor([0, 1, 1, 0, 1, 0]), window=3, n_words=2)
    first = -2 * math.log(0.75)  # 0 | 1 1
    second = -math.log(0.75) - math.log(0.25)  # 0 | 1 0
    assert result["window_nll"] == pytest.approx([first, second], rel=1e-9)
    assert result["nll_sum"] == pytest.approx(first + second, rel=1e-9)
    assert result["ppl"] == pytest.approx(math.exp((first + second) / 4), rel=1e-9)
    assert result["word_ppl"] == pytest.approx(math.exp((first + second) / 4 * 6 / 2), rel=1e-9)


def test_a_last_window_of_one_token_is_dropped_and_two_are_the_least():
    model = Fixed(torch.zeros(4, 4))
    assert token_perplexity(model, torch.tensor([0, 1, 2]), window=2)["n_tokens"] == 1
    for ids, window in ((torch.tensor([0]), 2), (torch.tensor([0, 1]), 1)):
        with pytest.raises(TaskError, match="nothing has a context"):
            token_perplexity(model, ids, window)


def test_a_nan_is_an_error_and_an_overflow_is_none():
    for wrong in (math.nan, math.inf):
        with pytest.raises(ModelError, match=r"loss of window 0 is nan \(dtype torch.float32\)"):
            token_perplexity(Fixed(torch.full((4, 4), wrong)), torch.tensor([0, 1]), window=2)
    never = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])  # 1 is impossible, and comes
    with pytest.raises(ModelError, match="loss of window 1 is inf"):
        token_perplexity(Fixed(never), torch.tensor([0, 0, 0, 1]), window=2)
    certain = torch.tensor([[1e4, 0.0], [1e4, 0.0]])  # always 0
    assert token_perplexity(Fixed(certain), torch.tensor([0, 1]), window=2)["ppl"] is None


@pytest.mark.parametrize("family", [
    dict(model_type="gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=16),  # learnt positions: torch would fail inside
    dict(model_type="llama", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=16),
])  # fmt: skip
def test_a_window_longer_than_the_positions_is_refused_before_any_work(family):
    model = load(ModelSpec("random", config=family | {"vocab_size": 96})).model
    ids = torch.arange(40) % 96
    assert token_perplexity(model, ids, 16)["n_windows"] == 3
    for given in (ids, ids[:34].view(2, 17)):
        with pytest.raises(TaskError, match=f"windows of 17 tokens are longer than the 16 positions of {type(model).__name__}.* 16 or"):
            token_perplexity(model, given, 17)
    assert token_perplexity(model, ids[:10], 17)["n_tokens"] == 9, "a text that fits is no long window"


def test_a_text_without_words_has_no_perplexity_of_a_word():
    with pytest.raises(DataError, match="no words"):
        token_perplexity(Fixed(torch.zeros(4, 4)), torch.tensor([0, 1]), 2, n_words=0)


@pytest.mark.parametrize(("package", "call"), [
    ("lm-eval", lambda model, tokenizer: evaluate(model, tokenizer, ["pydoc_cloze"])),
    ("lm-eval", lambda model, tokenizer: sampling_lm(model, tokenizer)),
    ("lm-eval", lambda model, tokenizer: maths.evaluate(None, ["aime24"])),
    ("sacrebleu", lambda model, tokenizer: translation.chrf(["a"], ["a"])),
    ("sacrebleu", lambda model, tokenizer: translation.sentence_statistics(["a"], ["a"])),
    ("jiwer", lambda model, tokenizer: speech.wer(["a"], ["a"])),
    ("peft", lambda model, tokenizer: add_lora(model, LoraSpec())),
])  # fmt: skip
def test_a_package_that_is_missing_is_named_with_the_way_out(package, call, model, tokenizer, monkeypatch):
    name = package.replace("-", "_")
    for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=f"needs the package {package}, which cannot be imported here .*pip install {package}"):
        call(model, tokenizer)


@pytest.mark.numerics
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_batches_of_one_and_four_agree(model_type):
    model = load(tiny(model_type)).model.double()
    ids = torch.randint(1, 96, (53,), generator=torch.Generator().manual_seed(0))
    with float64():
        one, four = (token_perplexity(model, ids, 10, batch_size) for batch_size in (1, 4))
        cut = token_perplexity(model, ids[:50].view(5, 10), 10)
    assert four["window_nll"] == pytest.approx(one["window_nll"], rel=1e-9)  # the last is padded
    assert cut["window_nll"] == pytest.approx(one["window_nll"][:5], rel=1e-9)


def test_perplexity_leaves_every_mode_as_it_was(model):
    model.model.layers[0].train()
    token_perplexity(model, torch.tensor([1, 2, 3]), 3)
    assert model.model.layers[0].training and not model.training
    model.eval()


def test_a_text_carries_its_definition(model, tokenizer):
    result = text_perplexity(model, tokenizer, Text("some words", {"name": "made up"}), 4)
    assert result["text"] == {"name": "made up"} and result["n_words"] == 2
    assert result["n_tokens"] == 10 - 3  # three windows, 4 + 4 + 2


# --- lm-eval


def log_likelihood(model, tokenizer, context, continuation):
    prefix = tokenizer(context).input_ids
    ids = torch.tensor([prefix + tokenizer(continuation).input_ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    scores = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return scores[len(prefix) - 1 :].sum().item()


def by_hand(model, tokenizer, items, question):
    """acc and acc_norm (by characters) of multiple choice, from the definitions."""
    acc, acc_norm = [], []
    for item in items:
        scores = [log_likelihood(model, tokenizer, question(item), " " + choice) for choice in item["choices"]]
        normed = [s / len(choice) for s, choice in zip(scores, item["choices"])]
        acc.append(int(scores.index(max(scores)) == item["gold"]))
        acc_norm.append(int(normed.index(max(normed)) == item["gold"]))
    return {"acc": acc, "acc_norm": acc_norm}


@pytest.mark.numerics
@pytest.mark.parametrize("batch_size", [1, 4])
def test_multiple_choice_equals_the_hand_computation(model, tokenizer, data, batch_size):
    run = evaluate(model, tokenizer, ["piqa_local", "arc_easy_local"], data=data, batch_size=batch_size)
    piqa, arc = run["tasks"].values()
    expected = by_hand(model, tokenizer, PIQA, lambda item: item["query"].strip() + "\nAnswer:")
    assert piqa["correct"] == expected
    assert piqa["metrics"]["acc"]["value"] == pytest.approx(sum(expected["acc"]) / 3)
    expected = by_hand(model, tokenizer, ARC, lambda item: item["query"] + "\nAnswer:")
    assert arc["correct"] == expected
    assert piqa["n"] == piqa["n_original"] == 3 and piqa["shots"] == 0 and piqa["version"] == 1.0
    assert run["batch_size"] == batch_size and run["harness"].startswith("lm-eval ")
    assert piqa["data"]["file"] == "text/piqa.jsonl" and len(piqa["data"]["sha256"]) == 64
    assert str(data) not in json.dumps(run)


@pytest.mark.numerics
def test_winogrande_compares_the_rest_of_the_sentence(model, tokenizer, data):
    result = evaluate(model, tokenizer, ["winogrande_local"], data=data)["tasks"]["winogrande_local"]
    correct = []
    for item in WINOGRANDE:
        scores = [
            log_likelihood(model, tokenizer, context, " " + item["continuation"]) for context in item["context_options"]
        ]
        correct.append(int(scores.index(max(scores)) == item["gold"]))
    assert result["correct"] == {"acc": correct}
    assert result["value"] == sum(correct) / 2


@pytest.mark.numerics
def test_lambada_is_the_perplexity_and_the_greedy_hit_of_the_last_word(model, tokenizer, data):
    result = evaluate(model, tokenizer, ["lambada_openai_local"], data=data)["tasks"]
    result = result["lambada_openai_local"]
    scores = [log_likelihood(model, tokenizer, item["context"], " " + item["continuation"]) for item in LAMBADA]
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(-sum(scores) / 2), rel=1e-9)
    assert result["metric"] == "acc" and result["correct"]["acc"] == [0, 0]


def requests(task):
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return sorted((i.doc_id, i.idx, i.args) for i in task.instances)


def test_local_tasks_ask_what_lm_evals_own_ask(data, monkeypatch):
    """The same items in the hub's schema, through lm-eval's own task files: equal requests."""
    import datasets

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    as_on_hub = {
        "piqa": [
            dict(goal=i["query"][10:-1], sol1=i["choices"][0], sol2=i["choices"][1], label=i["gold"]) for i in PIQA
        ],
        "arc_easy": [
            dict(
                question=i["query"][10:],
                choices={"text": i["choices"], "label": list("ABCD")[: len(i["choices"])]},
                answerKey="ABCD"[i["gold"]],
            )
            for i in ARC
        ],
        "winogrande": [
            dict(
                sentence=f"{before} _ {i['continuation']}",
                option1=i["context_options"][0].split()[-1],
                option2=i["context_options"][1].split()[-1],
                answer=str(i["gold"] + 1),
            )
            for i in WINOGRANDE
            for before in [i["context_options"][0].rsplit(" ", 1)[0]]
        ],
        "lambada_openai": [dict(text=f"{i['context']} {i['continuation']}") for i in LAMBADA],
    }
    hub = {"baber/piqa": "piqa", "allenai/ai2_arc": "arc_easy", "allenai/winogrande": "winogrande"}
    hub["EleutherAI/lambada_openai"] = "lambada_openai"

    def load_dataset(path, name=None, **_):
        dataset = datasets.Dataset.from_list(as_on_hub[hub[path]])
        return {"train": dataset, "validation": dataset, "test": dataset}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    own, ours = language._task_manager(False, None), language._task_manager(True, str(data))
    for name in as_on_hub:
        theirs = own.load([name])["tasks"][name]
        local = ours.load([f"{name}_local"])["tasks"][f"{name}_local"]
        assert requests(local) == requests(theirs), name
        for a, b in zip(local.eval_docs, theirs.eval_docs):
            text_a, text_b = local.doc_to_text(a), theirs.doc_to_text(b)
            assert text_a == text_b
            if name != "lambada_openai":
                assert local.doc_to_target(a) == theirs.doc_to_target(b)
        assert set(local._metric_fn_list) == set(theirs._metric_fn_list)


@pytest.mark.numerics
def test_padding_is_masked_and_does_not_move_scores(model, tokenizer):
    lm = language._harness_model(model, tokenizer, 3)
    pairs = [("a", " bc"), ("some more of it", " and an end"), ("b", " c")]
    lengths = sorted(len(a) + len(b) - 1 for a, b in pairs)  # the last token is not an input
    alone = [log_likelihood(model, tokenizer, *pair) for pair in pairs]
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs["attention_mask"])), with_kwargs=True
    )
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    together = [score for score, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    assert together == pytest.approx(alone, rel=1e-9)
    (ids, mask), *_ = seen
    assert sorted(mask.sum(1).tolist()) == lengths
    assert not ids[mask == 0].any() and ids[mask == 1].all()


@pytest.mark.numerics
def test_padding_is_told_from_lengths_and_not_from_an_id(model, tokenizer):
    """Answers that end with id 0 (with some tokenizers "!"), beside shorter and longer ones: every token of theirs is real."""
    lm = language._harness_model(model, tokenizer, 4)
    asked = [([5, 6], [7]), ([5, 6], [7, 0, 0]), ([0, 0], [9, 0]), ([5, 6, 8, 9], [3, 4, 0, 2])]
    masks = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    found = lm._loglikelihood_tokens([(("", str(i)), *pair) for i, pair in enumerate(asked)], disable_tqdm=True)
    hook.remove()
    assert sorted(mask for batch in masks for mask in batch.sum(1).tolist()) == sorted(len(a) + len(b) - 1 for a, b in asked)
    for (context, answer), (score, greedy) in zip(asked, found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        assert score == pytest.approx(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item(), rel=1e-9)
        assert greedy == (logits.argmax(-1).tolist() == answer)


def test_prompts_that_are_longer_than_the_models_positions_are_counted_and_shown(model, tokenizer, data):
    whole = evaluate(model, tokenizer, ["piqa_local"], data=data)["tasks"]["piqa_local"]
    assert whole["prompts_cut"] == 0
    lengths = sorted(len(f"{item['query'].strip()}\nAnswer: {choice}") for item in PIQA for choice in item["choices"])
    model.config.max_position_embeddings = room = lengths[2]  # a token a letter, and the last one is not read
    with pytest.warns(UserWarning, match=rf"piqa_local: \d of its requests are longer than the model's {room} positions"):
        cut = evaluate(model, tokenizer, ["piqa_local"], data=data)["tasks"]["piqa_local"]
    assert cut["prompts_cut"] == sum(length > room + 1 for length in lengths) > 0


def test_limit_shows(model, tokenizer, data):
    result = evaluate(model, tokenizer, ["piqa_local"], data=data, limit=2)["tasks"]["piqa_local"]
    assert (result["n"], result["n_original"]) == (2, 3)
    assert len(result["correct"]["acc"]) == 2


def test_prompts_hash_follows_the_prompts_not_the_model(model, tokenizer, data):
    def prompts(model):
        run = evaluate(model, tokenizer, ["piqa_local"], data=data)
        return run["tasks"]["piqa_local"]["prompts_sha256"]

    other = load(tiny(vocab_size=257, hidden_size=16, num_hidden_layers=1)).model.double()
    before = prompts(model)
    assert before == prompts(other)
    file = data / "text" / "piqa.jsonl"
    file.write_text(file.read_text().replace("a brick", "a stone"))
    assert before != prompts(model)


def test_evaluation_leaves_the_generators_and_modes_alone(model, tokenizer, data):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model.train()
    evaluate(model, tokenizer, ["piqa_local"], data=data, limit=1)
    assert model.training and torch.equal(torch.rand(2), expected)
    model.eval()


def test_missing_data_is_said_before_the_work(model, tokenizer, tmp_path):
    with pytest.raises(DataError, match="NINEFOLD_DATA.*text/arc_easy.jsonl"):
        evaluate(model, tokenizer, ["arc_easy_local"])
    with pytest.raises(DataError, match="winogrande.jsonl is missing"):
        evaluate(model, tokenizer, ["winogrande_local"], data=tmp_path)


def test_what_cannot_be_asked_is_refused(model, tokenizer, data):
    with pytest.raises(TaskError, match="0 shots only"):
        evaluate(model, tokenizer, ["piqa_local"], data=data, shots={"piqa_local": 5})
    with pytest.raises(TaskError, match="not among the tasks"):
        evaluate(model, tokenizer, ["piqa_local"], data=data, shots={"piqa": 5})
    with pytest.raises(TaskError, match="'no_such_task' is no task"):
        evaluate(model, tokenizer, ["no_such_task"])


def test_hub_tasks_offline_name_the_local_ones(model, tokenizer):
    with pytest.raises(TaskError, match="boolq.*hub.*piqa_local"):
        evaluate(model, tokenizer, ["boolq"], limit=1)


def test_retain_is_the_mean_of_ratios():
    """Llama-2-7B, SkipGPT after router tuning at 25.5%: rows as reprinted by HeRo, Table 1."""
    names = ["openbookqa", "piqa", "boolq", "arc_easy", "arc_challenge", "winogrande", "hellaswag"]
    dense = dict(zip(names, [44.20, 78.07, 71.62, 81.36, 52.47, 74.19, 78.93]))
    routed = dict(zip(names, [39.60, 72.20, 68.81, 76.52, 44.37, 63.54, 70.96]))
    assert set(language.TASKS) == set(names)
    assert retain(routed, dense) == pytest.approx(90.33, abs=0.01)
    assert retain(dense, dense) == pytest.approx(100)
    with pytest.raises(ValueError, match="Different tasks"):
        retain(routed, {"piqa": 1.0})
    with pytest.raises(ValueError, match="piqa is 0"):
        retain({"piqa": 1.0}, {"piqa": 0.0})


# --- the real model of the default runs, opened once for the whole file


def test_smollm2_is_the_model_it_should_be_and_clearly_above_chance():
    model, tokenizer, source = load(SMOLLM2)
    assert source["parameters"] == 134_515_008 and source["kind"] == "gguf"
    assert model.dtype == torch.float32 and model.lm_head.weight is model.model.embed_tokens.weight
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=7, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    result = evaluate(model, tokenizer, [CLOZE], limit=12, batch_size=8)["tasks"][CLOZE]
    assert result["n"] == 12 and result["n_original"] == 200
    assert result["value"] > 0.6  # 12 items: 0.25 by chance, 0.6 is 2.8 standard errors above
