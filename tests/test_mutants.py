"""The tool that breaks code, on a toy paper: what it breaks, which breaks it sees killed and which alive, and what its page says."""

import shutil
from pathlib import Path

import pytest

from tests import mutant_page, mutants

HERE = Path(__file__).parent
TOY = '''"""Words."""


def margin(a, b):
    """Words."""
    return a - b


def at_least(n):
    return max(n, 0)


def unseen(n):
    return n + 1
'''
TESTS = '''
import pytest
from .. import quantities


@pytest.fixture(scope="module")
def shared():
    return quantities.margin(3, 1)


def test_margin(shared):
    assert shared == 2


def test_at_least():
    assert quantities.at_least(2) == 2
'''


def changes(source):
    return {(m.line, m.change, m.source(source.encode()).decode().splitlines()[m.line - 1].strip())
            for m in mutants.mutants("x.py", source.encode())}


@pytest.mark.parametrize("line, broken", [
    ("x = a < b", {"x = a <= b"}), ("x = a == b or c", {"x = a != b or c", "x = a == b and c"}), ("x = -a", {"x = a"}),
    ("x = f('train')", {'x = f("test")'}), ("x = a[:2]", {"x = a[2:]", "x = a[:3]"}), ("x = a[-1]", {"x = a[-2]", "x = a[1]"}),
    ("x = 'one' + y['two']", {"x = 'one' - y['two']", "x = \"two\" + y['two']", "x = 'one' + y[\"one\"]"}),
    ("x = max(a, b)", {"x = min(a, b)", "x = max(b, a)"}),
    ("f(a)", {"pass"}), ("x = f(a, rate=0.5)", {"x = f(a)", "x = f(a, rate=0.0)"}), ("x = a / b", {"x = a * b", "x = (b / a)"}),
    ("x = [i for i in y if i]", {"x = [i for i in y if True]"}), ("x = a | b", {"x = a"}), ("a, b = c", {"b, a = c"}),
    ("x = model.eval()", {"x = model"}), ("x = a if b else c", {"x = a if not (b) else c"}), ("x = a not in b", {"x = a in b"}),
    ("import a", set()), ("raise ValueError('a', 1)", set()), ("print('a', 1)", set()), ("x: int = 'a'", set()),
    ("SIZES = {'a': 1}", set()), ("def f(a=1, size='cpu'): pass", {"def f(a=2, size='cpu'): pass"}),
    ("x = job(a, 'b', 40, seed=c)", {"x = job(a, 'b', 40)", "x = job('b', a, 40, seed=c)"}),
    ("x = _job(a, b, 80 if c else 60)", {"x = _job(b, a, 80 if c else 60)"}),
])  # fmt: skip
def test_what_is_broken_and_what_is_left_alone(line, broken):
    assert {text for _, _, text in changes(line)} == broken


def test_words_for_people_are_left_alone():
    assert changes('"""Doc."""\n\n\ndef f(a):\n    """Doc."""\n    return f"{a} of 3"\n') == set()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A tree with one paper, and the tool beside it; what runs come to is remembered in it alone."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRESH", raising=False)
    for name, text in {"papers/toy/quantities.py": TOY, "papers/toy/tests/test_quantities.py": TESTS, "papers/toy/__init__.py": "",
                       "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\naddopts = ["--import-mode=importlib"]\n'
                       "consider_namespace_packages = true\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tests").mkdir()
    shutil.copy(HERE / "mutant_runs.py", tmp_path / "tests")
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_a_known_mutant_is_killed_and_a_known_survivor_reported(toy, capsys):
    tried = mutants.run(toy, "toy", minutes=5)
    assert {(m.line, m.change): word for m, word in tried} == {
        (6, "- is +"): "killed", (6, "sides exchanged"): "killed", (10, "max is min"): "killed", (10, "0 is 1"): "alive",
        (10, "arguments exchanged"): "alive", (14, "+ is -"): "alive", (14, "1 is 2"): "alive"}
    (toy / "docs" / "mutants.yaml").write_text(
        "- {file: papers/toy/quantities.py, line: 'return max(n, 0)', change: arguments exchanged, reason: the larger of two is that}\n"
        "- {file: papers/toy/quantities.py, line: return n + 1, reason: nobody calls it}\n")
    assert mutants.write_page(toy, tried) == 1, "one alive without a reason"
    page = (toy / "docs" / "mutants.md").read_text()
    assert "| toy | 7 | 3 | 4 | 0 | 0 |" in page and "| all | 7 | 3 | 4 | 0 | 0 |" in page
    assert "| 10 | `return max(n, 0)` | `0 is 1` |  |" in page
    assert page.count("nobody calls it") == 2 and (toy / "papers/toy/quantities.py").read_text() == TOY
    assert mutants.write_page(toy, []) == 0 and (toy / "docs" / "mutants.md").read_text() == page, "what was not asked for stays"


def test_the_committed_results_are_the_last_judge():
    """Of a paper's own results alone, and it is met last: it takes seconds where other tests take milliseconds."""
    assert mutants.tests_of(mutants.ROOT, "gpe/quantities")[-1] == f"{mutants.COMMITTED}[gpe]" == mutants.tests_of(mutants.ROOT, "gpe")[-1]


def test_quantities_meet_no_test_that_runs_experiments(toy):
    """Of another file all tests that import it, of quantities all but those."""
    tests = toy / "papers/toy/tests"
    for name, text in (("test_harness", "from .. import quantities"), ("test_words", "from .. import quantities, other"), ("test_x", "")):
        (tests / f"{name}.py").write_text(text)
    (toy / "papers/toy/selection.py").write_text("x = 1\n")
    (tests / "test_training.py").write_text("from .. import selection\n")
    (tests / "test_listed.py").write_text("from .. import eval as runs\n")
    names = {asked: [Path(test).stem for test in mutants.tests_of(toy, asked)] for asked in ("toy/quantities", "toy/selection", "toy")}
    assert names == {"toy/quantities": ["test_quantities", "test_words"], "toy/selection": ["test_listed", "test_training"],
                     "toy": ["test_listed", "test_quantities", "test_training", "test_words"]}
    quick, slow = "papers/toy/tests/test_words.py::a", "papers/toy/tests/test_harness.py::b"
    mutant = mutants.mutants("papers/toy/quantities.py", TOY.encode())[0]
    known = {slow: (0.1, {mutant.file: [mutant.line]}), quick: (9.0, {mutant.file: [mutant.line]})}
    assert mutants.meeting(mutant, known) == [quick]


def test_what_is_asked_for_may_be_a_folder_or_a_pattern(toy):
    for name in ("papers/toy/experiments/text.py", "papers/toy/experiments/__init__.py", "papers/toy/quantities_real.py",
                 "papers/toy/selection.py", "papers/other/quantities.py"):
        (toy / name).parent.mkdir(parents=True, exist_ok=True)
        (toy / name).write_text("x = 1\n")
    words = ("toy/experiments", "toy/quantities*", "toy/text")
    names = {asked: [Path(file).stem for file in mutants.targets(toy, asked)] for asked in words}
    assert names == {"toy/experiments": ["text"], "toy/quantities*": ["quantities", "quantities_real"], "toy/text": ["text"]}
    assert len(mutants.targets(toy, "toy")) == 4
    papers = ["other", "toy"]
    assert mutants.expand(toy, ["*"], papers) == papers and mutants.expand(toy, ["toy", "*"], papers) == ["toy", "other"]
    assert mutants.expand(toy, ["*/experiments"], papers) == ["toy/experiments"], "what has none is left out"
    assert not mutants.expand(toy, ["toys", "toy/nothing"], papers)


def test_every_file_has_its_turn_before_quantities_are_tried_to_their_end():
    """In a round two of a file that make another experiment and one that does not, as far as there are some."""
    strings = "".join(f"a{i} = ('one', 'two')\n" for i in range(20))
    numbers = "".join(f"b{i} = 0.5\n" for i in range(30))
    files = ["papers/a/quantities.py", "papers/a/experiments/x.py", "papers/a/experiments/y.py"]
    made = [m for file in files for m in mutants.mutants(file, (strings + numbers).encode())]
    order = mutants.rounds(made)
    assert sorted(order, key=made.index) == made and order != made
    first = order[: 9 * mutants.FIRST]
    for number in range(mutants.FIRST):
        some = first[9 * number : 9 * number + 9]
        assert {file: [sum(m.file == file and mutants.turns(m) is way for m in some) for way in (True, False)] for file in files} == {
            file: [2, 1] for file in files}
    rest = [m.file == files[0] for m in order[9 * mutants.FIRST :]]
    assert rest == sorted(rest, reverse=True) and any(rest) and not all(rest)


@pytest.mark.parametrize("line, kinds", [
    ("x = f('train', n=2)", {'"train" is "test"': True, "n= left out": False, "2 is 3": False}),
    ("x = f(seed=0)", {"seed= left out": True, "0 is 1": False}), ("x = a - b", {"- is +": True, "sides exchanged": True}),
    ("x = a < b", {"< is <=": False}), ("x = -a", {"sign dropped": True}), ("x = a[:b]", {"the other part": True}),
    ("x = min(a, b)", {"min is max": True, "arguments exchanged": True}), ("x = [a for a in b if a]", {"condition dropped": False})])
def test_what_makes_another_experiment(line, kinds):
    assert {m.change: mutants.turns(m) for m in mutants.mutants("x.py", line.encode())} == kinds


def test_what_would_be_alive_of_all_is_estimated_by_kind_of_file():
    """Half of ten that make another experiment and one of 90 others in the first file, none of the second: (5 + 22.5 + 0) of 300."""
    parts = {"papers/a/experiments/x.py": "100 mutants: 4 killed, 2 alive, 0 invalid, 94 not tried.\nOf these 10 make another experiment "
             "of it: 1 killed, 1 alive.\n| 1 | `a` | `b` |  |\n| 1 | `a` | `c` | nothing reads it |",
             "papers/b/experiments/y.py": "200 mutants: 5 killed, 0 alive, 0 invalid, 195 not tried.",
             "papers/a/quantities.py": "8 mutants: 8 killed, 0 alive, 0 invalid, 0 not tried."}
    assert mutant_page.shares(parts)[2:-1] == [
        "| experiments | 11 | 2 | 1 | 9.2% |", "| experiments, made another | 2 | 1 |  | 50.0% |",
        "| quantities | 8 | 0 | 0 | 0.0% |", "| quantities, made another | 0 | 0 |  |  |"]


def test_which_lines_a_test_reaches_is_noted_again_only_where_its_file_changed(toy, monkeypatch):
    """A killed mutant rests on the test that killed it alone."""
    asked, real = [], mutants.Worker.reached
    monkeypatch.setattr(mutants.Worker, "reached", lambda self, files, tests: asked.append(tests) or real(self, files, tests))
    quick, more = "papers/toy/tests/test_quantities.py", "papers/toy/tests/test_more.py"
    before = mutants.run(toy, "toy", minutes=5)
    assert mutants.run(toy, "toy", minutes=0) == before and asked == [[quick]], "all is remembered"
    (toy / more).write_text("from .. import quantities\n\n\ndef test_unseen():\n    assert quantities.unseen(2) == 3\n")
    after = mutants.run(toy, "toy", minutes=5)
    assert asked == [[quick], [more]]
    then, now = ({(m.line, m.change) for m, word in tried if word == "killed"} for tried in (before, after))
    assert now - then == {(14, "+ is -"), (14, "1 is 2")} and then < now
    rested = {word: set(rest) - {"rest"} for word, rest in mutants.Memory(toy, "toy").known.values() if word in ("killed", "alive")}
    assert all(len(files) == 1 for files in rested.values())


def test_what_a_run_came_to_is_remembered_until_what_it_rests_on_changes(toy, monkeypatch):
    """Killed stays killed beside new tests; alive is asked again; other code of the paper, and FRESH=1, forget everything."""
    made = mutants.mutants("papers/toy/quantities.py", TOY.encode())
    quick, tests = "papers/toy/tests/test_quantities.py", ["papers/toy/tests/test_quantities.py::test_margin"]

    def words(tests=tests):
        memory = mutants.Memory(toy, "toy")
        return [memory.word(mutant, tests) for mutant in made[:3]]

    memory = mutants.Memory(toy, "toy")
    memory.keep(made[0], "killed", tests)
    memory.keep(made[1], "alive", tests)
    memory.write()
    assert words() == ["killed", "alive", None]
    (toy / "papers/toy/tests/test_more.py").write_text("")
    assert words([*tests, "papers/toy/tests/test_more.py::test_a"]) == ["killed", None, None]
    monkeypatch.setenv("FRESH", "1")
    assert words() == [None] * 3
    monkeypatch.delenv("FRESH")
    (toy / "papers/toy/analytic.py").write_text("")
    assert words() == [None] * 3
    (toy / "papers/toy/analytic.py").unlink()
    assert words() == ["killed", "alive", None]
    (toy / quick).write_text(TESTS + "\n")
    assert words() == [None] * 3


def test_time_that_is_over_and_tests_that_fail_anyway_are_named(toy):
    assert {word for _, word in mutants.run(toy, "toy", minutes=0)} == {"not tried"}
    (toy / "papers/toy/quantities.py").write_text(TOY.replace("a - b", "a - b - 1"))
    with pytest.raises(RuntimeError, match="before anything is broken"):
        mutants.run(toy, "toy", minutes=1)


def test_a_mutant_that_does_not_end_is_ended(toy, monkeypatch):
    (toy / "papers/toy/quantities.py").write_text(TOY.replace("return max(n, 0)", "while n < 2:\n        n += 1\n    return n"))
    monkeypatch.setattr(mutants, "SLACK", 1.0)
    words = {m.change: word for m, word in mutants.run(toy, "toy", minutes=5) if m.line == 10}
    assert words["condition turned"] == "killed"
