"""Jobs and recipes as text: on a toy paper's runs; what is left to a default, what comes twice, and what trains nothing is an error."""

from types import SimpleNamespace

import pytest

from common.runs.experiment import Experiment
from common.runs.jobs import Job
from tests import listing, recipes

HERE = __name__


def train(seed, rate=0.1, size="cpu"):
    import lightning

    data = SimpleNamespace(seed=seed + 1, rows=[1, 2], inner=[[1], [2]], _hidden=3, trainer=None, none=None)
    module = SimpleNamespace(rate=rate, seed=seed, off=False, training=True)
    lightning.Trainer(max_steps=5, logger=False, precision="32-true").fit(module, data)


def nothing(seed, size="cpu"):
    return seed


def job(name, function, **arguments):
    return Job(name, f"{HERE}:{function}", arguments, after=("first/seed1",) if "seed" in arguments else ())


def of(*jobs, **more):
    return Experiment("toy", "cpu", jobs=lambda size: jobs, **more)


def test_jobs_that_differ_in_their_seed_share_a_line_and_all_others_have_their_own(monkeypatch):
    module = HERE.rpartition(".")[2]
    jobs = [job(f"arm/seed{seed}", "train", seed=seed, rate=rate, size="cpu") for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.5))]
    text = listing.listed([of(*jobs), Experiment("exact", "analytic")], monkeypatch)
    assert text.splitlines() == ["toy:", f"arm/seed* [0] {module}.train(rate=0.1) < first/seed1",
                                 f"arm/seed* [1] {module}.train(rate=0.1) < first/seed*",
                                 f"arm/seed* [2] {module}.train(rate=0.5) < first/seed1"]
    assert listing.unwrapped(listing.wrapped(text + " of a" * 60)) == text + " of a" * 60


@pytest.mark.parametrize("jobs, error", [
    ([job("a", "train", seed=0)], "default"), ([job("a", "train", seed=0, size="smoke")], "default"),
    ([job("a", "nothing", seed=0, rate=1, size="cpu")], "takes seed, size"),
    ([job("a", "train", seed=0, size="cpu"), job("a", "nothing", seed=0, size="cpu")], "two jobs of one name")])
def test_what_a_job_leaves_open_is_an_error(jobs, error, monkeypatch):
    with pytest.raises(AssertionError, match=error):
        listing.listed([of(*jobs)], monkeypatch)


def test_a_recipe_is_what_trainings_share_and_what_each_has_of_its_own(monkeypatch):
    name = f"{HERE.rpartition('.')[2]}.train"
    arms = (("a", 0.1), ("b", 0.5))
    jobs = [job(f"{arm}/seed{seed}", "train", seed=seed, rate=rate, size="cpu") for arm, rate in arms for seed in (0, 1)]
    assert recipes.recipes([of(*jobs)], [name], monkeypatch).splitlines() == [
        "SimpleNamespace on SimpleNamespace: seed=1, data.seed=2, data.rows=[1, 2], Trainer.max_steps=5, Trainer.precision='32-true'",
        "a/seed1: rate=0.1", "b/seed1: rate=0.5"]
    with pytest.raises(AssertionError, match="c/seed1: no training"):
        recipes.recipes([of(job("c/seed1", "nothing", seed=1, size="cpu"))], [name.replace("train", "nothing")], monkeypatch)
