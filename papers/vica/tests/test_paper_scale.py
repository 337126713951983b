"""Every cuda config, walked end to end: the file as it is, two steps, a decoder and a vision tower of the same architectures
with some thousand parameters, data of LLaVA's schema, on the CPU; then the paper's table from what that left, with three
questions in place of each benchmark.

The configs name hub ids; here the same keys name folders in the hub's format, which `common.models` treats alike.
"""

import json
import random
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from common.benchmarks import vqa
from common.models import load, tiny
from common.vision import conversations
from common.vision.layout import split
from common.vision.tower import padded_pixels
from tests.numerics import truly_double

from .. import checkpoint, method, pruning, reference
from ..experiments import paper as paper_scale
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
    texts = [conversations.SYSTEM_V1.replace(" ", " \u2581"), "USER: ASSISTANT: what colour is the circle in the picture ? red blue"]
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False,
                                                         special_tokens=["<unk>", "<s>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Folders in the hub's format: three decoders, and CLIP as its authors publish it, both towers in one."""
    from transformers import CLIPConfig, CLIPModel

    root, words = tmp_path_factory.mktemp("hub"), tokenizer()
    for size, name in DECODER.items():
        spec = tiny(vocab_size=len(words), num_hidden_layers=LAYERS[size], bos_token_id=1, eos_token_id=2, pad_token_id=None,
                    initializer_range=0.5, **WIDTH)  # sharp attention: a word of the question has to matter among its many
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
# One of each kind; other sizes have other numbers in the same places, which is looked at below.
WALKED = ["llava-1.5-7b_vica", "llava-1.5-7b_dense", "llava-1.5-7b_frozen", "llava-1.5-3b_vica"]


@pytest.fixture(scope="module")
def walked(hub, llava, tmp_path_factory):
    """walked(run): the folder of runs that both stages of it leave, the second from the first one's projector."""
    root, done = tmp_path_factory.mktemp("runs"), set()

    def walk(run):
        if run not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)
                patch.setattr(sys, "argv", ["train"])
                for stage in ("pretrain", "finetune"):
                    cli(rehearsal(config(f"{run}_{stage}"), hub, llava))
            done.add(run)
        return root / "lightning_logs" / "vica"

    return walk


@pytest.mark.parametrize("run", WALKED)
def test_rehearsal(run, walked):
    """Both stages, the second from the first one's projector, which it finds where its own config says."""
    for stage in ("pretrain", "finetune"):
        path = config(f"{run}_{stage}")
        out = walked(run) / path.stem
        assert {p.name for p in out.iterdir()} - {"benchmarks"} == {"checkpoints", "logs", "model"}  # of the tests below
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
            assert checkpoint.load(out / "model") == method.ViCAConfig(tuple(asked["cross_layers"]), asked["prefix_update"])


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
        "dense": None, "frozen": list(range(layers)), "uniform": [0, 4, 8, 12, 16, 20, 24, 28]}[arm]
    frozen = size == "7b" and arm != "full-prefix"
    assert max(options["cross_layers"] or [0]) < layers
    assert options.get("prefix_update") == (None if arm == "dense" else "frozen" if frozen else "full")
    assert (options["learning_rate"], options["weight_decay"], options["warmup_steps"], options["schedule"]) == (
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
    arms = [(size, arm) for size in DECODER for arm in ("vica", "dense")] + [("7b", a) for a in ("frozen", "uniform", "full-prefix")]
    assert {path.stem for path in CUDA} == {f"llava-1.5-{s}_{a}_{stage}" for s, a in arms for stage in ("pretrain", "finetune")}


@pytest.mark.parametrize("option, says", [
    ("--model.init_args.cross_layers=[0,32]", "model.cross_layers [0, 32]: cross layer 32: LlamaForCausalLM has layers 0 to 31"),
    ("--model.init_args.llava.projector=absent.safetensors", "model.llava.projector: there is no file absent.safetensors"),
    ("--data.init_args.template=v2", "data.template 'v2' is neither plain nor v1"),
    ("--data.init_args.batch_size=6", "data.batch_size 6 is not a multiple of 4 x 1"),
    ("--data.init_args.train=absent.json", "there is no file absent.json"),
    ("--data.init_args.val_samples=16", "data.val_samples 16: captions.json has 16 conversations"),
    ("--ckpt_path=absent.ckpt", "there is no file absent.ckpt"),
])
def test_bad_input_is_answered_in_a_line(hub, llava, capsys, option, says):
    with pytest.raises(SystemExit) as left:
        cli([*rehearsal(config("llava-1.5-7b_vica_pretrain"), hub, llava), "--trainer.accumulate_grad_batches=4", option])
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vica:")]
    assert left.value.code == 2 and len(found) == 1 and says in found[0], found


# -- the paper's table -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs(walked, tmp_path_factory):
    """The folder of runs that two pairs of configs leave: ViCA and dense."""
    root = tmp_path_factory.mktemp("two of them")
    for run in ("llava-1.5-7b_vica", "llava-1.5-7b_dense"):
        for stage in ("pretrain", "finetune"):
            (root / f"{run}_{stage}").symlink_to(walked(run) / f"{run}_{stage}")
    return root


VICA, DENSE = "llava-1.5-7b_vica_finetune", "llava-1.5-7b_dense_finetune"
TWO = ("GQA", "POPE")
TASKS = {"GQA": "gqa", "POPE": "pope"}


def picture(value=0):
    return Image.new("RGB", (20, 12), (value, value, value))


@pytest.fixture
def benchmarks(monkeypatch, runs):
    """Two benchmarks of three questions, of which ViCA gets 40 and 20, dense 50 and 40; what was asked of which; which are broken."""
    calls, broken, of = [], set(), {"dense": {"GQA": 50.0, "POPE": 40.0}, "vica": {"GQA": 40.0, "POPE": 20.0}}
    real = paper_scale.answer

    def answer(parts, config, *rest, schedule=None):
        of["config"] = config
        texts = real(parts, config, *rest, schedule=schedule)
        assert all(isinstance(text, str) for text in texts)
        calls.append((config is None, schedule is not None, len(texts)))
        return texts

    def evaluate(ask, name, out, *, label, limit=None, batch_size=8):
        assert label == "vica" and out.name == "benchmarks"
        ask(["what colour is it ?" + " and why" * i for i in range(3)], [None, picture(80), picture(160)], 3)
        if name in broken:
            raise vqa.BenchmarkError(f"{TASKS[name]}: no such metric")
        out.mkdir(exist_ok=True)
        return {"benchmark": name, "value": of["dense" if of["config"] is None else "vica"][name]}

    monkeypatch.setattr(paper_scale, "answer", answer)
    monkeypatch.setattr(vqa, "evaluate", evaluate)
    monkeypatch.setattr(vqa, "harness", lambda: None)
    monkeypatch.setenv("VICA_RUNS", str(runs))
    for path in runs.glob("*/benchmarks/*"):
        path.unlink()
    return types.SimpleNamespace(calls=calls, broken=broken)


def test_the_table_is_filled_from_what_training_wrote(runs, benchmarks):
    said = []
    found = paper_scale.measure_paper(said.append, device="cpu", benchmarks=TWO)
    assert list(found) == [DENSE, VICA, f"{VICA} + PyramidDrop"], "stage 1 has no row"
    assert found[DENSE]["scores"] == {"GQA": 50.0, "POPE": 40.0} and found[VICA]["scores"] == {"GQA": 40.0, "POPE": 20.0}
    assert {name: row["relative"] for name, row in found.items()} == {DENSE: 100.0, VICA: 65.0, f"{VICA} + PyramidDrop": 65.0}
    assert {row["against"] for row in found.values()} == {DENSE}
    assert (found[VICA]["trained_from"], found[VICA]["prefix_update"]) == (DECODER["7b"], "frozen")
    assert benchmarks.calls == [(True, False, 3)] * 2 + [(False, False, 3)] * 2 + [(False, True, 3)] * 2
    assert said[1] == f"{VICA}: GQA 40.0, POPE 20.0; Rel. Avg. 65.0 of {DENSE}"


def test_scores_are_kept_with_the_weights_they_are_of(runs, benchmarks, monkeypatch):
    first = paper_scale.measure_paper(lambda text: None, device="cpu", benchmarks=TWO)
    benchmarks.calls.clear()
    real = paper_scale.open_run
    monkeypatch.setattr(paper_scale, "open_run", lambda *_: pytest.fail("nothing is to be answered, so nothing to be opened"))
    assert paper_scale.measure_paper(lambda text: None, device="cpu", benchmarks=TWO) == first and benchmarks.calls == []
    monkeypatch.setattr(paper_scale, "open_run", real)
    (runs / VICA / "benchmarks" / "PyramidDrop.POPE.json").unlink()  # as if killed before it
    path = runs / DENSE / "benchmarks" / "as-trained.GQA.json"
    path.write_text(path.read_text().replace('"steps": 2', '"steps": 1'))  # of other weights
    assert paper_scale.measure_paper(lambda text: None, device="cpu", benchmarks=TWO) == first
    assert benchmarks.calls == [(True, False, 3), (False, True, 3)]
    benchmarks.calls.clear()
    (of_decoder,) = (runs / DENSE / "model" / "decoder").glob("*.safetensors")
    was = of_decoder.read_bytes()
    try:  # another decoder beside the same projector: the last of its weights has moved
        of_decoder.write_bytes(was[:-4] + bytes(4))
        assert paper_scale.measure_paper(lambda text: None, device="cpu", benchmarks=TWO) == first
    finally:
        of_decoder.write_bytes(was)
    assert benchmarks.calls == [(True, False, 3)] * 2


def test_a_benchmark_that_fails_costs_no_other(runs, benchmarks):
    benchmarks.broken.add("POPE")
    said = []
    found = paper_scale.measure_paper(said.append, device="cpu", benchmarks=TWO)
    assert found[VICA]["scores"] == {"GQA": 40.0} and {row["relative"] for row in found.values()} == {None}
    assert f"{VICA}, POPE: no score. pope: no such metric" in said
    assert f"{VICA}: GQA 40.0; no Rel. Avg.: benchmarks are missing" in said


def test_without_a_dense_run_there_is_no_average(runs, benchmarks, tmp_path, monkeypatch):
    shutil.copytree(runs / VICA, tmp_path / VICA)
    monkeypatch.setenv("VICA_RUNS", str(tmp_path))
    said = []
    found = paper_scale.measure_paper(said.append, device="cpu", benchmarks=TWO)
    assert found[VICA]["relative"] is None and found[VICA]["against"] is None
    assert said[0].endswith(f"no Rel. Avg.: there is no dense run of {DECODER['7b']}")


def test_what_is_missing_is_said(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="rung paper needs a GPU with 80 GB .none is visible., the hub, lmms-eval, and models trained"):
        paper_scale.measure_paper()
    monkeypatch.setenv("VICA_RUNS", str(tmp_path / "absent"))
    with pytest.raises(RuntimeError, match="found no trained model in absent/: train one with configs/cuda, both stages"):
        paper_scale.measure_paper(device="cpu")
    monkeypatch.setenv("VICA_RUNS", str(runs))
    monkeypatch.setitem(sys.modules, "lmms_eval", None)  # wherever it is installed
    with pytest.raises(RuntimeError, match="run by lmms-eval, which cannot be imported"):
        paper_scale.measure_paper(device="cpu")
    shutil.copytree(runs / VICA / "model", tmp_path / "bare" / "model")
    with pytest.raises(RuntimeError, match=r"bare: no logs/version_\*/config.yaml, which names the vision tower"):
        paper_scale.open_run(tmp_path / "bare" / "model", "cpu")
    shutil.copytree(runs / VICA, tmp_path / "unsaid")
    (tmp_path / "unsaid" / "model" / "vica.json").unlink()
    with pytest.raises(ValueError, match="no vica.json, which names the cross layers"):
        paper_scale.open_run(tmp_path / "unsaid" / "model", "cpu")


# -- answers -----------------------------------------------------------------------------------------------
QUESTIONS = ["what colour is it ?", "what is the colour of the circle in the picture , and why is it red ?", "red or blue ?"]


@pytest.fixture(scope="module")
def opened(runs):
    """{"vica", "dense"}: what open_run gives."""
    return {name: paper_scale.open_run(runs / run / "model", "cpu") for name, run in (("vica", VICA), ("dense", DENSE))}


@pytest.fixture(scope="module")
def exact(runs):
    """The same in double precision: which word is the best one must not hang on roundings."""
    found = {name: paper_scale.open_run(runs / run / "model", "cpu") for name, run in (("vica", VICA), ("dense", DENSE))}
    for parts, _ in found.values():
        truly_double(parts.decoder.double())
        parts.projector.double()
    return found


def shown():
    return [picture(200), None, Image.effect_noise((31, 17), 90).convert("RGB")]


@pytest.mark.numerics
@pytest.mark.parametrize("which, schedule", [("vica", None), ("vica", pruning.PAPER_SCHEDULE), ("dense", None)])
def test_a_batch_of_questions_is_its_questions_one_by_one(exact, which, schedule):
    """Long and short, with and without picture; not all the same answer."""
    parts, config = exact[which]
    images = shown()
    together = paper_scale.answer(parts, config, QUESTIONS, images, 5, schedule=schedule)
    alone = [paper_scale.answer(parts, config, [q], [i], 5, schedule=schedule)[0] for q, i in zip(QUESTIONS, images)]
    assert together == alone and len(set(together)) == 3


@pytest.mark.numerics
@torch.no_grad()
def test_answers_follow_from_the_definition(exact):
    """The first five tokens, each the best one by the masked definition, and by the stock decoder on everything in order."""
    question, image = QUESTIONS[1], shown()[2]
    conversation = {"image": "noise.png", "conversations": [{"from": "human", "value": f"<image>\n{question}"}]}
    for which, (parts, config) in exact.items():
        ids, _ = conversations.encode_v1(parts.tokenizer, conversation, n_visual=4, image_token_id=parts.image_token_id, max_tokens=2048)
        visual = parts.projector(parts.features(paper_scale.as_trained(image, parts)[None]).double())
        said = []
        for _ in range(5):
            layout = split(torch.cat([ids, torch.tensor(said, dtype=torch.long)])[None], parts.image_token_id)
            if config is None:
                embeds = parts.decoder.get_input_embeddings()(ids.where(ids < parts.image_token_id, 0))[None]
                embeds[:, ids == parts.image_token_id] = visual
                more = parts.decoder.get_input_embeddings()(torch.tensor([said], dtype=torch.long))
                logits = parts.decoder(inputs_embeds=torch.cat([embeds, more], 1)).logits
            else:
                logits = reference.masked_reference(parts.decoder, config, layout, visual)
            said.append(int(logits[0, -1].argmax()))
        assert paper_scale.answer(parts, config, [question], [image], 5) == [parts.tokenizer.decode(said, skip_special_tokens=True)], which


@pytest.mark.numerics
@torch.no_grad()
def test_pyramid_drop_looks_at_what_it_keeps(exact):
    """Everything kept is ViCA; of the paper's schedule each token is the best one by the definition with those masks."""
    parts, config = exact["vica"]
    image, whole = shown()[2], dict.fromkeys(config.cross_layers, 1.0)
    plain = paper_scale.answer(parts, config, QUESTIONS[:1], [image], 6)
    assert paper_scale.answer(parts, config, QUESTIONS[:1], [image], 6, schedule=whole) == plain
    conversation = {"image": "noise.png", "conversations": [{"from": "human", "value": f"<image>\n{QUESTIONS[0]}"}]}
    ids, _ = conversations.encode_v1(parts.tokenizer, conversation, n_visual=4, image_token_id=parts.image_token_id, max_tokens=2048)
    visual = parts.projector(parts.features(paper_scale.as_trained(image, parts)[None]).double())
    prompt = split(ids[None], parts.image_token_id)
    keep = pruning.ranked(parts.decoder, config, prompt, visual, pruning.PAPER_SCHEDULE)
    assert [int(keep[layer].sum()) for layer in config.cross_layers] == [4, 4, 2, 2, 1, 1, 1, 1]
    said = []
    for _ in range(6):
        layout = split(torch.cat([ids, torch.tensor(said, dtype=torch.long)])[None], parts.image_token_id)
        said.append(int(reference.masked_reference(parts.decoder, config, layout, visual, keep)[0, -1].argmax()))
    assert paper_scale.pruned(parts.decoder, config, prompt, visual, pruning.PAPER_SCHEDULE, 6, -1) == said


def test_an_answer_ends_where_the_model_ends_it(opened):
    """The token that ends is kept out of the text, and nothing follows it."""
    for parts, config in opened.values():
        layout = split(torch.tensor([[1, 20, 21, 22], [1, 23, 24, 0]]), parts.image_token_id, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
        visual = parts.visual(layout, None)
        run = (lambda end, p=parts, lay=layout, v=visual: paper_scale.dense(p.decoder, lay, v, 6, end)) if config is None else (
            lambda end, p=parts, lay=layout, v=visual, c=config: [
                paper_scale.pruned(p.decoder, c, *row, pruning.PAPER_SCHEDULE, 6, end) for row in paper_scale._single(lay, v)])
        whole = run(-1) if config is not None else run(269)
        assert [len(row) for row in whole] == [6, 6]
        end = whole[0][2]
        first = whole[0].index(end)
        assert run(end)[0] == whole[0][: first + 1]


def test_pixels_of_an_image_are_those_of_its_file(opened, tmp_path):
    parts, _ = opened["vica"]
    image = shown()[2]
    image.save(tmp_path / "noise.png")
    torch.testing.assert_close(paper_scale.as_trained(image, parts), padded_pixels(
        tmp_path / "noise.png", parts.image_size, parts.image_mean, parts.image_std), rtol=0, atol=0)


def test_a_run_opens_as_it_was_trained(runs, opened):
    """Trained weights, the projector of stage 2, the tower that the config names, its last layer but one."""
    for name, run in (("vica", VICA), ("dense", DENSE)):
        parts, found = opened[name]
        assert parts.n_visual == 4 and parts.feature_layers == (-2,) and type(parts.tower).__name__ == "CLIPVisionModel"
        assert found == (checkpoint.load(runs / run / "model") if name == "vica" else None)
        stored = load_file(runs / run / "model" / "projector.safetensors")
        first = load_file(runs / run.replace("finetune", "pretrain") / "model" / "projector.safetensors")
        for key, value in parts.projector.state_dict().items():
            assert torch.equal(value, stored[key]) and not torch.equal(value, first[key]), key
    a, b = (next(iter(opened[name][0].decoder.parameters())) for name in opened)
    assert not torch.equal(a, b)


def test_a_prompt_that_is_longer_than_those_of_the_training_is_not_cut(monkeypatch):
    """Cut, it would end before its question does, and what is written would be counted as an answer."""
    words = tokenizer()
    ids, _ = conversations.encode_v1(words, {"conversations": [{"from": "human", "value": QUESTIONS[0]}]}, n_visual=4,
                                     image_token_id=4, max_tokens=2048)
    asked = types.SimpleNamespace(tokenizer=words, n_visual=4, image_token_id=4), None, QUESTIONS[:1], [None], 2
    monkeypatch.setattr(paper_scale, "LONGEST", len(ids))
    with pytest.raises(AttributeError, match="decoder"):  # goes on to the model, which is not there
        paper_scale.answer(*asked)
    monkeypatch.setattr(paper_scale, "LONGEST", len(ids) - 1)
    with pytest.raises(vqa.BenchmarkError, match=f"a prompt of {len(ids)} tokens, .* where the training had {len(ids) - 1} at most"):
        paper_scale.answer(*asked)
