"""SmolLM2 on prose, on a tiny model: passages and questions, both views in one pass, policies read off a table, jobs, claims by hand."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from common.claims.records import make_record
from common.errors import ModelError
from common.models import Loaded, load, tiny
from common.streaming.words import Boundary
from tests import small_tokenizers

from .. import cloze, heads, looks, method, quantities_letter, shared_views, tables_letter
from ..baselines import Random, WaitK
from ..cloze import OPTIONS, SENTENCES, Cloze
from ..data import batch_of, units_of
from ..decoding import decode
from ..experiments import arms, realtext
from ..heads import Decide
from ..method import Law, read_path
from .made_up import CLAIMS, FACTS
from .made_up import of_letter as run
from .made_up import of_realtext as results

WORDS = tuple(OPTIONS)
PROSE = {split: [[f"In {'quite ' * (i % 3)}old {split[:2]}{number} at {i} the {WORDS[(3 * i + number) % 8]} is kept there."
                  for i in range(7)] for number in range(4)] for split in ("train", "calibration", "test")}


def tokenizer():
    """With a token for every letter behind a blank, as SmolLM2's has."""
    from tokenizers import AddedToken

    words = small_tokenizers.tokenizer("qwen2")
    words.add_tokens([AddedToken(f" {letter}", normalized=False) for letter in OPTIONS.values()])
    return words


@pytest.fixture(scope="module")
def small():
    return tokenizer()


@pytest.fixture
def task(small):
    return Cloze(small, 0, PROSE)


def model_of(words):
    return load(tiny(vocab_size=len(words), max_position_embeddings=2048, num_hidden_layers=2)).model


# -- passages and questions --------------------------------------------------------------------------------
@pytest.mark.parametrize("text, kept", [
    ("This is a plain sentence of eight words.", 1), ("Too short a one.", 0), ("This is a sentence about i.e. an abbreviation in it.", 0),
    (">>> This is a line of code, not prose.", 0), ("this one begins with a small letter, oddly.", 0),
    ("name x_1 = y_2 f(x) is __all__ code_like a.b.", 0), ("Is this a question that has eight words?", 0)])
def test_which_sentences_are_taken(text, kept):
    assert len(cloze.sentences_of(text)) == kept


@pytest.mark.parametrize("sentence, asked", [
    ("It returns the value of the object named so.", [("It returns the value of the", "object")]),
    ("This is the one class, and a class has a name.", [("This is the one", "class"),
                                                        ("This is the one class, and a class has a", "name")]),
    ("Objects and types are not asked for here.", []), ("The class value stands too early in this.", [])])
def test_what_may_be_asked(sentence, asked):
    assert list(cloze.beginnings(sentence)) == asked


def test_documents_of_cpython_are_apart():
    """Splits share no sentence; every place and every letter is asked for; nothing is left to draw that is not there."""
    found = cloze.documents()
    sentences = {split: [s for of in documents for s in of] for split, documents in found.items()}
    every = sum(sentences.values(), [])
    assert len(every) == len(set(every)) > 2000 and all(len(of) >= SENTENCES for documents in found.values() for of in documents)
    assert len(found["test"]) >= 30 and [fact["name"] for fact in cloze.facts()] == ["pydoc-topics", "library"]
    questions = Cloze(tokenizer(), 3)
    for split in found:
        asked = [questions.question(number, split) for number in range(120)]
        assert {q.place for q in asked} == set(range(1, SENTENCES + 1)) and len({q.letter for q in asked}) >= 7
        assert all(q.passage[q.place - 1].startswith(f"{q.begun} {q.word}") and len(q.passage) == SENTENCES for q in asked)
        assert len({q.document for q in asked}) == min(120, sum(map(bool, questions.askable[split])))
    again, other = (Cloze(tokenizer(), seed).question(7, "test") for seed in (3, 4))
    assert questions.question(7, "test") == again != other


def test_an_item_is_a_passage_then_a_beginning_then_a_letter(task, small):
    q, item = task.question(5, "test"), task.item(5, "test")
    parts = torch.split(item.example.source, list(item.example.source_units))
    assert len(parts) == SENTENCES + 2 == item.example.n_units + 2 and item.oracle == (q.place, q.place)
    assert [small.decode(part).strip() for part in parts[1:-1]] == list(q.passage) and cloze.INSTRUCTION in small.decode(parts[0])
    header, answer, end = torch.split(item.example.target, list(item.example.target_units))
    assert small.decode(header).endswith(f"{q.begun} ") or small.decode(header).endswith(q.begun)
    assert answer.tolist() == [task.letters[list(OPTIONS.values()).index(q.letter)]] and len(end) == 1
    assert units_of(item.example) == (6, 2) and small.decode(answer) == f" {q.letter}"


def test_another_question_has_no_evidence_in_the_passage(task, small):
    own, other = task.items(4, "test"), task.elsewhere(4, "test", 1)
    for number, (a, b) in enumerate(zip(own, other)):
        assert torch.equal(a.example.source, b.example.source) and a.oracle == b.oracle
        header = small.decode(b.example.target[: b.example.target_units[0]])
        begun = header.partition("assistant")[2].strip()
        assert begun and begun not in small.decode(a.example.source) and task.question(number, "test").begun not in header
    for alone, shift in ((PROSE["test"][:1], 1), (PROSE["test"], 8)):
        with pytest.raises(ValueError, match="another document needed"):
            Cloze(small, 0, {"test": alone}).elsewhere(2, "test", shift)


@pytest.mark.parametrize("count", [3, 4, 6])
def test_the_other_question_is_of_the_document_so_many_places_further(count, task, monkeypatch):
    """Whatever the number of passages, so that no two shifts ask the same."""
    monkeypatch.setattr(task, "asked", lambda of, passage, place: (of, passage))
    own = [task.question(i, "test") for i in range(count)]
    for shift in (1, 2, 3):
        found = task.elsewhere(count, "test", shift)
        assert [of.document for of, _ in found] == [(q.document + shift) % 4 for q in own]
        assert [passage for _, passage in found] == [q.passage for q in own]


def test_a_tokenizer_without_letters_is_refused():
    def pairs(text, **options):
        return {"input_ids": [1, 2]}

    with pytest.raises(ValueError, match="no token of its own"):
        Cloze(pairs, 0, PROSE)
    of = Cloze(tokenizer(), 0, PROSE)
    of.letters = (1, 2)
    with pytest.raises(ValueError, match="and none of"):
        of.item(0, "test")


# -- training ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_both_views_in_one_pass_are_those_of_two(kind, double):
    """Logits, losses and gradients, ragged rows and padding; a mask that let the copies see each other would show."""
    words = tokenizer()
    model = load(tiny(kind, vocab_size=len(words), max_position_embeddings=2048, num_hidden_layers=2)).model.double()
    examples = [item.example for item in Cloze(words, 0, PROSE).items(3, "train")]
    batch, _ = batch_of(examples, [[0, 3], [2, 6], [5, 5]])
    assert len(set(batch.target_lengths.tolist())) > 1

    def both(views):
        model.zero_grad()
        losses = method.spsd(views(model, batch), batch)
        (losses.batch + losses.stream + 0.1 * losses.kl).backward()
        return [*losses, *(p.grad.clone() for p in model.parameters())]

    for ours, theirs in zip(both(shared_views.views), both(method.two_views), strict=True):
        assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max().clamp(min=1e-3)
    wide, n, t = shared_views.mask_of(batch), batch.source.shape[1], batch.target.shape[1]
    assert not wide[..., n + t :, n : n + t].any() and not wide[..., n : n + t, n + t :].any() and not wide[..., :n, n:].any()


def test_what_an_arm_sees(task):
    """The plain law over the letter alone hides nothing, ever; with the end counted and under slack something is hidden."""
    def paths(name):
        arm = realtext.NAMES[name]
        data = realtext.Questions(task, 40, arm.law or realtext.LAW, name not in realtext.LETTER_ALONE, 4, 1, 0)
        rows = data.sequences()[0]
        return [list(rows.path(rows[i], i)) for i in range(40)]

    found = {name: paths(name) for name in realtext.NAMES}
    assert found["plain law"] == [[6, 6]] * 40
    assert all(b == 6 for _, b in found["end counted"]) and {a for a, _ in found["end counted"]} >= {3, 4, 5}
    assert min(b for _, b in found["full"]) < 6 and sum(a for a, _ in found["full"]) < sum(a for a, _ in found["end counted"])
    assert found["full"] == [read_path(Law("slack"), 6, 2, random.Random(realtext.seed_of("path", 1, i))) for i in range(40)]
    weights = {name: (arm.batch, arm.stream, arm.lam) for name, arm in realtext.NAMES.items()}
    assert weights == {"full": (1, 1, 0.1), "plain law": (1, 1, 0.1), "end counted": (1, 1, 0.1), "batch only": (1, 0, 0)}
    assert realtext.READER == arms.ARMS["batch only"] and looks.together([3, 2, 3, *[2] * 16]) == [[1, *range(3, 18)], [18], [0, 2]]


@pytest.fixture
def smol(monkeypatch, tmp_path, small):
    """A tiny model in SmolLM2's place, and prose by hand."""
    monkeypatch.setenv("NINEFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(realtext, "base", lambda: Loaded(model_of(small), small, {"name": "tiny"}))
    monkeypatch.setattr(cloze, "documents", lambda: PROSE)
    return small


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_jobs_walk_and_a_killed_training_goes_on(smol, tmp_path, monkeypatch):
    """Every job at size smoke, in order; finished trainings are read and no step is taken; another arm is other weights."""
    results, moved = {}, {}
    for job in realtext.jobs("smoke"):
        assert set(job.after) <= set(results)
        results[job.name] = getattr(realtext, job.function.split(":")[1])(**job.arguments)
    assert len(results) == 1 + 2 + 2 * len(realtext.NAMES)
    size, base = realtext.SIZES["smoke"], state(model_of(smol))
    for name in realtext.NAMES:
        loaded, task, _ = realtext.trained_reader(0, "smoke")
        start = state(loaded.model)
        model, loss = realtext.training(loaded, task, name, size, 0, realtext.work_of(name, 0, "smoke"))
        assert loss == results[f"realtext/trained/{name}/seed0"]["loss"] == results[f"realtext/{name}/seed0"]["loss"]
        moved[name] = state(model)
        changed = {key.rpartition(".")[0].rpartition(".")[2] for key, p in moved[name].items() if not torch.equal(p, start[key])}
        assert changed and changed <= set(realtext.LORA.targets)
        assert any(not torch.equal(start[key], base[key]) for key in base)
    assert any(not torch.equal(moved["full"][key], moved["batch only"][key]) for key in base)
    full = results["realtext/full/seed0"]
    assert {*full} - {*results["realtext/batch only/seed0"]} == {"heads", "elsewhere"} and len(full["elsewhere"]) == 2
    assert {*full["wait"]} == {"1", "2", "3", "4", "5"} and full["batch"]["RCO"] == 1 and full["batch"]["premature"] == 0
    assert results["realtext/frozen"]["documents"] == {"train": 4, "calibration": 4, "test": 4}
    assert quantities_letter.realtext_facts(results)[0] == [{"name": "tiny"}]
    assert quantities_letter.Read({"a/full/seed0": run(0, .5, whole=0.0)}, "a").kept(0, "full") == 0
    assert {*quantities_letter.realtext(results)} == {f"C22{letter}" for letter in "abcdef"}
    text = "\n".join(tables_letter.realtext(results))
    assert all(tables_letter.WHAT[name] in text for name in ("start", *realtext.NAMES)) and "another passage" in text


def test_a_reader_that_cannot_read_stops_the_run(smol, monkeypatch):
    monkeypatch.setitem(realtext.SIZES, "smoke", replace(realtext.SIZES["smoke"], least=101.0))
    with pytest.raises(ModelError, match="of 3 calibration passages with everything read, and 101 are needed"):
        realtext.reader(0, "smoke")
    assert realtext.SIZES["cpu"].least == 50 and all("realtext/reader/seed0" in job.after for job in realtext.jobs("cpu")
                                                     if "trained/" in job.name and job.name.endswith("seed0"))


def test_a_training_in_two_parts_is_the_one_in_one(smol, tmp_path, monkeypatch):
    """Three steps; killed behind the second, of which the checkpoint is whole."""
    size = realtext.Size((0,), 3, 3, 8, 0, 3, 4, 1)

    def train(folder, steps):
        loaded = realtext.base()
        return realtext.training(loaded, Cloze(smol, 0), "full", replace(size, arm=steps), 0, tmp_path / folder)

    whole, loss = train("whole", 3)

    class Killed(Exception):
        pass

    def dies(self, batch, index):
        if self.global_step == 2:
            raise Killed

    assert "on_train_batch_start" not in vars(realtext.LetterTraining)
    monkeypatch.setattr(realtext, "keeper", lambda folder, every, of=realtext.keeper: of(folder, 1))
    monkeypatch.setattr(realtext.LetterTraining, "on_train_batch_start", dies)
    with pytest.raises(Killed):
        train("parts", 3)
    monkeypatch.delattr(realtext.LetterTraining, "on_train_batch_start")
    assert realtext.resume_from(tmp_path / "parts")[1] == 2
    again, same = train("parts", 3)
    assert same == pytest.approx(loss, rel=1e-6)
    for name, p in whole.named_parameters():
        torch.testing.assert_close(p, dict(again.named_parameters())[name], rtol=1e-5, atol=1e-7)


def test_a_checkpoint_is_of_its_arm_seed_and_size():
    arms_ = ("reader", *realtext.NAMES)
    names = {realtext.work_of(name, seed, size).name for name in arms_ for seed in (0, 1) for size in ("smoke", "cpu")}
    assert len(names) == 20
    cpu = {job.name: job for job in realtext.jobs("cpu")}
    assert len(cpu) == 1 + len(realtext.SIZES["cpu"].seeds) * (2 + 2 * len(realtext.NAMES))
    assert cpu["realtext/full/seed0"].after == ("realtext/trained/full/seed0",)
    assert realtext.SIZES["cpu"].reader * realtext.SIZES["cpu"].batch < realtext.ARMS_FIRST


# -- the table and its policies ----------------------------------------------------------------------------
def table(token, score, place, answer=1):
    token, score = torch.tensor(token), torch.tensor(score, dtype=torch.float64)
    return looks.Looks(token, {"entropy": score}, token, torch.full((len(token),), answer), torch.tensor(place))


BY_HAND = table([[0, 1, 1], [2, 2, 1]], [[.2, .6, .9], [.7, .8, .9]], [2, 2])  # two sentences and the end; right at 2, and at the end


def test_rows_by_hand():
    assert looks.written_at(BY_HAND.scores["entropy"], 0.65).tolist() == [2, 0] and looks.written_at(
        BY_HAND.scores["entropy"], 2.0).tolist() == [2, 2]
    assert looks.row(BY_HAND, torch.tensor([2, 0])) == {"quality": 50.0, "RCO": 0.75, "premature": 50.0, "n": 2}
    assert looks.row(BY_HAND, torch.tensor([1, 1])) == {"quality": 50.0, "RCO": 1.0, "premature": 0.0, "n": 2}
    assert looks.guesses(BY_HAND) == 0 and looks.sufficiency(BY_HAND) == 0.75  # .6, .8 against .2, .7
    assert looks.guesses(table([[1, 1, 1]], [[0.0] * 3], [1])) == 0.0


def test_lots_are_what_is_expected_and_what_draws_come_to():
    """Chance 1/2: one sentence 1/2, two 1/4, the end 1/4, so RCO 3/4; right: 0, then 1 of 2, then all: 1/8 + 1/4."""
    found = looks.lots_at(BY_HAND, 0.75)
    assert found["chance"] == pytest.approx(0.5, abs=1e-9) and found["RCO"] == pytest.approx(0.75, abs=1e-9)
    assert found["quality"] == pytest.approx(37.5) and found["premature"] == pytest.approx(50)
    assert looks.chances(0.5, 2).tolist() == [0.5, 0.25, 0.25] and looks.lots_at(BY_HAND, 1.0)["quality"] == pytest.approx(100)
    policy, draws = Random(0.5, 1), []
    for _ in range(4000):
        writes = policy.write(heads.Probe(torch.zeros(2, 3, 4), torch.zeros(2, 3), 0)).clone()
        writes[:, -1] = True
        draws.append(looks.row(BY_HAND, writes.int().argmax(1))["quality"])
    assert sum(draws) / len(draws) == pytest.approx(37.5, abs=2)


def test_thresholds_and_the_point_are_of_calibration_alone():
    first = looks.swept(BY_HAND, BY_HAND, "entropy")
    other = table([[2, 2, 2]], [[0.0, 0.0, 1.0]], [1])
    second = looks.swept(BY_HAND, other, "entropy")
    assert (first["threshold"], first["calibration"], first["chosen"]) == (second["threshold"], second["calibration"], second["chosen"])
    assert second["test"] != first["test"] and first["threshold"][0] == pytest.approx(0.2) and first["threshold"][-1] == pytest.approx(0.8)
    assert first["calibration"][first["chosen"]]["RCO"] <= looks.MOST


def test_the_table_is_what_streaming_gives(task, small):
    """Of every policy the answers and delays that `decode` has, which feeds one token after the other."""
    model = model_of(small)
    items = task.items(5, "test") + task.items(3, "calibration")
    of = looks.looks(model, task, items)
    boundary = Boundary.of_tokenizer(small, int(items[0].example.target[-1]))
    tau = float(of.scores["entropy"][:, :-1].median())
    for policy, at in ((Decide(heads.Entropy(), tau), looks.written_at(of.scores["entropy"], tau)), (WaitK(2), torch.full((8,), 1)),
                       (Decide(heads.Margin(), 2.0), torch.full((8,), SENTENCES))):
        streams = [decode(model, [item.example], policy, boundary, max_target=1)[0] for item in items]
        written = of.token.gather(1, at[:, None])[:, 0].tolist()
        assert [s.tokens for s in streams] == [[token] if token != boundary.stop else [] for token in written]
        assert [(s.delays or [s.ended_at])[0] for s in streams] == (at + 1).clamp(max=SENTENCES).tolist()
    assert of.token.shape == (8, SENTENCES + 1) and set(of.letters.flatten().tolist()) <= set(task.letters)
    assert of.place.tolist() == [item.oracle[0] for item in items]


def test_the_unread_is_not_seen(task, small):
    """Another third sentence changes no look at one or two of them, and those behind it."""
    model, item = model_of(small), task.items(1, "test")[0]
    ends = torch.tensor(item.example.source_units).cumsum(0).tolist()
    source = item.example.source.clone()
    source[ends[2]] = source[ends[2]] + 1
    changed = item._replace(example=replace(item.example, source=source))
    a, b = (looks.looks(model, task, [i]).scores["entropy"][0] for i in (item, changed))
    assert torch.equal(a[:2], b[:2]) and (a[2:] != b[2:]).all()


def test_a_moved_weight_is_an_error(task, small, monkeypatch):
    model, kept = model_of(small), realtext.guesses

    def touches(of):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return kept(of)

    monkeypatch.setattr(realtext, "guesses", touches)
    with pytest.raises(realtext.RecordError, match="changed the weights"):
        realtext.measured(model, task, realtext.SIZES["smoke"], "batch only")


# -- the claims, worked out by hand ------------------------------------------------------------------------
def word(name, measured):
    record = make_record(CLAIMS.find(name), CLAIMS.sha256, measured[name], FACTS, seeds=[0, 1, 2])["verdict"]
    return record["word"], record["reason"]


def test_values_by_hand():
    measured = quantities_letter.realtext(results(seeds=1))

    def both(name):
        return measured[name]["value"], measured[name]["placebo"]["value"]

    assert both("C22a") == pytest.approx((100 * 79 / 80, 100 * 57 / 80)) and measured["C22a"]["resolution"] == pytest.approx(
        100 / 188 / 0.8), "of 80 points batch quality an answer is more"
    assert both("C22b") == pytest.approx((.26, -.02)) and both("C22c") == pytest.approx((23, 1)) and both("C22d") == pytest.approx((29, 7))
    assert both("C22e") == pytest.approx((.35, .01)) and both("C22f") == pytest.approx((19, 1))
    assert measured["C22a"]["baselines"] == pytest.approx({"batch quality": 80, "RCO": .7, "lots of its RCO": 62.5})
    assert measured["C22c"]["baselines"] == pytest.approx({"full": 79, "plain law": 56, "end counted": 75, "batch only": 57})


NAMES = tuple(f"C22{letter}" for letter in "abcdef")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_claim_says_supports_and_its_placebo_in_its_place_decides_nothing(name):
    measured = quantities_letter.realtext(results())
    assert word(name, measured)[0] == "supports", word(name, measured)
    own = {key: value for key, value in copy.deepcopy(measured[name]).items() if key not in ("placebo", "baselines")}
    found = word(name, {name: measured[name] | {"placebo": own}})
    assert found[0] == "inconclusive" and "does not discriminate" in found[1], found
    assert word(name, quantities_letter.realtext(results(seeds=1)))[0] == "inconclusive"


@pytest.mark.parametrize("name, arm, change", [
    ("C22a", "full", {"quality": 70}), ("C22b", "full", {"auroc": .66}), ("C22c", "full", {"quality": 60}),
    ("C22d", "full", {"lots": 75.0}), ("C22e", "full", {"auroc": .6}), ("C22f", "end_counted", {"quality": 60})])
def test_the_opposite_opposes(name, arm, change):
    assert word(name, quantities_letter.realtext(results(**{arm: change})))[0] == "opposes"
