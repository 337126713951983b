"""The tiny families: they are what their names promise, and the table of methods says what the code does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import ModelError, UserError
from common.families import FAMILIES, build, text_ids, with_pictures
from common.families.pictures import IMAGE, PICTURES
from common.families.table import NOTHING, REFUSED, TABLE, WORKS, chosen, is_fault, main, methods, reason_of, row

ROOT = Path(__file__).resolve().parent.parent


def test_there_are_enough_of_both_kinds():
    assert len(FAMILIES) - len(PICTURES) >= 45 and len(PICTURES) >= 6


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_family_computes_and_every_earlier_id_matters(name):
    model, ids = build(name), text_ids()
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float64}
    other = ids.clone()
    other[:, 8] = ids[:, 8] % 90 + 3
    logits, after = model(input_ids=torch.cat([ids, other])).logits.chunk(2)
    assert logits.shape == (2, 12, 128) and logits.isfinite().all()
    moved = (after - logits).abs().amax((0, 2)) / logits.std()
    if name != "paligemma":  # which reads a prompt both ways
        assert moved[:8].max() < 1e-5  # the future is not seen (two state-space families compute in fp32)
    assert moved[8:].min() > 1e-2  # and what stands before makes a difference that nobody overlooks
    if name in PICTURES:
        inputs = with_pictures(model, ids)
        assert (inputs["input_ids"] == IMAGE).sum(1).min() >= 4
        seen = model(**inputs).logits[:, -1]
        blind = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits[:, -1]
        assert ((seen - blind).abs().amax() / seen.std()) > 1e-2


@torch.no_grad()
def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    one, two, other = build("qwen3"), build("qwen3"), build("qwen3", seed=1)
    assert torch.equal(torch.rand(2), first)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(("name", "holds"), [
    ("granite", lambda c: 1 not in (c.embedding_multiplier, c.attention_multiplier, c.residual_multiplier, c.logits_scaling)),
    ("cohere", lambda c: c.logit_scale != 1), ("gemma3_text", lambda c: len(set(c.layer_types)) == 2),
    ("smollm3", lambda c: c.no_rope_layers == [1, 0, 1]), ("falcon-alibi", lambda c: c.alibi), ("falcon", lambda c: not c.alibi),
    ("stablelm-qk-norm", lambda c: c.qk_layernorm), ("llama-longrope", lambda c: c.rope_parameters["rope_type"] == "longrope"),
    ("phi3-longrope", lambda c: c.rope_parameters["rope_type"] == "longrope"),
    ("llama-dynamic", lambda c: c.rope_parameters["rope_type"] == "dynamic"),
    ("llama", lambda c: c.num_key_value_heads < c.num_attention_heads),
])  # fmt: skip
def test_what_sets_a_family_apart_is_switched_on(name, holds):
    assert holds(build(name).config)


# -- the table ---------------------------------------------------------------------------------------------
def written(root=ROOT):
    """docs/families.md as {family: {method: cell}}."""
    lines = [line.strip("| \n").split(" | ") for line in (root / TABLE).read_text().splitlines() if line.startswith("| ")]
    head, _, *rows = lines
    return {cells[0]: dict(zip(head[1:], cells[1:], strict=True)) for cells in rows}


@pytest.mark.skipif(not methods(), reason="no paper has a families.py yet")
def test_the_page_names_what_is_there_and_every_cell_is_one_of_three_kinds():
    assert (ROOT / TABLE).is_file(), "papers have methods to try: make families"
    rows = written()
    assert list(rows) == list(FAMILIES), "other families: make families"
    for family, cells in rows.items():
        assert list(cells) == list(methods()), "other methods: make families"
        assert not [f"{family}, {name}: {text}" for name, text in cells.items() if is_fault(text)]
    for name in methods():
        assert any(cells[name] == WORKS for cells in rows.values()), f"{name} works nowhere"


@pytest.mark.skipif(not methods(), reason="no paper has a families.py yet")
@pytest.mark.parametrize("family", ["smollm3", "granite", "lfm2", "llava"])
def test_a_row_of_the_page_is_what_comes_out_now(family):
    assert row(family) == written()[family]


PAPER = """
import os
from common.errors import ModelError
def right(model, ids): model(input_ids=ids)
def refuses(model, ids): raise ModelError("keys are normed after the 2 rotations, off by 3.41. Use another | model.")
def wrong(model, ids): assert False, "logits differ by 2"
def crashes(model, ids): [][0]
def dies(model, ids): os._exit(7)
dies.applies = lambda model: hasattr(model, "get_image_features")
METHODS = {use.__name__: use for use in (right, refuses, wrong, crashes, dies)}
"""


def test_every_kind_of_cell_comes_out_as_it_is(tmp_path):
    """`python -m common.families` in a small tree: what its user sees of each kind of method, and the exit status."""
    (tmp_path / "papers" / "a").mkdir(parents=True)
    (tmp_path / "papers" / "a" / "families.py").write_text(PAPER)
    (tmp_path / "common").symlink_to(ROOT / "common")
    run = subprocess.run([sys.executable, "-m", "common.families"], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1", "ONLY": "gpt2, llava"})  # fmt: skip
    assert run.returncode == 1, run.stderr
    for line in ("a: right: works\n", "a: refuses: refused: keys are normed after the 2 rotations, off by …\n",
                 f"a: dies: {NOTHING}\n", "gpt2: 1 work, 1 refused, 2 faults", "llava: 0 work, 0 refused, 5 faults",
                 "FAULT gpt2, a: wrong: silent error: logits differ by 2", "FAULT gpt2, a: crashes: crash: IndexError: ",
                 "FAULT llava, a: right: crash: the process ended with status 7"):  # fmt: skip
        assert line in run.stdout, run.stdout
    assert not (tmp_path / TABLE).exists()  # of a part of the families no page is made


def test_a_page_is_written_of_all_families_and_a_fault_is_the_exit_status(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    cells = {"a: one": WORKS, "a: two": "refused: keys are normed"}
    monkeypatch.setattr("common.families.table.ROOT", tmp_path)
    monkeypatch.setattr("common.families.table.methods", lambda: cells)
    monkeypatch.setattr("common.families.table.row_apart", lambda family, context: cells)
    monkeypatch.delenv("ONLY", raising=False)
    assert main() == 0 and written(tmp_path) == dict.fromkeys(FAMILIES, cells)
    cells["a: two"] = "crash: KeyError: 'x'"
    assert main() == 1 and capsys.readouterr().out.count("FAULT") == len(FAMILIES)
    monkeypatch.setenv("ONLY", "llamma")
    assert main() == 2 and "there is no family llamma. Known: llama, " in capsys.readouterr().err


def test_a_refusal_is_its_first_sentence():
    long = "ViCA needs keys\nwithout norms, e.g. of layer 2. Do this."
    assert reason_of(ModelError(long)) == "ViCA needs keys without norms, e.g. of layer 2"
    assert reason_of(UserError("off by 1.3e-05 at 2e-6; so")) == "off by … at …"
    assert not is_fault(REFUSED + "x") and is_fault(REFUSED) and is_fault("crash: x") and is_fault("silent error: x")
    assert chosen("", "ab") == ["a", "b"] and chosen(" b ,", "ab") == ["b"]
