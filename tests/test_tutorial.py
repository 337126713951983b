"""docs/add-a-paper.md, followed literally in a copy of this tree: its files, its commands, its verdicts."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from common.claims.rules import WORDS
from tests.in_copies import LIBRARIES
from tests.test_rules import FILES, ROOT, RULES, tracked

PAGE = (ROOT / "docs" / "add-a-paper.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?:(?P<append>Append to )?`(?P<name>[\w./-]+)`\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
WARM = str(ROOT / "tests" / "warm_python.py")
# Seven commands would load the same libraries seven times. mypy and ruff load none of them.
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m mypy" | "-m ruff") exec "{python}" "$@" ;;
  "-m "*) exec "{python}" -P "{warm}" ask "{socket}" "$@" ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what git has, weights as links; a Python of its own at .venv/bin/python; one commit."""
    for package in ("uv", "ruff", "mypy"):
        pytest.importorskip(package, reason=f"{package} comes with `make setup`")
    root = tmp_path_factory.mktemp("tutorial") / "a tree"
    for path in tracked(ROOT):
        new = root / path.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            new.symlink_to(path)
        else:
            shutil.copy2(path, new)  # with its time, by which mypy's cache knows it
    if (ROOT / ".cache" / "mypy").is_dir():  # types that were looked at before `make test` are not looked at again, but for what is new
        shutil.copytree(ROOT / ".cache" / "mypy", root / ".cache" / "mypy")
    socket = root.parent / "socket"
    server = subprocess.Popen([sys.executable, "-P", WARM, "serve", socket, *LIBRARIES], cwd=root, env=environment(root),
                              stdout=subprocess.PIPE, text=True)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(python=sys.executable, warm=WARM, socket=socket))
    python.chmod(0o755)
    shell(root, "git init -q . && git add -A && git commit -q -m start")
    assert server.stdout.readline() == "ready\n"
    yield root
    server.terminate()
    server.wait()


def environment(root):
    outer = ("PYTHONPATH", "PYTEST_", "NINEFOLD_", "STRICT", "MAKE", "MFLAGS", "GIT_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    env |= {"ENV_PYTHON": str(root / ".venv" / "bin" / "python"), "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return env | {f"GIT_{who}_{what}": "nobody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def shell(root, commands):
    """Output of commands as a user types them; the first that fails ends them, and the test."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=root, env=environment(root), text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=500)
    assert done.returncode == 0, f"{commands}\n{done.stdout[-4000:]}"
    return done.stdout


def test_the_page_makes_a_tenth_paper(tree):
    names, outputs = [], []
    for block in BLOCK.finditer(PAGE):
        if block["kind"] == "sh":
            outputs.append(shell(tree, block["text"]))
            continue
        assert block["name"], f"a block that is neither a file nor a command: {block['text'][:200]}"
        path = tree / block["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a" if block["append"] else "x", encoding="utf-8") as file:
            file.write(block["text"])
        names.append(block["name"])
    assert "papers/window/method.py" in names and len(outputs) == PAGE.count("```sh") == 3
    run, published, copied = outputs
    table = dict(re.findall(rf"^(C\d) +[\w-]+ +({'|'.join(WORDS)})(?= )", run, re.MULTILINE))
    assert table == {"C1": "adds-up", "C2": "supports", "C3": "not-run"}, run
    assert "10 passed" in run and "All checks passed!" in run and "Success: no issues found" in run
    folder = tree / "papers" / "window"
    written = {name.removeprefix("papers/window/") for name in names if name.startswith("papers/window/")}
    assert set(FILES) <= written and written - set(FILES) == {"experiments/echoes.py"}  # the files of the nine
    assert (folder / "results" / "losses.svg").is_file()
    assert sorted(p.name for p in (folder / "results").glob("C*.json")) == ["C1.analytic.json", "C2.cpu-small.json", "C3.paper-scale.json"]
    assert "**supports** (cpu-small)" in (folder / "README.md").read_text() and "**adds-up**" in (folder / "results/README.md").read_text()
    assert "A Window Is Enough" in (tree / "README.md").read_text()
    copy = tree.parent / "my-window"
    assert (copy / "papers" / "window" / "method.py").is_file() and (copy / "common" / "progress.py").is_file()
    assert "files in" in copied and "part of common" in copied and not (copy / "common" / "vision").exists()
    alone = tree.parent / "my-window-alone" / "papers" / "window"
    assert (alone / "method.py").is_file() and (alone / "tests" / "test_training.py").is_file() and not (alone / "eval.py").exists()
    for rule in RULES:
        assert not list(rule(tree)), rule.__name__


def test_contributing_leads_to_the_page():
    assert "docs/add-a-paper.md" in (ROOT / "CONTRIBUTING.md").read_text()
