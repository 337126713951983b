"""Every paper-scale config, walked end to end: the file as it is, two steps, a checkpoint of the
same architecture with 4,000 parameters, data of the same schema, on the CPU.

The configs name hub ids; here the same keys name folders in hub format, which `common.models` and
`RedPajamaSample` treat alike. What only a GPU can show (memory, speed, bfloat16 kernels) is left.
"""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from common.errors import SetupError
from common.families import FAMILIES
from common.models import ModelSpec, load
from common.training.cli import check_checkpoint

from .. import quantities
from ..data import RedPajamaSample
from ..experiments import paper
from ..method import SkipGPTConfig, apply_skipgpt
from ..router_files import load_routers, save_routers
from ..train import cli
from .runs import cli_in_processes

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*/*.yaml"))
CUDA = [path for path in CONFIGS if path.parent.name == "cuda"]
SMALL = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, head_dim=8, initializer_range=0.2, max_position_embeddings=128,
             bos_token_id=256, eos_token_id=257, tie_word_embeddings=False)
# What sets the paper's three models apart in architecture: grouped keys, scaled rotary angles.
TINY = {
    "llama2-7b": dict(num_key_value_heads=4),
    "llama2-13b": dict(num_key_value_heads=4, num_hidden_layers=3),
    "llama31-8b": dict(num_key_value_heads=2, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=64)),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Configs write below the working directory; LightningCLI dislikes pytest's own arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NINEFOLD_CACHE", raising=False)
    monkeypatch.setattr(sys, "argv", ["train"])


def byte_tokenizer(prefix=True):
    """Bytes as tokens 0-255, <s> before each text as Llama's tokenizers do, </s>; pads with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "<s>", "</s>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   pad_token="</s>")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders in hub format for the three models, routers for each, and a RedPajama in small."""
    root = tmp_path_factory.mktemp("hub")
    for name, differs in TINY.items():
        config = dict(model_type="llama") | SMALL | differs
        load(ModelSpec("random", config=config)).model.save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
        model, _, source = load(str(root / name))
        torch.manual_seed(0)
        apply_skipgpt(model, SkipGPTConfig())
        save_routers(model, root / f"{name}-routers", base=source)
    (root / "redpajama").mkdir()
    with open(root / "redpajama" / "arxiv_sample.jsonl", "w") as file:
        for n in range(40):
            text = f"Sample {n}. " + "the quick brown fox " * (n % 5)
            file.write(json.dumps({"text": text, "meta": "{}", "red_pajama_subset": "arxiv"}) + "\n")
    return root


def rehearsal(config, hub):
    """Options that bring a cuda config down to this machine, and nothing else."""
    model = config.name.partition("_")[0]
    options = [
        f"--model.init_args.base.name={hub / model}", "--model.init_args.base.revision=null",
        f"--data.init_args.path={hub / 'redpajama'}", "--data.init_args.max_length=24",
        "--data.init_args.num_workers=0", "--data.init_args.batch_size=4",
        "--trainer.accelerator=cpu", "--trainer.accumulate_grad_batches=2",
        "--trainer.max_steps=2", "--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ]
    if "rt-lora" in config.name:
        options.append(f"--model.init_args.routers={hub / (model + '-routers')}")
    return ["fit", "--config", str(config), *options]


# -- the configs -----------------------------------------------------------------------------------
# Every stage, and every model; the other files have other numbers in the same places, which is looked at below.
WALKED = ["llama2-7b_rt_25", "llama2-7b_rt-lora_40", "llama2-7b_joint_25", "llama2-7b_dense-lora", "llama2-13b_joint_40",
          "llama31-8b_rt_40"]


@pytest.mark.parametrize("config", [c for c in CUDA if c.stem in WALKED], ids=lambda path: path.stem)
def test_rehearsal(config, hub):
    cli(rehearsal(config, hub))
    out = Path("lightning_logs/skipgpt") / config.stem
    made = {"logs"}
    if "dense" not in config.name:
        made.add("routers")
    if "_rt_" not in config.name:
        made.add("lora")
    assert {path.name for path in out.iterdir()} - {"checkpoints"} == made
    rows = (out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "train/lm" in rows[0] and "val/loss" in rows[0] and len(rows) >= 3
    assert (out / "logs" / "version_0" / "config.yaml").exists()
    if "routers" in made:
        card = json.loads((out / "routers" / "skipgpt.json").read_text())
        assert card["base"]["name"] == config.name.partition("_")[0]
        state = load_routers(load(str(hub / card["base"]["name"])).model, out / "routers")
        assert state.config.target_sparsity == card["config"]["target_sparsity"]


def test_rehearsal_of_fsdp2_in_two_processes(hub, tmp_path):
    (config,) = [c for c in CUDA if "fsdp2" in c.name]
    codes = cli_in_processes(tmp_path, 2, rehearsal(config, hub))
    assert codes == [0, 0]
    out = tmp_path / "lightning_logs" / "skipgpt" / config.stem
    load_routers(load(str(hub / "llama2-13b")).model, out / "routers")
    assert len((out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()) >= 3


def test_the_papers_table_is_filled_from_what_training_wrote(hub, tmp_path, monkeypatch):
    """Rung paper finds the runs of the configs; a run off its budget gets no score and costs no other."""
    (config,) = [c for c in CUDA if c.stem == "llama2-7b_rt_25"]
    cli(rehearsal(config, hub))
    monkeypatch.setenv("SKIPGPT_RUNS", str(tmp_path / "lightning_logs" / "skipgpt"))
    monkeypatch.chdir(hub)  # the routers' card names the base: there a hub id, here a folder
    logged = []
    arguments = dict(log=logged.append, device="cpu", tasks=("pydoc_cloze",), limit=4)

    def missed(realised, requested, what):
        raise paper.BudgetMissed(f"{what}: planned")

    monkeypatch.setattr(paper, "check_budget", missed)
    assert set(paper.measure_paper(**arguments)["7B"]) - {"errors"} == {"dense"}
    assert "routers at 0.25: no score. 7B, rt_25: planned" in logged[-1]
    monkeypatch.setattr(paper, "check_budget", lambda realised, requested, what: None)
    scores = paper.measure_paper(**arguments)
    assert set(scores) == {"7B"} and set(scores["7B"]) - {"errors"} == {"dense", "routers at 0.25"}
    assert set(quantities.paper({"paper": {"7B": {run: {"a": 0.5} for run in ("dense", "routers at 0.25")}}})) == {"C2"}


def test_no_config_is_missing():
    """Three models x two budgets x {rt, rt-lora, joint}, the dense control, FSDP2 for the largest."""
    expected = {f"{m}_{s}_{t}" for m in TINY for s in ("rt", "rt-lora", "joint") for t in (25, 40)}
    expected |= {f"{m}_dense-lora" for m in TINY} | {"llama2-13b_rt_25_fsdp2"}
    assert {path.stem for path in CUDA} == expected


@pytest.mark.parametrize("config", CUDA, ids=lambda path: path.stem)
def test_values_are_the_papers(config):
    """What the paper fixes is the same in all files, and follows from the file's own name."""
    text, read = config.read_text(), yaml.safe_load(config.read_text())
    options, data, trainer = (read[k].get("init_args", read[k]) for k in ("model", "data", "trainer"))
    stage = config.stem.split("_")[1]
    assert read["seed_everything"] == 43 and trainer["max_steps"] == 10_000
    assert data["batch_size"] == 16 and data["max_length"] == 4096 and data["holdout"] == 0.001
    assert trainer["accumulate_grad_batches"] * trainer["devices"] == 16
    assert options["base"]["dtype"] == "bfloat16" and trainer["precision"] == "bf16-mixed"
    assert re.fullmatch("[0-9a-f]{40}", options["base"]["revision"])
    assert options["weight_decay"] == 0.01 and trainer["gradient_clip_val"] == 1.0
    if stage in ("rt", "joint"):
        percent = config.stem.split("_")[2]
        assert options["routing"]["target_sparsity"] == int(percent) / 100
        assert options["routing"]["alpha"] == 8.0 and options["learning_rate"] == 2e-3
        assert options["schedule"] == "constant"
    else:
        assert (options["learning_rate"], options["schedule"]) == (2e-4, "cosine")
        assert options["warmup_steps"] == trainer["max_steps"] // 10
        routed = config.stem.replace("rt-lora", "rt")
        assert options["routers"] == (
            None if stage == "dense-lora" else f"lightning_logs/skipgpt/{routed}/routers")
    if stage != "rt":
        lora = [options[k] for k in ("rank", "lora_alpha", "lora_dropout")]
        assert lora == [16, 32, 0.1]
    for note in ("paper:", "command:", "hardware:", "time:", "expect:", "deviations:"):
        assert f"\n# {note}" in text, note
    assert f"configs/cuda/{config.name}" in text


def test_cpu_rehearsal_and_its_resumption():
    config = next(c for c in CONFIGS if c.stem == "rehearsal")
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    cli(["fit", "--config", str(config), *quiet])
    routers = Path("lightning_logs/skipgpt/rehearsal/routers/routers.safetensors")
    unbroken = routers.read_bytes()
    checkpoint = next(Path("lightning_logs/skipgpt/rehearsal/checkpoints").glob("*step=2.ckpt"))
    routers.unlink()
    cli(["fit", "--config", str(config), *quiet, f"--ckpt_path={checkpoint}"])
    assert routers.read_bytes() == unbroken
    cli(["validate", "--config", str(config), *quiet])


# -- bad input: a line or two, and exit status 2 ---------------------------------------------------
def complaint(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli(list(arguments))
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipgpt:")]
    assert len(lines) == 1 and len(lines[0]) < 400, lines
    return lines[0]


def test_bad_input_is_answered_in_a_line(hub, capsys, tmp_path):
    config = next(c for c in CUDA if c.stem == "llama2-7b_rt_25")
    good = rehearsal(config, hub)
    for extra, complains in (
        (["--model.init_args.learning_ratte=1"], "'learning_ratte' is not accepted"),
        (["--trainer.max_stepz=3"], "max_stepz"),
        (["--trainer.max_steps=two"], "trainer.max_steps"),
        (["--model.init_args.routing.target_sparsity=25"], "fraction of modules in [0, 1)"),
        (["--model.init_args.base.name=./absent"], "No folder './absent'"),
        (["--data.init_args.path=./absent"], "there is no folder './absent'"),
        (["--data.init_args.field=body"], "arxiv_sample.jsonl, line 1: no JSON object with a field"),
        (["--data.init_args.batch_size=5"], "batch_size 5 is not a multiple of 2 x 1"),
        (["--ckpt_path=absent.ckpt"], "there is no file absent.ckpt"),
    ):
        assert complains in complaint(capsys, *good, *extra), extra
    tiny, data = ["fit", "--config", str(next(c for c in CONFIGS if c.stem == "rehearsal"))], "--data.init_args"
    for extra, complains in (
        ([f"{data}.length=1"], "data.length is 1: a number from 2 on"),
        ([f"{data}.train_samples=-3"], "data.train_samples is -3"),
        (["--model.init_args.base.config={model_type: llama, vocab_size: 36, hidden_size: 8, num_hidden_layers: 1, intermediate_size: 8,"
          " num_attention_heads: 2, num_key_value_heads: 2}"], "written in 37 tokens, and the model has 36"),
        (["--model.init_args.bias_learning_rate=-1"], "bias_learning_rate is -1.0: a number from 0 on"),
        (["--model.init_args.distill_weight=-1"], "distill_weight is -1.0"),
        (["--model.init_args.routing.alpha=-8"], "routing.alpha is -8.0"),
        (["--model.init_args.routing.router_hidden=0"], "routing.router_hidden is 0: a number from 1 on"),
        (["--seed_everything=-1"], "seed_everything: -1 is not in bounds"),
    ):
        assert complains in complaint(capsys, *tiny, *extra), extra
    assert "File does not exist" in complaint(capsys, "fit", "--config", "absent.yaml")
    assert "subcommand" in complaint(capsys)

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(config.read_text().replace("learning_rate:", "lerning_rate:"))
    assert "lerning_rate" in complaint(capsys, "fit", "--config", str(wrong))
    wrong.write_text(config.read_text().replace("max_steps:", "max_stepz:"))
    assert "max_stepz" in complaint(capsys, "fit", "--config", str(wrong))

    lora = next(c for c in CUDA if c.stem == "llama2-7b_rt-lora_25")
    arguments = rehearsal(lora, hub)
    assert "skipgpt.json" in complaint(capsys, *arguments, "--model.init_args.routers=absent")
    other = f"--model.init_args.routers={hub / 'llama31-8b-routers'}"
    assert "other weights" in complaint(capsys, *arguments, other)

    config = FAMILIES["falcon_h1"].settings | {"model_type": "falcon_h1", "vocab_size": 300}
    load(ModelSpec("random", config=config)).model.save_pretrained(tmp_path / "unfit")
    byte_tokenizer().save_pretrained(tmp_path / "unfit")
    line = complaint(capsys, *good, f"--model.init_args.base.name={tmp_path / 'unfit'}")
    assert "2 submodules of the layer look at other tokens (mamba, self_attn). Layer 0 (FalconH1DecoderLayer)" in line


def test_damaged_checkpoints_are_named(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "good.ckpt")
    check_checkpoint(tmp_path / "good.ckpt")
    data = (tmp_path / "good.ckpt").read_bytes()
    for name, content in (("cut", data[:2000]), ("empty", b""), ("noise", b"hello" * 100)):
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        with pytest.raises(SetupError, match=f"{name}.ckpt is no checkpoint, or cut short"):
            check_checkpoint(path)
    torch.save({"code": SystemExit}, tmp_path / "code.ckpt")  # a class by name: may run code
    with pytest.raises(SetupError, match="code.ckpt"):
        check_checkpoint(tmp_path / "code.ckpt")


# -- RedPajama -------------------------------------------------------------------------------------
def red_pajama(folder, tokenizer, **options):
    data = RedPajamaSample(str(folder), **(dict(max_length=24, holdout=0.1, seed=1) | options))
    data.tokenizer = lambda: tokenizer
    return data


def test_samples_are_truncated_and_not_packed(hub):
    tokenizer = byte_tokenizer()
    train, held = (red_pajama(hub / "redpajama", tokenizer).rows(i) for i in (0, 1))
    assert (len(train.lengths), len(held.lengths)) == (36, 4)
    texts = [json.loads(line)["text"] for line in open(hub / "redpajama" / "arxiv_sample.jsonl")]
    expected = sorted(tokenizer(text)["input_ids"][:24] for text in texts)
    rows = [rows[i].tolist() for rows in (train, held) for i in range(len(rows.lengths))]
    assert sorted(rows) == expected and all(row[0] == 256 for row in rows)
    other = red_pajama(hub / "redpajama", tokenizer, seed=2).rows(1)
    assert [other[i].tolist() for i in range(4)] != [held[i].tolist() for i in range(4)]


def test_cached_ids_belong_to_tokenizer_and_source(hub, tmp_path):
    """The official cache is named after an option, so that a second model gets the first one's ids."""
    data = red_pajama(hub / "redpajama", byte_tokenizer())
    data.rows(0)
    (cached,) = Path(".cache/ninefold").glob("skipgpt-tokens-*/ids.int32")
    before = cached.stat().st_mtime_ns
    red_pajama(hub / "redpajama", byte_tokenizer()).rows(0)
    assert cached.stat().st_mtime_ns == before  # used again
    without_space = red_pajama(hub / "redpajama", byte_tokenizer(prefix=False))
    assert without_space.rows(0).lengths.sum() != data.rows(0).lengths.sum()
    assert red_pajama(hub / "redpajama", byte_tokenizer(), max_length=11).rows(0).lengths.max() == 11
    folder = tmp_path / "grows"
    folder.mkdir()
    for count in (3, 5):
        lines = [json.dumps({"text": f"text {n}"}) for n in range(count)]
        (folder / "a.jsonl").write_text("\n".join(lines))
        assert len(red_pajama(folder, byte_tokenizer()).rows(0).lengths) == count - 1
    assert not list(Path(".cache/ninefold").glob("tmp*"))  # nothing half-made is left


def test_parquet_and_bad_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(SetupError, match=r"has no \*.jsonl or \*.parquet"):
        red_pajama(folder, byte_tokenizer()).rows(0)
    table = pyarrow.table({"text": ["one text", "another", "", "a third"], "meta": ["{}"] * 4})
    parquet.write_table(table, folder / "part-0.parquet")
    data = red_pajama(folder, byte_tokenizer())
    assert len(data.rows(0).lengths) + len(data.rows(1).lengths) == 3  # the empty one is left out
    with pytest.raises(SetupError, match="part-0.parquet has no column 'body', but text, meta"):
        red_pajama(folder, byte_tokenizer(), field="body").rows(0)
    (folder / "part-1.jsonl").write_text('{"text": "fine"}\n{"text": "cut sh')
    with pytest.raises(SetupError, match="part-1.jsonl, line 2"):
        red_pajama(folder, byte_tokenizer()).rows(0)
    assert not list(Path(".cache/ninefold").glob("tmp*"))
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "a.jsonl").write_text('{"text": "only one"}')
    with pytest.raises(SetupError, match="holds 1 samples"):
        red_pajama(tmp_path / "single", byte_tokenizer()).rows(0)


def test_hub_that_cannot_be_reached(hub):
    pytest.importorskip("datasets")
    with pytest.raises(SetupError, match="Cannot get data set nobody/nothing from the hub"):
        red_pajama("nobody/nothing", byte_tokenizer()).rows(0)
