"""common/runs/jobs.py: finished work is reused, killed work goes on, a changed source is computed again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.files import write_json
from common.runs.jobs import Estimate, Job, read_result, run_jobs

ROOT = Path(__file__).resolve().parents[2]


def counted(folder: str, value: int, fail: bool = False) -> dict:
    """A job that leaves a trace of every time it really ran."""
    Path(folder, f"ran-{value}-{time.monotonic_ns()}").touch()
    if fail:
        raise ValueError("planned failure")
    return {"value": value}


def patient(folder: str, value: int) -> int:
    """Ends when somebody has said that it is running."""
    while not Path(folder, "heard").exists():
        time.sleep(0.01)
    return value


def keys() -> dict:
    return {1: (2,)}


def endless(folder: str) -> None:
    Path(folder, "worker").write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Workers import this very file by name; they get the parent's path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))
    return tmp_path


def local(value, folder):
    return Job(f"job/{value}", "test_jobs:counted", {"folder": str(folder), "value": value})


def ran(folder):
    return len(list(Path(folder).glob("ran-*")))


def test_finished_jobs_are_reused_and_said(here):
    said = []
    jobs = [local(value, here) for value in range(2)]
    first = run_jobs(jobs, here / "work", log=said.append)
    assert first == {"job/0": {"value": 0}, "job/1": {"value": 1}} and ran(here) == 2
    again = run_jobs(jobs, here / "work", log=said.append)
    assert again == first and ran(here) == 2
    assert "reusing 2 of 2" in said[-1]


def test_a_long_job_is_said_to_be_running_with_the_time_left(here):
    said = []

    def log(text):
        said.append(text)
        if "running: long/1   " in text:
            (here / "heard").touch()

    long = Job("long/1", "test_jobs:patient", {"folder": str(here), "value": 1}, seconds=500)
    assert run_jobs([long], here / "work", workers=1, log=log, patience=0.05) == {"long/1": 1}
    (heard, *_), last = [text for text in said if "running" in text], said[-1]
    assert heard.startswith("  [  0/1] running: long/1") and "about" in heard and heard.endswith("s left")
    assert last.startswith("  [  1/1] long/1") and last.endswith("about    0 s left")


def test_a_changed_source_is_computed_again(here):
    source = here / "method.py"
    source.write_text("one")
    this = Job("job/7", "test_jobs:counted", {"folder": str(here), "value": 7}, (str(source),))
    before = this.key()
    run_jobs([this], here / "work", workers=1, log=lambda text: None)
    source.write_text("two")
    assert this.key() != before
    run_jobs([this], here / "work", workers=1, log=lambda text: None)
    assert ran(here) == 2


def test_data_that_is_not_there_is_named_before_any_work(here):
    for data in (here / "gone.txt", here):  # a folder has no content of its own
        with pytest.raises(FileNotFoundError, match=r"job job/7: .* is not there, or no file"):
            run_jobs([local(1, here), Job("job/7", "test_jobs:counted", {}, (str(data),))], here / "work")
    assert ran(here) == 0


def test_a_damaged_result_counts_as_not_finished(here, capsys):
    this = local(3, here)
    run_jobs([this], here / "work", workers=1, log=lambda text: None)
    (file,) = (here / "work").glob("*.json")
    file.write_text('{"result": ')
    assert run_jobs([this], here / "work", workers=1, log=lambda text: None) == {"job/3": {"value": 3}}
    assert ran(here) == 2 and "damaged" in capsys.readouterr().err


def test_a_failure_names_the_job_and_keeps_what_is_done(here):
    bad = Job("job/bad", "test_jobs:counted", {"folder": str(here), "value": 9, "fail": True}, seconds=1)
    with pytest.raises(RuntimeError, match=r"job/bad.*planned failure"):
        run_jobs([local(1, here), bad], here / "work", workers=1, log=lambda text: None)
    assert read_result(next((here / "work").glob("job.1.*.json"))) == {"value": 1}


def test_a_failure_is_reported_at_once_and_the_others_go_on(here):
    """A failed job used to be named when all others had ended, up to half an hour later."""
    told = []

    def log(text):
        told.append(text)
        if "FAILED job/bad" in text:
            assert "planned failure" in text and not any("[  1/" in line for line in told)  # nothing else has ended yet
            (here / "heard").touch()  # ends the patient one

    jobs = [Job("patient", "test_jobs:patient", {"folder": str(here), "value": 1}, seconds=30),
            Job("job/bad", "test_jobs:counted", {"folder": str(here), "value": 9, "fail": True}, seconds=20), local(2, here),
            Job("after", "test_jobs:counted", {"folder": str(here), "value": 3}, after=("job/bad",))]  # fmt: skip
    with pytest.raises(RuntimeError, match=r"job job/bad failed: .*planned failure(.|\n)* So did after\. Finished jobs are kept"):
        run_jobs(jobs, here / "work", workers=2, log=log, patience=0.05)
    assert sorted(path.name.split(".")[0] for path in (here / "work").glob("*.*.json")) == ["job", "patient"]  # job/2 and the patient one
    assert any("FAILED after: needs a job that failed" in line for line in told)


def test_jobs_that_wait_for_each_other_are_refused(here):
    pair = [Job(name, "test_jobs:keys", {}, after=(other,)) for name, other in (("a", "b"), ("b", "a"))]
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        run_jobs(pair, here / "work", workers=1, log=lambda text: None)


def test_the_time_left_is_learned_from_this_machine():
    """Guesses of 10 s a job; this machine takes 40. What runs beyond its guess tells so before any job has ended."""
    one = Job("one", "test_jobs:keys", {}, seconds=10)
    estimate = Estimate(workers=2)
    assert estimate.left([one] * 4) == 20
    assert estimate.left([one] * 2, [(one, 5.0), (one, 5.0)]) == (2 * 10 + 5 + 5) / 2
    assert estimate.left([one] * 2, [(one, 30.0), (one, 30.0)]) == (2 * 30 + 3 + 3) / 2  # at least three times as slow
    estimate.ended(one, 40.0)
    assert estimate.rate() == 4 and estimate.left([one]) == 40  # one job is not shared between workers
    assert estimate.left([one] * 2, [(one, 30.0)]) == (2 * 40 + 10) / 2
    assert Estimate(2, before=4.0).left([one] * 4) == 80  # what an earlier run learned


def test_results_come_in_the_order_of_the_jobs_and_as_json_whoever_computed_them(here):
    """Else a mean over them would differ in its last digits between a run that was killed and one that was not."""
    run_jobs([local(2, here)], here / "work", workers=1, log=lambda text: None)
    jobs = [Job("keys", "test_jobs:keys", {}), local(1, here), local(2, here)]
    for _ in range(2):
        results = run_jobs(jobs, here / "work", workers=1, log=lambda text: None)
        assert list(results.items()) == [("keys", {"1": [2]}), ("job/1", {"value": 1}), ("job/2", {"value": 2})]


def test_two_jobs_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same name"):
        run_jobs([local(1, tmp_path), local(1, tmp_path)], tmp_path)


def test_a_run_killed_between_jobs_ends_with_the_same_results(here):
    script = here / "run.py"
    script.write_text(
        "from pathlib import Path\nfrom common.runs.jobs import Job, run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    jobs = [Job(f'job/{{v}}', 'test_jobs:counted', {{'folder': {str(here)!r}, 'value': v}}) for v in range(6)]\n"
        f"    run_jobs(jobs, Path({str(here / 'work')!r}), workers=1, log=lambda text: print(text, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    while "[" not in (line := process.stdout.readline()):  # until the first job is done
        assert line, "it ended before its first job did"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list((here / "work").glob("*.json")))
    assert 1 <= finished
    results = run_jobs([local(v, here) for v in range(6)], here / "work", workers=1, log=lambda text: None)
    assert results == {f"job/{v}": {"value": v} for v in range(6)}


def test_workers_end_with_a_parent_that_was_killed(here):
    script, pid = here / "run.py", here / "worker"
    script.write_text(
        "from pathlib import Path\nfrom common.runs.jobs import Job, run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    run_jobs([Job('a', 'test_jobs:endless', {{'folder': {str(here)!r}}})], Path({str(here)!r}), workers=1)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT)
    wait_for(lambda: pid.exists() and pid.read_text())
    process.kill()  # the parent alone: nobody tells the worker
    process.wait()
    wait_for(lambda: not running(int(pid.read_text())))


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "still not so after a minute"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether the process works; a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": 1}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a" / "b.json", {"x": object()})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": 1}
