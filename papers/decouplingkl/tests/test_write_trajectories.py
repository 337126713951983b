"""Trajectories by vLLM, beforehand: tiny Qwen3 checkpoints, and a stand-in for vLLM that really samples from the folder it is given."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from common.errors import SetupError
from common.models import ModelSpec, load, tiny
from common.reasoning.engine import VllmSampler
from common.reasoning.rollouts import Rollout, sample
from tests.small_tokenizers import byte_words

from .. import module
from ..eval import HERE
from ..train import cli
from ..trajectories import TrajectoryCache
from ..write_trajectories import cache_of, fill, main

SMALL = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.init_args.held_out=2",
         "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.max_epochs=1", "--trainer.max_steps=2",
         "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0", "--model.init_args.sample_dtype=null",
         "--model.init_args.config.prompts_per_step=2", "--model.init_args.config.max_new_tokens=5"]


class LLM:
    """vllm.LLM as far as VllmSampler uses it. stop_after: calls of `generate` until somebody ends the process."""

    stop_after = None
    calls: list = []

    def __init__(self, model, generation_config, **options):
        loaded = load(ModelSpec(model, dtype=options.get("dtype", "float32")))
        self.model, self.options = loaded.model, options
        config = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: loaded.model.config.vocab_size)
        self.llm_engine = SimpleNamespace(model_config=config)
        LLM.calls.append((model, options))

    def generate(self, prompts, params, use_tqdm):
        if LLM.stop_after == 0:
            raise KeyboardInterrupt
        LLM.stop_after = None if LLM.stop_after is None else LLM.stop_after - 1
        answers = []
        for prompt, asked in zip(prompts, params, strict=True):
            drawn = sample(self.model, [prompt["prompt_token_ids"]], asked.n, asked.max_tokens, end=asked.stop_token_ids,
                           temperature=asked.temperature, generator=torch.Generator().manual_seed(asked.seed))
            answers.append(SimpleNamespace(outputs=[SimpleNamespace(index=k, token_ids=list(r.ids)) for k, r in enumerate(drawn)]))
        return answers


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(sys, "argv", ["write_trajectories"])  # LightningCLI dislikes pytest's own arguments
    monkeypatch.setattr(LLM, "stop_after", None)
    monkeypatch.setattr(LLM, "calls", [])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("hub"), byte_words()
    for name, width in (("student", 32), ("teacher", 48)):
        load(tiny("qwen3", vocab_size=len(words), hidden_size=width, num_hidden_layers=1, bos_token_id=0, eos_token_id=1, pad_token_id=1,
                  seed=width)).model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    rows = [{"problem": f"{i % 7} + 1", "answer": i % 7 + 1} for i in range(9)]  # two of them are asked twice
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def options(hub, run, *more):
    return [*SMALL, f"--trainer.default_root_dir={run}", f"--trainer.logger.init_args.save_dir={run}", "--model.init_args.model.name",
            str(hub / "student"), "--model.init_args.teacher.name", str(hub / "teacher"), "--model.init_args.teacher.dtype=float32",
            f"--data.init_args.train={hub / 'train.jsonl'}", f"--model.init_args.trajectories={run / 'trajectories.jsonl'}", *more]


CONFIG = str(HERE / "configs" / "cuda" / "4b-tf-128.yaml")


def test_the_file_is_filled_beforehand_and_the_training_samples_nothing(hub, tmp_path, monkeypatch, capsys):
    assert main(["--config", CONFIG, "--engine", '{"max_model_len": 64}', *options(hub, tmp_path)]) == 0
    assert LLM.calls == [(str(hub / "teacher"), {"dtype": "float32", "max_model_len": 64})]
    path = tmp_path / "trajectories.jsonl"
    whole, lines = path.read_bytes(), [json.loads(line) for line in path.read_text().splitlines()]
    facts = lines[0]["trajectories"]
    assert facts["sampler"].startswith("vllm ") and facts["max_new_tokens"] == 5 and facts["ends"] == [1] and facts["temperature"] == 1
    prompts = [tuple(line["prompt"]) for line in lines[1:]]
    assert len(prompts) == len(set(prompts)) >= 5 and all(1 <= len(line["ids"]) <= 5 for line in lines[1:])
    assert f"{len(prompts)} responses added" in capsys.readouterr().out
    monkeypatch.setattr(module, "sample", lambda *_, **__: pytest.fail("the training sampled a response that the file has"))
    cli(["fit", "--config", CONFIG, *options(hub, tmp_path)])
    assert path.read_bytes() == whole and json.loads((tmp_path / "model" / "training.json").read_text())["steps"] == 2
    assert main(["--config", CONFIG, *options(hub, tmp_path)]) == 0 and path.read_bytes() == whole, "nothing is left to sample"


def test_a_killed_run_goes_on_to_the_same_file(hub, tmp_path, monkeypatch):
    from .. import write_trajectories

    monkeypatch.setattr(write_trajectories.fill, "__defaults__", (2, *write_trajectories.fill.__defaults__[1:]))  # blocks of two problems
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert main(["--config", CONFIG, *options(hub, tmp_path / "whole")]) == 0
    whole = (tmp_path / "whole" / "trajectories.jsonl").read_bytes()
    LLM.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        main(["--config", CONFIG, *options(hub, tmp_path / "killed")])
    path = tmp_path / "killed" / "trajectories.jsonl"
    assert whole.startswith(path.read_bytes()) and len(path.read_bytes().splitlines()) == 5
    path.write_bytes(path.read_bytes()[:-7])  # in the middle of a line
    LLM.stop_after = None
    assert main(["--config", CONFIG, *options(hub, tmp_path / "killed")]) == 0
    assert path.read_bytes() == whole


def test_what_cannot_be_filled_is_refused_in_a_line(hub, tmp_path, monkeypatch, capsys):
    student = ["--model.init_args.config.prefix=student", "--model.init_args.trajectories=null"]
    assert main(["--config", CONFIG, *options(hub, tmp_path, *student)]) == 2
    assert "trains without a file of the teacher's responses" in capsys.readouterr().err and not LLM.calls
    (tmp_path / "trajectories.jsonl").write_text(json.dumps({"trajectories": {"teacher": "another"}}) + "\n")
    assert main(["--config", CONFIG, *options(hub, tmp_path)]) == 2
    assert "sampled with teacher = another" in capsys.readouterr().err and not LLM.calls, "before an engine starts"
    (tmp_path / "trajectories.jsonl").unlink()
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main(["--config", CONFIG, *options(hub, tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "needs vllm" in said and len(said.strip().splitlines()) == 1


class Counting:
    """A sampler that answers with the place of the prompt in its block, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def sample(self, prompts, n, limit, **how):
        self.asked.append((list(prompts), n, limit, {name: how[name] for name in ("end", "temperature", "top_p", "top_k")},
                           how["generator"].initial_seed()))
        return [Rollout(i, (10 * i + k,), True) for i in range(len(prompts)) for k in range(n)]


def test_what_a_kill_left_of_a_block_is_kept_and_only_the_rest_is_added(tmp_path):
    config = SimpleNamespace(rollouts_per_prompt=2, max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=3)
    training = SimpleNamespace(config=config, seed=4, ends=(1, 2), trajectories=tmp_path / "t.jsonl",
                               trajectory_facts=lambda: {"teacher": "x"})
    cache, sampler, lines = cache_of(training), Counting(), []
    cache.add([((5,), (0,), True)])  # one of the two responses to the first problem
    problems = [SimpleNamespace(prompt=p) for p in ([5], [6], [5], [7])]
    assert fill(cache, sampler, training, problems, 2, lines.append) == 5
    assert [asked[:4] for asked in sampler.asked] == [([(5,), (6,)], 2, 7, {"end": (1, 2), "temperature": 0.5, "top_p": 0.9, "top_k": 3}),
                                                      ([(7,)], 2, 7, {"end": (1, 2), "temperature": 0.5, "top_p": 0.9, "top_k": 3})]
    assert len({asked[4] for asked in sampler.asked}) == 2, "each block has its own random numbers"
    assert {prompt: [ids for ids, _ in found] for prompt, found in cache.found.items()} == {
        (5,): [(0,), (1,)], (6,): [(10,), (11,)], (7,): [(0,), (1,)]}
    assert lines == ["2 of 3 problems answered", "3 of 3 problems answered"]
    again = TrajectoryCache(tmp_path / "t.jsonl", {"teacher": "x"})
    assert again.found == cache.found and fill(again, sampler, training, problems, 2) == 0 and len(sampler.asked) == 2


def test_an_engine_option_that_changes_the_law_is_refused(hub, tmp_path, capsys):
    assert main(["--config", CONFIG, "--engine", '{"generation_config": "auto"}', *options(hub, tmp_path)]) == 2
    assert "engine.generation_config" in capsys.readouterr().err
    with pytest.raises(SetupError):
        VllmSampler("x", logits_processors=[])


# -- what the configs' headers say ------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted((HERE / "configs" / "cuda").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_header_names_commands_that_the_config_can_run(path):
    """trl has vLLM for student's prefixes and GRPO alone, and no roll-back; trajectories are written where there is a file for them."""
    text = path.read_text()
    header = text[: text.index("\n\n")]
    teachers, goes_back = "prefix: teacher" in text, "on_fail: rollback" in text
    assert ("write_trajectories --config" in header) == teachers == ("trajectories: lightning_logs" in text)
    assert ("use_vllm" in header) == (not teachers and not goes_back) and ("train_trl --config" in header) == (not goes_back)
    length = text.partition("max_new_tokens: ")[2].split()[0]
    if teachers:  # a file is of one length: another one's is refused
        assert ("trajectories-4b-128.jsonl" in text) == (length == "128")


def test_trl_takes_vllm_where_headers_say_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "vllm")  # of which trl looks for more than is here
    trl = pytest.importorskip("trl")
    from dataclasses import fields

    from trl.experimental.gkd import GKDConfig

    asked = {kind: "use_vllm" in {f.name for f in fields(kind)} for kind in (trl.DistillationConfig, trl.GRPOConfig, GKDConfig)}
    assert list(asked.values()) == [True, True, False], "the header of configs on teacher's prefixes follows from the last"
