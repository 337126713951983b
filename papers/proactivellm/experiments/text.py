"""The claims in the small, on text: questions whose evidence lies anywhere, and translation with look-ahead.

Per seed two stand-ins of 165,000 parameters, trained on whole streams (standins.py), are tuned by every arm from the same weights on
the same items, and stream unseen ones. Questions ask where order does not help: evidence comes anywhere, so no fixed rule can know when
it is there. Translation asks where it nearly does: word by word, but for verbs that wait for a particle. With revisions an early clue
may be overturned: one more arm learns that, and is streamed at a loose and a strict threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.runs.jobs import Job
from common.seeds import asked

from .. import baselines, heads
from ..standins import COMMITTED, TASK_OF, standin
from ..tasks import Task, overturned
from . import arms
from .arms import How, Streamer

QA = ("full", "plain law", "no distillation", "no MSLM", "batch only", "MSLM only", "labelled")
MT = ("full", "batch only", "wait-1", "wait-3", "wait-5")
REENCODED = (1, 3, 5)  # wait-k of the stand-in with the whole answer encoded again at every step


QA_KS = (1, 3, 5, 9, 12, 13, 14, 15, 16, 17, 18, 20)  # every k about an RCO of .75 of 24 units: the best that reads no more is among them


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    qa: How
    mt: How
    job_seconds: float


SIZES = {
    "smoke": Size((0,), qa=How(1, 4, 4, 4, (0.5,), (9,), 0.78, (0.9,), law="slack"),
                  mt=How(1, 4, 3, 3, (0.9,), (1, 3, 5), 0.78, ()), job_seconds=1),
    "cpu": Size(asked(), qa=How(150, 32, 96, 128, (0.5, 0.7, 0.8, 0.9, 0.95, 0.98), QA_KS, 0.75, law="slack", other_ks=()),
                mt=How(150, 32, 32, 48, (0.5, 0.7, 0.9, 0.98), (1, 2, 3, 4, 5, 6, 7, 8), 0.75, (0.3, 0.6, 0.9), other_ks=(1, 3, 5),
                       heads=("entropy", "attention")),
                job_seconds=60),
}


def how_of(task: str, size: str) -> How:
    return SIZES[size].mt if task == "mt" else SIZES[size].qa


def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    of, found = SIZES[size], []

    def job(name: str, function: str, seconds: float, after: tuple[str, ...] = (), **arguments) -> None:
        found.append(Job(name, f"{__name__}:{function}", arguments, seconds=min(seconds, of.job_seconds), after=after))

    for seed in of.seeds:
        for task, names in (("qa", QA), ("revised", ("full",)), ("mt", MT)):
            after: tuple[str, ...] = ()
            if seed not in COMMITTED[TASK_OF.get(task, task)]:
                base = TASK_OF.get(task, task)
                after = (f"{base}/made/seed{seed}",)
                if task != "revised":
                    job(after[0], "made", 150, task=base, seed=seed)
            if task != "revised":
                job(f"{task}/start/seed{seed}", "start", 8, after, task=task, seed=seed, size=size)
            for name in names:
                job(f"{task}/{name}/seed{seed}", "run", 22, after, task=task, seed=seed, arm=name, size=size)
    return found


made = arms.made


def start(task: str, seed: int, size: str = "cpu") -> dict:
    """The stand-in, which has seen whole streams alone; on translation also by encoding its answer again at every step."""
    (loaded, encoder), how = standin(task, seed), how_of(task, size)

    def reencoded(streamer: Streamer) -> dict:
        if task != "mt":
            return {}
        return {"reencoded": {str(k): streamer.row(streamer.test, baselines.WaitK(k), reencode=True) for k in REENCODED}}

    return {"model": loaded.source} | arms.measured(loaded.model, encoder, Task(task, seed), how, seed, False, reencoded)


def run(task: str, seed: int, arm: str, size: str = "cpu") -> dict:
    """One arm of a task."""
    how = how_of(task, size)
    model, encoder, loss = arms.trained(task, seed, arm, how)
    if arm.startswith("wait-"):  # what a model trained for one k is for
        streamer = Streamer(model, encoder, Task(task, seed), how)
        return {"loss": loss, "own": streamer.row(streamer.test, baselines.WaitK(arms.ARMS[arm].k))}

    def more(streamer: Streamer) -> dict:
        found = {}
        if arm == "labelled":
            found["labelled"] = arms.swept(streamer, arms.labelled_head(streamer, seed), how.fewer)
        if task == "revised":
            found["revisions"] = revisions(streamer)
        return found

    return {"loss": loss} | arms.measured(model, encoder, Task(task, seed), how, seed, arm == "full" and task != "revised", more)


def revisions(streamer: Streamer) -> dict:
    """{"overturned", "plain": {"loose", "strict": row}}: test streams in which an early clue is overturned, and the others, with the
    entropy head at the loosest and at the strictest of the thresholds."""
    policies = {name: heads.Decide(heads.Entropy(), of(streamer.how.thresholds)) for name, of in (("strict", max), ("loose", min))}
    kinds = {"overturned": [item for item in streamer.test if overturned(item)],
             "plain": [item for item in streamer.test if not overturned(item)]}
    return {kind: {name: streamer.row(items, policy) for name, policy in policies.items()} for kind, items in kinds.items() if items}
