"""What each training of a paper's runs is made of, as text: every job runs until its Trainer would begin, on its own weights and at its
default size. A paper's test_listed.py holds the text: that the arms of a seed share a recipe, and in what they differ, is read there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module

from common.runs.experiment import Experiment
from tests.listing import SIZE

# What Lightning keeps on its objects, and how a run is shown.
INNER = {"training", "prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices", "trainer", "skipped_steps",
         "num_workers"}
SHOWN = {"logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "limit_val_batches", "default_root_dir",
         "accelerator", "devices"}


class Begun(Exception):
    """facts: {"lr": 0.1, "data.seed": 0, "Trainer.max_steps": 5, ...} of the training."""

    def __init__(self, facts: dict):
        self.facts = facts


def recipes(experiments: Sequence[Experiment], functions: Sequence[str], monkeypatch, seed: int = 1) -> str:
    """A paragraph for each pair of classes (of the training and its data): what all of its trainings share, then by job what they do not.

    functions: "module.function" of the jobs that train. seed: of these jobs, not 0, so that one which is left out shows. Raises
    AssertionError where one of them ends without a training."""
    import lightning

    class Trainer:
        def __init__(self, **options):
            self.options = options

        def fit(self, module, data=None, **options):
            raise Begun({"of": f"{type(module).__name__} on {type(data).__name__}", **plain(module), **plain(data, "data."),
                         **{f"Trainer.{name}": value for name, value in self.options.items() if value_of(value) and name not in SHOWN}})

    monkeypatch.setattr(lightning, "Trainer", Trainer)
    found: dict[str, dict[str, dict]] = {}
    for of in experiments:
        for job in [*of.jobs(SIZE), *(of.then(SIZE, of.example) if of.then else ())] if of.jobs and not of.data else ():
            module, _, function = job.function.partition(":")
            if f"{module.rpartition('.')[2]}.{function}" in functions and job.arguments.get("seed", seed) == seed:
                facts = begun(getattr(import_module(module), function), job.arguments)
                assert facts, f"{job.name}: no training"
                found.setdefault(facts.pop("of"), {})[job.name] = facts
    return "\n".join(row for kind, trainings in found.items() for row in paragraph(kind, trainings))


def begun(function, arguments: dict) -> dict:
    try:
        function(**arguments)
    except Begun as training:
        return training.facts
    return {}


def plain(thing, before: str = "") -> dict:
    """What an object says of itself, and what its settings do (fields of a dataclass that it holds)."""
    found = {}
    for name, value in vars(thing).items():
        if dataclasses.is_dataclass(value) and name == "config":
            found |= plain(value, f"{before}{name}.")
        elif not name.startswith("_") and name not in INNER and value_of(value):
            found[f"{before}{name}"] = value
    return found


def value_of(value) -> bool:
    """Whether it says what it is by itself; that nothing is given (None, False) is not said."""
    if type(value) in (list, tuple):
        return 0 < len(value) < 12 and all(of is None or isinstance(of, int | float | str) for of in value)
    return isinstance(value, int | float | str) and value is not False or type(value) is range


def paragraph(kind: str, trainings: dict[str, dict]) -> list[str]:
    first = next(iter(trainings.values()))
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in trainings.values())}
    rows = [f"{kind}: {said(shared)}"]
    for name, facts in trainings.items():
        own = {key: value for key, value in facts.items() if key not in shared}
        rows += [f"{name}: {said(own)}"] if own else [f"{name}: no more"]
    return rows


def said(facts: dict) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in facts.items())
