"""Experiments as data: which of them a run takes, what becomes of their results, and which command measures which claim."""

import json

import pytest

from common.claims.intervals import point, summarize
from common.errors import RecordError, UserError
from common.files import write_json
from common.report import code
from common.runs import catalogue, experiment, reproduce
from common.runs.experiment import Experiment, chosen, every_job
from common.runs.jobs import Job, run_jobs
from tests.sample_records import claim, claims_yaml, held, record

NUMBER = "tests.killed_run:number"
CLAIMS = [claim("equals", "analytic", paper=3.0), claim("above", "cpu-small"), claim("above", "cpu-small")]


def jobs(name, count=2):
    return lambda size: [Job(f"{name}/{i}", NUMBER, {"seed": i}, seconds=1) for i in range(count)]


def after(size, results):
    """One more for each number that is there."""
    return [Job(f"then/{name[-1]}", NUMBER, {"seed": 10 + int(name[-1])}, seconds=1) for name in results if name.startswith("text/")]


def draw(name):
    def picture(results, size, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(f"<svg>{len(results)}</svg>")
        return [folder / f"{name}.svg"]

    return picture


EXACT = Experiment("exact", "analytic", lambda results, size: {"C1": point(3.0)})
TEXT = Experiment("text", "cpu", lambda results, size: {"C2": held(point(results["then/1"]["value"])) | {"timing": {"rounds": 3}}},
                  jobs("text"), after, tables=lambda results, size: [f"text at {size}: {len(results)}"], pictures=draw("text"),
                  document="cpu-small", example={"text/0": {}, "text/1": {}})
SPEECH = Experiment("speech", "cpu", lambda results, size: {"C3": held(point(results["speech/0"]["value"]))}, jobs("speech", 1), asked=True,
                    claims=("C3",), pictures=draw("speech"), document="speech", draws=("speech.svg",))
REAL = Experiment("real", "cpu", None, jobs("real"), asked=True, data=("text/lines.txt",), draws=("real.svg",))
SPEED = Experiment("speed", "cpu", None, jobs("speed", 1), alone=True)
LARGE = Experiment("large", "gpu", None, run=lambda folder, log: {"folder": folder.name}, document="large")
ALL = (EXACT, TEXT, SPEECH, REAL, SPEED, LARGE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "papers" / "demo"
    folder.mkdir(parents=True)
    claims_yaml(folder, *(dict(c, id=f"demo/C{i + 1}") for i, c in enumerate(CLAIMS)))
    (folder / "eval.py").write_text("")
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    monkeypatch.delenv("ONLY", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(("rung", "only", "names"), [
    ("cpu", None, ["exact", "text", "speed"]),
    ("smoke", None, ["exact", "text", "speech", "speed"]),
    ("cpu", "speech", ["exact", "speech"]),
    ("cpu", "real, text", ["exact", "text", "real"]),
    ("gpu", None, ["exact", "large"]),
    ("analytic", None, ["exact"]),
])  # fmt: skip
def test_which_experiments_a_run_takes(rung, only, names):
    assert [e.name for e in chosen(ALL, rung, only)] == names


def test_an_experiment_that_is_none_is_named_with_those_that_are():
    with pytest.raises(UserError, match="no experiment sppech at rung cpu; there is: text, speech, real, speed"):
        chosen(ALL, "cpu", "text,sppech")
    with pytest.raises(UserError, match="ONLY=,: names no experiment; at rung cpu there is: text, speech, real, speed"):
        chosen(ALL, "cpu", ",")  # and not all, and not none


def test_a_rung_without_an_experiment_is_named(here):
    lines = []
    experiment.measure("demo", [e for e in ALL if e.rung != "gpu"], None, "gpu", lines.append)
    assert lines[0] == "demo has no experiment at rung gpu: nothing runs there, arithmetic alone is checked"
    experiment.measure("demo", ALL, None, "cpu", lines.append)
    assert not any("has no experiment" in line for line in lines[1:])


def test_results_go_to_the_functions_that_ask_for_them(here):
    out = experiment.measure("demo", ALL, None, "cpu", lambda text: None)
    assert set(out.measured) == {"C1", "C2"} and out.timings == {"C2": {"rounds": 3}} and "timing" not in out.measured["C2"]
    assert out.lines == ["text at cpu: 5"]  # two, one more for each, and the timing
    assert set(out.documents) == {"cpu-small"} and set(out.documents["cpu-small"]) == {"text/0", "text/1", "then/0", "then/1"}
    assert out.elsewhere == {"C3": "make reproduce-demo ONLY=speech"} and out.left_out == ("speech.svg", "real.svg")
    assert [path.name for path in out.pictures(here / "drawn")] == ["text.svg"]


def test_what_one_experiment_alone_does_not_measure_is_the_others(here):
    out = experiment.measure("demo", ALL, "speech", "cpu", lambda text: None)
    assert set(out.measured) == {"C1", "C3"} and out.elsewhere == {"C2": "make reproduce-demo"}


def test_two_experiments_never_measure_the_same_claim(here):
    twin = Experiment("twin", "cpu", SPEECH.quantities)
    with pytest.raises(UserError, match="two experiments of demo measure C3"):
        experiment.measure("demo", (EXACT, SPEECH, twin), "speech,twin", "cpu", lambda text: None)


def test_a_run_that_diverged_is_named_with_its_experiment(here):
    lost = Experiment("lost", "cpu", lambda results, size: {"C2": summarize([float("nan")] * 3)})
    with pytest.raises(RecordError, match="experiment lost of demo: .*nan: a run that diverged"):
        experiment.measure("demo", (EXACT, lost), None, "cpu", lambda text: None)


def test_the_command_runs_what_only_names_and_the_record_says_so(here, capsys):
    assert experiment.main(here, ALL, ["--only", "speech"]) == 0
    record = json.loads((here / "results" / ".scratch" / "C3.cpu-small.json").read_text())
    assert record["run"]["command"] == "make reproduce-demo ONLY=speech"
    assert not (here / "results" / ".scratch" / "C2.cpu-small.json").exists()
    assert experiment.main(here, ALL, ["--only", " speech, text"]) == 0
    record = json.loads((here / "results" / ".scratch" / "C2.cpu-small.json").read_text())
    assert record["run"]["command"] == "make reproduce-demo ONLY=speech,text"  # with a blank in it make would look for a target "text"
    assert experiment.main(here, ALL, ["--only", "real"]) == 2
    error = capsys.readouterr().err
    assert "NINEFOLD_DATA" in error and len(error.splitlines()) == 1


def test_jobs_that_follow_run_as_soon_as_what_they_need_is_there(tmp_path):
    lines = []
    given = {"folder": tmp_path, "workers": 1, "then": lambda results: after("cpu", results), "log": lines.append}
    results = run_jobs(jobs("text")("cpu"), expected=after("cpu", TEXT.example), **given)
    assert list(results) == ["text/0", "text/1", "then/0", "then/1"] and results["then/0"] != results["then/1"]
    assert lines[0].startswith("4 jobs on 1 processes") and "[  4/4]" in lines[-1]
    again = []
    assert run_jobs(jobs("text")("cpu"), **given | {"log": again.append}) == results and "reusing 4 of 4" in again[0] and len(again) == 1


def test_every_job_has_those_that_follow_and_none_without_its_data(here, monkeypatch, tmp_path):
    names = [job.name for job in every_job(ALL)]
    assert names == ["text/0", "text/1", "then/0", "then/1", "speech/0", "speed/0"]
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    assert [job.name for job in every_job(ALL)][-3:] == ["real/0", "real/1", "speed/0"]


def test_the_list_of_experiments_names_each_with_the_command_that_runs_it():
    assert catalogue.command("demo", TEXT) == "make reproduce-demo"
    assert catalogue.command("demo", SPEECH) == "make reproduce-demo ONLY=speech"
    assert catalogue.command("demo", LARGE) == "make reproduce-demo RUNG=gpu"


def test_the_list_names_measurements_of_a_changed_tree(tmp_path):
    path = tmp_path / "papers" / "demo" / "results" / f"measurements.{TEXT.document}.json"
    assert catalogue.recorded(tmp_path, "demo", TEXT) == ""
    for dirty, shown in ((False, "2026-11-29"), (True, "2026-11-29, dirty")):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"run": {"started_at": "2026-11-29T10:00:00+00:00", "dirty": dirty}})
        assert catalogue.recorded(tmp_path, "demo", TEXT) == shown


# --- what a record can be held against -------------------------------------------------------------


def test_quantities_read_what_is_committed_and_nothing_else(here):
    """Numbers to five places, without what is left out: whoever has the repository can compute every word again."""
    seen = []

    def quantities(results, size):
        seen.append(results)
        return {}

    full = Experiment("full", "gpu", quantities, run=lambda folder, log: {"ms": 1.23456789, "raw": [1, 2], "rows": ({"raw": 3, "n": 4},)},
                      left_out=("raw",), document="gpu")
    out = experiment.measure("demo", (full,), None, "gpu", lambda text: None)
    assert seen == [{"full": {"ms": 1.23457, "rows": [{"n": 4}]}}] and out.documents == {"gpu": seen[0]["full"]}
    reads = Experiment("reads", "gpu", lambda results, size: {"C1": point(results["reads"]["raw"])}, run=full.run, left_out=("raw",))
    with pytest.raises(KeyError, match="raw"):
        experiment.measure("demo", (reads,), None, "gpu", lambda text: None)


def test_a_record_names_the_files_that_its_experiment_depends_on(here):
    assert experiment.main(here, ALL, []) == 0
    scratch = here / "results" / ".scratch"
    files = json.loads((scratch / "sources.json").read_text())
    assert set(files) == {"exact", "text", "speed"} and files["text"]["tests/killed_run.py"]
    for name, of in (("C1.analytic", "exact"), ("C2.cpu-small", "text")):
        run = json.loads((scratch / f"{name}.json").read_text())["run"]
        assert run["sources"] == {"experiment": of, "sha256": code.digest_of(files[of])}
    assert experiment.main(here, ALL, ["--only", "speech"]) == 0
    assert set(json.loads((scratch / "sources.json").read_text())) == {"exact", "text", "speed", "speech"}  # of the others nothing is lost


def test_a_run_ends_with_what_differs_from_the_committed_records():
    def made(number, values, **more):
        return record(claim("above", "cpu-small", id=f"demo/C{number}"), held(values), **more)

    committed = [made(1, [0.3, 0.31, 0.32]), made(2, [0.3, 0.31, 0.32]), made(3, [0.3, 0.31, 0.32])]
    now = [made(1, [0.3, 0.31, 0.32], run={"seconds": 9}), made(2, [0.3, 0.31, 0.33]), made(3, [0.3, 0.0, -0.3]),
           made(4, [0.3, 0.31, 0.32]), record(claim(blocked_by=["gpu"]), {"value": None, "n_runs": 0})]
    assert reproduce.differences(committed, now) == [
        "Against the committed records: 1 equal, 2 different, 1 without a committed value:",
        "  demo/C2: committed supports 0.31 [0.2852, 0.3348]; this run supports 0.3133 [0.2754, 0.3513]",
        "  demo/C3: committed supports 0.31 [0.2852, 0.3348]; this run inconclusive 0 [-0.7452, 0.7452]  <- another word"]
    assert reproduce.differences(committed, now[:1]) == ["Against the committed records: 1 equal, 0 different."]


def test_how_long_jobs_took_is_known_to_a_run_that_finds_them_finished(tmp_path):
    made = [Job(f"a/{n}", "tests.runs.test_experiment:nothing", {"n": n}) for n in range(3)]
    for job, seconds in zip(made, (8.0, 4.0)):  # of the third nothing is there
        (tmp_path / f"a.{job.arguments['n']}.{job.key()}.json").write_text(json.dumps({"seconds": seconds}))
    together, alone = (Experiment("x", "cpu", jobs=lambda size: made, alone=alone) for alone in (False, True))
    assert experiment.seconds_of([together], "cpu", {}, tmp_path) == 6.0
    assert experiment.seconds_of([alone], "cpu", {}, tmp_path) == 12.0
    assert experiment.seconds_of([Experiment("exact", "analytic")], "cpu", {}, tmp_path) == 0.0
    stand_in = Job("stand-in/seed3", "common.standins.llava:made", {"seed": 3})  # an hour that a default run never takes
    (tmp_path / f"stand-in.seed3.{stand_in.key()}.json").write_text(json.dumps({"seconds": 3600.0}))
    assert experiment.seconds_of([Experiment("y", "cpu", jobs=lambda size: [*made, stand_in])], "cpu", {}, tmp_path) == 6.0
