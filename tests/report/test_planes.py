"""The planes: points worked out by hand from chosen results, what is missing, what is refused, and the pages that are committed."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from statistics import fmean

import pytest

from common.claims.intervals import interval, summarize
from common.claims.machine import ROOT
from common.errors import RecordError
from common.report import plane_pages, planes
from common.report.plane_pages import FOLDER, absent, markdown, missing_rows, section, stale_files, update_files
from common.report.planes import FAMILIES, Axis, Bench, Document, Missing, NotRecorded, Recorded, Source
from common.report.scatter import COLOURS, SHAPES, Scale, draw, marks
from common.runs.experiment import Experiment

SOURCE = Source("make reproduce-demo", "7 minutes on two cores", "papers/demo/results/measurements.cpu-small.json")
SEEDS = {f"ours/seed{i}": {"x": x, "y": y} for i, (x, y) in enumerate([(10, 0.5), (12, 0.6), (14, 0.7)])}
EXPERIMENTS = (Experiment("text", "cpu", document="cpu-small", minutes=7),
               Experiment("long", "cpu", document="long", asked=True, minutes=1300, data=("a.gz",), needs="patience"))


def bench(**fields) -> Bench:
    return Bench("streaming", "demo", "A demo", "The same everything.", **{
        "x": Axis("words", "less"), "y": Axis("right, %", "more", possible=(0.0, 100.0)), **fields})


def filled(results=SEEDS, **fields) -> Bench:
    of, made = Document(results, SOURCE), bench(**fields)
    made.add(of, "ours", lambda: of.over("ours", "x"), lambda: of.over("ours", "y", scale=100), stands_for="GPE")
    return made


def publish(root, results, document="cpu-small", **run):
    folder = root / "papers/demo/results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"measurements.{document}.json").write_text(json.dumps({"run": {"dirty": False} | run, "results": results}))
    return Recorded("demo", EXPERIMENTS, root)


# -- points ------------------------------------------------------------------------------------------------
def test_a_point_by_hand():
    """Means 12 and 60; standard errors 2 / sqrt(3) and 10 / sqrt(3); t of two degrees of freedom 4.302653."""
    (point,) = filled().points
    assert point.x["value"] == 12 and point.y["value"] == pytest.approx(60)
    assert interval(point.x) == pytest.approx((12 - 4.302653 * 2 / 3**0.5, 12 + 4.302653 * 2 / 3**0.5), rel=1e-6)
    assert interval(point.y) == pytest.approx((60 - 4.302653 * 10 / 3**0.5, 60 + 4.302653 * 10 / 3**0.5), rel=1e-6)
    assert point.source.command == "make reproduce-demo"


def test_a_result_that_is_not_there_is_missing_and_never_a_point():
    for results, why in ((None, "never recorded"), ({}, "no result called ours")):
        made = filled(results)
        assert made.points == [] and made.missing == [Missing("ours", why, SOURCE.command, SOURCE.price)]


@pytest.mark.parametrize("broken, named", [
    ({"x": 3}, "ours/seed1 has no y"), ({"x": 3, "y": "many"}, "ours/seed1: y is 'many'"), ({"x": 3, "y": True}, "y is True"),
    ({"x": float("nan"), "y": 1}, "nan"), ([1], "ours/seed1 has no x")])
def test_a_broken_record_is_refused_by_file_and_field(broken, named):
    with pytest.raises(RecordError) as error:
        filled(SEEDS | {"ours/seed1": broken})
    assert named in str(error.value) and SOURCE.record in str(error.value) and "ours of bench demo" in str(error.value)


def test_a_record_of_another_form_is_refused_by_file_and_point():
    of = Document({"ours/seed0": {"curve": []}}, SOURCE)
    with pytest.raises(RecordError, match=r"cpu-small\.json: theirs, k = 1 of bench demo: has not the form.*IndexError"):
        bench().add(of, "theirs", lambda: {"value": of.at("ours/seed0", "curve")[0]}, lambda: {"value": 1.0}, "k = 1")


def test_commands_and_prices_are_the_experiments(tmp_path):
    recorded = publish(tmp_path, SEEDS)
    text, long = recorded["text"].source, recorded["long"].source
    assert (text.command, text.price) == ("make reproduce-demo", "7 minutes on two cores")
    assert long.command == "make reproduce-demo ONLY=long NINEFOLD_DATA=FOLDER"
    assert long.price == "1,300 minutes on two cores; a.gz (docs/data.md); patience"
    assert recorded["long"].results is None and not long.flag


def test_the_command_asks_for_as_many_seeds_as_were_run(tmp_path):
    of = publish(tmp_path, SEEDS, command="make reproduce-demo SEEDS=6")["text"].source
    assert (of.command, of.price) == ("make reproduce-demo SEEDS=6", "7 minutes on two cores")


def test_what_counts_as_nothing_is_flagged(tmp_path):
    assert "did not write down which code" in publish(tmp_path, SEEDS)["text"].source.flag
    assert publish(tmp_path, SEEDS, dirty=True)["text"].source.flag == "of a tree with uncommitted changes"
    (tmp_path / "code.py").write_text("1")
    sources = tmp_path / "papers/demo/results/sources.json"
    sources.write_text(json.dumps({"text": {"code.py": "0" * 16}}))
    made = filled()
    made.points = [replace(made.points[0], source=publish(tmp_path, SEEDS)["text"].source)]
    assert made.points[0].source.flag == "of older code: code.py"
    assert "count as nothing" in markdown(FAMILIES[0], [made])
    sources.write_text(json.dumps({"text": {"code.py": "6b86b273ff34fce1"}}))  # sha256 of "1"
    assert publish(tmp_path, SEEDS)["text"].source.flag == ""


@pytest.mark.parametrize("text", ["{", '{"results": {}}', '{"results": [], "run": {"dirty": false}}', "[]"])
def test_a_file_that_is_no_run_is_refused_by_name(tmp_path, text):
    recorded = publish(tmp_path, SEEDS)
    (tmp_path / SOURCE.record).write_text(text)
    with pytest.raises(RecordError, match="measurements.cpu-small.json"):
        recorded["text"]


def test_benches_of_one_name_are_one_bench_or_refused():
    found = {"streaming": {}}
    theirs = filled()
    theirs.points = [replace(theirs.points[0], method="theirs")]
    planes._join(found, filled(), "a")
    planes._join(found, theirs, "b")
    assert [point.method for point in found["streaming"]["demo"].points] == ["ours", "theirs"]
    planes._join(found, filled(), "c")
    with pytest.raises(RecordError, match="stated twice: ours"):
        planes._refuse_twins(found["streaming"]["demo"])
    with pytest.raises(RecordError, match="other words or axes"):
        planes._join(found, filled(x=Axis("seconds", "less")), "d")
    with pytest.raises(RecordError, match="of no family"):
        planes._join({}, filled(), "e")


# -- pictures ----------------------------------------------------------------------------------------------
def test_marks_differ_in_colour_or_shape():
    made = bench()
    for i in range(40):
        made.add(Document({}, SOURCE), f"method {i}", lambda: {"value": 1.0}, lambda: {"value": 2.0})
    assert len(set(marks([made]).values())) == 40 <= len(COLOURS) * len(SHAPES)


@pytest.mark.parametrize("kind, low, high", [
    ("linear", 0, 100), ("linear", 0.998, 1.003), ("log", 12, 170), ("root", 0, 100), ("root", 9, 19)])
def test_scales_keep_order_and_have_ticks(kind, low, high):
    scale = Scale(Axis("x", scale=kind), [{"value": low}, {"value": high}], 0, 400)
    assert 0 <= scale.at(low) < scale.at((low + high) / 2) < scale.at(high) <= 400
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 10 and ticks == sorted(ticks) and all(0 <= scale.at(tick) <= 400 for tick in ticks)


def test_a_picture_is_well_formed_names_everything_and_is_the_same_again():
    made = filled(y=Axis("right, <%>", "more", shown=(0.0, 50.0)))
    picture = draw(made, marks([made]))
    assert picture == draw(made, marks([made]))
    texts = [e.text for e in ET.fromstring(picture).iter() if e.tag.endswith("text")]
    assert {"words", "right, <%>", "ours", "\u2196 better", "\u2191 60"} <= set(texts)
    with pytest.raises(ValueError, match="no point"):
        draw(bench(), {})
    with pytest.raises(ValueError, match="above 0"):
        Scale(Axis("x", scale="log"), [{"value": 0.0}], 0, 1)


def test_no_interval_takes_a_picture_past_what_is_possible():
    of = summarize([90, 99, 100])
    assert Scale(Axis("%", possible=(0.0, 100.0)), [of], 0, 1).high < 102 < interval(of)[1]


# -- pages -------------------------------------------------------------------------------------------------
def test_a_page_shows_interval_command_and_record_and_lists_what_is_missing():
    made = filled()
    never = Document(None, SOURCE)
    for name, method in (("ProactiveLLM", "ProactiveLLM"), ("another head", "")):
        made.add(never, name, lambda: never.over("head", "x"), lambda: never.over("head", "y"), "k = 1", method)
    made.lacks("time", "nobody times it", "a minute")
    text = markdown(FAMILIES[0], [made])
    assert ("| ours | - | 12 [7.032, 16.97] | 60 [35.16, 84.84] | 3 trainings | `make reproduce-demo` | "
            "[measurements.cpu-small.json](../../papers/demo/results/measurements.cpu-small.json) |") in text
    assert "| GPE | 1 |" in text and "| ProactiveLLM | · |" in text
    assert "| ProactiveLLM; another head | A demo | never recorded | `make reproduce-demo` | 7 minutes on two cores |" in text
    assert "| time | A demo | nobody times it | - | a minute |" in text
    assert [one.method for one in absent(FAMILIES[0], [made])] == ["wait-k", "re-encoding"]
    assert missing_rows(FAMILIES[0], [made])[-1] == ("wait-k; re-encoding", "-", "no paper states such a point", "-", "-")


def test_the_report_holds_every_bench(tmp_path):
    made = filled()
    html = section({"streaming": [made]}, lambda svg, caption: f"<figure>{caption}</figure>")
    assert "<figure>A demo</figure>" in html and "12 [7.032, 16.97]" in html and "missing, with their price" in html
    assert section({"streaming": [bench()]}, str) == ""


def test_check_sees_a_page_that_was_edited_and_one_that_nothing_gives(tmp_path):
    found = {"streaming": [filled()]}
    update_files(tmp_path, found)
    assert stale_files(tmp_path, found) == []
    page, left = tmp_path / FOLDER / "streaming.md", tmp_path / FOLDER / "streaming-gone.svg"
    page.write_text(page.read_text().replace("60 [", "61 ["))
    left.write_text("<svg/>")
    assert stale_files(tmp_path, found) == [page, left]
    assert {path.name for path, done in update_files(tmp_path, found).items() if done != "unchanged"} == {page.name, left.name}
    assert stale_files(tmp_path, found) == [] and not left.exists()
    assert plane_pages.of_tree(tmp_path / "copy") is None


# -- this tree ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gathered():
    return planes.gather()


def test_committed_pages_are_what_the_committed_results_give(gathered):
    """But for the sentences about older code, which an edit of any file may bring in or take out."""
    def unflagged(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("**papers/")]

    made = plane_pages.files(gathered)
    assert set((ROOT / FOLDER).iterdir()) == {ROOT / path for path in made}
    for path, text in made.items():
        assert unflagged((ROOT / path).read_text(encoding="utf-8")) == unflagged(text), path
    assert all((ROOT / FOLDER / f"{family.key}.md").is_file() for family in FAMILIES)
    assert all(path.stat().st_size < 100_000 for path in (ROOT / FOLDER).glob("*.svg"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"(docs/planes/{family.key}.md)" in readme for family in FAMILIES)


def test_benches_where_more_methods_meet_stand_first(gathered):
    assert [made.key for made in gathered["streaming"]][0] == "translator"
    assert gathered["streaming"][0].met(FAMILIES[0]) == 4 and filled().met(FAMILIES[0]) == 1


def test_every_method_of_every_family_has_a_point_or_a_price(gathered):
    for family in FAMILIES:
        assert absent(family, gathered[family.key]) == []
        for one in (one for made in gathered[family.key] for one in made.missing):
            assert one.command.startswith("make reproduce-") or (one.command == "-" and len(one.price) > 1), one


def test_a_plane_and_a_record_give_the_same_interval(gathered):
    """ViCA's text alone above blind answers (C1u) is its point of the plane less a constant, so that both have the same width."""
    made = next(made for made in gathered["vision"] if made.key == "vica-llava")
    point = next(point for point in made.points if point.method == "the text alone, tuned")
    record = json.loads((ROOT / "papers/vica/results/C1u.cpu-small.json").read_text(encoding="utf-8"))["measured"]
    results = json.loads((ROOT / "papers/vica/results/measurements.cpu-small.json").read_text(encoding="utf-8"))["results"]
    assert point.y["value"] == pytest.approx(100 * fmean(
        result["test"]["all"] for name, result in results.items() if name.startswith("text/seed")))
    low, high = interval(record)
    assert interval(point.y)[1] - interval(point.y)[0] == pytest.approx(100 * (high - low), rel=1e-9)


def test_a_job_that_is_gone_leaves_no_point(tmp_path):
    """Of a real paper: without its seed 2 jobs of GPE's arm the mean is over the others; without any, its points are missing."""
    from papers.gpe.eval import EXPERIMENTS as experiments
    from papers.gpe.planes import toy

    source = ROOT / "papers/gpe/results/measurements.cpu-small.json"
    read = json.loads(source.read_text(encoding="utf-8"))
    target = tmp_path / "papers/gpe/results/measurements.cpu-small.json"
    target.parent.mkdir(parents=True)

    def of(gone: str) -> Bench:
        kept = {name: result for name, result in read["results"].items() if not name.startswith(gone)}
        target.write_text(json.dumps(read | {"results": kept}))
        return toy(Recorded("gpe", experiments, tmp_path)["text"], 60, ("GPE, group positions", "interleaved by arrival"))

    rest = next(point for point in of("text/group, 60 steps/seed2").points if point.setting == "k = 5")
    seeds = [seed for seed in range(20) if seed != 2 and f"text/group, 60 steps/seed{seed}" in read["results"]]
    assert rest.y["per_seed"] == [read["results"][f"text/group, 60 steps/seed{seed}"]["stream"]["5"]["bleu"] for seed in seeds] != []
    none = of("text/group, 60 steps/")
    assert "GPE, group positions" not in {point.method for point in none.points}
    assert [one.method for one in none.missing] == [f"GPE, group positions, k = {k}" for k in (1, 3, 5, 7)]


def test_not_recorded_is_no_user_error():
    """It never leaves a bench, so that a missing result cannot end a report."""
    assert not issubclass(NotRecorded, RecordError)


def test_both_papers_of_reasoning_meet_on_one_bench():
    """One function makes it for both, each method of the family has a point or a command there, and both ask the same problems."""
    from papers.decouplingkl.experiments import reasoners
    from papers.onpolicysft.experiments import chains

    bench = next(bench for bench in planes.gather()["reasoning"] if bench.key == "chains")
    assert set(bench.stands_for.values()) == set(next(f for f in FAMILIES if f.key == "reasoning").methods)
    here, there = reasoners.SIZES["cpu"], chains.SIZES["cpu"]
    data = chains.Chains(count=1)
    assert [p.prompt for p in reasoners.held_out(here.test, here.problems)] == [p.prompt for p in chains.held_out(data, there.test)]
    for name in ("problems", "updates", "prompts", "rollouts", "test", "samples"):
        assert getattr(here, name) == getattr(there, name), name
    assert (reasoners.CAP, reasoners.RATE) == (chains.CAP, chains.TINY["lr"])


def test_captions_are_read_of_every_seed():
    from papers.gpe.planes import captions
    from papers.gpe.tests.test_quantities_real import SEEDS, results

    def bench(found, language="de", name="German"):
        return captions(Document(found, Source("command", "price", "record.json")), language, name)

    def read(found, *names):
        return {(point.method, point.setting): point for point in bench(found, *names).points}

    found = results()
    points = read(found, "fr", "French")
    assert len(points) == 20 and not bench(found).missing and bench(found, "fr", "French").key == "gpe-multi30k-fr"
    for shown, arm, way in (("GPE, group positions", "group", "stream"), ("interleaved by arrival", "interleaved, 0.0003", "stream"),
                            ("its keys and values encoded again", "batch_streaming", "kv_reencoding"),
                            ("batch model, everything encoded again", "untuned", "kv_reencoding")):
        for axis, what in ((points[shown, "k = 5"].x, "LAAL"), (points[shown, "k = 5"].y, "bleu")):
            values = [found[f"multi30k/en-fr/{arm}/seed{seed}"][way]["5"][what] for seed in SEEDS]
            assert axis["per_seed"] == pytest.approx(values), shown
    assert not read(None) and bench(None).missing
