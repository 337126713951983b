"""The tool that breaks code, on a toy paper: what it breaks, which breaks it sees killed and which alive, and what its page says."""

import shutil
from pathlib import Path

import pytest

from tests import mutants

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
    ("SIZES = {'a': 1}", set()),
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


def test_quantities_meet_no_test_that_runs_experiments(toy):
    """Of another file all tests that import it, of quantities all but those."""
    tests = toy / "papers/toy/tests"
    for name, text in (("test_harness", "from .. import quantities"), ("test_words", "from .. import quantities, other"), ("test_x", "")):
        (tests / f"{name}.py").write_text(text)
    (toy / "papers/toy/selection.py").write_text("x = 1\n")
    (tests / "test_training.py").write_text("from .. import selection\n")
    names = {asked: [Path(test).stem for test in mutants.tests_of(toy, asked)] for asked in ("toy/quantities", "toy/selection", "toy")}
    assert names == {"toy/quantities": ["test_quantities", "test_words"], "toy/selection": ["test_training"],
                     "toy": ["test_quantities", "test_training", "test_words"]}
    quick, slow = "papers/toy/tests/test_words.py::a", "papers/toy/tests/test_harness.py::b"
    mutant = mutants.mutants("papers/toy/quantities.py", TOY.encode())[0]
    known = {slow: (0.1, {mutant.file: [mutant.line]}), quick: (9.0, {mutant.file: [mutant.line]})}
    assert mutants.meeting(mutant, known) == [quick]


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
