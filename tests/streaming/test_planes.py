"""The plane of streaming methods: curves by hand, and what is drawn."""

import pytest

from common.streaming.planes import curve, draw


def test_a_curve_is_the_mean_of_each_setting_in_order_of_latency():
    runs = [[{"AIL": 4, "bleu": 90}, {"AIL": 1, "bleu": 50}], [{"AIL": 6, "bleu": 94}, {"AIL": 2, "bleu": 60}]]
    assert curve(runs, "AIL", "bleu") == [(1.5, 55.0), (5.0, 92.0)]
    for bad in ([], [runs[0], runs[1][:1]]):
        with pytest.raises(ValueError, match="settings"):
            curve(bad, "AIL", "bleu")


def test_what_is_drawn():
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    marks = {"a": ("#000000", "o"), "b": ("#ff0000", "s")}
    draw(axis, {"a": [(1.0, 2.0), (3.0, 4.0)], "b": [(2.0, 9.0)]}, marks, "lag", "BLEU", {"a": "one", "b": "two"})
    one, two = axis.lines
    assert list(one.get_xdata()) == [1, 3] and list(two.get_ydata()) == [9] and two.get_markersize() > one.get_markersize()
    assert [t.get_text() for t in axis.legend().get_texts()] == ["one", "two"] and axis.get_ylabel() == "BLEU"
    with pytest.raises(ValueError, match="b has no point"):
        draw(axis, {"b": []}, marks, "lag", "BLEU")
    plt.close(figure)
