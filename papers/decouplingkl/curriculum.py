"""The entropy-gated length curriculum: training responses grow longer while the student stays undecided enough.

    ladder  L_0 < L_1 < ... < L_M      training lengths; a stage of so many optimiser steps on each
    gate    at a stage's end H, the student's mean predictive entropy on responses of its own to held-out prompts, at *full* length
            (early tokens have another entropy): go on to L_m+1 only if H >= H_min, or H >= H_min x H_0 with H_0 before training
    else    the ladder is at its end, and
            hold       training goes on as it is, at this length
            rollback   the weights are again those at the end of the last stage that passed, and its length; what the stage
                       that failed has done to them is undone. The optimiser's moments, which it made, are forgotten
            stop       training ends here

Without a stage that passed there is nothing to return to, and rollback holds. H_min 0 is a schedule by steps alone; H_min inf is
training at L_0. `Gate` decides and knows nothing of models; the callback below serves Lightning, and trl_backend.py has another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor

from common.errors import SetupError
from common.reasoning.rollouts import full

OnFail = Literal["rollback", "hold", "stop"]


@dataclass
class Gate:
    """ladder: lengths, growing. h_min: nats, or with `relative` a share of the entropy before training (`start`).

    max_at_cap: a second gate, ours: the largest share of held-out responses that run into the cap; None, the paper, has none.
    """

    ladder: tuple[int, ...]
    h_min: float
    relative: bool = True
    on_fail: OnFail = "rollback"
    max_at_cap: float | None = None
    start: float | None = None
    stage: int = 0
    closed: bool = False
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ladder = tuple(self.ladder)
        if not self.ladder or self.ladder[0] < 1 or any(a >= b for a, b in zip(self.ladder, self.ladder[1:])):
            raise ValueError(f"curriculum: ladder {list(self.ladder)}; give lengths of one token or more, each above the one before")
        if not self.h_min >= 0:
            raise ValueError(f"curriculum: h_min is {self.h_min}; it must be 0 (no gate) or more, inf for none to pass")
        if self.on_fail not in get_args(OnFail):
            raise ValueError(f"curriculum: on_fail is {self.on_fail!r}, not one of {', '.join(get_args(OnFail))}")

    @property
    def length(self) -> int:
        return self.ladder[self.stage]

    @property
    def open(self) -> bool:
        """Whether the end of this stage has anything to decide."""
        return not self.closed and self.stage + 1 < len(self.ladder)

    @property
    def threshold(self) -> float:
        """In nats. Raises ValueError if relative to an entropy that was not measured."""
        if not self.relative or self.h_min in (0, math.inf):
            return self.h_min
        if self.start is None:
            raise ValueError("curriculum: h_min is relative to the entropy before training, which is not known; measure it first (start)")
        return self.h_min * self.start

    def decide(self, entropy: float, step: int, at_cap: float | None = None) -> dict[str, Any]:
        """The decision at a stage's end, appended to `decisions` and acted on. ValueError for an entropy that is no number."""
        if not math.isfinite(entropy) or entropy < 0:
            raise ValueError(f"curriculum: the entropy at step {step} is {entropy}; the student has diverged")
        passed = entropy >= self.threshold and (self.max_at_cap is None or at_cap is None or at_cap <= self.max_at_cap)
        action = "advance" if passed else "hold" if self.on_fail == "rollback" and self.stage == 0 else self.on_fail
        row = {"step": step, "stage": self.stage, "length": self.length, "entropy": entropy, "threshold": self.threshold,
               "at_cap": at_cap, "passed": passed, "action": action}
        self.stage += {"advance": 1, "rollback": -1}.get(action, 0)
        self.closed = not passed
        self.decisions.append(row | {"next_length": self.length})
        return self.decisions[-1]


class EntropyGatedLength(L.Callback):
    """The curriculum of a `Distilling` training; it sets `module.length`.

    ladder, h_min, relative, on_fail, max_at_cap: see `Gate`. stage_steps: optimiser steps of a stage; None: the Trainer's steps shared
    out evenly. prompts, samples: of the held-out data (the validation problems), and responses to each. cap: their most tokens;
    None: the module's.
    """

    def __init__(self, ladder: list[int], h_min: float = 0.85, relative: bool = True, on_fail: OnFail = "rollback",
                 stage_steps: int | None = None, prompts: int = 64, samples: int = 1, cap: int | None = None,
                 max_at_cap: float | None = None):
        super().__init__()
        if min(prompts, samples, 1 if stage_steps is None else stage_steps, 1 if cap is None else cap) < 1:
            raise ValueError(f"curriculum: stage_steps {stage_steps}, prompts {prompts}, samples {samples}, cap {cap}; 1 or more of each")
        self.gate = Gate(tuple(ladder), h_min, relative, on_fail, max_at_cap)
        self.stage_steps, self.prompts, self.samples, self.cap = stage_steps, prompts, samples, cap
        self.passed: dict[str, Tensor] = {}  # the weights at the end of the last stage that passed

    @property
    def decisions(self) -> list[dict]:
        """One entry a stage's end: step, stage, length, entropy, threshold, at_cap, passed, action, next_length."""
        return self.gate.decisions

    def on_train_start(self, trainer, pl_module) -> None:
        if self.gate.ladder[-1] > pl_module.config.max_new_tokens:
            raise SetupError(f"curriculum: the ladder goes up to {self.gate.ladder[-1]} tokens, and model.config.max_new_tokens is "
                             f"{pl_module.config.max_new_tokens}; trajectories are made up to that, so raise it")
        if self.stage_steps is None:
            if trainer.max_steps < len(self.gate.ladder):
                raise SetupError(f"curriculum: trainer.max_steps is {trainer.max_steps} and the ladder has {len(self.gate.ladder)} stages; "
                                 "give more steps, or stage_steps")
            self.stage_steps = trainer.max_steps // len(self.gate.ladder)
        if self.gate.start is None and self.gate.relative:
            self.gate.start = self.measure(pl_module)["entropy"]
        pl_module.length = self.gate.length

    def measure(self, pl_module) -> dict[str, float]:
        problems = pl_module.trainer.datamodule.rows(1).problems[: self.prompts]
        return pl_module.measure(problems, self.samples, self.cap or pl_module.cap)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Before any checkpoint of this step, which Lightning's own callbacks write last."""
        if not self.gate.open or pl_module.done % (self.stage_steps or 1):
            return
        now = self.measure(pl_module)
        row = self.gate.decide(now["entropy"], pl_module.done, now["at_cap"])
        if row["action"] == "advance" and self.gate.on_fail == "rollback":
            self.passed = {name: full(p.detach()).cpu().clone() for name, p in pl_module.state_dict().items()}
        elif row["action"] == "rollback":
            self.restore(trainer, pl_module)
        elif row["action"] == "stop":
            trainer.should_stop = True
        pl_module.length = self.gate.length

    @torch.no_grad()
    def restore(self, trainer, pl_module) -> None:
        for name, value in pl_module.state_dict().items():
            whole = self.passed[name].to(value.device)
            if hasattr(value, "full_tensor"):
                from torch.distributed.tensor import distribute_tensor

                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            value.copy_(whole)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        gate = self.gate
        return {"ladder": list(gate.ladder), "h_min": gate.h_min, "relative": gate.relative, "on_fail": gate.on_fail,
                "max_at_cap": gate.max_at_cap, "start": gate.start, "stage": gate.stage, "closed": gate.closed,
                "decisions": [dict(row) for row in gate.decisions], "stage_steps": self.stage_steps, "passed": dict(self.passed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises SetupError for the checkpoint of another curriculum."""
        mine = self.state_dict()
        for name in ("ladder", "h_min", "relative", "on_fail", "max_at_cap"):
            if state_dict[name] != mine[name]:
                raise SetupError(f"This checkpoint was made with curriculum {name} = {state_dict[name]}; the config says {mine[name]}. "
                                 "Resume with the old value, or start anew without --ckpt_path.")
        self.gate.start, self.gate.stage, self.gate.closed = state_dict["start"], state_dict["stage"], state_dict["closed"]
        self.gate.decisions, self.stage_steps = [dict(row) for row in state_dict["decisions"]], state_dict["stage_steps"]
        self.passed = dict(state_dict["passed"])
