"""Scores are read again only where they are of the same weights and the same question."""

import pytest

from common.benchmarks.kept import folder_sha256, kept, named
from common.errors import DataError, ModelError


def test_a_folder_is_told_by_names_and_bytes_of_what_it_holds(tmp_path):
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "model.safetensors").write_bytes(b"a")
    first = folder_sha256(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"of the file system")
    assert folder_sha256(tmp_path) == first and len(first) == 64
    (tmp_path / "decoder" / "model.safetensors").write_bytes(b"b")
    second = folder_sha256(tmp_path)
    (tmp_path / "decoder").rename(tmp_path / "another")
    assert len({first, second, folder_sha256(tmp_path)}) == 3
    with pytest.raises(ModelError, match="absent: there is no such folder"):
        folder_sha256(tmp_path / "absent")


def test_a_name_is_a_folder_or_an_id_of_the_hub(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a")
    assert named(str(tmp_path)) == {"name": str(tmp_path), "sha256": folder_sha256(tmp_path)}
    assert named("some/model", "abc") == {"name": "some/model", "revision": "abc"} and named(None) == {"name": None, "revision": None}


def test_what_is_kept_is_made_again_for_other_weights_alone(tmp_path):
    made, lines, path = [], [], tmp_path / "run" / "GQA.json"

    def score():
        made.append(1)
        return {"value": len(made)}

    of = {"weights_sha256": "a", "schedule": {1: 0.5}, "data": tmp_path}
    path.parent.mkdir()
    assert kept(path, of, score, lines.append)["value"] == kept(path, dict(of), score, lines.append)["value"] == 1 and not lines
    assert kept(path, of | {"weights_sha256": "b"}, score, lines.append)["value"] == 2
    assert lines == ["what GQA.json holds is of other weights or another question, and is replaced"]
    assert kept(path, of | {"weights_sha256": "b", "schedule": {1: 0.25}}, score, lines.append)["value"] == 3
    path.write_text('{"value": 9}')  # as it was kept before files said of what
    assert kept(path, of, score, lines.append)["value"] == 4
    for text, says in (("{", "is no JSON"), ("[1]", "holds no scores")):
        path.write_text(text)
        with pytest.raises(DataError, match=f"GQA.json in run {says}.*; delete it"):
            kept(path, of, score, lines.append)
