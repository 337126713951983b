"""What every experiment in the small does with a task: trains the arms from one stand-in, and streams unseen items under heads.

    start(task, seed)         the stand-in as it is, which has never seen a prefix
    run(task, seed, arm)      one arm: from the same weights, on the same items in the same order, for as many steps
    made(task, seed)          the stand-in of a seed that is not committed

An arm is which losses it has and which paths it sees. All are measured alike: with everything read; by wait-k; by heads, whose
thresholds come from calibration streams and whose scores on test streams are then what they are; by lots at the RCO of each point that
is judged; and by reading always. All are jobs: arguments in, JSON out (common/runs/jobs.py).

Calibration looks at answers as batch processing writes them, and at nothing that was written too soon: behind words that were guessed a
model is unsure whatever it reads, and a quantile of such scores would let it write anywhere.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from common.errors import RecordError
from common.models import ModelSpec
from common.seeds import seed_of
from common.training.fit import fit

from .. import baselines, heads
from ..baselines import Always, WaitK
from ..data import Generated, batch_of, units_of
from ..decoding import Looked, Streamed, decode, shown
from ..heads import Decide, Probe
from ..method import Law, forward, read_path
from ..module import ProactiveTraining
from ..scoring import auroc, earliest, operating, quality, scores
from ..standins import folder_of, standin
from ..tasks import FEATURES, Item, Task

RATE, LAM = 1e-3, 0.1
HEADS = ("entropy", "max-prob", "margin", "attention", "linear")
LEAST_CHANCE, NEAR, LOTS_TRIED = 0.005, 0.003, 9  # of lots: the smallest; how near an RCO is near enough; how many are tried for one
HALVINGS = 4  # between two thresholds, towards the latest operating point that is allowed
QUANTILE = 0.9  # of the paper's threshold
PATHS = 8  # of every calibration answer, whose prefixes a linear head learns from


@dataclass(frozen=True)
class Arm:
    """Weights of the losses (module.py), and the law of the paths, None: the task's (`How.law`); oracle: those that the labels say.
    k: of a model trained for wait-k."""

    batch: float = 1.0
    stream: float = 1.0
    lam: float = LAM
    law: str | None = None
    k: int = 1
    oracle: bool = False


FULL = Arm()
ARMS = {
    "full": FULL, "plain law": replace(FULL, law="multinomial"),
    "no distillation": replace(FULL, lam=0.0), "no MSLM": replace(FULL, stream=0.0),
    "batch only": replace(FULL, stream=0.0, lam=0.0), "MSLM only": replace(FULL, batch=0.0, lam=0.0),
    "labelled": Arm(0.0, 1.0, 0.0, oracle=True),
    "wait-1": Arm(0.0, 1.0, 0.0, "waitk", 1), "wait-3": Arm(0.0, 1.0, 0.0, "waitk", 3), "wait-5": Arm(0.0, 1.0, 0.0, "waitk", 5),
}


@dataclass(frozen=True)
class How:
    """How much is done on a task: steps of tuning, of `batch` items; calibration and test streams; thresholds; wait-k of the full model,
    and in other_ks of the others, None: the same; most: the largest RCO of an operating point; fewer: thresholds of the heads beside
    entropy that the full model is streamed by, and `heads` which; law: of the paths.

    Of a short answer whose end comes before the source's, the end has to be learnt on prefixes, too, which the paper's multinomial law
    never does (phi(L) = M: `analytic.vacuous`): there it is slack."""

    steps: int
    batch: int
    calibration: int
    test: int
    thresholds: tuple[float, ...]
    ks: tuple[float, ...]
    most: float
    fewer: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    stride: float = 1.0
    law: str = "multinomial"
    other_ks: tuple[float, ...] | None = None
    heads: tuple[str, ...] = HEADS


# -- training ----------------------------------------------------------------------------------------------
def made(task: str, seed: int) -> dict:
    """The stand-in of a seed beyond the committed ones: trained where the cache lacks it."""
    standin(task, seed)
    return {"task": task, "seed": seed, "committed": folder_of(task, seed).parent.parent.name == "standins"}


def trained(task: str, seed: int, name: str, how: How) -> tuple[nn.Module, nn.Module | None, float]:
    """(model, encoder, loss of the last steps) of an arm. Rows, paths and order are those of every arm of the seed."""
    arm, (loaded, encoder) = ARMS[name], standin(task, seed)
    module = ProactiveTraining(ModelSpec("in memory"), arm.batch, arm.stream, arm.lam, learning_rate=RATE, weight_decay=0.01, beta2=0.98,
                               warmup_steps=10, schedule="linear", features=FEATURES if encoder else None, seed=seed)
    module.loaded = loaded
    module.configure_model()
    if encoder:
        module.encoder.load_state_dict(encoder.state_dict())
    data = Generated(task, train_samples=how.steps * how.batch, first=10**6, law=arm.law or how.law, k=arm.k, oracle=arm.oracle,
                     language=seed, batch_size=how.batch, seed=seed + 1)
    losses = fit(module, data, how.steps)
    return module.model.eval(), module.encoder.eval() if encoder else None, sum(losses[-10:]) / len(losses[-10:])


def weights_hash(*modules: nn.Module | None) -> str:
    """sha256 of all weights: heads, thresholds and sweeps may not touch one."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()) if module else ():
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


# -- streaming ---------------------------------------------------------------------------------------------
class Streamer:
    """A model on the calibration and the test streams of its task."""

    def __init__(self, model: nn.Module, encoder: nn.Module | None, task: Task, how: How):
        self.model, self.task, self.how = model, task, how
        self.join = encoder.join if encoder is not None else None
        self.calibration, self.test = task.items(how.calibration, "calibration"), task.items(how.test, "test")

    def streams(self, items: Sequence[Item], policy: heads.Policy, **options) -> list[Streamed]:
        return decode(self.model, [item.example for item in items], policy, self.task.boundary, self.task.longest, self.join, **options)

    def row(self, items: Sequence[Item], policy: heads.Policy, **options) -> dict[str, Any]:
        found = scores(self.task, self.streams(items, policy, **options), items)
        del found["right"]
        if self.task.spoken:
            found.setdefault("AIL s", 0.0)  # where no stream had an answer, as AIL itself
        return found

    @functools.cached_property
    def whole(self) -> tuple[list[Streamed], Probe]:
        """Calibration streams as batch processing answers them, and the probes of all their decisions."""
        record: list[Looked] = []
        streams = self.streams(self.calibration, Everything(False), record=record)
        return streams, flat(record)


class Everything(Always):
    """Reads all first, and shows all that heads look at."""

    needs = frozenset({"hidden", "attention"})


def flat(record: Sequence[Looked], last: bool = False) -> Probe:
    """Probes (n, ...) of the real slots; last: of the last ones of each row alone, which have everything read."""
    parts: list[list[torch.Tensor]] = [[] for _ in Probe._fields]
    for step in record:
        which = step.real.clone()
        if last:
            end = step.real.int().cumsum(1).argmax(1)
            which[:] = False
            which[torch.arange(len(end)), end] = True
            which &= step.real
        for part, value in zip(parts, step.probe):
            if value is not None:
                part.append(value[which])
    return Probe(*(torch.cat(part) if part else None for part in parts))


class Prefixes(NamedTuple):
    """Decisions (n,) of calibration streams at prefixes. hidden (n, width); same: whether the likeliest token is the one that is written
    with everything read; read: units; unit: of the answer, from 0; stream: its place."""

    hidden: torch.Tensor
    same: torch.Tensor
    read: torch.Tensor
    unit: torch.Tensor
    stream: torch.Tensor


@torch.no_grad()
def prefixes(streamer: Streamer, seed: int) -> Prefixes:
    """What a linear head learns from: the answers of batch processing along PATHS paths each, in which every number of units read is as
    likely; no label, no timing. Answers that do not end are left out."""
    kept = [(at, answered(item, out)) for at, (item, out) in enumerate(zip(streamer.calibration, streamer.whole[0])) if not out.truncated]
    examples, parts = [example for _, example in kept], []
    for number in range(PATHS):
        draws = [random.Random(seed_of("prefixes", seed, number, at)) for at, _ in kept]
        paths = [[max(phi, 1) for phi in read_path(Law("sorted"), *units_of(e), draw)] for e, draw in zip(examples, draws)]
        batch, features = batch_of(examples, paths)
        if features is not None:
            batch = batch._replace(source=streamer.join(batch.source, features, streamer.model.get_input_embeddings()))
        with shown(streamer.model, frozenset({"hidden"})) as seen:
            logits = forward(streamer.model, batch)
        logits[..., list(streamer.task.boundary.banned)] = float("-inf")
        hidden, token = seen["hidden"][:, -logits.shape[1] :], logits.argmax(-1)
        for row, ((at, example), path) in enumerate(zip(kept, paths)):
            begin = torch.tensor(example.target_units[:-1]).cumsum(0)
            parts.append((hidden[row, begin - 1], token[row, begin - 1] == example.target[begin], torch.tensor(path),
                          torch.arange(len(path)), torch.full((len(path),), at)))
    return Prefixes(*(torch.cat(part) for part in zip(*parts)))


def answered(item: Item, out: Streamed):
    """The item's source with the answer that the model gave it."""
    example, stop = item.example, item.example.target[-1:]
    target = torch.cat([example.target[: example.target_units[0]], torch.tensor(out.tokens, dtype=stop.dtype), stop])
    return replace(example, target=target, target_units=(example.target_units[0], *map(len, out.units), 1))


def head_of(name: str, streamer: Streamer, seed: int) -> heads.Head:
    """The head, learnt from calibration prefixes where it learns: without timing, from the model's own answer with everything read."""
    if name != "linear":
        return heads.HEADS[name]()
    found = prefixes(streamer, seed)
    head = heads.Linear(found.hidden.shape[-1])
    head.fit(found.hidden, found.same)
    return head


def labelled_head(streamer: Streamer, seed: int) -> heads.Head:
    """The rival's: a linear head that is told, at each of the same prefixes, whether the evidence of the unit had been read."""
    found = prefixes(streamer, seed)
    oracles = [item.oracle for item in streamer.calibration]
    enough = torch.tensor([oracles[at][min(unit, len(oracles[at]) - 1)] for at, unit in zip(found.stream.tolist(), found.unit.tolist())])
    head = heads.Linear(found.hidden.shape[-1])
    head.fit(found.hidden, found.read >= enough)
    return head


def swept(streamer: Streamer, head: heads.Head, thresholds: Sequence[float]) -> dict[str, Any]:
    """{"threshold", "calibration": rows, "test": rows, "chosen": place of the operating point, "early": of the least context that keeps
    KEPT of the quality with everything read, "keeps": whether any does}; all by calibration streams.

    The thresholds are a sweep of 0 .. 1; the head's own `latest`, for scores of two heads are no common scale, and the same few numbers
    may leave one of them far from all the context that it is allowed; and last the one at QUANTILE of the scores of all decisions of batch
    processing, the paper's main setting (README, D4)."""
    calibration: dict[float, dict[str, Any]] = {}

    def tried(threshold: float) -> dict[str, Any]:
        if threshold not in calibration:
            calibration[threshold] = streamer.row(streamer.calibration, Decide(head, threshold))
        return calibration[threshold]

    quantile = heads.threshold(head.score(streamer.whole[1]), QUANTILE)
    own = latest(tried, [*thresholds, quantile], streamer.how.most)
    found: dict[str, Any] = {"threshold": [*thresholds, own, quantile]}
    found["calibration"] = [tried(threshold) for threshold in found["threshold"]]
    found["test"] = [streamer.row(streamer.test, Decide(head, threshold)) for threshold in found["threshold"]]
    whole = quality(streamer.task, streamer.whole[0], streamer.calibration)["quality"]
    early, keeps = earliest(found["calibration"], whole)
    return found | {"chosen": operating(found["calibration"], streamer.how.most), "early": early, "keeps": keeps}


def latest(tried: Callable[[float], dict[str, Any]], thresholds: Sequence[float], most: float) -> float:
    """The strictest threshold at which calibration streams (`tried`) have an RCO of at most `most`: between those that are given, by
    HALVINGS. 0 where even that is later."""
    low = max((t for t in thresholds if tried(t)["RCO"] <= most), default=0.0)
    high = min((t for t in thresholds if t > low), default=1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if tried(middle)["RCO"] <= most else (low, middle)
    return low


class Lots:
    """A policy that looks at nothing, at the RCO of any point: {chance: its RCO on calibration streams}, as far as it was asked for."""

    def __init__(self, streamer: Streamer, seed: int):
        self.streamer, self.seed, self.tried = streamer, seed, dict[float, float]()

    def rco(self, chance: float) -> float:
        if chance not in self.tried:
            self.tried[chance] = self.streamer.row(self.streamer.calibration, baselines.Random(chance, self.seed))["RCO"]
        return self.tried[chance]

    def at(self, rco: float) -> dict[str, Any]:
        """Test scores of lots that read as much of the calibration streams as a point there, within NEAR or as near as LOTS_TRIED halvings
        of the chance's logarithm come: {..., "chance", "calibration RCO": theirs, "matched to": rco}."""
        low, high, near = LEAST_CHANCE, 1.0, list[float]()
        for _ in range(LOTS_TRIED):
            near.append(chance := (low * high) ** 0.5)
            if abs(self.rco(chance) - rco) <= NEAR:
                break
            low, high = (chance, high) if self.rco(chance) > rco else (low, chance)
        chance = min(near, key=lambda p: abs(self.rco(p) - rco))
        return self.streamer.row(self.streamer.test, baselines.Random(chance, self.seed + 1)) | {
            "chance": chance, "calibration RCO": self.rco(chance), "matched to": rco}


def sufficiency(streamer: Streamer, items: Sequence[Item], head: heads.Head | None = None) -> float:
    """AUROC of a head's score of the first unit, over all that can be read, against whether its evidence has been read (spec 5.1)."""
    record: list[Looked] = []
    policy = baselines.Random(0.0)
    streamer.streams(items, policy, record=record)
    first = record[0]
    score = (head or heads.Entropy()).score(first.probe)
    oracle = torch.tensor([item.oracle[0] for item in items])[:, None]
    return auroc(score[first.real].tolist(), (first.probe.read >= oracle)[first.real].tolist())


def lots_of(found: dict[str, Any], lots: Lots) -> dict[str, Any]:
    """{"random": lots at the entropy head's operating point, "lots": {another head: at its own, "early": at entropy's `early`}}, each with
    the RCO that its point has on calibration streams."""
    def at(sweep: dict[str, Any], point: str) -> dict[str, Any]:
        return lots.at(sweep["calibration"][sweep[point]]["RCO"])

    return {"random": at(found["entropy"], "chosen"),
            "lots": {name: at(sweep, "chosen") for name, sweep in found["heads"].items()} | {"early": at(found["entropy"], "early")}}


# -- a job -------------------------------------------------------------------------------------------------
def measured(model: nn.Module, encoder: nn.Module | None, task: Task, how: How, seed: int, all_heads: bool,
             more: Callable[[Streamer], dict] = lambda streamer: {}) -> dict[str, Any]:
    """All that is asked of a model. Raises RecordError if a weight moved meanwhile."""
    before, streamer = weights_hash(model, encoder), Streamer(model, encoder, task, how)
    read_all = streamer.streams(streamer.test, Always(False))
    found: dict[str, Any] = {"batch": {k: v for k, v in scores(task, read_all, streamer.test).items() if k != "right"},
                             "auroc": sufficiency(streamer, streamer.test),
                             "entropy": swept(streamer, heads.Entropy(), how.thresholds)}
    for k in how.ks if all_heads or how.other_ks is None else how.other_ks:
        found.setdefault("wait", {})[f"{k:g}"] = streamer.row(streamer.test, WaitK(k, how.stride))
    if all_heads:
        found["heads"] = {name: swept(streamer, head_of(name, streamer, seed), how.fewer) for name in how.heads if name != "entropy"}
        found |= lots_of(found, Lots(streamer, seed))
        always = streamer.streams(streamer.test, Decide(heads.Entropy(), float("inf")))
        found["always read"] = {"differs": sum(a.tokens != b.tokens for a, b in zip(always, read_all)),
                                "probes": sum(s.probes for s in always)}
    found |= more(streamer)
    found["weights"] = [before, weights_hash(model, encoder)]
    if found["weights"][0] != found["weights"][1]:
        raise RecordError(f"{task.name}: a sweep over heads changed the weights")
    return found
