"""Points from results, and what is drawn of them."""

import pytest

from common.pictures import draw_all
from common.reasoning import planes

TESTS = {"one": [{"tokens": 16, "avg": 0.5}, {"tokens": 48, "avg": 0.7}], "other": [{"tokens": 100.0, "avg": 0.25}]}
MARKS = {"one": ("#123456", "o"), "other": ("#654321", "s")}


def test_points_are_tokens_and_percent():
    assert planes.points(TESTS) == {"one": [(16.0, 50.0), (48.0, 70.0)], "other": [(100.0, 25.0)]}


def test_a_mark_a_training_and_one_for_the_mean(tmp_path):
    seen = {}

    def plane(plt, results):
        figure, axis = plt.subplots()
        planes.draw(axis, planes.points(results), MARKS, {"one": "method one", "other": "method two"}, samples=8)
        seen["places"] = [tuple(place) for marks in axis.collections for place in marks.get_offsets().tolist()]
        seen["ticks"], seen["label"] = [text.get_text() for text in axis.get_xticklabels()], axis.get_ylabel()
        axis.legend()
        seen["legend"] = axis.get_legend_handles_labels()[1]
        return figure

    (file,) = draw_all([plane], TESTS, tmp_path)
    assert seen["places"] == [(16, 50), (48, 70), (32, pytest.approx(60)), (100, 25), (100, 25)]
    assert seen["legend"] == ["method one", "method two"] and seen["label"] == "Avg@8, %"
    assert seen["ticks"] == ["16", "20", "30", "40", "60", "80", "120"]
    assert "method one" in file.read_text()


def test_a_method_without_a_point_is_named(tmp_path):
    def plane(plt, results):
        planes.draw(plt.subplots()[1], {"one": []}, MARKS)

    with pytest.raises(ValueError, match="one has no point"):
        draw_all([plane], {}, tmp_path)


def test_a_panel_a_benchmark_and_one_legend(tmp_path):
    seen = {}

    def five(plt, results):
        benchmarks = {title: planes.points(results) for title in ("first", "second", "third", "mean")}
        figure = planes.panels(plt, benchmarks, MARKS, {"one": "method one", "other": "method two"}, samples=2)
        seen["titles"] = [axis.get_title() for axis in figure.axes if axis.get_visible()]
        seen["labels"] = [axis.get_ylabel() for axis in figure.axes if axis.get_visible()]
        seen["marks"] = [len(axis.collections) for axis in figure.axes]
        [legend] = figure.legends
        seen["legend"] = [text.get_text() for text in legend.get_texts()]
        return figure

    draw_all([five], TESTS, tmp_path)
    assert seen["titles"] == ["first", "second", "third", "mean"] and seen["legend"] == ["method one", "method two"]
    assert seen["marks"] == [4, 4, 4, 4, 0, 0] and seen["labels"] == ["Avg@2, %", "", "", "Avg@2, %"], "two rows of three, two left empty"


def test_no_benchmark_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no benchmark"):
        draw_all([lambda plt, results: planes.panels(plt, {}, MARKS, {})], {}, tmp_path)
