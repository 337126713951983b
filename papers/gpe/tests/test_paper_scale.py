"""Every cuda config, walked end to end: the file as it is, two steps, a checkpoint of the same architecture with some
thousand parameters and a tokenizer of the same kind, data of the same schema, on the CPU; then the paper's table from
what that left.

The configs name hub ids; here the same keys name folders in the hub's format, which `common.models` treats alike.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from common.models import ModelSpec, load, tiny
from common.streaming.units import Template
from common.streaming.words import Boundary
from tests.numerics import close, far
from tests.small_tokenizers import ENGLISH, FRENCH, tokenizer

from .. import data, method, quantities
from ..decoding import stream
from ..experiments import paper as paper_scale
from ..segments import Batch
from ..toy import CONFIG, Language, spell
from ..train import cli
from ..translators import TRANSLATORS
from .double import Double
from .runs import cli_in_processes, stub_of_datasets

CONFIGS = Path(__file__).parent.parent / "configs"
CUDA, CPU = (sorted((CONFIGS / kind).glob("*.yaml")) for kind in ("cuda", "cpu"))
FAMILY = {"gemma2-2b": "gemma2", "phi3-mini": "phi3", "llama31-8b": "llama", "qwen25-3b": "qwen2"}
# What sets the paper's models apart: soft-capped scores and sliding layers, joined projections, scaled rotary angles.
DIFFERS = {
    "gemma2": dict(sliding_window=512, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, tie_word_embeddings=True),
    "phi3": dict(num_key_value_heads=4, sliding_window=511, head_dim=8, eos_token_id=None, bos_token_id=None),
    "llama": dict(rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                                       high_freq_factor=4.0, original_max_position_embeddings=64)),
    "qwen2": dict(tie_word_embeddings=True),
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Configs write below the working directory; LightningCLI dislikes pytest's own arguments."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setitem(sys.modules, "datasets", stub_of_datasets())
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder in the hub's format for each of the four models."""
    root = tmp_path_factory.mktemp("hub")
    for name, family in FAMILY.items():
        tokens = tokenizer(family)
        load(tiny(family, vocab_size=len(tokens), num_hidden_layers=2, **DIFFERS[family])).model.save_pretrained(root / name)
        tokens.save_pretrained(root / name)
    return root


def rehearsal(config, hub):
    """Options that bring a cuda config down to this machine, and nothing else."""
    return ["fit", "--config", str(config), f"--model.init_args.base.name={hub / config.name.partition('_')[0]}",
            "--data.init_args.num_workers=0", "--data.init_args.batch_size=4", "--trainer.accelerator=cpu",
            "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=2",
            "--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1", *QUIET]


# -- the configs -------------------------------------------------------------------------------------------
# One of each model and of each arm; the others have other numbers and languages in the same places, which is looked at below.
NAME = re.compile(r"([^_]+)_([^_]+)_(\w+)_k(\d)")
WALKED = {NAME.fullmatch(path.stem).group(1, 3): path for path in reversed(CUDA)}  # the first of each: in both directions


@pytest.mark.parametrize("config", WALKED.values(), ids=lambda path: path.stem)
def test_rehearsal(config, hub, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "datasets", stub_of_datasets(calls))
    cli(rehearsal(config, hub))
    direction = config.stem.split("_")[1]
    asked = ("IWSLT/iwslt2017", f"iwslt2017-{direction}")
    assert calls == [(*asked, split, "refs/convert/parquet") for split in ("validation", "train")]
    out = Path("lightning_logs/gpe") / config.stem
    assert {path.name for path in out.iterdir()} - {"checkpoints"} == {"logs", "model"}
    rows = (out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "train/loss" in rows[0] and "val/loss" in rows[0] and len(rows) == 4
    about = json.loads((out / "model" / "gpe.json").read_text())
    model, _, arm, k = NAME.fullmatch(config.stem).groups()
    assert (about["trained_from"], about["arm_name"], about["data.ks"]) == (model, arm, [int(k)])
    adapter = json.loads((out / "model" / "adapter_config.json").read_text())
    joined = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    split = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(adapter["target_modules"]) == (joined if model == "phi3-mini" else split)
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (32, 64, 0.1)


def test_rehearsal_in_two_processes(hub, tmp_path):
    (config,) = [path for path in CUDA if path.stem == "qwen25-3b_en-fr_group_k5"]
    options = [o for o in rehearsal(config, hub) if not o.startswith(("--trainer.devices", "--trainer.strategy"))]
    options.append("--trainer.callbacks.init_args.every_n_train_steps=1")
    assert cli_in_processes(tmp_path, 2, options) == [0, 0]
    out = tmp_path / "lightning_logs" / "gpe" / config.stem
    assert (out / "checkpoints" / "last.ckpt").is_file()
    assert (out / "model" / "adapter_model.safetensors").is_file()
    assert json.loads((out / "model" / "gpe.json").read_text())["steps"] == 2


@pytest.mark.parametrize("config", CUDA, ids=lambda path: path.stem)
def test_values_are_the_papers(config):
    """What is fixed is the same in all files, and the rest follows from the file's own name."""
    text, read = config.read_text(), yaml.safe_load(config.read_text())
    model, direction, arm, k = NAME.fullmatch(config.stem).groups()
    options, pairs, trainer = (read[key].get("init_args", read[key]) for key in ("model", "data", "trainer"))
    assert read["seed_everything"] == 1 and (options["arm"], pairs["ks"]) == (arm, [int(k)])
    steps, language = {"en-fr": (3638, "French"), "en-de": (3221, "German")}[direction]
    assert trainer["max_steps"] == steps and options["warmup_steps"] == round(0.03 * steps)
    assert pairs["name"] == f"iwslt2017-{direction}" and pairs["languages"] == direction.split("-")
    assert pairs["instruction"] == f"Translate the following English paragraph to {language}"
    assert pairs["batch_size"] == 64 == 8 * trainer["accumulate_grad_batches"] * trainer["devices"]
    assert (options["learning_rate"], options["weight_decay"], options["schedule"]) == (5e-5, 0.0, "linear")
    assert options["base"]["dtype"] == "bfloat16" and trainer["precision"] == "bf16-mixed"
    assert options["base"]["attn_implementation"] == ("eager" if model == "gemma2-2b" else "sdpa")
    assert options["gradient_checkpointing"] and trainer["gradient_clip_val"] == 1.0
    assert trainer["default_root_dir"] == f"lightning_logs/gpe/{config.stem}"
    (callback,) = trainer["callbacks"]
    assert callback["init_args"]["dirpath"] == f"{trainer['default_root_dir']}/checkpoints" and callback["init_args"]["save_last"]
    for note in ("paper:", "command:", "hardware:", "time:", "expect:", "deviations:"):
        assert f"\n# {note}" in text, note
    assert f"configs/cuda/{config.name}" in text


def test_no_config_is_missing():
    """Every model in both directions; the ladder and the ablations on Gemma2, and the claims that need them."""
    expected = {f"{model}_{direction}_group_k5" for model in FAMILY for direction in ("en-fr", "en-de")}
    expected |= {f"gemma2-2b_en-fr_{arm}_k{k}" for k in (1, 7)
                 for arm in ("interleaved", "batch_streaming", "position_reencoding", "kv_reencoding", "group")}
    expected |= {f"gemma2-2b_en-fr_{arm}_k3" for arm in ("group", "no_source_positions", "no_target_positions", "no_positions")}
    assert {path.stem for path in CUDA} == expected
    some = {"k": 1, "stream": {"bleu": 30.0}}
    assert {"C1", "C3", "C6"} <= set(quantities.paper({"paper": dict.fromkeys(expected, some)}))


def test_cpu_configs_are_the_experiments_own():
    assert [path.stem for path in CPU] == ["rehearsal", "toy_group", "toy_pretrain"]
    read = {path.stem: yaml.safe_load(path.read_text()) for path in CPU}
    base = read["toy_pretrain"]["model"]["init_args"]["base"]["config"]
    assert base == CONFIG | {"vocab_size": len(Language.draw(0).pieces())}
    standin = read["toy_group"]["model"]["init_args"]["base"]["name"]
    assert standin == "papers/gpe/standins/seed0" and (TRANSLATORS / "seed0").is_dir()


def test_cpu_rehearsal_and_its_resumption():
    (config,) = [path for path in CPU if path.stem == "rehearsal"]
    cli(["fit", "--config", str(config), *QUIET])
    product = Path("lightning_logs/gpe/rehearsal/model/adapter_model.safetensors")
    unbroken = product.read_bytes()
    checkpoints = Path("lightning_logs/gpe/rehearsal/checkpoints")
    (first,) = checkpoints.glob("*step=1.ckpt")
    shutil.copy(first, checkpoints / "last.ckpt")  # where a run that was killed in its second step stands
    product.unlink()
    cli(["fit", "--config", str(config), *QUIET, "--ckpt_path=last"])
    assert product.read_bytes() == unbroken


@pytest.mark.parametrize("option, says", [
    ("--model.init_args.arm=grupo", "no arm 'grupo'; there is: interleaved"),
    ("--model.init_args.base.attn_implementation=flex_attention", "uses attention 'flex_attention', which takes no mask"),
    ("--data.init_args.ks=[0]", "data.ks: [0]"),
    ("--data.init_args.batch_size=6", "data.batch_size 6 is not a multiple of 4 x 1"),
    ("--ckpt_path=absent.ckpt", "there is no file absent.ckpt"),
    ("--data.init_args.name=iwslt2017-en-it", "Cannot get data set IWSLT/iwslt2017 (iwslt2017-en-it, validation) from the hub"),
])
def test_bad_input_is_answered_in_a_line(hub, capsys, option, says):
    config = next(path for path in CUDA if path.stem == "gemma2-2b_en-fr_group_k5")
    if "iwslt" in option:
        sys.modules["datasets"].load_dataset = None  # as any failure of the hub
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli([*rehearsal(config, hub), "--trainer.accumulate_grad_batches=4", option])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpe:")]
    assert left.value.code == 2 and len(lines) == 1 and says in lines[0], lines


# -- templates of the paper's models -----------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gemma2", "phi3", "llama", "qwen2"])
def test_units_under_each_chat_template(family):
    """Words are words, the stop is the turn's own end, and a stream read word by word has the ids of the whole."""
    tokens = tokenizer(family)
    template = Template.of(tokens, "Translate the text")
    stop = {"gemma2": "<end_of_turn>", "phi3": "<|end|>", "llama": "<|eot_id|>", "qwen2": "<|im_end|>"}[family]
    assert template.stop == tokens.convert_tokens_to_ids(stop)
    example = template.example(ENGLISH[0], FRENCH[0])
    assert (example.n_units, len(example.target_units)) == (6, 2 + 6) and example.target[-1] == template.stop
    source, target = (list(map(torch.Tensor.tolist, ids.split(units))) for ids, units in (
        (example.source, example.source_units), (example.target, example.target_units)))
    assert list(template.units(ENGLISH[0].split())) == source[:-1]
    assert template.ids(template.user_end) == source[-1] and template.ids(template.opening) == target[0]
    assert [tokens.decode(unit).strip() for unit in source[1:-1]] == ENGLISH[0].split()
    assert [tokens.decode(unit).strip() for unit in target[1:-1]] == FRENCH[0].split()
    boundary = Boundary.of_tokenizer(tokens, template.stop)
    assert all(boundary.table[unit[0]] for unit in target[2:-1])


# -- the paper's table -------------------------------------------------------------------------------------
def test_the_table_is_filled_from_what_training_wrote(hub, tmp_path, monkeypatch):
    for name in ("gemma2-2b_en-fr_group_k5", "gemma2-2b_en-fr_kv_reencoding_k1"):
        cli(rehearsal(CONFIGS / "cuda" / f"{name}.yaml", hub))
    runs = tmp_path / "lightning_logs" / "gpe"
    about = json.loads((runs / "gemma2-2b_en-fr_group_k5" / "model" / "gpe.json").read_text())
    for other, change in (("several", {"data.ks": [1, 3]}), ("toy", {"data.path": None})):
        (runs / other / "model").mkdir(parents=True)
        (runs / other / "model" / "gpe.json").write_text(json.dumps(about | change))
    monkeypatch.setenv("GPE_RUNS", str(runs))
    monkeypatch.chdir(hub)  # gpe.json names the base: there a hub id, here a folder
    monkeypatch.setattr(paper_scale, "LONGEST", (1, 2))  # a random model does not stop by itself
    calls, said = [], []
    monkeypatch.setitem(sys.modules, "datasets", stub_of_datasets(calls))
    scores = paper_scale.measure_paper(said.append, device="cpu", limit=3)
    assert set(scores) == {"gemma2-2b_en-fr_group_k5", "gemma2-2b_en-fr_kv_reencoding_k1"}
    assert "several: no score. It was trained for k in [1, 3]; the paper's tables have one k a run" in said
    assert {call[2] for call in calls} == {"test"}
    group = scores["gemma2-2b_en-fr_group_k5"]
    assert {k: group[k] for k in ("k", "arm", "phi", "base", "direction", "left out")} == {
        "k": 5, "arm": "group", "phi": 0.0, "base": "gemma2-2b", "direction": "en-fr", "left out": 0}
    for mode in ("stream", "batch"):
        assert set(group[mode]) == {"bleu", "signature", "n", "truncated", "AL", "LAAL", "AP", "DAL"}
        assert group[mode]["n"] == 3 and "tok:13a" in group[mode]["signature"]
    assert group["batch"]["AL"] >= group["stream"]["AL"]
    assert len(said) == 3


@pytest.mark.numerics
def test_a_run_opens_as_it_was_trained(hub, tmp_path, monkeypatch):
    """Base in its attention, adapter merged in: the logits of the trained model."""
    cli(rehearsal(CONFIGS / "cuda" / "gemma2-2b_en-fr_group_k5.yaml", hub))
    folder = tmp_path / "lightning_logs" / "gpe" / "gemma2-2b_en-fr_group_k5" / "model"
    adapter = load_file(folder / "adapter_model.safetensors")  # two steps hardly move it: a hundred times as far
    save_file({name: t * 100 if "lora_B" in name else t for name, t in adapter.items()}, folder / "adapter_model.safetensors")
    monkeypatch.chdir(hub)
    about = json.loads((folder / "gpe.json").read_text())
    model = paper_scale.open_run(folder, about, "cpu").model
    assert model.config._attn_implementation == "eager"
    from peft import PeftModel

    base = load(ModelSpec("gemma2-2b", attn_implementation="eager")).model
    batch = Batch.of([Template.of(tokenizer("gemma2"), "t").example(ENGLISH[0], FRENCH[0])], [3])
    run = [method.arm("group"), batch.source, batch.target, batch.layout]
    model, base = model.double(), base.double()
    with torch.no_grad(), Double():
        plain = method.forward(base, *run)
        expected = method.forward(PeftModel.from_pretrained(base, str(folder)).eval(), *run)
        close(method.forward(model, *run), expected, rel=1e-6)  # opened, W + B A was rounded to fp32, 6e-8 of a weight
    far(expected, plain, rel=1e-4)  # a hundred times the bound above


@pytest.mark.numerics
@pytest.mark.parametrize("arm, k", [("group", 3), ("kv_reencoding", 3), ("kv_reencoding", None)])
def test_translations_keep_their_order(arm, k, monkeypatch):
    """Sorted into batches, or sentence by sentence: the streams of decoding.stream, each at its own place."""
    loaded = load(ModelSpec(str(TRANSLATORS / "seed0")))
    template = Template.of(loaded.tokenizer, "")
    boundary = Boundary.of_tokenizer(loaded.tokenizer, template.stop)
    found = [template.example(*map(spell, Language.draw(0).sentence(n))) for n in range(5)]
    monkeypatch.setattr(paper_scale, "BATCH", 2)
    model = loaded.model.double()
    with Double():  # two ways to add up choose the same words, unless two words are equal to 15 digits
        ours = paper_scale.translate(model, method.arm(arm), found, boundary, template, k)
        singles = [stream(model, method.arm(arm), [example], boundary, k, max_target=100)[0] for example in found]
    for one, alone in zip(ours, singles, strict=True):
        assert (one.words, one.delays, one.truncated) == (alone.words, alone.delays, alone.truncated)
        assert one.words and not one.truncated


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="rung paper needs a GPU .none is visible., the hub, and models trained with"):
        paper_scale.measure_paper()
    monkeypatch.setenv("GPE_RUNS", str(tmp_path / "absent"))
    with pytest.raises(RuntimeError, match="found no trained model in absent/: train one with configs/cuda, e.g. gemma2"):
        paper_scale.measure_paper(device="cpu")


def test_hub_pairs_are_clean_and_asked_for_by_name(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "datasets", stub_of_datasets(calls))
    found = data.hub_pairs("IWSLT/iwslt2017", "iwslt2017-en-fr", "refs/convert/parquet", "test", ("en", "fr"))
    assert len(found) == len(ENGLISH)  # the row of blanks is gone
    assert found[1][0].startswith("we see a")  # and so are double blanks
    assert calls == [("IWSLT/iwslt2017", "iwslt2017-en-fr", "test", "refs/convert/parquet")]
