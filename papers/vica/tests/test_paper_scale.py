"""Every cuda config, walked end to end: the file as it is, two steps, a decoder and a vision tower of the same architectures
with some thousand parameters, data of LLaVA's schema, on the CPU; then the paper's table from what that left, its
benchmarks by a stub with lmms-eval's interface.

The configs name hub ids; here the same keys name folders in the hub's format, which `common.models` treats alike.
"""

import json
import random
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from common.models import load, tiny

from .. import data, lmms, method, paper_scale, pruning
from ..train import cli

CUDA = sorted((Path(__file__).parent.parent / "configs" / "cuda").glob("*.yaml"))
DECODER = {"3b": "MobileLLaMA-2.7B-Base", "7b": "vicuna-7b-v1.5", "13b": "vicuna-13b-v1.5"}
LAYERS = {"3b": 32, "7b": 32, "13b": 40}  # the layers that a config names must be there
TOWER = "clip-vit-large-patch14-336"
WIDTH = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def config(stem):
    (found,) = [path for path in CUDA if path.stem == stem]
    return found


# -- the hub in small --------------------------------------------------------------------------------------
def tokenizer():
    """A BPE of some 400 pieces that treats blanks as Llama's does, with its <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Replace("\u2581", " ")
    letters = [chr(i) for i in range(33, 127)] + ["\n", "\u2581"]
    texts = [data.SYSTEM_V1.replace(" ", " \u2581"), "USER: ASSISTANT: what colour is the circle in the picture ? red blue"]
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False,
                                                         special_tokens=["<unk>", "<s>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Folders in the hub's format: three decoders, and CLIP as its authors publish it, both towers in one."""
    from transformers import CLIPConfig, CLIPModel

    root, words = tmp_path_factory.mktemp("hub"), tokenizer()
    for size, name in DECODER.items():
        spec = tiny(vocab_size=len(words), num_hidden_layers=LAYERS[size], bos_token_id=1, eos_token_id=2, pad_token_id=None, **WIDTH)
        load(spec).model.save_pretrained(root / name)
        words.save_pretrained(root / name)
    small = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2)
    clip = CLIPModel(CLIPConfig(vision_config=small | dict(image_size=28, patch_size=14), projection_dim=8,
                                text_config=small | dict(vocab_size=20, bos_token_id=1, eos_token_id=2)))
    clip.save_pretrained(root / TOWER)
    return root


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """LLaVA's files: captions, and conversations of which one in four has no picture and one has three turns."""
    root, draw = tmp_path_factory.mktemp("llava"), random.Random(0)
    (root / "coco").mkdir()
    captions, talks = [], []
    for i in range(16):
        Image.new("RGB", (20 + i, 30), tuple(draw.randrange(256) for _ in range(3))).save(root / "coco" / f"{i}.png")
        colour = draw.choice(["red", "blue"])
        shown = {"id": str(i), "image": f"coco/{i}.png"}
        captions.append(shown | {"conversations": [{"from": "human", "value": "Describe it.\n<image>"},
                                                   {"from": "gpt", "value": f"a {colour} circle"}]})
        turns = [{"from": "human", "value": "what colour is it ?" + "\n<image>" * (i % 4 > 0)}, {"from": "gpt", "value": colour}]
        if i == 1:
            turns += [{"from": "human", "value": "and the circle ?"}, {"from": "gpt", "value": "red"}]
        talks.append((shown if i % 4 else {"id": str(i)}) | {"conversations": turns})
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "talks.json").write_text(json.dumps(talks))
    return root


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Configs write below the working directory; LightningCLI dislikes pytest's own arguments."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    yield
    torch.set_num_threads(threads)


def rehearsal(path, hub, llava):
    """Options that bring a cuda config down to this machine, and nothing else."""
    model, data = "--model.init_args.llava", "--data.init_args"
    size = re.match(r"llava-1\.5-(\d+b)_", path.stem).group(1)
    file = "captions.json" if path.stem.endswith("pretrain") else "talks.json"
    return ["fit", "--config", str(path), f"{model}.decoder.name={hub / DECODER[size]}", f"{model}.tower={hub / TOWER}",
            f"{data}.train={llava / file}", f"{data}.images={llava}", f"{data}.val_samples=4", f"{data}.batch_size=4",
            f"{data}.num_workers=0", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto",
            "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=2", "--trainer.val_check_interval=4",
            "--trainer.log_every_n_steps=1", *QUIET]


# -- the configs -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("run", sorted({path.stem.rpartition("_")[0] for path in CUDA}))
def test_rehearsal(run, hub, llava):
    """Both stages, the second from the first one's projector, which it finds where its own config says."""
    for stage in ("pretrain", "finetune"):
        path = config(f"{run}_{stage}")
        cli(rehearsal(path, hub, llava))
        out = Path("lightning_logs/vica") / path.stem
        assert {p.name for p in out.iterdir()} == {"checkpoints", "logs", "model"}
        rows = (out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
        assert "train/loss" in rows[0] and "val/loss" in rows[0] and len(rows) == 4
        about = json.loads((out / "model" / "training.json").read_text())
        asked = yaml.safe_load(path.read_text())["model"]["init_args"]
        assert (about["stage"], about["cross_layers"], about["prefix_update"]) == (
            stage, asked["cross_layers"], asked.get("prefix_update"))
        made = {"projector.safetensors", "training.json"}
        made |= {"vica.json"} if about["cross_layers"] is not None else set()
        made |= {"decoder"} if stage == "finetune" else set()
        assert {p.name for p in (out / "model").iterdir()} == made
        if about["cross_layers"] is not None:
            assert method.ViCAConfig.load(out / "model") == method.ViCAConfig(tuple(asked["cross_layers"]), asked["prefix_update"])


@pytest.mark.parametrize("path", CUDA, ids=lambda path: path.stem)
def test_values_are_the_papers(path):
    """What is fixed is the same in all files, and the rest follows from the file's own name (spec 4, C9, 3.3)."""
    text, read = path.read_text(), yaml.safe_load(path.read_text())
    size, arm, stage = re.fullmatch(r"llava-1\.5-(\d+b)_([\w-]+)_(pretrain|finetune)", path.stem).groups()
    options, pairs, trainer = (read[key].get("init_args", read[key]) for key in ("model", "data", "trainer"))
    first, layers = stage == "pretrain", LAYERS[size]
    assert options["stage"] == stage and options["llava"]["decoder"]["name"].endswith(DECODER[size])
    assert options["llava"]["tower"] == f"openai/{TOWER}" and options["llava"]["feature_layers"] == [-2]
    assert options["cross_layers"] == {
        "vica": list(method.PAPER_CROSS_LAYERS[f"llava-1.5-{size}"]), "full-prefix": list(method.PAPER_CROSS_LAYERS[f"llava-1.5-{size}"]),
        "dense": None, "all-layers": list(range(layers)), "uniform": [0, 4, 8, 12, 16, 20, 24, 28]}[arm]
    frozen = size == "7b" and arm != "full-prefix"
    assert options.get("prefix_update") == (None if arm == "dense" else "frozen" if frozen else "full")
    assert (options["learning_rate"], options["weight_decay"], options["warmup"], options["schedule"]) == (
        1e-3 if first else 2e-5, 0.0, 0.03, "cosine")
    samples, batch = (558_128, 256) if first else (665_298, 128)
    assert pairs["batch_size"] == batch and trainer["max_steps"] == -(-samples // batch) and f"{samples:,} samples / {batch}" in text
    assert batch % (trainer["devices"] * trainer["accumulate_grad_batches"]) == 0
    assert (pairs["template"], pairs["max_tokens"]) == ("plain" if first else "v1", 2048)
    assert options["llava"]["decoder"]["dtype"] == ("bfloat16" if first else "float32") and trainer["precision"] == "bf16-mixed"
    before = options["llava"]["projector"]
    assert before == (None if first else f"lightning_logs/vica/{path.stem.replace('finetune', 'pretrain')}/model/projector.safetensors")
    folder = f"lightning_logs/vica/{path.stem}"
    assert trainer["default_root_dir"] == folder == trainer["logger"]["init_args"]["save_dir"]
    (callback,) = trainer["callbacks"]
    assert callback["init_args"]["dirpath"] == f"{folder}/checkpoints" and callback["init_args"]["save_last"]
    for note in ("paper:", "command:", "hardware:", "data:", "weights:", "time:", "expect:", "deviations:"):
        assert f"\n# {note}" in text, note
    assert f"configs/cuda/{path.name}" in text


def test_no_config_is_missing():
    arms = [(size, arm) for size in DECODER for arm in ("vica", "dense")] + [("7b", a) for a in ("all-layers", "uniform", "full-prefix")]
    assert {path.stem for path in CUDA} == {f"llava-1.5-{s}_{a}_{stage}" for s, a in arms for stage in ("pretrain", "finetune")}


@pytest.mark.parametrize("option, says", [
    ("--model.init_args.cross_layers=[0,32]", "model.cross_layers [0, 32]: cross layer 32: LlamaForCausalLM has layers 0 to 31"),
    ("--model.init_args.llava.projector=absent.safetensors", "model.llava.projector: there is no file absent.safetensors"),
    ("--data.init_args.template=v2", "data.template 'v2' is neither plain nor v1"),
    ("--data.init_args.batch_size=6", "data.batch_size 6 is not a multiple of 4 x 1"),
    ("--data.init_args.train=absent.json", "there is no file absent.json"),
    ("--ckpt_path=absent.ckpt", "there is no file absent.ckpt"),
])
def test_bad_input_is_answered_in_a_line(hub, llava, capsys, option, says):
    with pytest.raises(SystemExit) as left:
        cli([*rehearsal(config("llava-1.5-7b_vica_pretrain"), hub, llava), "--trainer.accumulate_grad_batches=4", option])
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vica:")]
    assert left.value.code == 2 and len(found) == 1 and says in found[0], found


# -- lmms-eval in small ------------------------------------------------------------------------------------
class Request:
    def __init__(self, *args):
        self.args = args


def stub_of_lmms_eval(monkeypatch, tasks, calls=None):
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
        assert isinstance(model, known["vica"]) and task_manager.model_name == "vica"
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
    lmms.model_class.cache_clear()
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

    found = lmms.evaluate(answer, "GQA", tmp_path / "new", batch_size=3)
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

    found = lmms.evaluate(answer, "SEED-I", tmp_path)
    assert (found["value"], found["metric"], found["unanswered"]) == (25.0, "seed_image", 1)
    assert seen == [(["a", "c"], [True, False], lmms.NEW_TOKENS)]


def test_every_column_of_the_table_has_its_task(monkeypatch, tmp_path):
    """lmms-eval's names (spec 5), units as in the table, TextVQA with OCR tokens, one registration for all."""
    values = {"mme": {"mme_percetion_score": 1464.5, "mme_cognition_score": 300.0}, "mmbench_en_dev": {"gpt_eval_score": 64.0},
              "mmbench_cn_dev": {"gpt_eval_score": 57.7}, "gqa": {"exact_match": 0.5}, "vqav2_val": {"exact_match": 0.75},
              "scienceqa_img": {"exact_match": 0.5}, "textvqa_val": {"exact_match": 0.25}, "seedbench": {"seed_image": 0.5},
              "pope": {"pope_accuracy": 0.1, "pope_f1_score": 0.875}}
    calls = []
    stub = stub_of_lmms_eval(monkeypatch, {task: (rows_of(3), {}, lambda pairs, v=v: v) for task, v in values.items()}, calls)
    answer = lambda prompts, images, new_tokens: [""] * len(prompts)  # noqa: E731
    found = {name: lmms.evaluate(answer, name, tmp_path, limit=2) for name in lmms.BENCHMARKS}
    assert {name: row["value"] for name, row in found.items()} == {
        "MME-P": 1464.5, "MMB": 64.0, "MMB-CN": 57.7, "GQA": 50.0, "VQAv2": 75.0, "SQA-I": 50.0, "TextVQA": 25.0, "POPE": 87.5,
        "SEED-I": 50.0}
    assert {row["n"] for row in found.values()} == {2} and list(stub.known) == ["vica"]
    assert [changes for name, changes, _ in calls if name == "textvqa_val"][0]["lmms_eval_specific_kwargs"]["default"]["ocr"] is True
    assert {name for name, changes, _ in calls if changes} == {"textvqa_val"}


def test_what_cannot_be_run_is_said(monkeypatch, tmp_path):
    answer = lambda prompts, images, new_tokens: [""] * len(prompts)  # noqa: E731
    lmms.model_class.cache_clear()
    with pytest.raises(lmms.BenchmarkError, match=r"run by lmms-eval, which cannot be imported .*lmms_eval.*: pip install lmms-eval"):
        lmms.evaluate(answer, "GQA", tmp_path)
    stub = stub_of_lmms_eval(monkeypatch, {"gqa": (rows_of(2), {}, lambda pairs: {"accuracy": 1.0})})
    with pytest.raises(lmms.BenchmarkError, match="gqa: lmms-eval gives accuracy, and none of exact_match"):
        lmms.evaluate(answer, "GQA", tmp_path)
    with pytest.raises(lmms.BenchmarkError, match="no benchmark 'gqa'; there is: MME-P, MMB"):
        lmms.evaluate(answer, "gqa", tmp_path)
    for options in ({"temperature": 0.7}, {"do_sample": True}, {"num_beams": 3}):
        stub.tasks["gqa"] = rows_of(2), options, share_right
        with pytest.raises(lmms.BenchmarkError, match="gqa: asks for .*; answers here are greedy"):
            lmms.evaluate(answer, "GQA", tmp_path)
    assert lmms.model_class().generate_until_multi_round is lmms.model_class().loglikelihood


@pytest.mark.parametrize("text, stops, expected", [
    ("a\n\nb", ["\n\n"], "a"), (" a b ", [], "a b"), ("x ASSISTANT: y", ["z", "ASSISTANT:"], "x"), ("a", [""], "a")])
def test_a_text_ends_at_a_stop(text, stops, expected):
    assert lmms.until(text, stops) == expected
