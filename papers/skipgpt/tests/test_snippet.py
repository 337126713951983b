"""The piece of code that the README gives to copy runs as it stands."""

import re
import tempfile
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
ROOT = Path(__file__).resolve().parents[3]


def snippets():
    if not README.is_file():
        pytest.skip("papers/skipgpt/README.md is not written yet")
    block = re.compile(r"^<!-- snippet -->\s*\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return block.findall(README.read_text(encoding="utf-8"))


def test_the_readmes_snippet_runs(tmp_path, monkeypatch, capsys):
    """From the repository root, with nothing but its own names. What it writes goes to a folder of its own."""
    found = snippets()
    assert found, "README.md has no ```python block after a line <!-- snippet -->"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for code in found:
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert re.search(r"skipped [1-9]\d?% of the modules", capsys.readouterr().out)
