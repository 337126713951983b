"""The piece of code that the README gives to copy runs as it stands, in a fresh interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
ROOT = Path(__file__).resolve().parents[3]


def snippets():
    if not README.is_file():
        pytest.skip("papers/skipgpt/README.md is not written yet")
    block = re.compile(r"^<!-- snippet -->\s*\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return block.findall(README.read_text(encoding="utf-8"))


def test_the_readmes_snippet_runs(tmp_path):
    """From the repository root, as a reader would. What it writes goes to a folder of its own."""
    found = snippets()
    assert found, "README.md has no ```python block after a line <!-- snippet -->"
    for code in found:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                              capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"
