"""Rows with generated pictures: many questions share one, what is scored is counted, and validation has pictures of its own."""

from types import SimpleNamespace

import pytest
import torch

from common.standins.llava import stand_in
from common.training.steps import StepBatches
from common.vision.layout import IGNORED
from common.vision.scene_rows import ScenePictures


@pytest.fixture(scope="module")
def parts():
    return stand_in(0)


def rows(parts, which=0, **options):
    data = ScenePictures(**(dict(train_samples=6, val_samples=2, scenes=3, asked=3, batch_size=4, seed=5) | options))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(parts=parts, tokenizer=parts.tokenizer))
    return data.rows(which)


def test_a_step_has_its_questions_and_their_number(parts):
    """One word answers a question: three questions a row are three targets, each a segment of its own behind the picture."""
    found = rows(parts)
    assert found.counts["step_targets"].tolist() == [3] * 6
    step = next(iter(StepBatches(found, batch_size=4, micro_batch=2, seed=5)))
    layout = step["layout"]
    assert step["step_targets"] == 12 and step["features"].shape == (2, 64, 3 * 384)
    assert (layout.targets != IGNORED).sum(1).tolist() == [3, 3] and layout.segments.amax(1).tolist() == [3, 3]
    assert layout.ids[0, :5].tolist() == parts.prefix
    assert not (found.blank(step)["layout"].targets != IGNORED).any()


def test_rows_follow_from_the_seed(parts):
    a, b, c = (rows(parts, seed=seed).entries for seed in (5, 5, 6))
    assert [texts for _, texts in a] == [texts for _, texts in b] != [texts for _, texts in c]


def test_captions_and_easy_vqa_take_their_share(parts):
    """A caption scores each of its words and its end; every row of easy-VQA, where there are no scenes."""
    captions = rows(parts, captions=1.0)
    assert min(captions.counts["step_targets"]) > 3 * 3
    easy = rows(parts, scenes=0, easy=2)
    assert max(len(texts) for _, texts in easy.entries) <= 3 and all(f.shape == (64, 1152) for f, _ in easy.entries)


def test_validation_has_pictures_of_its_own(parts):
    train, held = ({f.numpy().tobytes() for f, _ in rows(parts, which, val_samples=4).entries} for which in (0, 1))
    assert train and held and not train & held


@pytest.mark.parametrize("options", [{"train_samples": 0}, {"val_samples": 0}, {"scenes": 0}, {"asked": 0}, {"scenes": 9, "easy": -1}])
def test_counts_below_one_are_refused(options):
    with pytest.raises(ValueError, match="train_samples, val_samples, asked and scenes . easy must be 1 or more"):
        ScenePictures(**options)


@pytest.mark.parametrize("options", [{"easy_share": 1.5}, {"captions": -0.1}, {"captions": float("nan")}])
def test_shares_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="are shares, from 0 to 1"):
        ScenePictures(**options)


def test_a_scene_s_features_are_those_of_its_picture(parts):
    from common.data import scenes
    from common.vision import tower

    shown = [scenes.scene(i).image() for i in range(3)]
    wanted = tower.features("scenes-train", shown, (2, 9, 11))
    assert {f.numpy().tobytes() for f, _ in rows(parts, train_samples=24).entries} <= {torch.as_tensor(w).numpy().tobytes() for w in wanted}
