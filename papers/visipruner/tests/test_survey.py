"""The survey against the definitions: each way is the one that it is called, numbers are those of the experiments, and what a model cannot
do is a sentence."""

import json
import math

import pytest
import torch

from common.errors import ModelError, UserError
from common.families import build, text_ids, with_pictures
from common.standins.llava import stand_in

from .. import scoring, survey
from ..analysis import Knockout
from ..baselines import ExitBehind
from ..experiments import llava, oracle
from ..own import Prompt
from ..pruners import VisiPruner
from ..survey import Asked, behind

SMALL = "common/standins/llava-weights/seed0"


@pytest.fixture(scope="module")
def few():
    return llava.Set.of(stand_in(0), "val", 1)


@pytest.fixture(scope="module")
def batches(few):
    return list(scoring.prompts(few.parts, few.asked, few.shown))


@pytest.fixture(scope="module")
def asked(few, batches):
    return Asked.of(few.parts.decoder, [Prompt(
        {"inputs_embeds": b.embeds, "attention_mask": torch.ones(b.visual.shape, dtype=torch.long)}, b.visual) for b in batches])


@pytest.fixture(scope="module")
def tiny():
    """A random multimodal model as transformers builds it, and two prompts with pixels."""
    model = build("llava")
    return model, [Prompt(with_pictures(model, torch.arange(start, start + 9)[None]), name=str(start)) for start in (5, 20)]


# -- what is lost ------------------------------------------------------------------------------------------
@torch.no_grad()
def test_what_a_way_loses_is_the_fall_of_the_own_answer(tiny):
    """By the stock model outside of any session, and by a session of the experiment's knock-out."""
    model, prompts = tiny
    of = Asked.of(model, prompts)
    found, stays = of.under(Knockout((1,), "before")), []
    for prompt, nats in zip(prompts, found["by prompt"]):
        dense = model(**prompt.inputs).logits[:, -1].log_softmax(-1)
        out = behind(model, prompt, Knockout((1,), "before"))
        stays.append(bool(out.argmax() == dense.argmax()))
        assert nats == pytest.approx(float(dense.max() - out[0, dense.argmax()]), abs=1e-4) and nats != 0
    assert found["nats"] == pytest.approx(sum(found["by prompt"]) / 2, abs=1e-4) and found["stays"] == sum(stays) / 2
    nothing = of.under(Knockout(()))
    assert (nothing["nats"], nothing["stays"]) == (0.0, 1.0)


def told(pruner):
    return ("exit", pruner.layer) if isinstance(pruner, ExitBehind) else (
        "nothing",) if not isinstance(pruner, Knockout) else (pruner.mode, tuple(sorted(pruner.layers)))


def test_every_way_is_the_one_that_it_is_called(monkeypatch):
    monkeypatch.setattr(Asked, "layers", 3)
    monkeypatch.setattr(Asked, "under", lambda self, pruner: told(pruner))
    of = Asked(None, [], [], [])
    assert survey.knockouts(of) == {mode: {str(b): (mode, (b,)) for b in range(3)} for mode in ("after", "before", "merge")}
    found = survey.ranges(of, ("after", "merge"), [(1, 2)])
    assert found["up to"] == {mode: {"0": (mode, (0,)), "1": (mode, (0, 1)), "2": (mode, (0, 1, 2))} for mode in ("after", "merge")}
    assert found["from"] == {mode: {"0": (mode, (0, 1, 2)), "1": (mode, (1, 2)), "2": (mode, (2,))} for mode in ("after", "merge")}
    assert found["given"] == {"1-2": {mode: (mode, (1, 2)) for mode in ("after", "before", "merge")}}
    assert found["gone behind"] == {"0": ("exit", 0), "1": ("exit", 1)} and "refused" not in found
    for wrong in ((2, 1), (0, 3), (-1, 0)):
        with pytest.raises(UserError, match="layers 0 to 2"):
            survey.ranges(of, given=[wrong])


# -- against the experiments -------------------------------------------------------------------------------
def test_sinks_are_those_of_the_experiment(few, asked):
    theirs, ours = llava.sinks(few, 1), survey.sinks(asked)
    for layer in map(str, range(8)):
        assert ours[layer]["value"] == pytest.approx(theirs["ratio"][layer])
        assert ours[layer]["attention"] == pytest.approx(theirs["attention"][layer])
        assert 1 / 64 * ours[layer]["attention"] <= ours[layer]["most"] <= ours[layer]["attention"]


def test_the_lens_is_that_of_the_experiment_and_ends_at_the_model(few, asked):
    """Of questions that are answered right the last layer's share and the experiment's are the same, layer by layer."""
    right = llava.lens(few)["right"]
    ours = survey.lens(asked, word=lambda ids: few.parts.tokenizer.decode(ids), count=2)
    assert set(right["7"]) == {"1"}, "these are all answered right, so that an answer is the own one"
    assert [of["answer"] for of in ours.values()] == [bits.count("1") / len(bits) for bits in right.values()]
    lacking = -torch.cat(asked.logs).mean().item()
    assert ours["7"]["nats"] < ours["3"]["nats"] and ours["7"]["nats"] == pytest.approx(lacking)
    assert [words[0] for words in ours["7"]["words"]] == [q.answer for q in few.asked] and all(len(w) == 2 for w in ours["0"]["words"])


@torch.no_grad()
def test_the_oracle_is_that_of_the_experiment(few, batches, asked):
    importance = oracle.importance(few, batches[0])[0]
    (found,) = survey.oracle(asked, 3)["prompts"]
    look = oracle.looking(batches[0])
    scoring.answers(few.parts, batches[0], look)
    numbers = list(range(64))
    assert found["tokens"] == numbers and found["nats"] == pytest.approx(importance.tolist(), abs=2e-6)
    assert importance.abs().max() > 1e-4, "what one token is worth is more than rounding"
    (some,) = survey.oracle(asked, 3, stride=7)["prompts"]
    assert (some["tokens"], some["nats"]) == (numbers[::7], found["nats"][::7])
    for score in ("value", "attention"):
        wanted = look.by_layer[3][score][0][numbers]
        assert found[score] == pytest.approx(wanted.tolist())
        assert found["rank"][score] == pytest.approx(float(oracle.correlation(wanted[None], torch.tensor([found["nats"]]))))
    assert survey.oracle(asked, stride=40)["behind"] == 3, "half of eight layers"
    assert survey._rank([1.0], [2.0]) is survey._rank([1.0, 2.0], [3.0, 3.0]) is None
    for wrong in (-1, 7):
        with pytest.raises(UserError, match="it can be 0 to 6"):
            survey.oracle(asked, wrong)


# -- what a model cannot do --------------------------------------------------------------------------------
@pytest.mark.parametrize("family, message", [("gemma3", "window"), ("qwen3_vl", "deepstack"), ("paligemma", "dropping a token")])
def test_a_model_that_can_be_asked_nothing_is_refused_by_property(family, message):
    model = build(family)
    with pytest.raises(ModelError, match=message):
        survey.survey(model, [Prompt(with_pictures(model, torch.arange(5, 14)[None]))])


@pytest.mark.parametrize("family", ["llava", "llava-qwen3", "internvl", "llava_onevision", "qwen2_vl", "idefics3"])
def test_the_whole_survey_of_each_architecture(family):
    model = build(family)
    found = survey.survey(model, [Prompt(with_pictures(model, torch.arange(5, 14)[None]), name="a")], oracle_stride=3)
    assert {*survey.PARTS} | {"layers", "prompts", "refused"} == {*found} and found["refused"] == {}
    assert len(found["knockouts"]["after"]) == found["layers"] == 3 and found["prompts"] == ["a"]
    last = found["lens"]["2"]
    assert last["answer"] == 1.0 and last["nats"] > 0 and json.loads(json.dumps(found)) == found


@torch.no_grad()
def test_a_part_that_a_model_cannot_do_is_a_sentence_and_the_others_go_on(tiny, monkeypatch):
    """Logits that are scaled behind the model's own head, where the lens cannot see it; tokens that cannot be dropped."""
    model, prompts = tiny

    def hook(module, args, output):
        output.logits = output.logits * 2 if len(args) == 0 and output.hidden_states is not None else output.logits
        return output

    handle = model.register_forward_hook(hook)
    monkeypatch.setattr(ExitBehind, "keep", lambda *_: (_ for _ in ()).throw(ModelError("three axes")))
    try:
        found = survey.survey(model, prompts, ("ranges", "sinks", "lens"))
    finally:
        handle.remove()
    assert found["refused"] == {"lens": "LlavaForConditionalGeneration has no logit lens: its norm and head on its last state are not its "
                                        "own logits", "ranges, gone behind": "three axes"}
    assert "lens" not in found and found["ranges"]["gone behind"] == {} and set(found["sinks"]) == {"0", "1", "2"}
    monkeypatch.setattr(survey.analysis, "logit_lens", lambda model, states: model.get_decoder().final)
    with pytest.raises(ModelError, match="no final norm and head"):
        survey.lens(Asked(model, prompts, [torch.tensor([0])] * 2, [torch.zeros(1)] * 2))


def test_prompts_without_a_picture_and_parts_that_there_are_none_of(tiny, asked):
    model, prompts = tiny
    blind = Prompt({"input_ids": torch.arange(5, 14)[None], "attention_mask": torch.ones(1, 9, dtype=torch.long)}, name="mine")
    with pytest.raises(UserError, match="mine holds no picture"):
        survey.survey(model, [blind])
    with pytest.raises(UserError, match="no part all"):
        survey.survey(model, prompts, ("all",))
    with pytest.raises(UserError, match="no prompts"):
        survey.survey(model, [])


def test_a_survey_leaves_the_model_as_it_was(tiny):
    model, prompts = tiny
    with torch.no_grad():
        before = model(**prompts[0].inputs).logits
        survey.survey(model, prompts[:1], ("knockouts", "oracle", "lens"))
        assert torch.equal(model(**prompts[0].inputs).logits, before)
    assert model.config.get_text_config()._attn_implementation == "sdpa"


# -- the command -------------------------------------------------------------------------------------------
def test_a_table_and_a_picture_from_the_command_line(tmp_path, capsys):
    assert survey.main(["--model", SMALL, "--scenes", "1", "--ranges", "0-1,7", "--modes", "after", "--oracle-stride", "31", "--out",
                        str(tmp_path), "--parts", "ranges,sinks,lens,oracle"]) == 0
    found = json.loads((tmp_path / "survey.json").read_text())
    assert found["model"] == "seed0" and found["layers"] == 8 and [*found["ranges"]["given"]] == ["0-1", "7-7"] and "knockouts" not in found
    assert [*found["ranges"]["up to"]] == ["after"] and all(math.isfinite(x) for x in found["oracle"]["prompts"][0]["nats"])
    drawn = (tmp_path / "survey.svg").read_text()
    for text in ("ranges without the picture", "sinks", "logit lens", "each token left out behind layer 3", "seed0: 1 prompt, 8 layers"):
        assert text in drawn, text
    assert "one layer without the picture" not in drawn and "survey.json" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["--parts", "everything"], "no part everything"), (["--ranges", "3-9"], "layers 0 to 7"), (["--ranges", "a"], "written 2-5"),
    (["--ranges", "3-"], "written 2-5"),
    (["--oracle-prompts", "0", "--parts", "oracle"], "asked of 0 prompts"), (["--oracle-prompts", "-1"], "asked of -1 prompts"),
    (["--modes", "after,never"], "never"), (["--oracle-stride", "0", "--parts", "oracle"], "stride is 0"),
    (["--oracle-behind", "7", "--parts", "oracle"], "it can be 0 to 6")])
def test_what_cannot_be_surveyed_is_answered_in_a_line(arguments, message, tmp_path, capsys):
    assert survey.main(["--model", SMALL, "--scenes", "1", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_the_rule_can_be_asked_for_its_price_in_the_same_unit(asked):
    """A pruner of any kind is a way: what it drops costs what `under` says."""
    from ..method import neutral, paper

    assert asked.under(VisiPruner(neutral()))["nats"] == 0.0
    none = paper(boundary=-1, layer_threshold=2, tokens_threshold=1e9, shallow=None)
    assert asked.under(VisiPruner(none))["by prompt"] == asked.under(ExitBehind(0))["by prompt"]


# -- models as they are given --------------------------------------------------------------------------------
def test_a_model_in_training_mode_is_asked_without_dropout_and_stays_in_training_mode():
    """By survey, calibrate and look: dropout would be taken for what a way of running the model costs."""
    from ..calibrate import calibrate
    from ..look import look

    model = build("llava")
    prompts = [Prompt(dict(with_pictures(model, text_ids())))]
    calm = [survey.survey(model, prompts, ("lens",)), calibrate(model, prompts, thresholds=(0.1,)).tried,
            look(model, prompts[0].inputs, tokens=3)[1].tolist()]
    for block in model.get_decoder().layers:
        block.self_attn.attention_dropout = 0.5
    model.train()
    model.model.vision_tower.eval()
    assert calm == [survey.survey(model, prompts, ("lens",)), calibrate(model, prompts, thresholds=(0.1,)).tried,
                    look(model, prompts[0].inputs, tokens=3)[1].tolist()]
    assert model.training and model.get_decoder().layers[0].training and not model.model.vision_tower.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_no_answer(value):
    """Else every way would lose NaN nats, the first NaN would stay the likeliest, and every setting would agree."""
    from ..calibrate import calibrate

    model = build("llava", dtype=torch.float32)
    prompts = [Prompt(dict(with_pictures(model, text_ids())), name="mine")]
    with torch.no_grad():
        model.lm_head.weight[7] = value
    for ask in (lambda: survey.survey(model, prompts, ("knockouts",)), lambda: calibrate(model, prompts, thresholds=(0.1,))):
        with pytest.raises(ModelError, match="LlavaForConditionalGeneration, prompt mine: its logits are NaN"):
            ask()


def test_a_generation_config_with_beams_is_looked_at_greedily():
    from ..look import look

    model = build("llava")
    inputs = with_pictures(model, text_ids())
    greedy = look(model, inputs, tokens=2)
    model.generation_config.num_beams = 3
    stages, written, places = look(model, inputs, tokens=2)
    assert len(stages) == len(places) == 2 and stages == greedy[0] and torch.equal(written, greedy[1])
