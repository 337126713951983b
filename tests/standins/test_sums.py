"""The real model that reasons at length: its adapter merges, and the committed one is what its card says."""

import json
import statistics

import pytest

from common.models import load, tiny
from common.standins import sums as recipe
from tests.small_tokenizers import byte_words


def test_training_leaves_an_adapter_that_merges_and_a_curve(tmp_path, monkeypatch):
    """trl, peft, checkpoints and the committed form, on a tiny model; the merged model is the adapted one."""
    words = byte_words()
    spec = tiny("llama", vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    made = load(spec)
    folder = recipe.train(tmp_path / "sums", steps=2, rows_a_step=2, work=tmp_path / "work", model=made.model, tokenizer=words)
    about = json.loads((folder / "training.json").read_text())
    assert [s for s, _ in about["loss by step"]] == [1, 2] and about["rank"] == recipe.RANK and not (folder / "README.md").exists()
    monkeypatch.setattr(recipe, "SMOLLM2", spec)
    merged, plain = recipe.load_sums_reasoner(folder).model, load(spec).model
    pairs = [(n, a.detach(), b.detach()) for (n, a), b in zip(merged.named_parameters(), plain.parameters())]
    gap = {n: float((a - b).abs().max() / b.abs().max()) for n, a, b in pairs}
    moved = {n for n in gap if gap[n] > 1e-5}
    assert not any(gap[n] for n in gap.keys() - moved)
    assert moved == {n for n, _ in plain.named_parameters() if any(layer in n for layer in recipe.ADAPTER.targets)}
    assert all(p.requires_grad for p in merged.parameters()) and not any("lora" in n for n, _ in merged.named_parameters())
    with pytest.raises(FileNotFoundError, match="standins-sums"):
        recipe.load_sums_reasoner(tmp_path)


def test_the_committed_adapter_is_what_its_card_says():
    about = json.loads((recipe.FOLDER / "training.json").read_text())
    assert (about["steps"], about["rows"], about["rank"]) == (recipe.STEPS, recipe.ROWS, recipe.RANK)
    losses = [loss for _, loss in about["loss by step"]]
    assert len(losses) == recipe.STEPS and statistics.fmean(losses[-10:]) < 0.2 * losses[0]
    assert (recipe.FOLDER / "adapter_model.safetensors").stat().st_size < 4e6 and (recipe.FOLDER / "README.md").is_file()
