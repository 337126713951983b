"""The SimulEval adapter: with a stand-in for SimulEval's classes always, with the real ones where they are installed."""

import argparse
import importlib
import shutil
import sys
import types

import pytest

from common.errors import ModelError
from common.models import ModelSpec, load
from common.streaming.units import Template
from common.streaming.words import Boundary

from .. import method, simuleval_agent
from ..session import Session, run
from ..toy import Language, spell
from ..translators import TRANSLATORS

SENTENCES = [spell(Language.draw(0).sentence(n)[0]).split() for n in range(3)]


@pytest.fixture(scope="module")
def standin():
    return load(ModelSpec(str(TRANSLATORS / "seed0")))


def stub():
    """As much of SimulEval 1.1 as an agent touches: states, actions, and pop after each push."""
    package, agents, actions = map(types.ModuleType, ("simuleval", "simuleval.agents", "simuleval.agents.actions"))

    class TextToTextAgent:
        def __init__(self, args):
            self.states = types.SimpleNamespace(source=[], source_finished=False)
            self.reset()

        def reset(self):
            self.states.source, self.states.source_finished = [], False

    class ReadAction:
        pass

    class WriteAction:
        def __init__(self, content, finished):
            self.content, self.finished = content, finished

    agents.TextToTextAgent, actions.ReadAction, actions.WriteAction = TextToTextAgent, ReadAction, WriteAction
    package.agents, agents.actions = agents, actions
    return {module.__name__: module for module in (package, agents, actions)}


@pytest.fixture
def agent(monkeypatch):
    """agent(options) -> a GPEAgent of the stub."""
    for name, module in stub().items():
        monkeypatch.setitem(sys.modules, name, module)
    simuleval_agent._agent_class.cache_clear()
    yield made
    simuleval_agent._agent_class.cache_clear()


def made(*options, checkpoint=TRANSLATORS / "seed0"):
    found = simuleval_agent.GPEAgent
    parser = argparse.ArgumentParser()
    found.add_args(parser)
    return found(parser.parse_args(["--checkpoint", str(checkpoint), *options]))


def expected(loaded, words, k, arm="group"):
    """[(word, source words read)] of session.run."""
    template = Template.of(loaded.tokenizer, "")
    boundary = Boundary.of_tokenizer(loaded.tokenizer, template.stop)
    session = Session(loaded.model, method.arm(arm), boundary, template.ids(template.opening))
    return [(loaded.tokenizer.decode(tokens), read)
            for tokens, read in run(session, template.units(words), template.ids(template.user_end), k)]


@pytest.mark.parametrize("k, arm", [(1, "group"), (3, "group"), (3, "kv_reencoding"), (99, "group"), (0, "group")])
def test_words_and_delays_are_the_sessions(agent, standin, k, arm):
    """The loop of SimulEval's evaluator: one word is pushed, one action is popped, until the agent has finished."""
    ours = agent("--k", str(k), "--arm", arm)
    for words in SENTENCES:  # one agent, a reset a sentence
        ours.reset()
        found, sent, finished = [], 0, False
        while not finished:
            if sent < len(words):
                ours.states.source.append(words[sent])
                sent += 1
            ours.states.source_finished = sent == len(words)
            action = ours.policy()
            if hasattr(action, "content"):
                found += [(action.content, sent)] if action.content else []
                finished = action.finished
        assert found == expected(standin, words, k or None, arm) and len(found) > 3


def test_a_source_that_is_there_already_is_read_no_faster(standin):
    ours = simuleval_agent.WaitK(standin.model, standin.tokenizer, method.arm("group"), 2, "")
    words, reads = SENTENCES[0], []
    while True:
        text, ended = ours.act(words, True)
        if ended:
            break
        reads.append((text, ours.read))
    assert reads == expected(standin, words, 2)


def test_an_empty_source_has_an_empty_answer(standin):
    ours = simuleval_agent.WaitK(standin.model, standin.tokenizer, method.arm("group"), 2, "")
    assert ours.act([], False) is None and ours.act([], True) == ("", True) and not ours.session.truncated


def test_a_text_that_is_cut_is_reported(agent, standin, capsys):
    ours = agent("--k", "3", "--arm", "kv_reencoding")
    ours.wait_k.max_words = 2
    ours.states.source, ours.states.source_finished = list(SENTENCES[0]), True
    assert [ours.policy().finished for _ in range(2)] == [False, True] and ours.wait_k.session.truncated
    assert "its sentence was cut" in capsys.readouterr().err


@pytest.mark.parametrize("facts, says", [('{"phi": "0"}', "gpe.json: phi is '0'"), ('{"arm_name": ""}', "no arm ''"),
                                         ('{"data.instruction": ["a"]}', r"data.instruction is \['a'\]")])
def test_facts_of_a_training_that_are_none_are_told_as_by_the_stream(agent, facts, says, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TRANSLATORS / "seed0", folder)
    (folder / "gpe.json").write_text(facts)
    with pytest.raises((ModelError, ValueError), match=says):
        agent(checkpoint=folder)


def test_bad_values_are_named(agent, standin, monkeypatch):
    with pytest.raises(ValueError, match="k = -1"):
        agent("--k", "-1")
    with pytest.raises(ValueError, match="arms whose source sees no target"):
        agent("--arm", "interleaved")
    with pytest.raises(AttributeError, match="has no attribute 'Agent'"):
        simuleval_agent.Agent  # noqa: B018
    simuleval_agent._agent_class.cache_clear()
    monkeypatch.setitem(sys.modules, "simuleval.agents", None)
    with pytest.raises(ImportError, match="runs inside SimulEval, which cannot be imported .*: pip install simuleval"):
        simuleval_agent.GPEAgent  # noqa: B018


def test_with_simuleval_itself(standin):
    pytest.importorskip("simuleval")
    instance = importlib.import_module("simuleval.evaluator.instance")
    simuleval_agent._agent_class.cache_clear()
    ours, words = made("--k", "3"), SENTENCES[0]

    class Sentence(instance.TextToTextInstance):
        def __init__(self):
            self.source, self.reference, self.latency_unit, self.dataloader = words, "", "word", None
            self.finish_prediction = False
            self.reset()

    sentence = Sentence()
    ours.reset()
    while not sentence.finish_prediction:
        sentence.receive_prediction(ours.pushpop(sentence.send_source({})))
    assert list(zip(sentence.prediction_list, sentence.delays)) == expected(standin, words, 3)
    simuleval_agent._agent_class.cache_clear()
