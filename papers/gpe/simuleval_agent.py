"""GPE as an agent of SimulEval, the field's tool for scoring simultaneous translation (optional, not installed with us).

    python -m simuleval.cli --agent-class papers.gpe.simuleval_agent.GPEAgent --source source.txt --target reference.txt \
        --output out --checkpoint lightning_logs/gpe/toy_group/model --k 3 --quality-metrics BLEU --latency-metrics AL LAAL AP DAL

SimulEval hands over one source word after the other and asks after each for an action; ours is READ until k + j - 1 words
are there, then WRITE of word j. A session (session.py) does the encoding, with the end of the user's turn as one more unit
once the source has ended, so that words and delays are those of `session.run` and `decoding.stream`.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from common.masks import wait_k
from common.streaming.live import fact, open_checkpoint
from common.streaming.units import Template
from common.streaming.words import Boundary, words_of

from . import method
from .session import Session

ABOUT = "gpe.json"


class WaitK:
    """What the agent decides and writes, without SimulEval. One sentence: `act` until it says that it has ended."""

    def __init__(self, model, tokenizer, arm: method.Arm, k: int | None, instruction: str, max_words: int = 512):
        wait_k(k, 1, 0)  # raises ValueError for a k below 1
        self.model, self.tokenizer, self.arm, self.k, self.max_words = model, tokenizer, arm, k, max_words
        self.template = Template.of(tokenizer, instruction)
        self.boundary = Boundary.of_tokenizer(tokenizer, self.template.stop)
        self.reset()

    def reset(self) -> None:
        self.session = Session(self.model, self.arm, self.boundary, self.template.ids(self.template.opening))
        self._words: list[str] = []
        self._units = self.template.units(iter(self._take, None))
        self.session.read(next(self._units))
        self.read, self.written, self.open = 0, 0, True
        self._tokens: list[int] = []
        self._shown = 0

    def _take(self) -> str | None:
        return self._words.pop(0) if self._words else None

    def act(self, source: list[str], finished: bool) -> tuple[str, bool] | None:
        """None for READ, else (the next target word, whether the target has ended). source: all words so far."""
        source = words_of(" ".join(source))  # a word of SimulEval's may hold a blank that it does not split at
        while self.open and (self.k is None or self.read < self.k + self.written):
            if self.read < len(source):
                self._words.append(source[self.read])
                self.session.read(next(self._units))
                self.read += 1
            elif finished and not self.read:  # an empty source has an empty answer
                self.session.ended = True
                return "", True
            elif finished:
                self.session.read(self.template.ids(self.template.user_end))
                self.open = False
            else:
                return None
        word = self.session.write(more_source=self.open)
        self.written += bool(word.tokens)
        self._tokens += word.tokens
        text = self.tokenizer.decode(self._tokens, skip_special_tokens=True).lstrip()
        new, self._shown = text[self._shown :].strip(), len(text)
        self.session.truncated |= self.written >= self.max_words and not self.session.ended
        return new, self.session.ended or self.session.truncated


@functools.cache
def _agent_class() -> type:
    try:
        from simuleval.agents import TextToTextAgent
        from simuleval.agents.actions import ReadAction, WriteAction
    except ImportError as error:
        raise ImportError(f"this agent runs inside SimulEval, which cannot be imported ({error}): pip install simuleval. "
                          "Without it, papers.gpe.stream translates and `make reproduce-gpe` scores") from error

    class GPEAgent(TextToTextAgent):
        """Wait-k by group position encoding, or by any arm that a session runs."""

        def __init__(self, args: Any):
            model, tokenizer, about = open_checkpoint(args.checkpoint, ABOUT, args.base)
            name, phi, instruction = (fact(about, ABOUT, entry, default) if given is None else given for given, entry, default in (
                (args.arm, "arm_name", "group"), (args.phi, "phi", 0.0), (args.instruction, "data.instruction", "")))
            arm = method.arm(name, phi)
            self.wait_k = WaitK(model.to(args.agent_device), tokenizer, arm, args.k or None, instruction)
            super().__init__(args)

        @staticmethod
        def add_args(parser) -> None:
            parser.add_argument("--checkpoint", required=True, help="folder that training wrote, local model or hub id")
            parser.add_argument("--base", help="base model of an adapter, if gpe.json does not name it")
            parser.add_argument("--k", type=int, default=3, help="source words to wait for; 0: read everything first")
            parser.add_argument("--arm", choices=list(method.ARMS), help="default: that of the training, else group")
            parser.add_argument("--phi", type=float, help="first target position; default: that of the training, else 0")
            parser.add_argument("--instruction", help="the system turn; default: that of the training, else none")
            parser.add_argument("--agent-device", default="cpu", help="where the model runs")

        def reset(self) -> None:
            super().reset()
            self.wait_k.reset()

        def policy(self, states: Any = None):
            states = self.states if states is None else states
            found = self.wait_k.act(list(states.source), states.source_finished)
            if self.wait_k.session.truncated:
                print("gpe: the model did not end its text, or a word; its sentence was cut", file=sys.stderr)
            return ReadAction() if found is None else WriteAction(found[0], finished=found[1])

    GPEAgent.__module__, GPEAgent.__qualname__ = __name__, "GPEAgent"
    return GPEAgent


def __getattr__(name: str) -> type:
    """GPEAgent, made when it is asked for: SimulEval is imported by nothing else here."""
    if name == "GPEAgent":
        return _agent_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
