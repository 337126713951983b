"""The real pair: what is cut is what it is called, cards speak of what they hold, and no claim is measured below the bars."""

import json
from dataclasses import replace

import pytest
import torch

from common.errors import ModelError, SetupError
from common.lora import CONFIG, LINEAR, WEIGHTS, LoraSpec, add_lora, save
from common.models import load, tiny
from common.reasoning.sums import SPLITS, Sums
from common.runs.experiment import measure
from tests.small_tokenizers import byte_words

from .. import eval as harness
from .. import pair, quantities, tables
from ..experiments import real
from ..pair import first_layers
from .exact import truly_double
from .made_up import CLAIMS, copied, swapped, verdict
from .made_up import real as results


def small(dtype="float32", **changes):
    words = byte_words()
    options = dict(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, num_hidden_layers=4) | changes
    return load(tiny(dtype=dtype, **options))._replace(tokenizer=words)


def test_a_student_is_the_first_layers_and_all_around_them():
    """Its logits are those of the whole model's state behind that layer, through the final norm and the head."""
    ids = torch.tensor([[5, 9, 2, 7]])
    whole = truly_double(small().model)
    with torch.no_grad():
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states
        expected = whole.lm_head(whole.model.norm(states[2]))
        cut = first_layers(truly_double(small().model), 2)
        assert torch.equal(cut(input_ids=ids).logits, expected)
    assert cut.config.num_hidden_layers == 2 == len(cut.model.layers)
    assert len(cut.generate(ids, max_new_tokens=3, do_sample=False)[0]) == 7, "its cache has as many layers as it"


@pytest.mark.parametrize("count", [0, 5])
def test_more_layers_than_there_are_are_refused(count):
    with pytest.raises(ModelError, match="the model has 4"):
        first_layers(small().model, count)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A pair of small models whose adapters lie in a folder as the real ones do."""
    monkeypatch.setattr(pair, "FOLDER", tmp_path)
    monkeypatch.setattr(pair, "start", lambda who: small(num_hidden_layers=4 if who == "teacher" else 2))
    for who, right in (("teacher", {"greedy": 0.9}), ("student", {"sampled": 0.2})):
        torch.manual_seed(len(who))
        adapted = add_lora(pair.start(who).model, LoraSpec(2, 4, 0.0, LINEAR))
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
        save(adapted, tmp_path / who, base=pair.BASES[who])
        (tmp_path / who / "training.json").write_text(json.dumps({"right": right}))
    return tmp_path


def test_opened_is_start_and_adapter(there):
    ids = torch.tensor([[5, 9, 2, 7]])
    loaded, bare = pair.opened("student"), pair.start("student").model
    assert not torch.allclose(loaded.model(input_ids=ids).logits, bare(input_ids=ids).logits)
    assert all(p.requires_grad for p in loaded.model.parameters()) and "lora" not in " ".join(dict(loaded.model.named_parameters()))
    half = pair.opened("student", "bfloat16").model.state_dict()
    assert all(torch.equal(half[name], value.to(torch.bfloat16)) for name, value in loaded.model.state_dict().items())
    assert loaded.source["pair"] == "papers/decouplingkl/pair-weights/student" and len(loaded.source["pair_sha256"]) == 64


@pytest.mark.parametrize("who, right", [("teacher", {"greedy": 0.84}), ("student", {"sampled": 0.09}), ("student", {"sampled": 0.26})])
def test_a_pair_that_is_not_what_it_is_called_measures_nothing(who, right, there):
    (there / who / "training.json").write_text(json.dumps({"right": right}))
    with pytest.raises(ModelError, match=f"the {who} answers"):
        pair.opened(who)


def test_a_missing_adapter_is_named_with_what_makes_it(there):
    (there / "teacher" / WEIGHTS).unlink()
    for asks in (lambda: pair.opened("teacher"), pair.ready):
        with pytest.raises(SetupError, match="pair-weights/teacher.*python -m papers.decouplingkl.pair"):
            asks()


def test_a_run_without_the_pair_ends_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(pair, "FOLDER", tmp_path)
    asked = next(each for each in harness.EXPERIMENTS if each.name == "real")
    with pytest.raises(SetupError, match="pair-weights/teacher"):
        measure("decouplingkl", [asked], "real", "cpu", lambda line: pytest.fail(line))


def test_a_training_leaves_an_adapter_and_its_card(tmp_path, monkeypatch):
    pytest.importorskip("reasoning_gym")
    pytest.importorskip("trl")
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pair, "CAP", 12)
    card = pair.make("student", tmp_path / "student", 2, base=small(), asked=3)
    assert card["steps"] == 2 and card["command"].endswith("--who student --steps 2")
    assert set(card["right"]) == {"greedy", "sampled", "tokens"}
    assert json.loads((tmp_path / "student" / CONFIG).read_text())["base_model_name_or_path"] == pair.BASES["student"]
    assert json.loads((tmp_path / "student" / "training.json").read_text()) == json.loads(json.dumps(card))


# -- the experiment ----------------------------------------------------------------------------------------
TINY = real.Size(seeds=(0,), prompts=3, updates=3, rows=2, every=3, probe=2, test=4, samples=2, cap=12, ladder=(4, 8, 12))


@pytest.mark.parametrize("arm", list(real.ARMS))
def test_an_arm_from_problems_to_scores(arm, there, monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setitem(real.SIZES, "tiny", TINY)
    made = []
    distilling = real.distilling
    monkeypatch.setattr(real, "distilling", lambda *given: made.append((distilling(*given), given[0].model)) or made[-1][0])
    before = {name: value.clone() for name, value in pair.opened("student").model.state_dict().items()}
    found = json.loads(json.dumps(real.run(0, arm, "tiny")))
    [(training, _)], of = made, real.ARMS[arm]
    assert [row[0] for row in found["curve"]] == [0, 3] and len(found["history"]["length"]) == 3
    assert max(found["history"]["length"]) <= min(of.horizon, TINY.cap) and set(found["kl"]) == {"teacher", "student"}
    assert found["test"]["problems"] == 4 and found["test"]["entropy"] > 0 and len(found["test"]["said"]) == 3
    assert [row["length"] for row in found["decisions"]][:1] == ([] if of.gate is None else [4])
    if arm == "ladder":
        assert [row["next_length"] for row in found["decisions"]] == [8, 12]
    assert (training.config.prefix, training.config.lam) == (of.prefix, of.lam) and training.config.stop_token_ids == (1,)
    moved = {name: float((value.float() - before[name].float()).abs().max()) for name, value in training.model.state_dict().items()}
    assert max(moved.values()) > 0 and not any("lora" in name for name in moved)


def test_the_curve_is_of_validation_problems_and_the_score_of_test_problems(there, monkeypatch):
    """Neither of problems that were trained on."""
    pytest.importorskip("reasoning_gym")
    monkeypatch.setitem(real.SIZES, "tiny", TINY)
    asked, scored, of = [], real.scored, Sums().use(pair.start("student").tokenizer)
    monkeypatch.setattr(real, "scored", lambda model, data, problems, *how: asked.append(problems) or scored(model, data, problems, *how))
    real.run(0, "SF", "tiny")
    val, test = of.problems("val", TINY.probe), of.problems("test", TINY.test)
    assert asked == [val, val, test]  # before the first update, after the last, and the end
    trained = {problem.prompt for problem in of.problems("train", TINY.updates * TINY.prompts)}
    assert len({p.prompt for p in [*val, *test]} - trained) == len(val) + len(test)


def test_the_start_is_scored_untrained_beside_its_teacher(there, monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setitem(real.SIZES, "tiny", TINY)
    found = real.start(0, "tiny")
    assert found["model"]["pair"].endswith("student") and found["teacher"]["pair"].endswith("teacher")
    assert found["test"]["samples"] == 2 and all(value > 0 for both in found["kl"].values() for value in both)


def test_the_model_as_its_own_teacher_has_no_divergence(there):
    pytest.importorskip("reasoning_gym")
    student = pair.opened("student")
    found = real.measured(student.model.eval(), student, TINY, 0)
    assert all(value == 0.0 for both in found["kl"].values() for value in both)


def test_jobs_are_the_arms_of_every_seed_and_the_weights_are_theirs(there):
    jobs = {job.name: job for job in real.jobs()}
    assert {name.rpartition("/seed")[0] for name in jobs} == {"real/start", *(f"real/{arm}" for arm in real.ARMS)}
    assert len(jobs) == len(real.SIZES["cpu"].seeds) * (1 + len(real.ARMS)) and {len(job.data) for job in jobs.values()} == {2}
    first = jobs["real/SR/seed0"].key()
    (there / "teacher" / WEIGHTS).write_bytes((there / "student" / WEIGHTS).read_bytes())
    assert jobs["real/SR/seed0"].key() != first
    assert 2 * max(SPLITS.values()) > 0 and real.SIZES["cpu"].updates % len(real.LADDER) == 0


# -- words -------------------------------------------------------------------------------------------------
NAMES = ("C3i", "C5i", "C7i", "C8i", "C8j", "C8k", "C9i", "C10i", "C10j")
PLACES = {"C3i": ("SF", "SR"), "C5i": ("SF", "TF"), "C7i": ("SF", "short SF"), "C8i": ("SF", "SR"), "C8j": ("SR", "short SR"),
          "C8k": ("SR", "short SR"), "C9i": ("SR", "mix 0.25"), "C10i": ("SR", "curriculum"), "C10j": ("SR", "curriculum")}
PLACEBOS = {"C3i": ("SR", "SF again"), "C8i": ("SR", "SF"), "C8j": ("SR", "short SR"), "C10i": ("curriculum", "ladder"),
            "C10j": ("curriculum", "ladder"), "C7i": ("SF", "start")}


@pytest.mark.parametrize("name", NAMES)
def test_words_follow_the_results_and_turn_when_arms_change_places(name):
    assert verdict(name, quantities.real(results()))[0] == "supports"
    both = swapped(results(), *PLACES[name], "real/")
    if name == "C5i":
        both = swapped(both, "SR", "TR", "real/")
    assert verdict(name, quantities.real(both))[0] == "opposes"


@pytest.mark.parametrize("name", PLACEBOS)
def test_a_placebo_that_passes_takes_the_word_away(name):
    said = verdict(name, quantities.real(copied(results(), *PLACEBOS[name], "real/")))
    assert said[0] == "inconclusive" and "does not discriminate" in said[1], said


def test_claims_and_tables_are_of_the_experiment():
    assert set(quantities.real(results())) == set(NAMES)
    for name in NAMES:
        assert tuple(CLAIMS.find(name)["protocol"]["seeds"]) == real.SIZES["cpu"].seeds
    text = "\n".join(tables.real(results()))
    assert "SR, 40 tokens" in text and "12 tokens" not in text and "MFLOP" not in text and "The curriculum's gate" in text


def test_the_size_of_the_readme_and_of_the_claims():
    how = real.SIZES["cpu"]
    page = (pair.Path(pair.__file__).parent / "README.md").read_text()
    assert f"{how.updates} updates of {how.prompts} responses" in page and f"ladder {', '.join(map(str, real.LADDER))}" in page
    assert f"Avg@{how.samples}" in CLAIMS.find("C5i")["protocol"]["metric"] and replace(how).cap == real.CAP == 160
