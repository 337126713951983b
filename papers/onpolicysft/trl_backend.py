"""On-Policy SFT on trl's GRPOTrainer, for GPUs: its sampling, sharding and vLLM, and two private methods overridden.

No configuration of trl reaches the method: scale_rewards "none" still subtracts the group's mean, so that a prompt whose
responses are all right teaches nothing. The subclass puts the raw reward where the advantage stood. With loss_type
"dr_grpo", beta 0 and one update per rollout batch, the gradient is then that of our `sft_loss` with length_norm "const"
and count "all": sum of -log p over right responses / (all responses x limit). The other norms that weigh tokens alike
differ from it by a factor, which Adam nearly removes; "seq" differs in kind.

A test trains one step by trl and one by method.py from the same weights and rollouts, and compares: the alarm for the day
on which trl changes what is private here. trl is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from common.reasoning.verifiers import response_text

from .baselines import TRL_LOSS_TYPES
from .method import LengthNorm, OnPolicySFTConfig, truncation_reward

CPU = dict(use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none")  # trl's defaults assume a GPU
# What must hold for trl's gradient to be the method's. top_p, top_k: of the sampler, which must draw from the policy itself.
# With vLLM trl weighs tokens by how far its log-probabilities are from the sampler's; the method has no such weights.
CHANGED = dict(beta=0.0, scale_rewards="none", loss_type="dr_grpo", num_iterations=1, temperature=1.0, top_p=1.0, top_k=0,
               disable_dropout=True, vllm_importance_sampling_correction=False)
DEFAULTS = dict(min_p=None, repetition_penalty=1.0, importance_sampling_level="token", mask_truncated_completions=False,
                multi_objective_aggregation="sum_then_normalize", top_entropy_quantile=1.0, entropy_coef=0.0)


def _shared(config: OnPolicySFTConfig, processes: int) -> dict:
    """Sampling and optimiser, the same for the method and its baselines."""
    responses = config.prompts_per_step * config.rollouts_per_prompt
    if responses % (config.micro_batch_size * processes):
        raise ValueError(f"trl: {responses} responses a step do not split into micro-batches of {config.micro_batch_size} on "
                         f"{processes} processes; change micro_batch_size")
    if config.updates_per_rollout != 1:
        raise ValueError(f"trl: updates_per_rollout is {config.updates_per_rollout}; this back-end takes one update on each "
                         "batch of rollouts, for which old log-probabilities need no pass of their own")
    return dict(num_generations=config.rollouts_per_prompt, per_device_train_batch_size=config.micro_batch_size,
                gradient_accumulation_steps=responses // (config.micro_batch_size * processes), num_iterations=1,
                max_completion_length=config.max_new_tokens, temperature=config.temperature, top_p=1.0, top_k=0,
                learning_rate=config.lr, lr_scheduler_type="constant_with_warmup", warmup_steps=config.warmup_steps,
                weight_decay=0.01, max_grad_norm=config.grad_clip, disable_dropout=True)


def opsft_arguments(config: OnPolicySFTConfig, processes: int = 1) -> dict:
    """GRPOConfig's arguments for the method. Raises ValueError for a `config` that trl cannot do."""
    if (config.length_norm, config.count) != ("const", "all"):
        raise ValueError(f"trl: length_norm {config.length_norm}, count {config.count}; its dr_grpo loss is const and all. Set "
                         "these (for max and token the same direction, for kept the size at pass rate 1), or the other back-end")
    if config.temperature != 1:
        raise ValueError(f"trl: temperature {config.temperature} would also divide the training logits; set 1")
    return _shared(config, processes) | CHANGED


def grpo_arguments(config: OnPolicySFTConfig, processes: int = 1, beta: float = 0.04, scale_rewards: str = "group",
                   length_norm: LengthNorm = "seq") -> dict:
    """GRPOConfig's arguments for the baseline of the same sampling: the stock GRPOTrainer, nothing overridden.

    trl would multiply the KL by the ratio; the paper's Eq. 2 and `grpo_loss` do not.
    """
    if length_norm not in TRL_LOSS_TYPES:
        raise ValueError(f"trl: no loss type divides by {length_norm!r}; there is {', '.join(TRL_LOSS_TYPES)}")
    return _shared(config, processes) | dict(beta=beta, scale_rewards=scale_rewards, loss_type=TRL_LOSS_TYPES[length_norm],
                                               use_bias_correction_kl=False)


def truncation_reward_function(verify: Callable[[str, str], bool], tokenizer, limit: int, end_ids: Sequence[int] | None = None,
                               require_eos: bool = True, gold: str = "gold") -> Callable[..., list[float]]:
    """A reward function in trl's form: 1.0 if verify(text, gold answer), ended by one of end_ids, within limit tokens.

    text: the response as training and evaluation read it, special tokens in it, but for its end. end_ids: None, the tokenizer's end
    of sequence; a chat model may have several. gold: the data's column of answers.
    """
    ends = {tokenizer.eos_token_id} if end_ids is None else set(end_ids)

    def truncation(completion_ids: Sequence[Sequence[int]], **columns) -> list[float]:
        if gold not in columns:
            raise ValueError(f"reward: the data have no column {gold!r}, only {', '.join(sorted(columns))}")
        texts = [response_text(tokenizer, ids, ends) for ids in completion_ids]
        return [truncation_reward(verify(text, answer), len(ids) > 0 and ids[-1] in ends, len(ids), limit, require_eos)
                for text, ids, answer in zip(texts, completion_ids, columns[gold])]

    return truncation


def check_arguments(args) -> None:
    """Raises ValueError naming every entry of a GRPOConfig for which trl's gradient would not be the method's."""
    wrong = [f"{name} is {getattr(args, name)!r}, not {value!r}" for name, value in (CHANGED | DEFAULTS).items()
             if getattr(args, name, value) != value]
    if args.gradient_accumulation_steps != args.steps_per_generation:
        wrong.append(f"steps_per_generation is {args.steps_per_generation}, not gradient_accumulation_steps "
                     f"({args.gradient_accumulation_steps}): more would train on stale rollouts")
    if wrong:
        raise ValueError(f"On-Policy SFT on trl: {'; '.join(wrong)} (opsft_arguments gives all of them)")


@cache
def trainer_class() -> type:
    """GRPOTrainer with raw rewards for advantages. Raises RuntimeError if trl has lost the methods that are overridden."""
    import trl

    parent = trl.GRPOTrainer
    if missing := [n for n in ("_calculate_rewards", "_generate_and_score_completions") if not hasattr(parent, n)]:
        raise RuntimeError(f"trl {trl.__version__}: GRPOTrainer has no {' and no '.join(missing)}, which trl_backend.py "
                           "overrides; it was written for 1.16")

    class OnPolicySFTTrainer(parent):
        def __init__(self, *positional, **named):
            super().__init__(*positional, **named)
            check_arguments(self.args)

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            self._raw_rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(1)  # of all processes
            return rewards

        def _generate_and_score_completions(self, inputs):
            out = super()._generate_and_score_completions(inputs)
            first = self.accelerator.process_index * len(inputs)
            out["advantages"] = self._raw_rewards[first : first + len(inputs)]
            return out

    return OnPolicySFTTrainer
