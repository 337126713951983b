"""A Lightning training on the model's own samples, on any number of ranks; what is learnt from them is a paper's `update`.

A step takes P problems, samples G responses to each from the very weights that will be updated, grades them, and learns:

    rollouts           each rank samples for its problems what one process would have sampled for them
    update             the paper's: one optimiser step or several, made of the parts below
    micro_batches      rows of about one length together, as many micro-batches on every rank, the last ones blank
    gradients, scale   gradients are summed over ranks once, whatever each of them had to give
    step               clipping, optimiser, schedule
    gathered, summed   what all ranks have

Losses are sums over the whole optimiser step divided by one number, whatever the micro-batches and the processes. What is
sampled follows from (seed, step, place of the problem in the step) alone: two processes sample what one would, and a run
that was killed goes on as if unbroken. An update without anything to learn from moves nothing, and is counted.

Who samples: the model itself; a whole copy in another precision (`sample_dtype`), for weights in shards (FSDP2) or in fp32
for the optimiser's sake; or vLLM (`engine`). The copies take the weights anew before every sampling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import Field, asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from ..errors import SetupError
from ..files import write_json
from ..models import ModelSpec, load
from ..seeds import seed_of
from ..training.module import OneRun
from .probe import check_model
from .rollouts import Rollout, check_positions, full, refresh, sample, whole_copy

if TYPE_CHECKING:
    from .engine import VllmSampler


class StepConfig(Protocol):
    """What a step is; a paper's config is a dataclass with these entries and its own."""

    __dataclass_fields__: ClassVar[dict[str, Field]]  # what every dataclass has
    prompts_per_step: int  # P, over all processes
    rollouts_per_prompt: int  # G
    max_new_tokens: int
    temperature: float
    micro_batch_size: int  # responses
    lr: float
    grad_clip: float
    warmup_steps: int


class SampledTraining(OneRun):
    """model: to start from. config: of the paper. betas, weight_decay: AdamW's. seed: of all sampling.

    samples, cap: responses to each validation problem, and the most tokens of one. sample_dtype: of a whole copy of the
    model that samples and answers, on each process; shards need it, since each rank samples until its own rows are done.
    engine: options of vllm.LLM, to sample by vLLM on each process' own GPU. given: a model in memory, in place of `model`.
    The data module grades: grade(problems, rollouts) -> list[bool], and names the tokens that `end` a response; a batch is
    {"problems", "first": place of the first of them in its step}, a problem has a `prompt` of token ids.
    """

    SETTINGS = ("betas", "weight_decay")

    def __init__(self, model: ModelSpec, config: StepConfig, betas: tuple[float, float] = (0.9, 0.999),
                 weight_decay: float = 0.01, samples: int = 4, cap: int = 32768, gradient_checkpointing: bool = False,
                 sample_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
                 engine: dict[str, Any] | None = None, seed: int = 1):
        super().__init__()
        self.automatic_optimization = False
        self.spec, self.config, self.betas, self.weight_decay = model, config, tuple(betas), weight_decay
        self.samples, self.cap, self.gradient_checkpointing, self.seed = samples, cap, gradient_checkpointing, seed
        self.engine, self.sample_dtype = engine, sample_dtype
        self.sampler: VllmSampler | None = None
        self.given: tuple[nn.Module, Any, dict] | None = None
        self.model: Any = None  # the nn.Module that is trained, from configure_model on
        self.tokenizer, self.source = None, {}
        self._copy: list[nn.Module] = []  # in a list, as all models beside the trained one: neither trained nor saved
        self.done, self.skipped = 0, 0  # steps, with those that moved nothing; updates that moved nothing
        self.history: list[dict] = []

    # -- what a paper writes ---------------------------------------------------------------------
    def update(self, problems: list, rollouts: list[Rollout], correct: list[bool]) -> dict[str, float]:
        """Learns from the responses to this rank's problems, all ranks together. Returns facts for the log, the same on
        every rank; "loss per token" is also shown as the loss. `skip()` is what an update returns that moves nothing."""
        raise NotImplementedError

    def score(self, model: nn.Module, problems: list) -> list[dict]:
        """{"correct": [bool], "lengths": [int]} of `samples` responses to each validation problem, `cap` tokens at most."""
        raise NotImplementedError

    def keep_start(self) -> None:
        """For methods that need the starting weights: called when they are loaded, and before they are put in shards."""

    def rollout_model(self) -> nn.Module:
        """The weights that rollouts are sampled from. All ranks call it together."""
        return self.sampling_model() if self.sampler is None else self.model  # an engine makes its own copy

    # -- building --------------------------------------------------------------------------------
    def configure_model(self) -> None:
        if self.model is not None:
            return
        if self.given is None:
            loaded = load(self.spec)
            self.given = loaded.model, loaded.tokenizer, loaded.source
        self.model, self.tokenizer, self.source = self.given
        self.warn_unpinned(self.spec.revision if self.spec else None)
        check_model(self.model)
        self.model.train()
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.keep_start()
        if self.device_mesh is not None:
            self._shard()

    def _shard(self) -> None:
        """FSDP2: every block in shards, and what is around the blocks."""
        from torch.distributed.fsdp import fully_shard

        if self.sample_dtype is None and self.engine is None:
            raise SetupError("model: weights in shards cannot sample, for each process samples until its own responses are "
                             "done; set model.init_args.sample_dtype (bfloat16), or an engine")
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
        self.check_lengths(self.model)
        if self.engine is not None and self.sampler is None:
            from .engine import VllmSampler

            try:
                pinned = {"revision": self.spec.revision} if self.spec.revision else {}
                self.sampler = VllmSampler(self.spec.name, **pinned | self.engine)
            except ImportError as error:
                raise SetupError(f"model.engine: {error}") from error

    def check_lengths(self, model: nn.Module) -> None:
        """ModelError before the first step where a problem leaves no room for its response, and not when its turn comes. model: one that
        samples or reads."""
        data = self.trainer.datamodule
        asked = [(0, self.config.max_new_tokens)] + ([(1, self.cap)] if self.trainer.limit_val_batches and model is self.model else [])
        for which, tokens in asked:
            check_positions(model, max((len(p.prompt) for p in data.rows(which).problems), default=0), tokens)

    # -- a step ----------------------------------------------------------------------------------
    def training_step(self, batch: dict, batch_idx: int) -> None:
        problems = batch["problems"]
        rollouts = self.rollouts(problems, batch["first"])
        correct = self.trainer.datamodule.grade(problems, rollouts)
        self.note(rollouts, correct, self.update(problems, rollouts, correct))
        self.done += 1

    def rollouts(self, problems: list, first: int) -> list[Rollout]:
        """G responses to each of this rank's problems; `first` is the place of the first of them in the step."""
        config, generator = self.config, torch.Generator().manual_seed(seed_of("rollouts", self.seed, self.done))
        count = config.rollouts_per_prompt
        if first:  # the random numbers of the problems before, which are other ranks'
            torch.randint(-(2**63), 2**63 - 1, (first * count,), generator=generator)
        how = dict(end=self.trainer.datamodule.end, temperature=config.temperature, generator=generator)
        prompts, model = [p.prompt for p in problems], self.rollout_model()
        if self.sampler is not None:
            self.sampler.load(model)
            return self.sampler.sample(prompts, count, config.max_new_tokens, **how)
        return sample(model, prompts, count, config.max_new_tokens, **how)

    def skip(self) -> dict[str, float]:
        """Counts an update in which no rank had anything to learn from; there are no facts of it."""
        self.skipped += 1
        return {}

    def note(self, rollouts: list[Rollout], correct: list[bool], facts: dict[str, float]) -> None:
        """A row of `history`, over all ranks and all responses: a pass rate after a filter would always be one."""
        lengths, cut = self.gathered([len(r.ids) for r in rollouts]), self.gathered([not r.finished for r in rollouts])
        count = len(lengths)
        row = {"step": self.done, "right": sum(self.gathered(correct)) / count, "length": sum(lengths) / count,
               "cut": sum(cut) / count, **facts}
        self.history.append(row)
        shown = {f"train/{name.replace(' ', '_')}": float(value) for name, value in row.items() if name != "step"}
        self.log_dict(shown | {"train/skipped": float(self.skipped)}, batch_size=1)
        loss = float(row.get("loss per token", "nan"))
        self.log("train/loss", loss, prog_bar=True, logger=False, batch_size=1)  # on the screen; the log has it above

    # -- parts of an update ----------------------------------------------------------------------
    def micro_batches(self, kept: list[Rollout]) -> list[list[Rollout]]:
        """Rows of about one length together; as many micro-batches on every rank, the last ones blank."""
        size, rows = self.config.micro_batch_size, sorted(kept, key=lambda r: len(r.ids))
        cut = [rows[i : i + size] for i in range(0, len(rows), size)]
        return cut + [[]] * (max(self.gathered([len(cut)])) - len(cut))

    @contextlib.contextmanager
    def gradients(self) -> Iterator[None]:
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
        """What a loss is multiplied by: sharded strategies average gradients over ranks, and ours are parts of a sum."""
        return 1 if self.trainer.world_size == 1 or hasattr(self.trainer.model, "no_sync") else self.trainer.world_size

    def step(self) -> float:
        """Clips, updates, forgets the gradients; returns their norm before clipping."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        torch.clear_autocast_cache()  # within a step autocast keeps its casts of the weights, and these are new
        schedule.step()
        return float(full(norm))

    def gathered(self, values: list) -> list:
        """The lists of all ranks, one after the other."""
        if self.trainer.world_size == 1:
            return list(values)
        lists: list = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(lists, list(values))
        return [value for part in lists for value in part]

    def summed(self, value: float) -> float:
        return sum(self.gathered([value]))

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
        model = self.sampling_model()
        rows = self.gathered(self.score(model, self._held_out) if self._held_out else [])
        scores = {"val/avg": sum(sum(r["correct"]) / len(r["correct"]) for r in rows) / len(rows),
                  "val/pass": sum(any(r["correct"]) for r in rows) / len(rows),
                  "val/tokens": sum(sum(r["lengths"]) / len(r["lengths"]) for r in rows) / len(rows)}
        self.log_dict(scores, prog_bar=True, batch_size=1)

    # -- files -----------------------------------------------------------------------------------
    def run_facts(self) -> dict[str, Any]:
        """As OneRun's, the config entry by entry, and without the number of steps: nothing here depends on it, so that a run
        may be made longer."""
        facts = super().run_facts()
        del facts["max_steps"]
        return facts | asdict(self.config)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[self.PAPER] |= {"done": self.done, "skipped": self.skipped, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint[self.PAPER]
        self.done, self.skipped, self.history = stored["done"], stored["skipped"], stored["history"]

    def on_train_end(self) -> None:
        """Writes the product to trainer.default_root_dir/model, in the hub's format."""
        if not self.keeps_product():
            return
        whole = {name: full(p.detach()).cpu() for name, p in self.model.state_dict().items()}  # of shards: all ranks together
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "model"
            self.model.save_pretrained(folder, state_dict=whole)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            write_json(folder / "training.json", self.run_facts() | self.product_facts())

    def product_facts(self) -> dict[str, Any]:
        """What a product says of itself beside `run_facts`."""
        return {"steps": self.done, "skipped": self.skipped, "trained_from": self.source.get("name"),
                "revision": self.source.get("revision")}
