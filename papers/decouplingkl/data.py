"""Problems and, for prefixes from the data, their written solutions: chains of small sums, mathematics from files.

A data module grades (common/reasoning/problems.py) and, where it can, has `solution(problem) -> ids`, end token included.
Mathematics is asked in the chat template with thinking off, as the paper asks student and teacher.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common.data import chains
from common.data.text import is_text, lines
from common.errors import SetupError
from common.reasoning import problems
from common.reasoning.problems import Problem, Problems  # noqa: F401  (what a config's class is one of)
from common.seeds import seed_of


class SolvedChains(problems.Chains):
    """Modular-chain arithmetic; a problem's solution is a redundant trace, as those that the teachers were trained on."""

    def solution(self, problem: Problem) -> tuple[int, ...]:
        words = chains.trace(problem.gold, np.random.default_rng(seed_of("solution", tuple(problem.prompt))))
        return tuple(self.words.convert_tokens_to_ids(list(words)))


class SolvedMaths(problems.Maths):
    """DeepScaleR and its like, as JSON lines with "problem", "answer" and, for prefixes from the data, "solution".

    thinking: of the chat template (`enable_thinking`); templates without it do not mind. Other options: common.reasoning.problems.
    """

    def __init__(self, train: str, validation: str | None = None, held_out: int = 64, max_prompt_tokens: int = 1024,
                 suffix: str = "", seconds: float = 5.0, thinking: bool = False, require_think_end: bool | None = None, seed: int = 1):
        super().__init__(train, validation, held_out, max_prompt_tokens, suffix, seconds, require_think_end, seed)
        self.thinking = thinking
        self._solutions: dict[str, str] = {}

    def sequences(self):
        """As Maths; SetupError with the line for a solution that is no text."""
        found, path = super().sequences(), Path(self.train).expanduser()
        for number, line in lines(path):
            entry = json.loads(line) if line.strip() else {"problem": "", "answer": ""}
            text = entry.get("solution")
            if text is not None and not is_text(text):
                raise SetupError(f"{path.name}, line {number}: \"solution\" must be text, or be left out where the answer alone is one")
            self._solutions[entry["problem"] + self.suffix] = text or str(entry["answer"])
        return found

    def _encoded(self, words, entries: list[dict]) -> list[Problem]:
        found = []
        for entry in entries:
            turns = [{"role": "user", "content": entry["problem"] + self.suffix}]
            ids = words.apply_chat_template(turns, **self._asked())
            if len(ids) <= self.max_prompt_tokens:
                found.append(Problem(tuple(ids), entry["answer"], "maths", tuple(turns)))
        if len(found) < len(entries):
            print(f"{len(entries) - len(found)} of {len(entries)} problems are longer than {self.max_prompt_tokens} tokens and left out")
        if not found:
            raise SetupError(f"data.max_prompt_tokens {self.max_prompt_tokens}: no problem is that short")
        return found

    def _asked(self) -> dict:
        """Of the chat template."""
        return {"add_generation_prompt": True, "return_dict": False, "enable_thinking": self.thinking}

    def solution(self, problem: Problem) -> tuple[int, ...]:
        """The text that the file gives, or else the answer (as the authors' preparation does); and the end token. Tokens are those behind
        the prompt, where a tokenizer that marks the beginning of a text puts no mark."""
        words, turns = self.tokenizer(), list(problem.turns or ())
        text = self._solutions[turns[0]["content"]]
        asked = words.apply_chat_template(turns, tokenize=False, **self._asked())
        whole, apart = (tuple(words(t, add_special_tokens=False)["input_ids"]) for t in (asked + text, text))
        count = len(problem.prompt)  # where the first token would reach into the prompt, the model cannot write it so
        return (*(whole[count:] if whole[:count] == problem.prompt else apart), words.eos_token_id)
