"""Ridge probes against the textbook's formula, hard scenes as they are asked about, and what a probe must not know."""

import numpy as np
import pytest
import torch

from common.data import scenes

from .. import probing
from ..experiments import probes


def drawn(n, width, seed):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_layers_side_by_side_are_the_sum_of_their_grams():
    a, b, at, bt = (drawn(12, 5, s) for s in range(4))
    parts = [probing.grams(*probing.standardised(x, {"t": y})) for x, y in ((a, at), (b, bt))]
    joint = torch.cat([probing.standardised(x, {})[0] for x in (a, b)], 1)
    both = probing.total(parts)
    torch.testing.assert_close(both.train, joint @ joint.T)
    assert both.tests["t"].shape == (12, 12)


def test_a_ridge_is_the_closed_form_with_the_strength_of_leaving_one_out(monkeypatch):
    x, t = drawn(30, 4, 0), drawn(20, 4, 1)
    labels = (x[:, 0] + 0.3 * drawn(30, 1, 2)[:, 0] > 0).long()
    monkeypatch.setattr(probing, "STRENGTHS", (0.05, 5.0))
    x, tests = probing.standardised(x, {"t": t})
    gram = probing.grams(x, tests)
    target = torch.nn.functional.one_hot(labels).double()
    mean, best = target.mean(0), None
    scale = torch.linalg.eigvalsh(gram.train).clamp(min=0).mean()
    for strength in probing.STRENGTHS:
        penalty = strength * scale
        right = 0
        for i in range(30):  # left out by hand, the mean kept
            keep = torch.arange(30) != i
            w = torch.linalg.solve(x[keep].T @ x[keep] + penalty * torch.eye(4), x[keep].T @ (target[keep] - mean))
            right += int((x[i] @ w + 0 * mean - (0 * mean)).add(mean).argmax() == labels[i])
        w = torch.linalg.solve(x.T @ x + penalty * torch.eye(4), x.T @ (target - mean))
        if best is None or right > best[0]:
            best = right, (tests["t"] @ w + mean).argmax(1)
    wanted = best[1].tolist()
    assert probing.Ridge(gram).accuracies(labels.tolist(), {"t": wanted})["t"] == 1.0


def test_one_view_three_times_is_that_view():
    x, t = drawn(25, 6, 0), drawn(10, 6, 1)
    gram, labels = probing.grams(*probing.standardised(x, {"t": t})), [i % 3 for i in range(25)]
    one, three = (probing.Ridge(probing.total([gram] * n)).accuracies(labels, {"t": [i % 3 for i in range(10)]}) for n in (1, 3))
    assert one == three


def test_labels_are_those_of_the_picture():
    """The offset that `dy` names is where the thing is drawn; a shifted scene has the same answers."""
    for i in range(6):
        easy = scenes.scene(i, "train", 3)
        thing = easy.things[0]
        picture = easy.image().astype(int)
        cell = picture[thing.row * 16 : thing.row * 16 + 16, thing.column * 16 : thing.column * 16 + 16]
        strength = 1.0 if thing.shade == "light" else 0.5
        near = np.abs(cell - strength * np.array(scenes.COLORS[thing.color])).sum(-1) < 60
        top = int(near.any(1).argmax()) - 2
        offset = {"square": 1, "triangle": 0}.get(thing.shape, 0)
        assert abs(top - offset - (probes.label(easy, "dy") - 1)) <= 1, (i, thing)
    usual, shifted = (probes.drawn("hard", "test", 4, 10, shift) for shift in (False, True))
    for a, b in zip(usual, shifted):
        assert [probes.label(a, k) for k in ("tens", "digit", "shade", "color", "shape", "count")] == [
            probes.label(b, k) for k in ("tens", "digit", "shade", "color", "shape", "count")]
        assert not np.array_equal(a.image(), b.image()) and probes.cell_of(a, "object") == (a.things[0].row, a.things[0].column)


@pytest.fixture(scope="module")
def job():
    probes.SIZES["small"] = probes.Size(1, 1, 40, 20)
    yield probes.probed("hard", 10, "small")
    del probes.SIZES["small"]


def test_a_job_probes_every_layer_set_and_control(job):
    kinds = {"tens", "digit", "shade", "color", "shape", "dy", "count"}
    assert set(job["layers"]) == set(map(str, range(1, 13))) and set(job["sets"]) == {*probes.SETS, *probes.MEANS}
    assert all(set(row) == kinds for group in ("layers", "sets", "controls", "shifted") for row in job[group].values())
    assert job["sets"]["default three times"] == job["sets"]["default"] == job["layers"]["11"] and job["counts"] == [40, 20]
    assert set(job["shifted"]) == {*job["layers"], *job["sets"], *job["controls"]}
    assert job["sets"]["triple"]["shade"] > job["chance"]["shade"]
    assert job["controls"]["triple of another picture"]["color"] <= 0.5 < job["sets"]["triple"]["color"] + 0.2
