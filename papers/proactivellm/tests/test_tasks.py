"""The generated tasks: what an answer follows from, where its evidence is, and that nothing else gives it away."""

import pytest
import torch

from .. import tasks
from ..tasks import END, STOP, Task, overturned


def plain(item):
    source = item.example.source.tolist()
    return source[:2], source[2:-1], item.example.target.tolist()[1:-1]


def test_an_answer_is_the_last_value_of_each_asked_slot_and_its_oracle_the_place():
    for name in ("qa", "revised"):
        for item in Task(name, 3).items(60, "test"):
            asked, stream, answer = plain(item)
            for j, (slot, value) in enumerate(zip(asked, answer)):
                number = slot - tasks._SLOT
                places = [i for i, token in enumerate(stream, 1) if (token - tasks._VALUE) // tasks.VALUES == number
                          and tasks._VALUE <= token < tasks._FILL]
                assert stream[places[-1] - 1] == value and (j or item.oracle[0] == places[-1])
                assert item.oracle[1] >= places[-1] and item.oracle[2] == item.oracle[1]
            assert len(stream) == 24 and item.example.n_units == 24 and item.example.source[-1] == END and item.example.target[-1] == STOP


def test_half_of_the_revised_streams_are_overturned_and_none_of_the_plain():
    items = Task("revised").items(200, "test")
    assert 70 < sum(map(overturned, items)) < 120 and not any(map(overturned, Task("qa").items(50, "test")))


def test_a_translation_waits_for_its_particles():
    many = Task("mt", 1).items(80, "train")
    waits = 0
    for item in many:
        e = item.example
        source, at = e.source[1:-1].tolist(), e.target_units[0]
        assert len(e.target_units) - 2 == len(source) == e.n_units and item.oracle[-1] == len(source) + 1
        needs = []
        for i, word in enumerate(source):
            unit = e.target[at : at + e.target_units[1 + i]].tolist()
            at += e.target_units[1 + i]
            if tasks._VERB <= word < tasks._PARTICLE:
                j = next(j for j in range(i + 1, len(source)) if source[j] >= tasks._PARTICLE)
                assert 1 <= j - i <= 5
                assert unit == [tasks._OUT_VERB + (word - tasks._VERB) * 5 + source[j] - tasks._PARTICLE]
                needs.append(j + 1)
                waits += 1
            else:
                needs.append(i + 1)
                assert unit == ([tasks._NULL] if word >= tasks._PARTICLE else
                                [tasks._OUT + word - 5, tasks._SECOND + (word - 5) % 4] if word - 5 < 16 else [tasks._OUT + word - 5])
            assert item.oracle[i] == max(needs)
    assert waits > 60


def test_a_unit_ends_where_the_vocabulary_says():
    task = Task("mt")
    for item in task.items(20, "train"):
        tokens, units = item.example.target.tolist(), item.example.target_units
        ends = {sum(units[: i + 1]) - 1 for i in range(len(units))}
        assert all(bool(task.boundary.table[token]) == (i in ends) for i, token in enumerate(tokens))
    assert int(torch.tensor([len(Task("qa").boundary.table)])) == Task("qa").vocabulary


def test_items_follow_from_seed_number_and_split():
    one, other = Task("qa", 0).item(4), Task("qa", 1).item(4)
    assert torch.equal(one.example.source, Task("qa", 0).item(4).example.source)
    assert not torch.equal(one.example.source, other.example.source)
    with pytest.raises(ValueError, match="no 'x'"):
        Task("x")


def test_spoken_words_and_questions():
    pytest.importorskip("espeakng_loader")
    words, spoken = Task("words"), Task("spoken")
    for number in range(4):
        item = words.item(number, "test")
        ends = item.example.unit_ends
        assert len(item.oracle) == len(item.example.reference.split()) + 1 and list(item.oracle) == sorted(item.oracle)
        assert item.oracle[-1] == item.example.n_units + 1 == len(ends) + 1
        asked = spoken.item(number, "test")
        said = [spoken._words()[t - 5] for t in asked.example.source[1:2].tolist()]
        assert len(asked.example.target) == 3 and asked.example.reference != said[0] and asked.oracle[1] == asked.oracle[0]
        assert asked.example.features.shape[1] == tasks.FEATURES
    assert words.text([5, 6]) == " ".join(words._words()[:2])
