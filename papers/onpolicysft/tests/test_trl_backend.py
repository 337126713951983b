"""trl's gradient is ours: of the method with raw rewards, and of GRPO for the loss types that are compared.

The alarm for the two private methods that trl_backend.py overrides. One model and one step each; no sampling is needed,
for trl takes rollouts from a function.
"""

from types import SimpleNamespace

import pytest
import torch

from common.models import load, tiny
from common.reasoning.policy_gradient import ClippedLoss, group_advantage, grpo_loss
from tests.numerics import close, far

from ..baselines import TRL_LOSS_TYPES
from ..method import OnPolicySFTConfig, denominator, keep, sft_loss
from ..trl_backend import (
    CPU,
    check_arguments,
    grpo_arguments,
    opsft_arguments,
    trainer_class,
    truncation_reward_function,
)
from .conftest import END, LIMIT, RESPONSES, G, gradient, log_probs
from .exact import truly_double

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")

CONFIG = OnPolicySFTConfig(prompts_per_step=2, rollouts_per_prompt=G, max_new_tokens=LIMIT, length_norm="const", count="all",
                           micro_batch_size=2, lr=0.1, grad_clip=1e9, warmup_steps=0)
MODEL = tiny("llama", initializer_range=0.05)
# Model, responses and optimiser are in double precision, but trl takes log-probabilities from its own kernel, which keeps the
# log of the normaliser in single precision: near 4.6 that rounds to 2.4e-7, and a probability is off by as much of itself.
SINGLE = 2e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model and a tokenizer of its 96 tokens, w3 .. w95, in the hub's format: trl opens the reference from it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("trl") / "model"
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, 96)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model = load(MODEL).model
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95, top_k=20)  # as R1-Distill ships it
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>").save_pretrained(path)
    return path


def verify(text, gold):
    """Right answers of conftest.py, by the response's words; the end is no word."""
    right = {" ".join(f"w{i}" for i in r if i != END) for r, is_right in RESPONSES if is_right}
    return gold == "gold" and text in right


def trainer(folder, cls, arguments, rollouts):
    """A trainer whose rollouts are the fixture's, two prompts of three; plain gradient descent, in double precision."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = truly_double(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64))
    by_name = {f"w{i}": [r for j, r in enumerate(rollouts.responses) if j // G == i] for i in range(2)}
    prompt_of = {f"w{i}": rollouts.prompts[i * G] for i in range(2)}

    def rollout(names, _):
        taken = {name: iter(by_name[name]) for name in names}
        return {"prompt_ids": [prompt_of[n] for n in names], "completion_ids": [next(taken[n]) for n in names], "logprobs": None}

    args = GRPOConfig(output_dir=str(folder.parent / "out"), max_steps=1, logging_steps=1, save_strategy="no", disable_tqdm=True,
                      shuffle_dataset=False, **CPU | arguments)
    return cls(model=model, reward_funcs=truncation_reward_function(verify, tokenizer, LIMIT), args=args,
               train_dataset=Dataset.from_list([{"prompt": f"w{i}", "gold": "gold"} for i in range(2)]), processing_class=tokenizer,
               rollout_func=rollout, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))


def as_inputs(rollouts):
    """A batch as trl's compute_loss takes it: prompts padded to the left, responses to the right."""
    width, longest = max(map(len, rollouts.prompts)), max(rollouts.lengths)
    prompts, responses = torch.zeros(6, width, dtype=torch.long), torch.zeros(6, longest, dtype=torch.long)
    for i, (prompt, response) in enumerate(zip(rollouts.prompts, rollouts.responses)):
        prompts[i, width - len(prompt) :], responses[i, : len(response)] = torch.tensor(prompt), torch.tensor(response)
    lengths = torch.tensor(rollouts.lengths)[:, None]
    return dict(prompt_ids=prompts, prompt_mask=(prompts > 0).long(), completion_ids=responses,
                completion_mask=(torch.arange(longest) < lengths).long(), num_items_in_batch=lengths.sum())


def padded_rows(values, mask, longest):
    """(6, longest): what method.py lays out behind each prompt, moved to the left edge as trl has it."""
    rows = values.new_zeros(len(values), longest)
    for i in range(len(values)):
        rows[i, : int(mask[i].sum())] = values[i][mask[i]]
    return rows


@pytest.fixture
def ours():
    """The weights that trl starts from."""
    return truly_double(load(MODEL).model)


@pytest.fixture
def opsft(folder, rollouts):
    return trainer(folder, trainer_class(), opsft_arguments(CONFIG), rollouts)


# -- the method --------------------------------------------------------------------------------------------
@pytest.mark.numerics
def test_gradient_of_its_loss_is_that_of_cross_entropy(opsft, ours, rollouts):
    """No training yet: one batch of all six by hand."""
    opsft.current_gradient_accumulation_steps = 1
    loss = opsft.compute_loss(opsft.model.train(), as_inputs(rollouts) | dict(advantages=rollouts.rewards))
    found = gradient(opsft.model, loss)
    kept = keep(rollouts.rewards)
    total = denominator([rollouts.lengths[i] for i in kept], "const", LIMIT, "all", 6)
    entropy = sft_loss(*log_probs(ours, rollouts, kept), total)
    expected = gradient(ours, entropy)
    assert expected.abs().max() > 1e-2
    close(found, expected, rel=SINGLE)
    far(loss, entropy, rel=0.05)  # of the gradients, not of the values


@pytest.mark.numerics
def test_one_step_of_training_moves_the_weights_as_ours_does(opsft, ours, rollouts):
    """Its own rewards, slices, shuffling and three micro-batches, which a hand-made batch does not pass through."""
    before = torch.cat([p.detach().flatten().clone() for p in opsft.model.parameters()])
    opsft.train()
    assert opsft.state.global_step == 1
    moved = torch.cat([p.detach().flatten() for p in opsft.model.parameters()]) - before
    kept = keep(rollouts.rewards)
    total = denominator([rollouts.lengths[i] for i in kept], "const", LIMIT, "all", 6)
    expected = gradient(ours, sft_loss(*log_probs(ours, rollouts, kept), total))
    assert expected.abs().max() > 1e-2
    close(moved, -0.1 * expected, rel=SINGLE)
    logged = next(entry for entry in opsft.state.log_history if "reward" in entry)
    assert logged["reward"] == pytest.approx(float(rollouts.rewards.mean()))


def test_a_second_process_takes_its_own_rewards(monkeypatch):
    """Rewards come from all processes, weighted, with None where a function does not apply; each trains on its rows."""
    from trl import GRPOTrainer

    cls = trainer_class()
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda *_: torch.tensor([[1.0, 0], [0, 0], [1, float("nan")], [0, 1]]))
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions",
                        lambda self, rows: {"advantages": 99 + 0 * self._calculate_rewards(rows, None, None, None)[:2, 0]})
    one = object.__new__(cls)
    one.accelerator, one.reward_weights = SimpleNamespace(process_index=1), torch.tensor([1.0, 0.5])
    assert one._generate_and_score_completions([{}, {}])["advantages"].tolist() == [1.0, 0.5]


def test_it_samples_from_the_policy_itself(opsft):
    """Not by the temperature and top-p that the checkpoint carries; and there is no second model."""
    sampling = opsft.generation_config
    assert (sampling.do_sample, sampling.temperature, sampling.top_p, sampling.top_k) == (True, 1.0, 1.0, 0)
    assert sampling.max_new_tokens == LIMIT and opsft.ref_model is None


# -- GRPO --------------------------------------------------------------------------------------------------
@pytest.mark.numerics
@pytest.mark.parametrize("beta, by_ratio", [(0.0, False), (0.04, False), (0.04, True)])
def test_grpo_is_trl_s(folder, ours, rollouts, beta, by_ratio):
    from trl import GRPOTrainer

    theirs = trainer(folder, GRPOTrainer, grpo_arguments(CONFIG, beta=beta), rollouts)
    assert (theirs.ref_model is None) == (beta == 0) and not theirs.args.use_bias_correction_kl
    theirs.args.use_bias_correction_kl = by_ratio
    theirs.current_gradient_accumulation_steps = theirs.args.steps_per_generation = 1
    logp, mask = log_probs(ours, rollouts, range(6))
    noise = torch.randn(2, *logp.shape, dtype=logp.dtype, generator=torch.Generator().manual_seed(0)) * 0.5
    old, ref = (logp.detach() + noise[0], logp.detach() + noise[1]) if beta else (logp.detach(), None)
    advantage = group_advantage(rollouts.rewards, G, eps=1e-4)
    inputs = as_inputs(rollouts) | dict(advantages=advantage)
    if beta:  # stale, so that ratios clip, and against some reference
        ratio = (logp.detach() - old).exp()[mask]
        assert (ratio > 1.2).any() and (ratio < 0.8).any()
        longest = max(rollouts.lengths)
        inputs |= dict(old_per_token_logps=padded_rows(old, mask, longest), ref_per_token_logps=padded_rows(ref, mask, longest))
    for norm, name in TRL_LOSS_TYPES.items():
        theirs.loss_type = name
        found = theirs.compute_loss(theirs.model.train(), inputs)
        total = denominator(rollouts.lengths, norm, LIMIT)
        loss = grpo_loss(logp, old, advantage, mask, total, ClippedLoss(beta=beta, own_length=norm == "seq", kl_by_ratio=by_ratio), ref)
        expected = torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True)
        expected = torch.cat([g.flatten() for g in expected])
        assert expected.abs().max() > 1e-2, name
        close(gradient(theirs.model, found), expected, rel=SINGLE)
        assert abs(found.item() - loss.item()) < SINGLE * advantage.abs().max(), name  # terms of that size, which may cancel


def test_advantages_are_trl_s(folder, rollouts):
    """Stock trl gives an all-right group nothing, with scaling or without; what the subclass is there to change."""
    from trl import GRPOTrainer

    for scale in ("group", "none"):
        theirs = trainer(folder, GRPOTrainer, grpo_arguments(CONFIG, beta=0.0, scale_rewards=scale), rollouts)
        theirs.model.train()
        out = theirs._generate_and_score_completions([{"prompt": f"w{i // G}", "gold": "gold"} for i in range(6)])
        ours = group_advantage(rollouts.rewards, G, eps=1e-4, scale=scale == "group")
        # Both compute rewards in single precision and take some ten roundings of 6e-8 to get from them to an advantage.
        close(out["advantages"], ours, rel=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------
def test_arguments_say_what_trl_cannot_do():
    from dataclasses import replace

    whole = opsft_arguments(CONFIG)
    assert (whole["gradient_accumulation_steps"], whole["num_generations"], whole["beta"]) == (3, 3, 0.0)
    assert opsft_arguments(CONFIG, processes=3)["gradient_accumulation_steps"] == 1
    for change, word in ((dict(length_norm="max"), "length_norm max"), (dict(count="kept"), "count kept"),
                         (dict(temperature=0.6), "temperature 0.6"), (dict(updates_per_rollout=4), "updates_per_rollout is 4"),
                         (dict(micro_batch_size=4), "micro-batches of 4")):
        with pytest.raises(ValueError, match=word):
            opsft_arguments(replace(CONFIG, **change))
    with pytest.raises(ValueError, match="'max'"):
        grpo_arguments(CONFIG, length_norm="max")


def test_a_configuration_of_another_method_is_refused():
    right = dict(opsft_arguments(CONFIG), steps_per_generation=3)
    check_arguments(SimpleNamespace(**right))
    wrong = SimpleNamespace(**right | dict(beta=0.04, loss_type="dapo", steps_per_generation=12))
    with pytest.raises(ValueError, match=r"beta is 0.04.*loss_type is 'dapo'.*steps_per_generation is 12"):
        check_arguments(wrong)


def test_reward_function_needs_the_end(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, columns = [[9, 4, END], [9, 4], [9, 5, END], [], [9, 4, 5]], dict(gold=["gold"] * 5, prompts=None, completions=None)
    assert truncation_reward_function(verify, tokenizer, LIMIT)(ids, **columns) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert truncation_reward_function(verify, tokenizer, LIMIT, require_eos=False)(ids, **columns) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert truncation_reward_function(verify, tokenizer, 2)(ids, **columns) == [0.0] * 5
    assert truncation_reward_function(verify, tokenizer, LIMIT, end_ids=[5])(ids, **columns) == [0.0, 0.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="no column 'gold'"):
        truncation_reward_function(verify, tokenizer, LIMIT)(ids, answer=["gold"] * 5)


# -- the command -------------------------------------------------------------------------------------------
def test_trl_trains_from_the_configs_of_train(tmp_path, monkeypatch, capsys):
    """Prompts are the ids that our own training reads; the product has our form; what trl cannot do is refused in a line."""
    import json
    import sys

    from common.models import ModelSpec

    from .. import train_trl
    from ..eval import HERE

    monkeypatch.setattr(sys, "argv", ["train_trl"])
    options = ["--config", str(HERE / "configs/cpu/rehearsal.yaml"), f"--trainer.default_root_dir={tmp_path}",
            "--model.init_args.config.prompts_per_step=2", "--model.init_args.config.rollouts_per_prompt=4",
            "--model.init_args.gradient_checkpointing=false", "--trainer.max_steps=1", "--trainer.logger=false"]
    assert train_trl.main(options) == 2 and "length_norm" in capsys.readouterr().err
    options += ["--model.init_args.config.length_norm=const", "--model.init_args.config.count=all"]
    seen, build = [], train_trl.build

    def watched(*args):
        trainer, problems = build(*args)
        generate = type(trainer)._generate

        def noted(self, prompts, *rest):
            out = generate(self, prompts, *rest)
            seen.append((prompts, out[0]))
            return out

        monkeypatch.setattr(type(trainer), "_generate", noted)
        seen.append(problems)
        return trainer, problems

    monkeypatch.setattr(train_trl, "build", watched)
    assert train_trl.main(options) == 0
    problems, (_, read) = seen[0], seen[1]
    assert {tuple(ids) for ids in read} <= {p.prompt for p in problems} and len(read) == 8
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert about["steps"] == 1 and about["back-end"] == "trl" and load(ModelSpec(str(tmp_path / "model"))).model.config.hidden_size == 64


@pytest.mark.parametrize("text", ["x", "5", "[1]", "null", "[" * 100_000])
def test_settings_that_are_none_by_name_are_told(text, capsys):
    from .. import train_trl

    with pytest.raises(SystemExit) as left:
        train_trl.main(["--config", "papers/onpolicysft/configs/cpu/chains.yaml", "--trl", text])
    assert left.value.code == 2 and "argument --trl: " in capsys.readouterr().err
