"""Scenes that are not solved: a function of seed, split and number, with answers that are in the picture."""

import numpy as np
import pytest

from common.data import hard_scenes, scenes


def test_a_scene_is_a_function_of_its_number():
    a, b = hard_scenes.scene(3, "test", 1), hard_scenes.scene(3, "test", 1)
    assert a == b and np.array_equal(a.image(), b.image()) and a.image().shape == (64, 64, 3)
    assert len({hard_scenes.scene(i, split).noise for i in range(4) for split in scenes.SPLITS}) == 12
    with pytest.raises(KeyError):
        hard_scenes.scene(0, "tests")


def test_training_sees_neither_the_digits_nor_the_backgrounds_of_the_test():
    for split, digits in (("train", range(scenes.DIGITS_FOR_TRAINING)), ("test", range(scenes.DIGITS_FOR_TRAINING, 1797))):
        some = [hard_scenes.scene(i, split) for i in range(60)]
        assert all(sample in digits for s in some for sample in s.samples)
        for which in (0, 1):
            edge = int(hard_scenes._whole(which).shape[1] * hard_scenes.TRAINED_PART)
            lefts = [s.photo[2] for s in some if s.photo[0] == which]
            assert lefts and all(left + 64 <= edge if split == "train" else left >= edge for left in lefts)


def test_questions_have_both_digits_and_all_kinds():
    draw, seen = np.random.default_rng(0), set()
    for i in range(12):
        of = hard_scenes.scene(i)
        asked = hard_scenes.one_of_each_kind(of, draw)
        answers = {q.kind: q.answer for q in asked}
        assert (answers["tens"], answers["digit"]) == tuple(map(str, of.number))
        assert {q.text for q in hard_scenes.some(of, draw, 5)} <= {q.text for q in of.questions()}
        assert f"digit {of.number[0]} {of.number[1]}" in of.caption(draw)
        seen |= set(answers)
        assert {word for q in of.questions() for word in (*q.text.split(), q.answer)} <= set(scenes.words())
    assert seen == set(hard_scenes.KINDS)


def test_another_look_has_the_same_answers_and_another_picture():
    for i in range(5):
        usual, shifted = (hard_scenes.scene(i, "test", shifted=s) for s in (False, True))
        assert usual.questions() == shifted.questions()
        assert np.abs(usual.image().astype(int) - shifted.image()).mean() > 10
    assert len({hard_scenes._printed(d).tobytes() for d in range(10)}) == 10


def test_a_bar_hides_a_part_of_its_thing_alone():
    import dataclasses

    for i in range(8):
        of = hard_scenes.scene(i)
        rest = (False,) * (len(of.things) - 1)
        bare, barred = (dataclasses.replace(of, barred=(bar, *rest)).image().astype(int) for bar in (False, True))
        thing = of.things[0]
        outside = np.ones((64, 64), bool)
        outside[thing.row * 16 : thing.row * 16 + 16, thing.column * 16 : thing.column * 16 + 16] = False
        apart = np.abs(bare - barred).sum(-1)
        assert (apart > 100).sum() >= 3 and (apart[outside] < 100).all()
