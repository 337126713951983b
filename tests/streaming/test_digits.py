"""common/streaming/digits.py: what is asked of an utterance, its answer, and what has to be heard for it."""

import numpy as np
import pytest
import torch

from common.data.speech import DIGITS, Bank
from common.errors import ModelError
from common.streaming.digits import ASKED, SPLITS, Recordings
from tests.digit_words import bank, states, tokenizer


def recordings(**options):
    return Recordings(tokenizer(), bank=bank, states=states, **options)


def test_an_utterance_is_written_down():
    of = recordings()
    example, heard = of.ask("words", 5)
    spoken = of.spoken("words", 5, "train")
    header = of.template("").ids(of.template("").opening)
    assert example.target.tolist() == [*header, *(of.ids[w] for w in spoken.words), of.stop]
    assert example.target_units == (len(header), *[1] * len(spoken.words), 1) and 3 <= len(spoken.words) <= 7
    assert of.text(example.target[len(header) : -1].tolist()) == " ".join(spoken.words) and of.text([of.stop]) == f"<{of.stop}>"
    told = of.template(ASKED["words"])
    assert example.source[: example.source_units[0]].tolist() == told.ids(told.prefix)
    assert example.source[-example.source_units[-1] :].tolist() == told.ids(told.user_end)
    inner = example.source[example.source_units[0] : -example.source_units[-1]]
    assert (inner == -1).all() and set(example.source_units[1:-2]) <= {6} and 1 <= example.source_units[-2] <= 6
    own = example.features[example.source == -1]
    assert torch.equal(own, states(spoken)) and not example.features[example.source != -1].any()
    for place, units in enumerate(heard):  # the chunk in which the word ends, and not the one before
        assert example.unit_ends[units - 1] >= min(spoken.word_ends[place], example.unit_ends[-1])
        assert units == 1 or example.unit_ends[units - 2] < spoken.word_ends[place]


def test_a_question_has_one_answer():
    of, asked = recordings(), set()
    for number in range(40):
        example, heard = of.ask("spoken", number)
        spoken = of.spoken("spoken", number, "train")
        prompt = of.tokenizer.decode(example.source[: example.source_units[0]].tolist())
        (word,) = [w for w in DIGITS if f"after {w}?" in prompt]
        assert spoken.words.count(word) == 1 and word != spoken.words[-1]
        answer = spoken.words[spoken.words.index(word) + 1]
        assert example.target[example.target_units[0] :].tolist() == [of.ids[answer], of.stop] and len(heard) == 1
        assert example.unit_ends[heard[0] - 1] >= min(spoken.word_ends[spoken.words.index(word) + 1], example.unit_ends[-1])
        asked.add(spoken.words.index(word))
    assert len(asked) > 3  # anywhere in the recording


def test_splits_share_neither_takes_nor_utterances():
    """Test utterances are of the test bank; calibration ones are other strings of the training takes."""
    of = recordings()
    said = {split: [of.spoken("words", number, split) for number in range(30)] for split in SPLITS}
    assert {u.speaker for u in said["test"]} == {"test speaker"} and {u.speaker for u in said["calibration"]} == {"train speaker"}
    strings = [{u.waveform.tobytes() for u in said[split]} for split in SPLITS]
    assert sum(map(len, strings)) == 90 == len(set.union(*strings))
    assert of.ask("words", 3).example.source.tolist() == recordings().ask("words", 3).example.source.tolist()
    assert any(not torch.equal(of.ask("words", n).example.target, recordings(seed=1).ask("words", n).example.target) for n in range(3))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="no 'sing'"):
        recordings().ask("sing", 0)
    with pytest.raises(ModelError, match="is 5 tokens of this tokenizer|tokens of this tokenizer; a digit has to be one"):
        Recordings(tokenizer(whole_words=False), bank=bank, states=states)
    same = Bank("one word", 8000, {("a", "one"): [np.full(800, 0.5, np.float32)]})
    with pytest.raises(ModelError, match="no utterance of one word"):
        Recordings(tokenizer(), bank=lambda split: same, states=states).ask("spoken", 0)
