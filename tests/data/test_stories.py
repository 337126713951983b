"""Stories: a trace by hand, arithmetic that is checked again from the sentences, and what each task and order promises."""

import numpy as np
import pytest

from common.data import stories
from common.data.stories import Level


def told(story):
    """(sentences, units) without line numbers and end marks."""
    return [list(s[1:-1]) for s in story.source], [list(u[1:-1]) for u in story.units]


def test_a_story_by_hand():
    """Number 0 of the test split, as the head of the file explains it."""
    story = stories.totals(0)
    sentences, units = told(story)
    assert sentences[0] == ["total", "gus", "hal"] and units[0] == ["total", "Gus", "Hal"]
    assert story.source[0][-1] == "?" and all(s[-1] == "." for s in story.source[1:]) and all(u[-1] == ";" for u in story.units)
    assert [s[0] for s in story.source] == [u[0] for u in story.units] == [f"#{i}" for i in range(len(story.source))]
    assert story.deep[0] == ("A", story.answer, "<eos>") and story.deep[2].count("wait") == 1
    assert story.words == tuple(map(len, story.source))


@pytest.mark.parametrize("order", ["question", "context"])
def test_units_and_answers_follow_from_the_sentences(order):
    """An accountant of its own reads the sentences alone and comes to every unit and to the answer."""
    kinds = set()
    for number in range(200):
        story = stories.totals(number, order=order)
        sentences, units = told(story)
        question = sentences.pop(0 if order == "question" else -1)
        units.pop(0 if order == "question" else -1)
        asked, values = question[1:], {}
        for words, unit, kind in zip(sentences, units, [k for k in story.kinds if k != "question"]):
            who, verb, kinds = words[0], words[1], kinds | {kind}
            if who not in asked:
                assert unit == ["skip"] and kind == "skip"
                continue
            name, before = who.capitalize(), values.get(who)
            if verb == "has":
                values[who] = int(words[2])
                assert unit == [name, words[2]]
            elif verb == "gives":
                d, other = int(words[2]), words[3]
                values[who], got = (before - d) % 10, values[other]
                values[other] = (got + d) % 10
                assert unit == [name, str(before), "-", str(d), ":", name, str(values[who]),
                                other.capitalize(), str(got), "+", str(d), ":", other.capitalize(), str(values[other])]
            else:
                sign = "+" if verb in stories.GAINS else "-"
                values[who] = (before + (1 if sign == "+" else -1) * int(words[2])) % 10
                assert unit == [name, str(before), sign, words[2], ":", name, str(values[who])]
        assert story.answer == str(sum(values[p] for p in asked) % 10) and 4 <= len(sentences) <= 7 and len(asked) in (2, 3)
        two = list(story.deep[1])
        assert two[: 2 * len(asked)] == [w for p in asked for w in (p.capitalize(), str(values[p]))]
        assert two[-3:] == ["A", story.answer, "<eos>"] and two[-4] == story.answer
    assert kinds == {"init", "update", "give", "skip"}


def test_sentences_that_look_ahead_name_no_number():
    """The unit of "ann has 2 more bob" notes the difference; the number comes in the next sentence, and is used in the deep part."""
    seen = 0
    for number in range(100):
        story = stories.totals(number, level=Level((4, 7), (2, 3), ahead=0.5))
        sentences, units = told(story)
        for i, kind in enumerate(story.kinds):
            if kind == "ahead":
                who, _, d, _, whom = sentences[i]
                assert units[i] == [who.capitalize(), whom.capitalize(), "+", d] and sentences[i + 1][:2] == [whom, "has"]
                value, deep = sentences[i + 1][2], " ".join(story.deep[1])
                assert f"{whom.capitalize()} {value} + {d} : {who.capitalize()} {(int(value) + int(d)) % 10}" in deep
                seen += 1
    assert seen > 30


def test_rules_by_a_second_reasoner():
    """Saturation of facts and rules gives the same answer, and facts are noted as soon as they follow."""
    for number in range(300):
        story = stories.rules(number)
        sentences, units = told(story)
        who, goal = sentences[0][1], sentences[0][2]
        facts, rules, noted = {}, [], {}
        for words, unit in zip(sentences[1:], units[1:]):
            yes = "not" not in words
            if words[0] == "if":
                rules.append((words[1], words[-1], yes))
            elif words[0] == who:
                facts[words[-1]] = yes
            changed = True
            while changed:
                changed = False
                for a, b, value in rules:
                    if facts.get(a) is True and b not in facts:
                        facts[b] = changed = True
                        facts[b] = value
            tail = unit[unit.index(":") + 1 :] if ":" in unit else [] if unit[0] in ("skip", "if") else unit
            positive = True
            for word in tail:
                if word == "not":
                    positive = False
                elif word != who.capitalize():
                    noted[word], positive = positive, True
            assert noted == facts, (number, words)
        assert story.answer == {True: "true", False: "false", None: "unknown"}[facts.get(goal)]
    answers = [stories.rules(i).answer for i in range(300)]
    assert all(60 < answers.count(a) < 140 for a in ("true", "false", "unknown"))


def test_places_need_two_sentences_of_twenty():
    for number in range(50):
        story = stories.places(number)
        assert len(story.source) == 21 and story.kinds.count("fact") == 2
        last = stories.places(number, order="context")
        assert last.answer == story.answer and last.source[-1][-1] == "?"
        assert sum(map(len, last.units)) > sum(map(len, story.units))


def test_splits_and_numbers_make_other_stories_and_the_same_ones_again():
    assert stories.totals(5) == stories.totals(5) != stories.totals(6) and stories.totals(5, "train") != stories.totals(5, "val")
    with pytest.raises(ValueError, match="order 'middle'"):
        stories.totals(0, order="middle")


def test_another_story_s_units_fit_its_sentences():
    one, other = stories.totals(1), stories.totals(2)
    mixed = stories.with_units_of(one, other)
    assert mixed.source == one.source and len(mixed.units) == len(one.source) and mixed.units[1][1:] == other.units[1][1:]
    assert [u[0] for u in mixed.units] == [s[0] for s in one.source]


def test_the_tokenizer_goes_through_the_hub_format(tmp_path):
    from transformers import AutoTokenizer

    stories.tokenizer().save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    sentence = " ".join(stories.totals(3).source[1])
    assert len(words) == len(stories.WORDS) == len(set(stories.WORDS)) == 103
    assert words(sentence).input_ids == stories.ids(sentence.split()) and words.decode(words(sentence).input_ids) == sentence
    assert np.all([stories.INDEX[w] == i for i, w in enumerate(stories.WORDS)])
