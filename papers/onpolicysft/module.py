"""Training on the policy's own right answers, by Lightning, and the methods that it is compared with.

A step takes P problems, samples G responses to each from the very weights that will be updated, grades them, keeps what
is right and finished, and takes one optimiser step of cross-entropy on that:

    OnPolicySFT     the paper
    BestOfN, ByLot  the same on other selections: the shortest right response of each problem; as many at random
    FixedData       the same filter on responses that the starting model gave once: off-policy filtered SFT
    GRPO            group-normalised advantages, clipping, KL to the starting model

Losses are sums over the whole optimiser step divided by one number, whatever the micro-batches and the processes: ranks
keep different numbers of responses, so each gives blank rows until all have made equally many passes. What is sampled
follows from (seed, step, place of the problem in the step) alone: two processes sample what one would, and a run that was
killed goes on as if unbroken. A step in which nothing was kept updates nothing, and is counted.

Who samples: the model itself; a whole copy in another precision (`sample_dtype`), for weights in shards (FSDP2) or in fp32
for the optimiser's sake; or vLLM (`engine`). The copies take the weights anew before every sampling.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from common.jobs import write_json
from common.models import DTYPES, ModelSpec, load
from common.rollouts import Rollout, full, refresh, sample, whole_copy
from common.steps import SetupError, seed_of

from . import baselines, method
from .evaluation import evaluate
from .method import OnPolicySFTConfig


class OnPolicySFT(L.LightningModule):
    """model: to start from. config: what the method leaves open. betas, weight_decay: AdamW's. seed: of all sampling.

    samples, cap: responses to each validation problem, and the most tokens of one; the cap is the starting model's and not
    the training's limit, or truncation would pass for brevity. sample_dtype: of a whole copy of the model that samples and
    answers, on each process; shards need it, since each rank samples until its own rows are done. engine: options of
    vllm.LLM, to sample by vLLM on each process' own GPU. given: a model in memory, in place of `model`.
    """

    def __init__(self, model: ModelSpec, config: OnPolicySFTConfig | None = None, betas: tuple[float, float] = (0.9, 0.999),
                 weight_decay: float = 0.01, samples: int = 4, cap: int = 32768, gradient_checkpointing: bool = False,
                 sample_dtype: Literal["float32", "bfloat16", "float16"] | None = None, engine: dict[str, Any] | None = None,
                 seed: int = 1):
        super().__init__()
        self.spec, self.config, self.betas, self.weight_decay = model, config or OnPolicySFTConfig(), tuple(betas), weight_decay
        self.samples, self.cap, self.gradient_checkpointing, self.seed = samples, cap, gradient_checkpointing, seed
        self.automatic_optimization = False
        self.given: tuple[nn.Module, Any, dict] | None = None
        self.model: nn.Module | None = None
        self.engine, self.sampler, self.sample_dtype = engine, None, sample_dtype
        self._copy: list[nn.Module] = []  # in a list, as all models beside the trained one: no part of what is trained or saved
        self.done, self.skipped = 0, 0  # steps, with those that kept nothing; those
        self.history: list[dict] = []

    def configure_model(self) -> None:
        if self.model is not None:
            return
        if self.given is None:
            loaded = load(self.spec)
            self.given = loaded.model, loaded.tokenizer, loaded.source
        self.model, self.tokenizer, self.source = self.given
        self.model.train()
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.keep_start()
        if self.device_mesh is not None:
            self._shard()

    def keep_start(self) -> None:
        """For methods that need the starting weights: called when they are loaded, and before they are put in shards."""

    def _shard(self) -> None:
        """FSDP2: every block in shards, and what is around the blocks."""
        from torch.distributed.fsdp import fully_shard

        if self.sample_dtype is None and self.engine is None:
            raise SetupError("model: weights in shards cannot sample, for each process samples until its own responses are done; set "
                             "model.init_args.sample_dtype (bfloat16), or an engine")
        mesh = self.device_mesh["data_parallel"]
        for layer in self.model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def sampling_model(self) -> nn.Module:
        """The weights as they are now, in the form that samples. All ranks call it together."""
        if self.sample_dtype is None:
            return self.model
        if not self._copy:
            self._copy.append(whole_copy(self.model, self.sample_dtype, self.device))
        return refresh(self._copy[0], self.model)

    def on_fit_start(self) -> None:
        if self.engine is not None and self.sampler is None:
            from common.rollouts import VllmSampler

            try:
                self.sampler = VllmSampler(self.spec.name, **self.engine)
            except ImportError as error:
                raise SetupError(f"model.engine: {error}") from error

    # -- a step ----------------------------------------------------------------------------------
    def training_step(self, batch: dict, batch_idx: int) -> None:
        problems, first = batch["problems"], batch["first"]
        rollouts = self.rollouts(problems, first)
        correct = self.trainer.datamodule.grade(problems, rollouts)
        rewards = [method.truncation_reward(c, r.finished, len(r.ids), self.config.max_new_tokens, self.config.require_eos)
                   for c, r in zip(correct, rollouts)]
        chosen = self.selected(rollouts, rewards)
        parts = self.config.updates_per_rollout
        notes = [self.update(problems, [rollouts[i] for i in chosen[k::parts]], rewards, [correct[i] for i in chosen[k::parts]])
                 for k in range(parts)]
        self.note(rollouts, correct, chosen, notes)
        self.done += 1

    def rollouts(self, problems: list, first: int) -> list[Rollout]:
        """G responses to each of this rank's problems; `first` is the place of the first of them in the step."""
        config, generator = self.config, torch.Generator().manual_seed(seed_of("rollouts", self.seed, self.done))
        count = config.rollouts_per_prompt
        if first:  # the random numbers of the problems before, which are other ranks'
            torch.randint(-(2**63), 2**63 - 1, (first * count,), generator=generator)
        how = dict(end=self.trainer.datamodule.end, temperature=config.temperature, generator=generator)
        prompts = [p.prompt for p in problems]
        if self.sampler is not None:
            self.sampler.load(self.model)
            return self.sampler.sample(prompts, count, config.max_new_tokens, **how)
        return sample(self.sampling_model(), prompts, count, config.max_new_tokens, **how)

    def selected(self, rollouts: list[Rollout], rewards: list[float]) -> list[int]:
        """Indices of the responses to train on."""
        return method.keep(rewards)

    def update(self, problems: list, kept: list[Rollout], rewards: list[float], correct: list[bool]) -> dict[str, float]:
        """One optimiser step of cross-entropy on `kept`, all ranks together. Facts for the log; {} where all kept nothing."""
        config, lengths = self.config, self.gathered([len(r.ids) for r in kept])
        if not lengths:
            self.skipped += 1
            return {}
        sampled = -(-len(self.gathered(rewards)) // config.updates_per_rollout)  # this update's part of them
        total = method.denominator(lengths, config.length_norm, config.max_new_tokens, config.count, sampled)
        nll = torch.zeros((), dtype=torch.float64)
        with self.gradients():
            for rows in self.micro_batches(kept):
                logp, mask = self.log_probs(self.model, problems, rows)
                loss = method.sft_loss(logp, mask, total, config.length_norm)
                self.manual_backward(loss * self.scale())
                nll -= logp.detach()[mask].double().sum().cpu()
        return {"loss per token": self.summed(float(nll)) / sum(lengths), "norm": self.step()}

    # -- parts of it -----------------------------------------------------------------------------
    def log_probs(self, model: nn.Module, problems: list, rows: list[Rollout]) -> tuple[Tensor, Tensor]:
        """(log-probabilities, mask) (K, T); no rows: of a blank one, which counts nowhere."""
        ids, mask = method.right_padded([problems[r.prompt].prompt for r in rows], [r.ids for r in rows]) if rows else (
            torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool))
        ids, mask = ids.to(self.device), mask.to(self.device)
        behind = ids.shape[1] - min((len(problems[r.prompt].prompt) for r in rows), default=1)  # the shortest prompt: no logits of it
        return method.response_log_probs(model(input_ids=ids, use_cache=False, logits_to_keep=behind + 1).logits, ids, mask), mask

    def micro_batches(self, kept: list[Rollout]) -> list[list[Rollout]]:
        """Rows of about one length together; as many micro-batches on every rank, the last ones blank."""
        size, rows = self.config.micro_batch_size, sorted(kept, key=lambda r: len(r.ids))
        cut = [rows[i : i + size] for i in range(0, len(rows), size)]
        return cut + [[]] * (max(self.gathered([len(cut)])) - len(cut))

    @contextlib.contextmanager
    def gradients(self):
        """Gradients are summed over ranks once, after the last micro-batch: DDP's own averaging expects one pass a step."""
        ddp = self.trainer.model if hasattr(self.trainer.model, "no_sync") else None
        with ddp.no_sync() if ddp is not None else contextlib.nullcontext():
            yield
        if ddp is not None:
            for p in self.model.parameters():
                if p.requires_grad:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                    torch.distributed.all_reduce(p.grad)

    def scale(self) -> int:
        """Sharded strategies average gradients over ranks, and ours are parts of a sum."""
        return 1 if self.trainer.world_size == 1 or hasattr(self.trainer.model, "no_sync") else self.trainer.world_size

    def step(self) -> float:
        """Clips, updates, forgets the gradients; returns their norm before clipping."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        torch.clear_autocast_cache()  # within a step autocast keeps its casts of the weights, and these are new
        schedule.step()
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def gathered(self, values: list) -> list:
        """The lists of all ranks, one after the other."""
        if self.trainer.world_size == 1:
            return list(values)
        found: list = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(found, list(values))
        return [v for part in found for v in part]

    def summed(self, value: float) -> float:
        return sum(self.gathered([value]))

    def note(self, rollouts: list[Rollout], correct: list[bool], chosen: list[int], notes: list[dict]) -> None:
        """Before the filter and after it: a pass rate of what was kept would always be one."""
        lengths = self.gathered([len(r.ids) for r in rollouts])
        kept = self.gathered([len(rollouts[i].ids) for i in chosen])
        row = {"step": self.done, "right": sum(self.gathered(correct)) / len(lengths), "length": sum(lengths) / len(lengths),
               "cut": sum(self.gathered([not r.finished for r in rollouts])) / len(lengths), "kept": len(kept) / len(lengths),
               "kept length": sum(kept) / max(len(kept), 1), **dict((notes[0] if notes else {}).items())}
        self.history.append(row)
        shown = {f"train/{k.replace(' ', '_')}": float(v) for k, v in row.items() if k != "step"}
        self.log_dict(shown | {"train/skipped": float(self.skipped)}, batch_size=1, prog_bar=False)

    def configure_optimizers(self):
        from transformers import get_constant_schedule_with_warmup

        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.config.lr, betas=self.betas, weight_decay=self.weight_decay)
        return [optimizer], [get_constant_schedule_with_warmup(optimizer, self.config.warmup_steps)]

    # -- validation ------------------------------------------------------------------------------
    def on_validation_start(self) -> None:
        self._held_out: list = []

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self._held_out += batch["problems"] if batch.get("counts", True) else []

    def on_validation_epoch_end(self) -> None:
        """Every rank answers its share; the scores are of all."""
        data = self.trainer.datamodule
        how = self.samples, self.cap, seed_of("validation", self.seed)
        model = self.sampling_model()
        scored = evaluate(model, data, self._held_out, *how) if self._held_out else []
        rows = self.gathered(scored)
        self.log_dict({"val/avg": sum(sum(r["correct"]) / len(r["correct"]) for r in rows) / len(rows),
                       "val/pass": sum(any(r["correct"]) for r in rows) / len(rows),
                       "val/tokens": sum(sum(r["lengths"]) / len(r["lengths"]) for r in rows) / len(rows)}, prog_bar=True, batch_size=1)

    # -- files -----------------------------------------------------------------------------------
    def _run(self) -> dict[str, Any]:
        """What makes this run this run: a checkpoint of another one is not taken up."""
        simple = dict(vars(self.config).items())
        return {"module": type(self).__name__, "seed": self.seed, "betas": list(self.betas), "weight_decay": self.weight_decay,
                "base": self.source.get("weights_sha256") or self.source.get("recipe_sha256"), **simple}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["onpolicysft"] = {"run": self._run(), "done": self.done, "skipped": self.skipped, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuses to go on with another run's checkpoint: it would not be the unbroken run."""
        stored = checkpoint.get("onpolicysft")
        if stored is None:
            raise SetupError("This checkpoint was not written by an On-Policy SFT training.")
        for key, value in self._run().items() if self.trainer.state.fn == "fit" else ():
            if stored["run"].get(key) != value:
                raise SetupError(f"This checkpoint was made with {key} = {stored['run'].get(key)}; the config says {value}. "
                                 "Resume with the old value, or start anew without --ckpt_path.")
        self.done, self.skipped, self.history = stored["done"], stored["skipped"], stored["history"]

    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model, in the hub's format."""
        if not (self.trainer.default_root_dir and self.trainer.checkpoint_callbacks):
            return
        whole = {name: full(p.detach()).cpu() for name, p in self.model.state_dict().items()}  # of shards: all ranks together
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "model"
            self.model.save_pretrained(folder, state_dict=whole)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            write_json(folder / "training.json", self._run() | {"steps": self.done, "skipped": self.skipped,
                                                                "trained_from": self.source.get("name")})


# -- the same on other selections --------------------------------------------------------------------------
class BestOfN(OnPolicySFT):
    """Only the shortest right response of each problem: best-of-n distillation, which is not the paper."""

    def selected(self, rollouts, rewards):
        return baselines.keep_shortest(rewards, [len(r.ids) for r in rollouts], self.config.rollouts_per_prompt)


class ByLot(OnPolicySFT):
    """As many responses as passed, drawn from all: what the filter is worth."""

    def selected(self, rollouts, rewards):
        return baselines.keep_random(rewards, seed_of("lot", self.seed, self.done, self.global_rank))


class FixedData(OnPolicySFT):
    """The filter on responses of the starting weights, sampled anew for each step's problems but never from what was learnt."""

    def keep_start(self) -> None:
        self.start = [copy.deepcopy(self.model).to(DTYPES[self.sample_dtype or self.spec.dtype]).eval().requires_grad_(False)]

    def rollouts(self, problems, first):
        trained, self.sampling_model = self.sampling_model, lambda: self.start[0].to(self.device)
        try:
            return super().rollouts(problems, first)
        finally:
            self.sampling_model = trained


class GRPO(OnPolicySFT):
    """Group-normalised advantages, clipped ratios, KL to the starting weights. reward: "truncation" or "accuracy + length"."""

    def __init__(self, model: ModelSpec, config: OnPolicySFTConfig | None = None, beta: float = 0.04,
                 reward: Literal["truncation", "accuracy + length"] = "truncation", **options):
        super().__init__(model, config, **options)
        self.beta, self.reward = beta, reward
        if self.config.updates_per_rollout != 1:
            raise ValueError("model.config.updates_per_rollout must be 1 for GRPO: groups are whole, and old log-probabilities are "
                             "those of the weights that are updated")

    def keep_start(self) -> None:
        if self.beta:
            self.reference = [copy.deepcopy(self.model).eval().requires_grad_(False)]

    def selected(self, rollouts, rewards):
        return list(range(len(rollouts)))

    def update(self, problems, kept, rewards, correct):
        group, limit = self.config.rollouts_per_prompt, self.config.max_new_tokens
        if self.reward == "accuracy + length":
            rewards = [baselines.accuracy_and_length_reward(c, len(r.ids), limit) for c, r in zip(correct, kept)]
        advantage = method.group_advantage(torch.tensor(rewards), group, eps=1e-4)
        if not self.summed(float(advantage.abs().sum())):
            self.skipped += 1
            return {}
        of, lengths, nll = {id(r): a for r, a in zip(kept, advantage.tolist())}, self.gathered([len(r.ids) for r in kept]), 0.0
        total = method.denominator(lengths, "seq")
        with self.gradients():
            for rows in self.micro_batches(kept):
                logp, mask = self.log_probs(self.model, problems, rows)  # one update a batch: its own old log-probabilities
                with torch.no_grad():
                    ref = self.log_probs(self.reference[0], problems, rows)[0] if self.beta else None
                gains = torch.tensor([of[id(r)] for r in rows] or [0.0], device=logp.device)
                loss = baselines.grpo_loss(logp, logp.detach(), gains, mask, total, "seq", ref_logp=ref, beta=self.beta)
                self.manual_backward(loss * self.scale())
                nll -= float(logp.detach()[mask].double().sum())
        return {"loss per token": self.summed(nll) / sum(lengths), "norm": self.step()}

    def _run(self):
        return super()._run() | {"beta": self.beta, "reward": self.reward}
