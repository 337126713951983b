"""A small experiment that tests kill, and the server that starts it: torch is imported once, every run is a fork of that.

The machinery is the real one from end to end: jobs in worker processes, a training with checkpoints by the command line
that papers have, then a record a claim. What varies between a run and the next is in `run`, in seconds, and nowhere else.
"""

import functools
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import common.runs.jobs
from common.claims.intervals import point
from common.claims.records import VARIES
from common.runs.jobs import Job, run_jobs
from tests.preload import PRELOAD

ROOT = Path(__file__).resolve().parent.parent
JOBS, STEPS = 4, 12


# -- the experiment ----------------------------------------------------------------------------------------
def number(seed: int, trouble: str = "", once: str = "") -> dict:
    """A job. trouble: what happens to it when it is run first, which leaves the file `once`."""
    if once and not Path(once).exists():
        Path(once).touch()
        if trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no room for 16 GB")
    digest = str(seed).encode()
    for _ in range(20_000):
        digest = hashlib.sha256(digest).digest()
    return {"value": int.from_bytes(digest[:4], "big") / 2**32}


def jobs() -> list[Job]:
    return [Job(f"number/{i}", "tests.killed_run:number", {"seed": i}, (__file__,)) for i in range(JOBS)]


def paper(folder: Path) -> Path:
    """A made-up paper with two claims and a config, in `folder`."""
    import yaml

    from tests.sample_records import claim, claims_yaml

    here = folder / "papers" / "demo"
    here.mkdir(parents=True, exist_ok=True)
    (here / "eval.py").write_text("")
    claims_yaml(here, claim("above", "cpu-small"), claim("equals", "analytic", id="demo/C2"))
    kept = {"class_path": "ModelCheckpoint", "init_args": {
        "dirpath": str(folder / "run" / "checkpoints"), "every_n_train_steps": 2, "save_top_k": 1, "save_last": True}}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    (here / "config.yaml").write_text(yaml.safe_dump({
        "model": {"class_path": "tests.killed_training.Tiny"},
        "data": {"class_path": "tests.killed_training.Numbers", "init_args": {"batch_size": 8}},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": STEPS, "max_epochs": -1, "callbacks": [kept],
                    "default_root_dir": str(folder / "run"), **quiet}}))
    return here


def train(folder: Path) -> Path:
    """The product. The command of a user who goes on after an interruption."""
    import lightning as L

    from common.training import cli as commands
    from tests.killed_training import Numbers

    config = folder / "papers" / "demo" / "config.yaml"
    commands.cli(L.LightningModule, Numbers, name="demo", seed=1, args=["fit", "--config", str(config), "--ckpt_path", "last"])
    return folder / "run" / "model.safetensors"


def experiment(folder: str) -> int:
    from common.files import file_sha256
    from common.runs import reproduce
    from tests.sample_records import held

    here = Path(folder) / "papers" / "demo"

    def measure(rung: str, log) -> reproduce.Outcome:
        found = run_jobs(jobs(), Path(folder) / "cache", log=log)
        product = file_sha256(train(Path(folder)))
        return reproduce.Outcome({"C1": held([r["value"] for r in found.values()]), "C2": point(int(product[:6], 16))},
                                 documents={"jobs": found}, lines=[product])

    return reproduce.main(here, measure, [])


def left(folder: Path) -> dict[str, str]:
    """What a run leaves: every file, of JSON what does not vary. Of checkpoints the name: they hold the folder's own.

    The speed of the machine is not of the run: a run that found all its jobs finished has learned none.
    """
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("log", "speed.json")):
        content = path.read_bytes()
        if path.suffix == ".json":
            document = json.loads(content)
            document = {k: v for k, v in document.items() if k != "seconds"}
            document["run"] = {k: v for k, v in document.get("run", {}).items() if k not in VARIES}
            content = json.dumps(document, sort_keys=True).encode()
        elif path.suffix in (".ckpt", ".yaml"):
            content = b""
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


# -- the server --------------------------------------------------------------------------------------------
def serve() -> None:
    """A line in: [function, arguments]; out: the process id of a fork that calls it. Then a line in: its status out."""
    for module in ("common.runs.reproduce", "tests.killed_training", "tests.sample_records", "jsonschema", *PRELOAD):  # before the fork
        importlib.import_module(module)
    common.runs.jobs._closure = functools.cache(common.runs.jobs._closure)  # which files a job rests on: for all runs, too
    jobs()[0].key()

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitpid(asked, 0)[1], flush=True)
            continue
        pid = os.fork()
        if not pid:
            _call(*asked)
        os.setpgid(pid, pid)
        print(pid, flush=True)


def _call(function: str, log: str, arguments: list) -> None:
    """Never returns. A group of its own, so that its workers are killed with it."""
    status = 70
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        module, name = function.split(":")
        status = getattr(importlib.import_module(module), name)(*arguments) or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


class Server:
    """The tests' end of `serve`."""

    def __init__(self):
        # No script as __main__: workers would import it, and torch with it, again.
        self.process = subprocess.Popen([sys.executable, "-c", "from tests.killed_run import serve; serve()"], cwd=ROOT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        assert self.process.stdout.readline() == "ready\n"

    def _ask(self, what) -> int:
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def start(self, function: str, log: Path, *arguments: str) -> int:
        return self._ask([function, str(log), list(arguments)])

    def wait(self, pid: int) -> int:
        """The exit status; that of a killed process is negative."""
        return os.waitstatus_to_exitcode(self._ask(pid))

    def run(self, function: str, log: Path, *arguments: str) -> int:
        return self.wait(self.start(function, log, *arguments))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
