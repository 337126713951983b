"""The wrapper over lmms-eval, by a stub with its interface: order, batches, units, names, and what is refused."""

import sys
import types

import pytest
from PIL import Image

from common.benchmarks import vqa


class Request:
    def __init__(self, *args):
        self.args = args


def stub_of_lmms_eval(monkeypatch, tasks, calls=None, label="ninefold"):
    """Modules with the names and arguments that lmms-eval 0.5 has. tasks {name: (rows, options, metric of (row, text))}.

    A row: {"question", "answer", "images"}. calls: what simple_evaluate was given.
    """
    known = {}

    class Base:
        def __init__(self):
            self.task_dict = {}

        rank, world_size = 0, 1

    def register_model(*names):
        def decorate(cls):
            assert issubclass(cls, Base)
            for name in names:
                assert name not in known, f"{name} is registered already"
                known[name] = cls
            return cls

        return decorate

    class TaskManager:
        def __init__(self, verbosity="INFO", include_path=None, include_defaults=True, model_name=None):
            self.model_name = model_name

    def simple_evaluate(model, model_args=None, tasks=None, num_fewshot=None, batch_size=None, limit=None, bootstrap_iters=100000,
                        log_samples=True, task_manager=None, cli_args=None):
        assert isinstance(model, known[label]) and task_manager.model_name == cli_args.model == label
        assert not cli_args.process_with_media and cli_args.output_path, "tasks read these, and None has neither"
        (task,) = tasks
        changes = dict(task) if isinstance(task, dict) else {"task": task}
        name = changes.pop("task")
        if calls is not None:
            calls.append((name, changes, limit))
        rows, options, metrics = stub.tasks[name]
        model.task_dict[name] = {"test": rows}
        chosen = range(len(rows))[:limit]
        texts = model.generate_until([Request(rows[i]["question"], dict(options), lambda row: row["images"], i, name, "test")
                                      for i in chosen])
        found = metrics([(rows[i], text) for i, text in zip(chosen, texts)])
        row = {"alias": name} | {f"{m},none": v for m, v in found.items()} | {f"{m}_stderr,none": "N/A" for m in found}
        return {"results": {name: row}, "versions": {name: 0.0}, "n-samples": {name: {"original": len(rows), "effective": len(chosen)}}}

    stub = types.SimpleNamespace(tasks=tasks, known=known)
    for name, content in {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": Base},
                          "lmms_eval.api.registry": {"register_model": register_model}, "lmms_eval.tasks": {"TaskManager": TaskManager},
                          "lmms_eval.evaluator": {"simple_evaluate": simple_evaluate}}.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    vqa.model_class.cache_clear()
    return stub


def picture(value=0):
    return Image.new("RGB", (20, 12), (value, value, value))


def share_right(pairs):
    return {"exact_match": sum(row["answer"] == text for row, text in pairs) / len(pairs)}


def rows_of(n):
    return [{"question": "?" * (n - i), "answer": str(i), "images": [picture(i)]} for i in range(n)]


def test_answers_keep_their_order_and_batches_their_limits(monkeypatch, tmp_path):
    """Shortest prompt first, three at a time; a text ends at the first stop."""
    stub_of_lmms_eval(monkeypatch, {"gqa": (rows_of(7), {"max_new_tokens": 16, "until": ["ASSISTANT:", "\n"]}, share_right)})
    seen = []

    def answer(prompts, images, new_tokens):
        seen.append((len(prompts), new_tokens))
        assert [7 - len(p) for p in prompts] == [image.getpixel((0, 0))[0] for image in images]
        return [f" {7 - len(p)} \n and more" for p in prompts]

    found = vqa.evaluate(answer, "GQA", tmp_path / "new", batch_size=3)
    assert found == {"benchmark": "GQA", "task": "gqa", "metric": "exact_match", "value": 100.0, "n": 7, "unanswered": 0,
                     "version": "0.0"}
    assert seen == [(3, 16), (3, 16), (1, 16)] and (tmp_path / "new").is_dir()


def test_text_alone_and_several_images(monkeypatch, tmp_path):
    """No image is None; a question about several images is left out, and counted."""
    rows = [{"question": "a", "answer": "x", "images": []}, {"question": "b", "answer": "x", "images": [picture()] * 3},
            {"question": "c", "answer": "x", "images": [picture()]}]
    stub_of_lmms_eval(monkeypatch, {"seedbench": (rows, {}, lambda pairs: {"seed_image": 0.25, "seed_all": 0.5,
                                                                           "texts": "".join(t or "-" for _, t in pairs)})})
    seen = []

    def answer(prompts, images, new_tokens):
        seen.append((list(prompts), [image is None for image in images], new_tokens))
        return ["x"] * len(prompts)

    found = vqa.evaluate(answer, "SEED-I", tmp_path)
    assert (found["value"], found["metric"], found["unanswered"]) == (25.0, "seed_image", 1)
    assert seen == [(["a", "c"], [True, False], vqa.NEW_TOKENS)]


def test_every_column_of_the_table_has_its_task(monkeypatch, tmp_path):
    """lmms-eval's names (spec 5), units as in the table, TextVQA with OCR tokens, one registration for all."""
    values = {"mme": {"mme_percetion_score": 1464.5, "mme_cognition_score": 300.0}, "mmbench_en_dev": {"gpt_eval_score": 64.0},
              "mmbench_cn_dev": {"gpt_eval_score": 57.7}, "gqa": {"exact_match": 0.5}, "vqav2_val": {"exact_match": 0.75},
              "scienceqa_img": {"exact_match": 0.5}, "textvqa_val": {"exact_match": 0.25}, "seedbench": {"seed_image": 0.5},
              "pope": {"pope_accuracy": 0.1, "pope_f1_score": 0.875}, "mmstar": {"math": 0.1, "average": 0.375},
              "cv_bench_2d": {"cv_bench_acc": 0.5}, "cv_bench_3d": {"cv_bench_acc": 0.25}, "ocrbench": {"ocrbench_accuracy": 0.239}}
    calls = []
    stub = stub_of_lmms_eval(monkeypatch, {task: (rows_of(3), {}, lambda pairs, v=v: v) for task, v in values.items()}, calls)
    answer = lambda prompts, images, new_tokens: [""] * len(prompts)  # noqa: E731
    found = {name: vqa.evaluate(answer, name, tmp_path, limit=2) for name, of in vqa.BENCHMARKS.items() if not of.judged}
    assert {name: row["value"] for name, row in found.items()} == {
        "MME-P": 1464.5, "MME-C": 300.0, "MMB": 64.0, "MMB-CN": 57.7, "GQA": 50.0, "VQAv2": 75.0, "SQA-I": 50.0,
        "TextVQA": 25.0, "TextVQA without OCR": 25.0, "POPE": 87.5, "SEED-I": 50.0, "MMStar": 37.5, "CV-Bench-2D": 50.0,
        "CV-Bench-3D": 25.0, "OCRBench": 239.0}
    assert {row["n"] for row in found.values()} == {2} and list(stub.known) == ["ninefold"]
    with_ocr, without = (changes for name, changes, _ in calls if name == "textvqa_val")
    assert with_ocr["lmms_eval_specific_kwargs"]["default"]["ocr"] is True and not without
    assert {name for name, changes, _ in calls if changes} == {"textvqa_val"}


def test_what_cannot_be_run_is_named(monkeypatch, tmp_path):
    answer = lambda prompts, images, new_tokens: [""] * len(prompts)  # noqa: E731
    vqa.model_class.cache_clear()
    with pytest.raises(vqa.BenchmarkError, match="MM-Vet needs a judge: .* leave it out, and report it as not run"):
        vqa.evaluate(answer, "MM-Vet", tmp_path / "none")  # before lmms-eval is asked for, and nothing is written
    assert not (tmp_path / "none").exists()
    monkeypatch.setitem(sys.modules, "lmms_eval", None)  # wherever it is installed
    with pytest.raises(vqa.BenchmarkError, match=r"run by lmms-eval, which cannot be imported .*lmms_eval.*: pip install lmms-eval"):
        vqa.evaluate(answer, "GQA", tmp_path)
    stub = stub_of_lmms_eval(monkeypatch, {"gqa": (rows_of(2), {}, lambda pairs: {"accuracy": 1.0})})
    with pytest.raises(vqa.BenchmarkError, match="gqa: lmms-eval gives accuracy, and none of exact_match"):
        vqa.evaluate(answer, "GQA", tmp_path)
    with pytest.raises(vqa.BenchmarkError, match="no benchmark 'gqa'; there is: MME-P, MME-C, MMB"):
        vqa.evaluate(answer, "gqa", tmp_path)
    for options in ({"temperature": 0.7}, {"do_sample": True}, {"num_beams": 3}):
        stub.tasks["gqa"] = rows_of(2), options, share_right
        with pytest.raises(vqa.BenchmarkError, match="gqa: asks for .*; answers here are greedy"):
            vqa.evaluate(answer, "GQA", tmp_path)
    assert vqa.model_class("a").generate_until_multi_round is vqa.model_class("a").loglikelihood


def test_two_papers_have_models_of_their_own_names(monkeypatch, tmp_path):
    """One registration a label, whatever is evaluated how often; the class is the label's."""
    answer = lambda prompts, images, new_tokens: ["0"] * len(prompts)  # noqa: E731
    stub = stub_of_lmms_eval(monkeypatch, {"gqa": (rows_of(2), {}, share_right)}, label="vica")
    for _ in range(2):
        assert vqa.evaluate(answer, "GQA", tmp_path, label="vica")["value"] == 50.0
    assert list(stub.known) == ["vica"] and vqa.model_class("visipruner") is stub.known["visipruner"] is not stub.known["vica"]


@pytest.mark.parametrize("text, stops, expected", [
    ("a\n\nb", ["\n\n"], "a"), (" a b ", [], "a b"), ("x ASSISTANT: y", ["z", "ASSISTANT:"], "x"), ("a", [""], "a")])
def test_a_text_ends_at_a_stop(text, stops, expected):
    assert vqa.until(text, stops) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_none(monkeypatch, tmp_path, value):
    stub_of_lmms_eval(monkeypatch, {"gqa": (rows_of(2), {}, lambda pairs: {"exact_match": value})})
    with pytest.raises(vqa.BenchmarkError, match=f"gqa: lmms-eval gives {value} for exact_match, which is no score"):
        vqa.evaluate(lambda prompts, images, new_tokens: [""] * len(prompts), "GQA", tmp_path)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": -2}, {"limit": 0}])
def test_counts_below_one_are_refused_before_anything_is_asked(given, tmp_path):
    """A batch of none would never come to an end."""
    name, value = next(iter(given.items()))
    with pytest.raises(vqa.BenchmarkError, match=f"{name} is {value}: a number of questions from 1 on"):
        vqa.evaluate(lambda *asked: pytest.fail("asked"), "GQA", tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()
