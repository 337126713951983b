"""What a user sets reaches Python as it was typed, and nothing in it is run, by make or by a shell.

The tree is the real Makefile. In place of Python stands a program that only writes down what reaches it, its arguments
and its environment, or, where Python's own switches are tried, the real one with modules that print their names.
"""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import copy_pages, copy_paper, seeds
from common.claims.intervals import point
from common.runs import reproduce, reproduce_all
from tests.sample_records import claim, claims_yaml

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ["DEST", "RUNG", "ONLY", "SEEDS", "MARK", "MINUTES", "STRICT", "SCRATCH", "HUB", "NINEFOLD_DATA", "NINEFOLD_CACHE"]
PYTHONS = ["PYTHON", "ENV_PYTHON"]
TARGETS = ["doctor", "lint", "test", "reproduce", "reproduce-demo", "copy-demo", "report", "swaps", "standins-llava"]
MODULES = ["doctor", "runs/reproduce_all", "copy_paper", "report/__main__", "report/swaps", "standins/llava"]
# Answers the questions after its version, and writes down the rest: arguments, nothing, the environment, nothing.
WRITES_DOWN = """\
#!/bin/sh
case "$1 $2" in "-c "*">= (3, 11)"*) echo True; exit ;; "-c "*) echo 3.11; exit ;; esac
{ printf '%s\\0' "$@" ''; env -0; printf '\\0'; } >> "${0%/*}/written"
"""
# Each would leave a file `ran` if make, a shell or both looked into it.
HOSTILE = [
    "`touch ran`", "$(touch ran)", "$(shell touch ran)", "${shell touch ran}", '"; touch ran; "', "'; touch ran; '",
    "; touch ran", "& touch ran", "x\ntouch ran", "x\n\ttouch ran\n", "$(eval ran:;touch ran)", "a $$(touch ran)",
]  # fmt: skip
PLAIN = ["a$b", "a$$b", "$", "$HOME", "two words  and two blanks ", "it's", '"', "a#b", "a\\b", "a\\", "50%", "*", "~",
         "a,b)c(", "-x", "ü", "x=y", "x\ny", "x\n"]  # fmt: skip


def outside(**changes):
    """The environment of these tests without a make above them, a setting, or a switch of Python's."""
    own = ("MAKE", "MFLAGS", "PYTEST_", "PYTHON", *SETTINGS, *PYTHONS)
    return {k: v for k, v in os.environ.items() if not k.startswith(own)} | changes


def make(folder, *words, **env):
    """(exit status, output, errors)."""
    done = subprocess.run(["make", *words], cwd=folder, env=outside(**env), capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "a tree"
    for name in ("pytest", "ruff", "mypy", "papers/demo/eval", "papers/demo/train", *(f"common/{name}" for name in MODULES)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text("print('this is', __spec__.name)\n")
    shutil.copy(ROOT / "Makefile", root)
    (tmp_path / "python").write_text(WRITES_DOWN)
    (tmp_path / "python").chmod(0o755)
    return root


def written(tree):
    """{module: (arguments, environment)} of what reached the program in place of Python since it was last asked."""
    file, found = tree.parent / "written", {}
    words = iter(file.read_bytes().decode().split("\0") if file.exists() else [])
    for first in words:
        if first == "-m":
            module, *arguments = iter(words.__next__, "")
            found[module] = arguments, dict(entry.split("=", 1) for entry in iter(words.__next__, ""))
    file.unlink(missing_ok=True)
    return found


@pytest.fixture
def copied(tree):
    """The same with the Makefile of a copied paper."""
    (tree / "Makefile").write_text(copy_pages.makefile("demo"))
    return tree


# --- as it was typed, and not run -----------------------------------------------------------------


@pytest.mark.parametrize("way", ["command line", "environment"])
@pytest.mark.parametrize("value", [*HOSTILE, *PLAIN])
def test_a_setting_arrives_as_it_was_typed(tree, value, way):
    given = dict.fromkeys(SETTINGS, value) | {"ENV_PYTHON": str(tree.parent / "python")}
    words, env = ([f"{k}={v}" for k, v in given.items()], {}) if way == "command line" else ([], given)
    status, out, err = make(tree, *TARGETS, *words, **env)
    assert status == 0 and not err, err
    assert not list(tree.rglob("ran"))
    expected = {"ruff": ["check", "."], "common.copy_paper": ["demo"], "pytest": ["3.11", "-m", value]}
    found = written(tree)
    ours = {f"common.{name}".replace("/", ".").removesuffix(".__main__") for name in MODULES}
    assert set(found) == {"papers.demo.eval", "ruff", "mypy", "pytest", *ours}
    for module, (arguments, seen) in found.items():
        runs = {"RUNG", "ONLY", "SEEDS", "STRICT"} if module == "pytest" else set()  # of a run, not of its tests
        assert {k: seen.get(k) for k in SETTINGS} == {k: None if k in runs else value for k in SETTINGS}, module
        assert arguments == expected.get(module, [])


@pytest.mark.parametrize("value", [*HOSTILE, *PLAIN])
def test_in_a_copied_paper_too(copied, value):
    given = dict.fromkeys(["RUNG", "ONLY", "SEEDS", "STRICT", "NINEFOLD_DATA", "NINEFOLD_CACHE"], value)
    for words, env in (([f"{k}={v}" for k, v in given.items()], {}), ([], given)):
        status, out, err = make(
            copied, "reproduce", "test", "smoke", *words, ENV_PYTHON=str(copied.parent / "python"), **env
        )
        assert status == 0 and not err and not list(copied.rglob("ran")), err
        found = written(copied)
        assert set(found) == {"papers.demo.eval", "pytest", "papers.demo.train"}
        arguments, seen = found["papers.demo.eval"]
        assert {k: seen.get(k) for k in given} == given and not arguments


def test_in_a_copy_for_training_too(copied):
    (copied / "Makefile").write_text(copy_pages.makefile("demo", "training"))
    for value in HOSTILE:
        given = dict.fromkeys(["RUNG", "ONLY", "SEEDS", "STRICT", "NINEFOLD_DATA", "NINEFOLD_CACHE"], value)
        status, out, err = make(copied, *(f"{k}={v}" for k, v in given.items()), ENV_PYTHON=str(copied.parent / "python"))
        assert status == 0 and not err and set(written(copied)) == {"pytest"} and not list(copied.rglob("ran")), err


@pytest.mark.parametrize("setting", ["PYTHON", "ENV_PYTHON"])
@pytest.mark.parametrize("value", [*HOSTILE, *PLAIN])
def test_a_python_is_a_name_and_nothing_more(tree, value, setting):
    """A Python whose name holds anything is run; without it the name is refused, and not evaluated."""
    target = {"PYTHON": "doctor", "ENV_PYTHON": "report"}[setting]
    for words, env in (([f"{setting}={value}"], {}), ([], {setting: value})):
        status, out, err = make(tree, target, *words, **env)
        assert status == 2 and f"{value} is no Python 3 that runs here" in err and not out
        assert not list(tree.rglob("ran"))
    there = tree.parent / value.replace("/", "")
    (tree.parent / "python").rename(there)
    status, out, err = make(tree, target, f"{setting}={there}")
    assert status == 0 and set(written(tree)) == {f"common.{target}"}, err


def test_a_setting_that_is_empty_is_one_that_is_not_set(tree):
    empty = [f"{name}=" for name in (*SETTINGS, "PYTHON")]
    status, out, err = make(tree, *TARGETS, *empty, f"ENV_PYTHON={tree.parent}/python")
    assert status == 0 and not err and "reproduce-demo: rung cpu\n" in out, err
    found = written(tree)
    assert "-m" not in found["pytest"][0] and not found["common.report"][0] and not found["common.doctor"][0]
    assert not any(seen.get(name) for _, seen in found.values() for name in SETTINGS)


def test_what_is_not_set_is_not_handed_on(tree):
    """A make below this one would take a default for a wish, e.g. for another Python."""
    assert make(tree, *TARGETS, f"ENV_PYTHON={tree.parent}/python")[0] == 0
    assert all(not set(seen) & {*SETTINGS, "PYTHON"} for _, seen in written(tree).values())


def test_switches_that_make_reads_itself(tree):
    """Clusters set SCRATCH to a folder."""
    for value, on in (("1", True), ("0", False), ("a/folder", False), ("", False)):
        make(tree, "doctor", "report", f"SCRATCH={value}", f"HUB={value}", ENV_PYTHON=str(tree.parent / "python"))
        found = written(tree)
        assert found["common.report"][0] == ["--scratch"] * on and found["common.doctor"][0] == ["--hub"] * on


@pytest.mark.parametrize("name", ["x`touch ran`", "$(touch ran)", "$(shell touch ran)", "'; touch ran; '", "nope"])
def test_a_paper_that_is_not_here_is_named_and_not_run(tree, name):
    for target in (f"reproduce-{name}", f"copy-{name}"):
        status, out, err = make(tree, target)
        named = target.partition("(")[0]  # make takes what is in brackets for a part of an archive
        assert status == 2 and f"{named}: there is no such paper here yet; implemented: demo" in err and not out
        assert len(err.splitlines()) == 1 and not list(tree.rglob("ran"))


@pytest.mark.parametrize("flag", ["-B", "-s", "-k", "-j4", "-r"])
def test_flags_of_make_change_no_target(tree, flag):
    """-B holds every file for old, this one, too, which no rule makes."""
    status, out, err = make(tree, flag, "help")
    assert status == 0 and "reproduce-demo" in out and not err


# --- what the real modules make of it -------------------------------------------------------------


@pytest.mark.parametrize("main", [reproduce_all.main, lambda argv: reproduce.main(ROOT, None, argv)])
def test_a_rung_that_is_none_is_refused_wherever_it_comes_from(main, monkeypatch, capsys):
    for argv, none in ((["--rung", "huge"], "huge"), ([], "huge"), ([], "a\nb"), ([], "`cpu`")):
        monkeypatch.setenv("RUNG", "cpu" if argv else none)
        with pytest.raises(SystemExit) as left:
            main(argv)
        says = f"argument --rung: invalid choice: {none!r} (choose from smoke, analytic, cpu, gpu, paper,"
        assert left.value.code == 2 and says in capsys.readouterr().err


def test_a_rung_from_the_environment(monkeypatch):
    rungs = []
    monkeypatch.setattr(reproduce, "run", lambda here, rung, *rest: rungs.append(rung) or 0)
    monkeypatch.delenv("RUNG", raising=False)
    assert reproduce.main(ROOT, None, []) == 0
    for argv, rung in (([], "gpu"), ([], "gpu-random-weights"), ([], ""), (["--rung", "paper"], "gpu")):
        monkeypatch.setenv("RUNG", rung)
        assert reproduce.main(ROOT, None, argv) == 0
    assert rungs == ["cpu", "gpu", "gpu", "cpu", "paper"]


@pytest.mark.parametrize("text", ["zero", "0", "-1", "65", "1000", "3.0", " 3", "3 ", "\u0663", "a\nb"])
def test_seeds_that_are_no_number_are_refused_when_a_command_begins(text, monkeypatch, capsys):
    """Sizes are written down where modules are imported, long before there is anybody to say it to: there it is no error."""
    monkeypatch.setenv("SEEDS", text)
    assert seeds.asked() == (0, 1, 2) and seeds.asked(5) == (0, 1, 2, 3, 4)
    mains = {"reproduce": reproduce_all.main, "reproduce-demo": lambda argv: reproduce.main(ROOT / "papers" / "demo", None, argv)}
    for name, main in mains.items():
        assert main([]) == 2
        assert capsys.readouterr().err == f"{name}: SEEDS={text}: give how many seeds to run, a number from 1 to 64\n"


def test_seeds_from_the_environment_go_into_the_records_command(monkeypatch):
    commands = []
    monkeypatch.setattr(reproduce, "run", lambda here, rung, measure, publish, log, command: commands.append(command) or 0)
    for text, expected in (("", (0, 1, 2)), ("1", (0,)), ("8", tuple(range(8))), ("64", tuple(range(64)))):
        monkeypatch.setenv("SEEDS", text)
        assert seeds.asked() == expected
        assert reproduce.main(ROOT / "papers" / "demo", None, ["--rung", "cpu"], "speech") == 0
        assert reproduce.main(ROOT / "papers" / "demo", None, ["--rung", "gpu"]) == 0
    more = ["", " SEEDS=1", " SEEDS=8", " SEEDS=64"]
    assert commands == [f"make reproduce-demo {rest}" for seed in more for rest in (f"ONLY=speech{seed}", "RUNG=gpu")]


def test_seeds_of_results_are_those_that_are_there():
    assert seeds.seeds_of(["a/seed10", "a/seed2", "a/b/seed3", "a/seed0x", "ab/seed4", "a/seed0"], "a") == (0, 2, 10)
    assert seeds.seeds_of({"a.b/seed1": 0, "aXb/seed2": 0}, "a.b") == (1,)


def test_a_destination_from_the_environment(monkeypatch, tmp_path, capsys):
    taken = []
    monkeypatch.setattr(copy_paper, "copy_paper", lambda paper, dest, only: taken.append((paper, dest, only)) or tmp_path)
    monkeypatch.setattr(copy_paper, "parts", lambda root, paper, only: [])
    monkeypatch.setenv("DEST", "my $paper")
    copy_paper.main(["demo"])
    copy_paper.main(["demo", "elsewhere"])
    monkeypatch.setenv("ONLY", "`training`")
    copy_paper.main(["demo"])
    monkeypatch.delenv("DEST")
    monkeypatch.setenv("ONLY", "")
    copy_paper.main(["demo"])
    assert taken == [("demo", "my $paper", ""), ("demo", "elsewhere", ""), ("demo", "my $paper", "`training`"), ("demo", "", "")]


@pytest.mark.parametrize(
    "dest", ["{file}/in/a/file", "~nobody-of-this-name/x", "{file}", "/dev/null/x", "x" * 300 + "/y"]
)
def test_a_destination_that_cannot_be_is_refused_in_a_sentence(dest, tmp_path):
    (tmp_path / "file").touch()
    paper = sorted(path.parent.name for path in (ROOT / "papers").glob("*/method.py"))[0]
    done = subprocess.run(
        [sys.executable, "-m", "common.copy_paper", paper],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=outside(DEST=dest.format(file=tmp_path / "file")),
    )
    assert done.returncode == 2 and done.stderr.startswith("copy: ") and len(done.stderr.splitlines()) == 1, done.stderr


# --- from elsewhere, and with a Python that is told otherwise -------------------------------------


@pytest.mark.parametrize("kind", ["tree", "copied"])
def test_a_makefile_of_another_folder_is_refused(kind, request, tmp_path):
    tree = request.getfixturevalue(kind)
    goal = {"tree": "report", "copied": "reproduce"}[kind]
    for folder, file in (
        (tmp_path, tree / "Makefile"),
        (tmp_path, "a tree/Makefile"),
        (tree / "common", "../Makefile"),
    ):
        for words in ([], [goal], ["-n", goal], ["no-such"]):
            status, out, err = make(folder, "-f", str(file), *words, ENV_PYTHON=sys.executable)
            assert status == 2 and not out and len(err.splitlines()) == 1
            assert "in the Makefile's own folder only: cd to it, or make -C FOLDER" in err
    for folder, words in (
        (tree, ["-f", str(tree / "Makefile")]),
        (tree, ["-f", "./Makefile"]),
        (tmp_path, ["-C", str(tree)]),
    ):
        status, out, err = make(folder, *words, goal, ENV_PYTHON=sys.executable)
        assert status == 0 and out.count("this is") == 1, err


@pytest.mark.parametrize("kind", ["tree", "copied"])
@pytest.mark.parametrize("way", ["command line", "environment"])
def test_a_python_told_not_to_look_where_it_stands(kind, way, request):
    tree = request.getfixturevalue(kind)
    targets = TARGETS if kind == "tree" else ["reproduce", "test", "smoke"]
    words, env = (["PYTHONSAFEPATH=1"], {}) if way == "command line" else ([], {"PYTHONSAFEPATH": "1"})
    status, out, err = make(tree, *targets, *words, ENV_PYTHON=sys.executable, **env)
    assert status == 0 and out.count("this is") == len(targets) + ("lint" in targets), err  # which is ruff and mypy


ASCII = [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "ascii:strict"}, {"LC_ALL": "C"},
         {"LC_ALL": "C.ISO-8859-1"}, {"PYTHONIOENCODING": ":strict", "LC_ALL": "C", "PYTHONUTF8": "0"},
         {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]  # fmt: skip


@pytest.mark.parametrize("kind", ["tree", "copied"])
@pytest.mark.parametrize("env", ASCII, ids=str)
def test_an_output_that_lacks_a_sign(kind, env, request):
    tree = request.getfixturevalue(kind)
    (tree / "text").write_text("…", encoding="utf-8")
    (tree / "papers" / "demo" / "eval.py").write_text("print('half…', open('text').read() == '\\u2026', '\\udcff')\n")
    target = {"tree": "reproduce-demo", "copied": "reproduce"}[kind]
    for words in ([], [f"{k}={v}" for k, v in env.items()]):
        status, out, err = make(tree, target, *words, ENV_PYTHON=sys.executable, **({} if words else env))
        shown = "?" if "ascii" in env.get("PYTHONIOENCODING", "") else "…"
        assert status == 0 and f"half{shown} True ?" in out, err


def test_a_run_without_make_on_an_output_that_lacks_a_sign(monkeypatch, tmp_path):
    here = tmp_path / "papers" / "demo"
    here.mkdir(parents=True)
    too_long = {"id": "demo/C1", "statement": "A statement that is too long for its column, by far."}
    claims_yaml(here, claim("equals", "analytic", paper=3.0) | too_long)
    (here / "eval.py").touch()
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    outcome = reproduce.Outcome({"C1": point(3.0)})
    assert reproduce.main(here, lambda rung, log: outcome, ["--rung", "analytic"]) == 0
    ascii_only.flush()
    assert "too long for its?" in ascii_only.buffer.getvalue().decode("ascii")


# --- a Python that is none ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tree", "copied"])
@pytest.mark.parametrize(
    "python", ["nowhere", "/bin/true", "/bin/false", "/bin/cat", "/bin/echo", "{folder}", "{file}", "bin/python"]
)
def test_an_environment_that_is_no_python(kind, python, request, tmp_path):
    """Also one that does nothing and ends well: no target may take that for its work."""
    tree = request.getfixturevalue(kind)
    (tmp_path / "file").touch()
    python = python.format(folder=tmp_path, file=tmp_path / "file")
    for target in TARGETS if kind == "tree" else ["reproduce", "test", "smoke"]:
        status, out, err = make(tree, target, f"ENV_PYTHON={python}")
        says, makes_own = err.splitlines()
        assert status == 2 and not out and makes_own.startswith("make: ***")
        assert says.startswith(f"{python} is no Python") and "that runs here" in says and "ENV_PYTHON=..." in says


def test_an_environment_that_is_too_old(tree):
    old = tree / "old"
    old.write_text(f"#!/bin/sh\ncase $1 in -c) echo 3.9;; *) exec '{sys.executable}' \"$@\";; esac\n")
    old.chmod(0o755)
    status, out, err = make(tree, "report", f"ENV_PYTHON={old}")
    assert status == 2 and not out and err.startswith(f"{old} is Python 3.9; Ninefold needs 3.11 or newer\n")
    assert make(tree, "doctor", f"ENV_PYTHON={old}")[0] == 0  # which has an answer of its own to that


def test_the_word_setup_in_a_python_of_ones_own_is_no_wish_for_an_environment(tree):
    """Only exactly .venv/bin/python is that of `make setup`; a name with it as one of its words is another's."""
    for name in ("my .venv/bin/python", ".venv/bin/python x", "./.venv/bin/python"):
        status, _, err = make(tree, "report", f"ENV_PYTHON={name}")
        assert status == 2 and f"{name} is no Python 3 that runs here" in err


def test_every_module_that_a_target_runs_is_a_command():
    """A module that lost its main ends at once with status 0, and the target has done nothing."""
    named = re.findall(r" -m ((?:common|tests)[\w.]*\w)\b(?!\.)", (ROOT / "Makefile").read_text())
    files = [next(f for f in (path.with_suffix(".py"), path / "__main__.py") if f.is_file())
             for path in (ROOT.joinpath(*module.split(".")) for module in named)]
    files += [*ROOT.glob("papers/*/eval.py"), *ROOT.glob("papers/*/standins.py"), *ROOT.glob("common/standins/[a-z]*.py")]
    assert len(named) == 8 and len(files) > 12
    for path in files:
        assert '\nif __name__ == "__main__":\n' in path.read_text(), f"make runs {path.relative_to(ROOT)}, which has no main"
