"""One claim of the report: a line of the forest plot that opens to its drawer, with everything its record holds.

The drawer is a <details>, so that it opens without the page's script. Its link stands on the drawer and not on the
line: a browser opens what a link leads into.
"""

from __future__ import annotations

import json
from html import escape

from ..claims.rules import number, rule_text
from .charts import forest
from .papers import Paper
from .rows import Row, ours_with_unit, paper_text, sample_text, value_text
from .words import chip, e


def state(row: Row) -> str:
    """What a row counts as: its flag, else its word."""
    return row.flag or row.word


def kind(row: Row) -> str:
    """Of claim; kinds are never counted together."""
    return row.shown.get("kind") or "no kind"


def look(row: Row) -> tuple[str, str]:
    """(further classes, what is added to the word) of a row's tile and chip: hatched where it cannot match."""
    small = row.shown.get("kind") in ("small", "ours")
    return " small" if small else "", f" ({row.word})" if row.flag in ("stale", "older", "scratch") else ""


def data(row: Row, paper: Paper) -> str:
    """The attributes that the filters read."""
    return (f'data-verdict="{e(state(row))}" data-kind="{e(kind(row))}" data-rung="{e(row.rung)}" '
            f'data-paper="{e(paper.key)}"')


def copy(command: str) -> str:
    """A command and a button that copies it."""
    return (
        f'<code>{e(command)}</code> <button type="button" class="copy" data-copy="{e(command)}" '
        f'aria-label="copy the command {e(command)}">copy</button>'
    )


def claim(row: Row, paper: Paper, anchor: str) -> str:
    """The line of a claim, and the drawer that it opens."""
    shown = row.shown
    rule = rule_text(shown["protocol"].get("rule"))
    sides = (("paper", paper_text(shown["paper"])), ("ours", ours_with_unit(row.record)), ("rule", rule))
    numbers = "<br>".join(f"{name} {e(text)}" for name, text in sides if text != "-")
    return f"""<details class="claim" {data(row, paper)}><summary>
<span class="what"><b>{e(row.short)}</b> {e(shown["statement"])} <small>{e(kind(row))}, {e(row.rung)}</small></span>
<span class="plot">{forest(row)}</span>
<span class="numbers">{numbers}</span>
{chip(state(row), *look(row))}</summary>
<div class="drawer" id="{e(anchor)}">{_drawer(row, paper, anchor)}</div></details>
"""


def _drawer(row: Row, paper: Paper, anchor: str) -> str:
    parts = [f'<p class="reason">{e(row.reason)}</p>']
    if row.flag:
        parts.append(f'<p class="problem">⚠ {e(row.problem)}</p>')
    link = f'<a class="here" href="#{e(anchor)}">link to this claim</a>'
    parts += [f"<p>{copy(row.command)} {link}</p>", table("the claim", _about_claim(row))]
    if row.record:
        parts.append(table("the run", _about_run(row.record)))
    parts.append(_deviations(row, paper))
    if row.record:
        text = escape(json.dumps(row.record, indent=2, ensure_ascii=False), quote=False)
        name = f"{row.short}.{row.rung}.json"
        parts.append(f'<details class="raw"><summary>the whole record, {e(name)}</summary><pre>{text}</pre></details>')
    return "".join(parts)


def _about_claim(row: Row) -> dict[str, str | None]:
    shown, measured = row.shown, (row.record or {}).get("measured", {})
    protocol, paper = shown["protocol"], shown["paper"]
    rule, found = protocol.get("rule") or {}, measured.get("baselines", {})
    each = "each process" if measured.get("stderr_kind") == "across-processes" else "each seed"
    baselines = " · ".join(f"{name} {number(at)}" for name, at in found.items())
    named = ", ".join(protocol.get("baselines", ()))
    if named and not baselines:
        baselines = f"{named} (named beforehand; the record has no value of them)" if row.record else named
    return {
        "where": shown.get("where"),
        "paper's value": paper_text(paper),
        "paper's baseline": number(paper.get("baseline")),
        "paper's set-up": paper.get("setup"),
        "source": paper["source"],
        "kind": shown.get("kind"),
        "topic": shown.get("topic"),
        "required": "yes: a miss, a dull measure or older code fails a run with STRICT=1" if shown.get("required") else "",
        "metric": protocol.get("metric"),
        "rule": rule_text(protocol.get("rule")),
        "note": None if row.record and row.reason == (row.claim or {}).get("note") else (row.claim or {}).get("note"),
        "falsified if": rule.get("falsified_if"),
        "the rule was": "; ".join(f"until {was['until']}: {was['rule']} ({was['why']})" for was in protocol.get("was", ())),
        "evidence": protocol.get("evidence"),
        "ours": ours_with_unit(row.record),
        "placebo": _control(protocol, measured, "placebo"),
        "sensitivity": _control(protocol, measured, "sensitivity"),
        "ceiling": _ceiling(measured.get("ceiling")),
        each: " · ".join(number(at) for at in measured.get("per_seed", ())),
        "n, SE": sample_text(row.record),
        "baselines": baselines or ("none named" if row.record else ""),
        "seeds": ", ".join(map(str, protocol.get("seeds", ()))),
        "deviations": ", ".join(protocol.get("deviations", ())),
    }


def _control(protocol: dict, measured: dict, name: str) -> str:
    """The arm that must fail the rule, or be told apart, in words, with its number where it was measured."""
    if not protocol.get(name):
        return ""
    found = value_text(measured.get(name))
    return protocol[name] + (f": {found}" if found != "-" else "")


def _ceiling(ceiling: dict | None) -> str:
    return f"the arms at {', '.join(map(number, ceiling['values']))}; the best possible is {number(ceiling['best'])}" if ceiling else ""


def _about_run(record: dict) -> dict[str, str | None]:
    run, here = record["run"], record["run"]["environment"]
    versions = {"Python": here.get("python"), **(here.get("versions") or {})}
    gpu = here.get("cuda") or {}
    machine = [here.get("platform"), here.get("cpu"), _with(here.get("cores"), "cores"), _with(here.get("threads"), "threads")]
    machine += [_with(here.get("memory_gb"), "GB"), f"{gpu.get('count')} x {gpu.get('name')}" if gpu else "no GPU"]
    machine.append("load average " + " ".join(map(str, here["load_average"])) if here.get("load_average") else "")
    return {
        "began": f"{run['started_at']}, took {run['seconds']:,} s",
        "commit": run["commit"] + (" with uncommitted changes" if run["dirty"] else ", clean tree"),
        "machine": ", ".join(part for part in machine if part),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "models": _names(run.get("models")),
        "data": _names(run.get("datasets")),
        "code": f"experiment {run['sources']['experiment']}, sources {run['sources']['sha256'][:12]}" if run.get("sources") else "",
        "timing": ", ".join(f"{name} {at}" for name, at in run.get("timing", {}).items()),
    }


def _with(value, unit: str) -> str:
    return "" if value is None else f"{value} {unit}"


def _names(listed) -> str:
    return ", ".join(str(entry.get("name", "?")) if isinstance(entry, dict) else str(entry) for entry in listed or ())


def _deviations(row: Row, paper: Paper) -> str:
    """What was done otherwise than in the paper: the README's sentence for an id, or the sentence itself."""
    listed = row.shown["protocol"].get("deviations", ())
    if not listed:
        return ""
    known = {name: paper.deviations.get(name, "") for name in listed}
    lost = "not in the paper's README"
    entries = "".join(
        f"<dt>{e(name)}</dt><dd>{e(text or lost)}</dd>" if text or len(name) < 5 else f"<dd>{e(name)}</dd>"
        for name, text in known.items()
    )
    return f'<div class="deviations"><h3>Deviations from the paper</h3><dl class="words">{entries}</dl></div>'


def table(caption: str, facts: dict) -> str:
    """Rows of facts that are there."""
    rows = "".join(
        f'<tr><th scope="row">{e(name)}</th><td>{e(value)}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "", "-")
    )
    return f'<table class="facts"><caption>{caption}</caption><tbody>{rows}</tbody></table>'
