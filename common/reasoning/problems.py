"""Problems whose answers a rule can check: generated chains, mathematics from files, and how a response is graded.

A data module gives a training step its problems (P of them, over all processes) and grades responses:
    end                                tokens that end a response
    grade(problems, rollouts) -> list[bool]      right or not; rollouts name their problem by its place in `problems`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import SetupError
from ..training.steps import StepData
from .rollouts import Rollout
from .verifiers import MathVerifier, opens_thought, response_text

TESTED = 512  # problems of validation and of test that no training draws


class Problem(NamedTuple):
    """prompt: token ids. gold: what the grader compares with. kind: to group scores by. turns: the conversation, if it was one."""

    prompt: tuple[int, ...]
    gold: Any
    kind: int | str
    turns: tuple[dict, ...] | None = None


class Rows:
    """Problems as common.training.steps takes them."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        self.counts: dict[str, np.ndarray] = {"problems": np.ones(len(problems), dtype=np.int64)}

    def __getitem__(self, i: int) -> Problem:
        return self.problems[i]

    def collate(self, samples: list[Problem], sample_index: list[int], totals: dict) -> dict:
        """first: the place of the first of them in its optimiser step, which has totals["problems"]."""
        return {"problems": samples, "first": sample_index[0] % totals["problems"], "counts": True}

    def blank(self, batch: dict) -> dict:
        return batch | {"counts": False}


class Problems(StepData):
    """Common part. A step's P problems are the method's `prompts_per_step`, shared out to the processes in order."""

    end: tuple[int, ...] = ()

    def __init__(self, seed: int = 1, num_workers: int = 0):
        super().__init__(0, seed, num_workers)

    def setup(self, stage: str | None = None) -> None:
        self.batch_size = self.trainer.lightning_module.config.prompts_per_step

    def train_dataloader(self):
        from torch.utils.data import DataLoader

        from ..training.steps import StepBatches

        share = self._share()
        done = self.trainer.lightning_module.done
        steps = StepBatches(self.rows(0), batch_size=self.batch_size, seed=self.seed, start_step=done, **share)
        return DataLoader(steps, batch_size=None, num_workers=0)

    def transfer_batch_to_device(self, batch: dict, device, dataloader_idx: int) -> dict:
        return batch

    def grade(self, problems: list[Problem], rollouts: list[Rollout]) -> list[bool]:
        raise NotImplementedError

    def question(self, problem: Problem) -> str | list[dict]:
        """The problem for programs that tokenise by themselves: a conversation, or text."""
        if problem.turns is not None:
            return list(problem.turns)
        return self.tokenizer().decode(list(problem.prompt), skip_special_tokens=False)


class Chains(Problems):
    """Modular-chain arithmetic with k operations (common/data/chains.py). count: training problems drawn; held_out: validation's.

    Of problems of one operation there are few: those drawn that are also among the first of validation or test are left out.
    """

    def __init__(self, count: int = 4096, held_out: int = 96, seed: int = 1):
        super().__init__(seed)
        self.count, self.held_out = count, held_out
        self._prepare()

    def _prepare(self) -> None:
        from ..data import chains

        self.words = chains.tokenizer()
        self.end = (self.words.eos_token_id,)

    def problem(self, number: int, split: str) -> Problem:
        from ..data import chains

        drawn = chains.problem(number, split, 0)
        return Problem(tuple(self.words.convert_tokens_to_ids(list(drawn.prompt))), drawn, drawn.k)

    def sequences(self) -> tuple[Rows, Rows]:
        asked = [self.problem(i, split) for split in ("val", "test") for i in range(max(self.held_out, TESTED))]
        return Rows(apart([self.problem(i, "train") for i in range(self.count)], asked)), Rows(asked[: self.held_out])

    def grade(self, problems: list[Problem], rollouts: list[Rollout]) -> list[bool]:
        from ..data import chains

        return [chains.correct(self.words.convert_ids_to_tokens(list(r.ids)), problems[r.prompt].gold) for r in rollouts]


class Maths(Problems):
    """Mathematics with a final answer, graded by `MathVerifier` on the last box behind the thinking.

    train, validation: JSON lines {"problem", "answer"} (DeepScaleR, written by its card's own command). held_out: validation
    problems; without a file of their own the last ones of `train`. What is held out is never trained on, also where a file has a
    problem twice. max_prompt_tokens: longer problems are left out; all that is left out is counted in a line on the screen.
    require_think_end: None, a response without </think> holds no answer where the prompt opens the thought (R1's template does);
    True or False say so for all.
    """

    def __init__(self, train: str, validation: str | None = None, held_out: int = 64, max_prompt_tokens: int = 1024,
                 suffix: str = "", seconds: float = 5.0, require_think_end: bool | None = None, seed: int = 1):
        super().__init__(seed)
        if held_out < 1:
            raise SetupError(f"data.held_out is {held_out}; a validation needs 1 problem or more")
        self.train, self.validation, self.held_out = train, validation, held_out
        self.max_prompt_tokens, self.suffix, self.seconds = max_prompt_tokens, suffix, seconds
        self.require_think_end = require_think_end
        self._verifier: MathVerifier | None = None

    def prepare_data(self) -> None:
        for name in filter(None, (self.train, self.validation)):
            read_problems(Path(name))

    def sequences(self) -> tuple[Rows, Rows]:
        words, module = self.tokenizer(), self.trainer.lightning_module
        ends = module.model.generation_config.eos_token_id
        self.end = tuple(sorted({words.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}))
        train = self._encoded(words, read_problems(Path(self.train)))
        if self.validation:
            held_out = self._encoded(words, read_problems(Path(self.validation)))[: self.held_out]
        else:
            train, held_out = train[: -self.held_out], train[-self.held_out :]
        names = " and ".join(dict.fromkeys(Path(name).name for name in (self.train, self.validation) if name))
        kept, per_step = apart(train, held_out), module.config.prompts_per_step
        if len(kept) < len(train):
            print(f"{len(train) - len(kept)} problems of {names} are held out elsewhere in it and not trained on")
        if len(kept) < per_step:
            raise SetupError(f"data.held_out {self.held_out}: of {names}, {len(kept)} problems of at most {self.max_prompt_tokens} tokens "
                             f"are left to train on beside {len(held_out)} held out, fewer than the {per_step} of one step "
                             "(model.config.prompts_per_step); hold out fewer, give more, or name other problems in data.validation")
        print(f"{len(kept)} problems to train on, {len(held_out)} held out")
        return Rows(kept), Rows(held_out)

    def _encoded(self, words, entries: list[dict]) -> list[Problem]:
        problems = []
        for entry in entries:
            turns = [{"role": "user", "content": entry["problem"] + self.suffix}]
            ids = words.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            if len(ids) <= self.max_prompt_tokens:
                problems.append(Problem(tuple(ids), entry["answer"], "maths", tuple(turns)))
        if len(problems) < len(entries):
            print(f"{len(entries) - len(problems)} of {len(entries)} problems are longer than {self.max_prompt_tokens} tokens and left out")
        if not problems:
            raise SetupError(f"data.max_prompt_tokens {self.max_prompt_tokens}: no problem is that short")
        return problems

    def grade(self, problems: list[Problem], rollouts: list[Rollout]) -> list[bool]:
        """As common.benchmarks.maths does: one text of a response, one verifier."""
        if self._verifier is None:
            self._verifier = MathVerifier(seconds=self.seconds)
        words, required = self.tokenizer(), self.require_think_end
        opened = [opens_thought(words.decode(list(p.prompt))) if required is None else required for p in problems]
        return self._verifier.verify_many([(response_text(words, r.ids, self.end), problems[r.prompt].gold) for r in rollouts],
                                          [opened[r.prompt] for r in rollouts])


def apart(train: list[Problem], held_out: list[Problem]) -> list[Problem]:
    """The problems of `train` whose prompt is in none of `held_out`."""
    prompts = {problem.prompt for problem in held_out}
    return [problem for problem in train if problem.prompt not in prompts]


def read_problems(path: Path) -> list[dict]:
    """JSON lines with "problem" and "answer". Raises SetupError naming file and line."""
    import json

    from ..data.text import is_text, lines
    from ..errors import DataError

    path = path.expanduser()
    if not path.is_file():
        raise SetupError(f"data: there is no file {path.name}; problems are JSON lines with \"problem\" and \"answer\"")
    problems = []
    try:
        for number, line in lines(path):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SetupError(f"{path.name}, line {number}: no JSON ({error})") from error
            answer = entry.get("answer") if isinstance(entry, dict) else None
            if isinstance(answer, int | float) and not isinstance(answer, bool):
                answer = str(answer)
            if not isinstance(entry, dict) or not is_text(entry.get("problem")) or not is_text(answer):
                raise SetupError(f"{path.name}, line {number}: needs \"problem\" (text) and \"answer\" (text or a number)")
            if entry["problem"].strip():
                problems.append({"problem": entry["problem"], "answer": answer})
    except DataError as error:  # of a line that is not UTF-8
        raise SetupError(str(error)) from error
    if not problems:
        raise SetupError(f"{path.name} holds no problem")
    return problems
