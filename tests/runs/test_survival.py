"""A run that is killed and started again ends where the unbroken one does, bit for bit, and leaves no litter."""

import json
import os
import random
import signal
import time

import pytest

from common.claims.records import read_record, same_result, write_record
from common.files import sweep
from tests.killed_run import Server, left, paper
from tests.sample_records import one, record

KILLS = 12
# Before and after every call by which a record gets to the disk.
CALLS = ("os.open", "fcntl.flock", "os.fsync", "os.replace")
MOMENTS = [(call, when) for call in CALLS for when in ("before", "after")]
EXPERIMENT = "tests.killed_run:experiment"


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """(what an unbroken run leaves, its seconds)."""
    folder = tmp_path_factory.mktemp("unbroken")
    paper(folder)
    began = time.monotonic()
    assert server.run(EXPERIMENT, folder / "log", str(folder)) == 0, (folder / "log").read_text()
    seconds, files = time.monotonic() - began, left(folder)
    kinds = [sum(name.endswith(end) for name in files) for end in (".safetensors", ".ckpt", "C1.cpu-small.json", "C2.analytic.json")]
    assert kinds == [1, 2, 1, 1] and sum(name.startswith("cache/") for name in files) == 4, sorted(files)
    return files, seconds


def test_a_run_killed_at_random_moments_ends_as_the_unbroken_one(server, unbroken, tmp_path):
    """A run that ends before its kill is compared, and another one is begun, until there were that many kills."""
    expected, seconds = unbroken
    draw, kills, life, ended = random.Random(6), 0, 0, False
    while kills < KILLS or not ended:
        if (folder := tmp_path / str(life)) and not folder.exists():
            paper(folder)
        pid = server.start(EXPERIMENT, folder / "log", str(folder))
        if kills < KILLS:
            time.sleep(draw.uniform(0, seconds))
            os.killpg(pid, signal.SIGKILL)
        status = server.wait(pid)
        assert status in (0, -signal.SIGKILL), (folder / "log").read_text()
        ended = status == 0
        if ended:
            assert left(folder) == expected
            life += 1
        else:
            kills += 1


def test_a_run_killed_after_its_last_step_still_writes_its_product(server, unbroken, tmp_path):
    paper(tmp_path)
    product = tmp_path / "run" / "model.safetensors"
    for _ in range(2):  # the second one has no step left to take
        assert server.run(EXPERIMENT, tmp_path / "log", str(tmp_path)) == 0, (tmp_path / "log").read_text()
        assert left(tmp_path) == unbroken[0]
        product.unlink()
        (tmp_path / "papers" / "demo" / "results" / ".scratch" / "C2.analytic.json").unlink()


def test_two_runs_at_once_in_one_folder(server, unbroken, tmp_path):
    paper(tmp_path)
    both = [server.start(EXPERIMENT, tmp_path / "log", str(tmp_path)) for _ in range(2)]
    assert [server.wait(pid) for pid in both] == [0, 0], (tmp_path / "log").read_text()
    found, expected = left(tmp_path), unbroken[0]
    # Each numbers its checkpoints past the other's, and reads whichever is last: all of them are the same run's.
    assert {k: v for k, v in found.items() if "checkpoints" not in k} == {k: v for k, v in expected.items() if "checkpoints" not in k}
    assert not [name for name in found if name.endswith(".tmp")]


def old_and_new() -> tuple[dict, dict]:
    return record(measured=one(101.0)), record(measured=one(102.0))


def killed_while_writing(folder: str, call: str, when: str) -> None:
    """Writes the new record over the old one, and dies at the call (of those that concern the folder)."""
    import fcntl

    module = {"os": os, "fcntl": fcntl}[call.partition(".")[0]]
    name = call.partition(".")[2]
    original = getattr(module, name)

    def dying(*arguments, **options):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, dying)
    write_record(old_and_new()[1], folder)


@pytest.mark.parametrize(("call", "when"), MOMENTS)
def test_a_record_is_the_old_or_the_new_one_whenever_its_writer_dies(server, tmp_path, call, when):
    old, new = old_and_new()
    path = write_record(old, tmp_path / "results")
    assert server.run("tests.runs.test_survival:killed_while_writing", tmp_path / "log", str(path.parent), call, when) == -signal.SIGKILL
    replaced = (call, when) == ("os.replace", "after")
    assert same_result(read_record(path), new if replaced else old)
    sweep(path.parent)
    assert os.listdir(path.parent) == [path.name]
    assert json.loads(path.read_text())["measured"]["value"] == (102.0 if replaced else 101.0)
