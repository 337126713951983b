"""The paper's size on a CPU: its configs train a tiny model of its architecture, and its claims are measured from what trainings leave."""

import json

import pytest
import torch

from common.errors import DataError
from common.models import ModelSpec, load, tiny
from common.standins import reasoner
from tests.small_tokenizers import byte_words

from .. import eval as harness
from .. import quantities
from ..experiments import paper as paper_scale
from ..train import cli
from .made_up import CLAIMS

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def program(monkeypatch):
    """LightningCLI dislikes pytest's own arguments."""
    import sys

    monkeypatch.setattr(sys, "argv", ["train"])


def test_the_rehearsal_trains_and_leaves_a_model(tmp_path, program):
    out = tmp_path / "out"
    cli(["fit", "--config", str(harness.HERE / "configs/cpu/rehearsal.yaml"), f"--trainer.default_root_dir={out}",
         f"--trainer.logger.init_args.save_dir={out}", "--model.init_args.model.name", str(reasoner.FOLDER / "seed0"), *QUIET])
    about = json.loads((out / "model" / "training.json").read_text())
    assert about["steps"] == 2 and load(ModelSpec(name=str(out / "model"))).model.config.hidden_size == 64
    rows = (out / "logs" / "version_0" / "metrics.csv").read_text()
    assert "val/tokens" in rows and "train/kept_length" in rows


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_papers_configs_train_a_tiny_qwen2(size, tmp_path, program):
    """R1-Distill's architecture with some thousand parameters, its schema of data, two steps, a validation in the logs."""
    words = byte_words()
    load(tiny("qwen2", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)).model.save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": i + 1}) + "\n" for i in range(9)))
    run = tmp_path / "runs" / f"r1-distill-qwen-{size}"
    cli(["fit", "--config", str(harness.HERE / f"configs/cuda/r1-distill-qwen-{size}.yaml"), f"--trainer.default_root_dir={run}",
         f"--trainer.logger.init_args.save_dir={run}", "--model.init_args.model.name", str(tmp_path / "tiny"),
         "--model.init_args.config.prompts_per_step=2", "--model.init_args.config.rollouts_per_prompt=2",
         "--model.init_args.config.max_new_tokens=5", "--model.init_args.cap=6", f"--data.init_args.train={tmp_path / 'train.jsonl'}",
         "--data.init_args.held_out=2", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto",
         "--trainer.precision=32-true", "--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
         "--trainer.val_check_interval=2", *QUIET])
    about = json.loads((run / "model" / "training.json").read_text())
    assert about["steps"] == 2 and about["skipped"] == 2, "a random model is never right: two updates skipped, and counted"
    assert 0 < paper_scale.curve(run)[0][2] <= 6 and len(paper_scale.curve(run)) == 1


# -- the paper's table, rehearsed on tiny checkpoints -------------------------------------------------------
@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run that a claim at paper scale reads, as trainings leave them: tiny models, the benchmark of one problem, logs."""
    root, words = tmp_path_factory.mktemp("paper-scale"), byte_words()
    model = load(tiny("qwen2", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)).model

    def leave(folder, seed):
        torch.manual_seed(seed)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.05 * (seed + 1))
        model.save_pretrained(folder)
        words.save_pretrained(folder)

    leave(root / "tiny", 0)
    names = [f"{run}{arm}" for run in paper_scale.RUNS.values() for arm in ("", *(f".{a}" for a in paper_scale.ARMS))]
    for seed, name in enumerate(names, 1):
        leave(root / name / "model", seed)
        (root / name / "model" / "training.json").write_text(json.dumps({"trained_from": str(root / "tiny"), "revision": None}))
        logs = root / name / "logs" / "version_0"
        logs.mkdir(parents=True)
        (logs / "metrics.csv").write_text("epoch,step,train/loss,val/avg,val/tokens\n0,0,1.5,,\n0,20,,0.5,90\n0,40,,0.6,60\n")
    for seed in range(2):
        leave(root / "rivals" / f"rival{seed}" / "model", 30 + seed)
    for benchmark in ("aime24", "math500"):
        (root / "data" / "maths").mkdir(parents=True, exist_ok=True)
        (root / "data" / "maths" / f"{benchmark}.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    return root


def test_every_claim_at_paper_scale_is_measured_from_what_trainings_leave(runs, monkeypatch):
    """And other weights under the same name are answered anew, the same ones are not."""
    monkeypatch.setenv("OPSFT_RUNS", str(runs))
    monkeypatch.setattr(quantities, "RIVALS_OF_FIGURE_1", 2)  # that there are ten is looked at below
    how = dict(data=runs / "data", repeats=2, max_tokens=3)
    logged = []
    found = paper_scale.measure_paper(logged.append, "cpu", ["math500"], **how)
    claims = {c["id"].partition("/")[2] for c in CLAIMS if c["rung"] == "paper-scale" and c.get("status") != "not-checkable"}
    assert quantities.paper({"paper": found}).keys() == claims
    assert quantities.paper({"paper": found})["C6"]["value"] == 0  # both logs are equal
    asked = len(logged)
    assert asked == 2 * (2 + len(paper_scale.ARMS)) + 2
    assert paper_scale.measure_paper(logged.append, "cpu", ["math500"], **how) == found and len(logged) == asked
    for name in ("model.safetensors",):
        (runs / "r1-distill-qwen-7b" / "model" / name).write_bytes((runs / "rivals" / "rival1" / "model" / name).read_bytes())
    paper_scale.measure_paper(logged.append, "cpu", ["math500"], **how)
    assert logged[asked:] == ["trained: math500: what trained.math500.json holds is of other weights or another question, and is replaced",
                              "trained: math500"]
    (runs / "r1-distill-qwen-7b" / "benchmarks" / "trained.math500.json").write_text("[1]")
    with pytest.raises(DataError, match="holds no scores"):
        paper_scale.measure_paper(logged.append, "cpu", ["math500"], **how)


def test_quantities_at_paper_scale_by_hand():
    """Half of each claim's failure: as short at any accuracy, another temperature as good, a rival better in both."""
    def means(avg, tokens, std=0.5):
        return {"avg": avg, "tokens": tokens, "efficiency": 100 * avg / tokens, "normalised_length_std": std,
                "by_benchmark": {"math500": avg}}

    small = {"base": means(0.59, 10000), "trained": means(0.50, 2000, 0.4), "grpo": means(0.55, 3000, 0.6), "T0.3": means(0.4, 900),
             "T0.6": means(0.45, 1500), "T1.2": means(0.52, 2500), "T1.5": means(0.1, 3000),
             "curves": {"trained": [[0, 0.5, 90], [20, 0.7, 50], [40, 0.8, 30]], "grpo": [[0, 0.5, 90], [40, 0.6, 60], [100, 0.7, 40]]}}
    small |= {f"rival {i}": means(0.51, 1990 if i == 3 else 2010) for i in range(10)}
    large = {"base": means(0.7, 8000), "trained": means(0.6, 2400), "fixed-data": means(0.45, 6000), "curves": {}}
    found = {name: each["value"] for name, each in quantities.paper({"paper": {"1.5b": small, "7b": large}}).items()}
    assert found == {name: pytest.approx(value) for name, value in {
        "C1": 80, "C1b": -9, "C2": 0.025, "C3": 70, "C3b": -10, "C4": 1, "C6": 60, "C7": 0.2, "C8": 15, "C9": -2}.items()}
    del small["T1.2"], small["rival 3"], small["curves"]["grpo"]
    assert not {"C4", "C6", "C9"} & quantities.paper({"paper": {"1.5b": small}}).keys()
