"""The rules of the house, each a function from a tree to the list of its breaches.

Every rule is tested twice: on this repository, where the list must be empty, and on a small bad
tree, where it must not be: a rule that cannot fail holds nothing. Import rules are read from the
syntax tree, so that nothing heavy is imported to check them.
"""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from common.claims.rules import COMPARING, EFFECT
from common.report.tables import SAME_NAMES
from common.runs.sources import imported_modules, reached

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"trl", "datasets", "lm_eval", "vllm", "matplotlib"}  # slow, or not on the GPU image
METHOD_MAY_IMPORT = sys.stdlib_module_names | {"torch", "transformers"}
SOURCES = {"abstract", "table", "figure", "text", "repo", "secondary", "derived"}
# Whom a reader may be sent to. No package index: its address belongs to the machine.
HOSTS = {
    "aclanthology.org", "ai.google.dev",  # the second for the terms of Gemma
    "arxiv.org", "doi.org", "example.org", "github.com", "huggingface.co",
    "index.invalid", "json-schema.org", "openreview.net", "proceedings.mlr.press", "www.apache.org",
    "www.w3.org",
}  # fmt: skip


def imports(path):
    """(line, level, dotted name, inside a function?) of every import in a file."""
    return imports_of(path.read_text(encoding="utf-8"))


@functools.cache  # four rules ask for the same files
def imports_of(text):
    found = []

    def look(statements, lazy):
        for node in statements:
            if isinstance(node, ast.Import):
                found.extend((node.lineno, 0, alias.name, lazy) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found.extend((node.lineno, node.level, name, lazy) for name in names)
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            inside = lazy or typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                for name in ("body", "orelse", "finalbody"):
                    look(getattr(part, name, ()), inside)

    look(ast.parse(text).body, False)
    return found


@functools.cache  # three rules ask for the claims
def entries_of(text):
    return yaml.safe_load(text) or {}


def python_files(root, folder):
    return sorted((root / folder).rglob("*.py"))


def papers_import_only_themselves(root):
    for path in python_files(root, "papers"):
        inside = path.relative_to(root / "papers").parts  # (paper, ..., file)
        for line, level, name, _ in imports(path):
            climbs = level >= len(inside) and len(inside) > 1
            absolute = level == 0 and name.partition(".")[0] == "papers"
            if climbs or absolute:
                yield f"{path.relative_to(root)}:{line}: {'.' * level}{name}: use a relative import"


def common_never_imports_papers(root):
    for path in python_files(root, "common"):
        for line, level, name, _ in imports(path):
            climbs = level >= len(path.relative_to(root).parts)
            if climbs or (level == 0 and name.partition(".")[0] == "papers"):
                yield f"{path.relative_to(root)}:{line}: common imports {name}"


def method_imports_alone(root):
    for path in sorted((root / "papers").glob("*/method.py")):
        for line, level, name, lazy in imports(path):
            foreign = level == 0 and name.partition(".")[0] not in METHOD_MAY_IMPORT
            if foreign or (level and not lazy):
                yield f"{path.relative_to(root)}:{line}: {name} at the top of a method file"


def heavy_imports_inside_functions(root):
    for folder in ("papers", "common", "tests"):
        for path in python_files(root, folder):
            for line, level, name, lazy in imports(path):
                if level == 0 and name.partition(".")[0] in HEAVY and not lazy:
                    yield f"{path.relative_to(root)}:{line}: import {name} inside a function"


def no_utils(root):
    for folder in ("papers", "common", "tests"):
        for path in python_files(root, folder):
            if path.stem in ("utils", "util", "helpers", "misc"):
                yield f"{path.relative_to(root)}: name a file after its idea"


def claims_have_sources(root):
    """A claim says where the paper makes it, what decides it, and (if required) what refutes it."""
    for path in sorted((root / "papers").glob("*/claims.yaml")):
        read = entries_of(path.read_text())
        claims = read["claims"] if isinstance(read, dict) else read
        seen = set()
        for claim in claims:
            where = f"{path.relative_to(root)}: {claim.get('id')}"
            rule = claim.get("protocol", {}).get("rule", {})
            if not re.fullmatch(rf"{path.parent.name}/C\d+[a-z]?", str(claim.get("id"))):
                yield f"{where}: an id is {path.parent.name}/C<number>"
            if claim.get("id") in seen:
                yield f"{where}: twice"
            seen.add(claim.get("id"))
            if claim.get("paper", {}).get("source") not in SOURCES:
                yield f"{where}: paper.source is none of {', '.join(sorted(SOURCES))}"
            if not str(claim.get("where") or "").strip():
                yield f"{where}: says not where in the paper"
            if not set(rule or {}) & {*EFFECT, *COMPARING} and claim.get("status") != "not-checkable":
                yield f"{where}: has no rule"
            if claim.get("required") and not (rule or {}).get("falsified_if"):
                yield f"{where}: is required and says not what would falsify it"


def papers_have_headlines(root):
    """One to five, each short enough for its line in the root README."""
    for path in sorted((root / "papers").glob("*/claims.yaml")):
        where, headlines = path.relative_to(root), entries_of(path.read_text()).get("headlines", [])
        if not 1 <= len(headlines) <= 5:
            yield f"{where}: {len(headlines)} headlines; one to five are what the paper is read for"
        for headline in headlines:
            if len(str(headline.get("short")).split()) > 16:
                yield f"{where}: {headline.get('id')}: short has more than 16 words"


def tracked(root):
    """Files that git has or would add; the tree's own files where there is no git."""
    git = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         cwd=root, capture_output=True, text=True)  # fmt: skip
    if git.returncode:
        return sorted(p for p in root.rglob("*") if p.is_file() and ".venv" not in p.parts)
    return [p for n in sorted(set(git.stdout.split("\0"))) if n and (p := root / n).is_file()]


def files_are_small(root):
    for path in tracked(root):
        limit = 4_000_000 if path.suffix == ".safetensors" else 1_000_000
        if path.stat().st_size > limit:
            yield f"{path.relative_to(root)}: {path.stat().st_size} bytes, at most {limit}"


def files_name_no_machine(root):
    """No absolute path of somebody's machine, no web host that is not a paper, code or standard."""
    roots = r"(?:home|root|Users|mnt|srv|work|scratch|nfs)/(?!me/|user/)|opt/[\w.-]+/"
    place = re.compile(rf"(?<![\w.~)}}\]-])/(?:{roots})[\w.-]+")
    link = re.compile(r"(?<=\w)://(?:[^\s/\"'<>@]*@)?([\w.-]+\.[a-z]{2,})")
    index = re.compile(r"[\w-]+\.[a-z]{2,}(?::\d+)?/simple\b")  # an index named without https://
    for path in tracked(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hosts = {m.group(1) for m in link.finditer(text)} - HOSTS
        named = {m.group() for m in place.finditer(text)}
        if "/simple" in text:  # else the slowest of the three looks at every word
            named |= {m.group() for m in index.finditer(text)} - {"index.invalid/simple"}
        for found in sorted(named | hosts):
            yield f"{path.relative_to(root)}: names {found}"


def lock_is_index_neutral(root):
    text = (root / "uv.lock").read_text()
    for found in sorted(set(re.findall(r"\w+://(?!index\.invalid/)[^/\"]*|path = \"[^\"]*", text))):
        yield f"uv.lock: names {found}; run `make lock`"


def citation_names_every_paper(root):
    """The nine, and whatever else has a folder: by arXiv number, or by title."""
    references = yaml.safe_load((root / "CITATION.cff").read_text()).get("references", [])
    if len(references) < 9:
        yield f"CITATION.cff: {len(references)} references, the nine papers are more"
    known = {entry.get("title") for entry in references}
    known |= {str(found["value"]).removeprefix("arXiv:") for entry in references for found in entry.get("identifiers", [])}
    for path in sorted((root / "papers").glob("*/claims.yaml")):
        paper = entries_of(path.read_text()).get("paper", {})
        if not {paper.get("title"), paper.get("arxiv")} & known:
            yield f"CITATION.cff: has no reference for papers/{path.parent.name}"
    for entry in references:
        missing = {"type", "title", "authors", "year", "identifiers"} - set(entry)
        if missing:
            yield f"CITATION.cff: {entry.get('title')}: lacks {', '.join(sorted(missing))}"


def make(root, *words):
    """Output of make, not disturbed by a make that runs these tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *words]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True).stdout


def makefile_targets(root):
    """Names of the targets a user may type; make itself expands lists such as $(REPRODUCE)."""
    phony = re.search(r"(?m)^\.PHONY: (.*)$", make(root, "-pnq", "help"))
    return phony.group(1).split() if phony else []


def make_help_lists_every_target(root):
    listed = set(re.findall(r"(?m)^  (\S+)  +\S", make(root, "help")))
    rules = re.findall(r"(?m)^([a-z][\w-]*):(?!=)", (root / "Makefile").read_text())
    for target in sorted({*makefile_targets(root), *rules} - listed):
        yield f"Makefile: {target} is not in `make help`"


# Names that experiments have in every paper.
EXPERIMENTS = {"exact", "smollm2", "speed", "paper"}
# Python files that a paper has where it needs them: weights of its own, rivals in other papers.
WHERE_NEEDED = {"standins", "planes"}
FILES = ("README.md", "claims.yaml", *(f"{name}.py" for name in SAME_NAMES if name not in WHERE_NEEDED), "configs/cpu/rehearsal.yaml",
         "experiments/__init__.py", "experiments/paper.py", "results/README.md", "tests/test_method.py", "tests/test_analytic.py",
         "tests/test_training.py", "tests/test_experiments.py", "tests/test_paper_scale.py")  # fmt: skip
WITHOUT = {  # files that a paper does not have, and why
    "papers/layerfusion/scoring.py": "an answer is one word, which common.standins.llava scores as it does for its stand-ins",
    "papers/skipgpt/scoring.py": "what it measures are losses, perplexity and the tasks of common.benchmarks: it scores no answer itself",
    "papers/streamingthinker/scoring.py": "`scores` stands in experiments/arms.py, from which committed results were computed",
}


def papers_have_the_same_parts(root):
    """Every paper that the Makefile offers (it has an eval.py) has the files of CONTRIBUTING.md, but for those that WITHOUT names. What
    else stands beside its method says in its first line what it is, and is on the map of its README; its experiments stand in
    experiments/: none beside the method, and none that reads what only judges or shows."""
    for paper in sorted(path.parent for path in (root / "papers").glob("*/eval.py")):
        readme = (paper / "README.md").read_text() if (paper / "README.md").is_file() else ""
        for name in FILES:
            if not (paper / name).exists() and f"papers/{paper.name}/{name}" not in WITHOUT:
                yield f"papers/{paper.name}: has no {name}"
            elif (paper / name).exists() and f"papers/{paper.name}/{name}" in WITHOUT:
                yield f"papers/{paper.name}: has {name}, and WITHOUT says that it has none"
        for path in sorted(paper.glob("*.py")):
            if path.stem in EXPERIMENTS or "experiment" in path.stem:
                yield f"papers/{paper.name}/{path.name}: belongs into experiments/"
            elif path.stem not in SAME_NAMES and not (ast.get_docstring(ast.parse(path.read_text())) and path.name in readme):
                yield f"papers/{paper.name}/{path.name}: begins with a sentence on what it is, which README.md shows (report --readme)"
        if len(text := (paper / "eval.py").read_text().splitlines()) > 60:
            yield f"papers/{paper.name}/eval.py: {len(text)} lines; it says which experiments there are, and no more"
        for path in sorted(paper.glob("experiments/*.py")):
            for line, level, name, _ in imports(path):
                if level == 2 and name.partition(".")[0] in ("eval", "quantities", "tables", "pictures", "planes"):
                    yield f"{path.relative_to(root)}:{line}: imports {name}, so that a change of it would train again"


def imports_within(root):
    """{module: modules of common and papers that its file imports, in functions, too}; tests left out."""
    files = [path for folder in ("common", "papers") for path in python_files(root, folder) if "tests" not in path.parts]
    modules = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    graph = {}
    for module, path in modules.items():
        names = set(imported_modules(path, ".".join(path.relative_to(root).parent.parts)))
        graph[module] = {name for name in names if name in modules and name != module and modules[name].name != "__init__.py"}
    return graph


def no_import_circles(root):
    graph = imports_within(root)
    done = set()
    for start in sorted(graph):
        stack, path = [(start, iter(sorted(graph[start])))], [start]
        while stack and start not in done:
            following = next(stack[-1][1], None)
            if following in path:
                yield f"{' -> '.join([*path[path.index(following) :], following])}: a circle"
            elif following is not None and following not in done:
                stack.append((following, iter(sorted(graph[following]))))
                path.append(following)
            elif following is None:
                stack.pop()
                done.add(path.pop())


# From the ground up; a room may use those of lower floors. A file of common that stands in no room is its own.
FLOORS = [{"errors"}, {"seeds", "probe"}, {"files", "progress"}, {"pictures", "models", "flops", "shapes"},
          {"masks", "attention", "lora", "gemma", "timing", "data", "claims", "families", "whisper"}, {"benchmarks", "training", "report"},
          {"streaming", "vision", "reasoning", "runs"}, {"standins", "copy_selection"}, {"copy_pages"},
          {"doctor", "copy_paper"}]
# What scores rollouts is a wrapper over the field's scorers and a part of the reasoning kit.
OF_THE_KIT = {"common.benchmarks.sampled", "common.benchmarks.reasoning", "common.benchmarks.maths"}


def rooms_import_downwards(root):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    for module, others in sorted(imports_within(root).items()):
        here = module.split(".")[1] if module.startswith("common.") else None
        for other in sorted(others):
            there = other.split(".")[1] if other.startswith("common.") else None
            if here is None or there is None or here == there or (module in OF_THE_KIT and there == "reasoning"):
                continue
            if unknown := {here, there} - set(floor):
                yield f"common/{sorted(unknown)[0]}: on no floor of tests/test_rules.py"
            elif floor[there] >= floor[here]:
                yield f"{module} imports {other}, which stands on the same floor or above"


# What enters these rooms is needed by two papers.
KITS = ("benchmarks", "data", "reasoning", "standins", "streaming", "timing", "training", "vision")
ONE_USER = {  # files of them that one paper alone reaches, and why they stand there all the same
    "common/benchmarks/interaction.py": "measures of the field, which stand with the other scorers of streams",
    "common/benchmarks/language.py": "the wrapper over lm-eval, for whoever has a model in memory; the others' tasks need their own",
    "common/data/hard_scenes.py": "scenes.py made hard: it draws that file's objects and asks its questions",
    "common/data/stories.py": "what common's own stand-in of stories is trained on",
    "common/standins/llava_qwen3.py": "llava.py's recipe on a second family; recipe, card and weights of a stand-in stand together",
    "common/reasoning/five.py": "what common's own stand-in of five tasks is trained on",
    "common/standins/five.py": "a stand-in with its card and weights, as the other stand-ins",
    "common/standins/speech_smollm2.py": "a stand-in, likewise; GPE's speech (C7) is to begin from it",
    "common/standins/stories.py": "a stand-in with its card and weights, as the other stand-ins",
    "common/streaming/batched.py": "common's own stand-in of stories decodes by it",
    "common/streaming/digits.py": "what that stand-in is trained on",
    "common/streaming/whisper.py": "that stand-in's encoder, where audio.py has the small one of both streaming papers",
    "common/streaming/planes.py": "the plane of all streaming methods, as reasoning/planes.py is that of reasoning",
    "common/vision/visual_tokens.py": "ranking for any method; VisiPruner's ranks are its own paper's, in pruners.py",
}


def kits_have_two_users(root):
    """A file that is not a paper's own is there because two papers reach it, tests apart; ONE_USER names the exceptions."""
    users = {}
    for paper in sorted(path.parent for path in (root / "papers").glob("*/eval.py")):
        own = [path for path in paper.rglob("*.py") if "tests" not in path.relative_to(paper).parts]
        for file in reached(own, root):
            users.setdefault(file.relative_to(root).as_posix(), set()).add(paper.name)
    for path in [path for room in KITS for path in python_files(root, f"common/{room}") if path.name != "__init__.py"]:
        name = path.relative_to(root).as_posix()
        count = len(users.get(name, ()))
        if count < 2 and name not in ONE_USER:
            yield f"{name}: {', '.join(users.get(name, ())) or 'no paper'} alone needs it: it belongs there, or into ONE_USER with a reason"
        elif count > 1 and name in ONE_USER:
            yield f"{name}: {count} papers need it; it is no exception any more"


SILENCED = 2  # lines


def types_are_checked(root):
    """`make lint` has mypy look at all of common and at every method file; at most SILENCED lines are left out, with a reason."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]
    for name in sorted({"common", "papers/*/method.py"} - set(settings["files"])):
        yield f"pyproject.toml: mypy does not look at {name}"
    for name in sorted({"exclude", "ignore_errors", "disable_error_code"} & set(settings)):
        yield f"pyproject.toml: mypy's {name} leaves something out"
    for part in settings.get("overrides", []):
        for module in [part["module"]] if isinstance(part["module"], str) else part["module"]:
            if module.partition(".")[0] in {"common", "papers", "*", *(path.parent.name for path in root.glob("papers/*/method.py"))}:
                yield f"pyproject.toml: mypy has settings of its own for {module}"
    silenced = 0
    for path in [*python_files(root, "common"), *python_files(root, "papers")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            mark = re.search(r"#\s*(?:type:\s*ignore|mypy:)(.*)", line)
            silenced += bool(mark)
            if mark and not re.match(r"\[[\w-]+\]\s+# \w", mark[1]):
                yield f"{path.relative_to(root)}:{number}: leaves no reason: type: ignore[code]  # why"
    if silenced > SILENCED:
        yield f"{silenced} lines are hidden from mypy, at most {SILENCED}"


RULES = [
    papers_import_only_themselves, common_never_imports_papers, method_imports_alone,
    heavy_imports_inside_functions, no_utils, claims_have_sources, papers_have_headlines, files_are_small,
    files_name_no_machine, lock_is_index_neutral, citation_names_every_paper,
    make_help_lists_every_target, papers_have_the_same_parts, no_import_circles, rooms_import_downwards,
    kits_have_two_users, types_are_checked,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_tree_keeps(rule):
    breaches = list(rule(ROOT))
    assert not breaches, "\n".join(breaches)


M = "papers/a/method.py"
LAZY = "\ndef f():\n    {}"
CLAIM = {"id": "a/C1", "where": "Table 1", "paper": {"source": "table"}, "required": True,
         "protocol": {"rule": {"above": 0, "falsified_if": "below 0"}}}  # fmt: skip
CHECKED = "[tool.mypy]\nfiles = ['common', 'papers/*/method.py']\n"
BAD_TREES = [  # rule, files of a tree that breaks it, how often
    (papers_import_only_themselves, {"papers/a/x.py": "from papers.b import y"}, 1),
    (papers_import_only_themselves, {"papers/a/x.py": "import papers.a.y"}, 1),
    (papers_import_only_themselves, {"papers/a/x.py": "from ..b import y"}, 1),
    (papers_import_only_themselves, {"papers/a/tests/x.py": "from ...b import y"}, 1),
    (common_never_imports_papers, {"common/x.py": "def f():\n    import papers.a.method"}, 1),
    (common_never_imports_papers, {"common/x.py": "from ..papers import a"}, 1),
    (method_imports_alone, {M: "import math, torch, numpy"}, 1),
    (method_imports_alone, {M: "from .b import c" + LAZY.format("from .d import e")}, 1),
    (method_imports_alone, {M: LAZY.format("from common.flops import count")}, 1),
    (heavy_imports_inside_functions, {M: "import lm_eval.api" + LAZY.format("import trl")}, 1),
    (heavy_imports_inside_functions, {"papers/a/x.py": "class A:\n    from datasets import d"}, 1),
    (no_utils, {"common/utils.py": "", "papers/a/tests/helpers.py": "", "common/flops.py": ""}, 2),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump([CLAIM | {"paper": {}}])}, 1),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump([CLAIM | {"where": " "}])}, 1),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump({"claims": [CLAIM, CLAIM]})}, 1),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump([CLAIM | {"id": "b/C1"}])}, 1),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump([CLAIM | {"protocol": {}}])}, 2),
    (claims_have_sources, {"papers/a/claims.yaml": yaml.dump([CLAIM | {"protocol": {"rule": {"type": "above", "falsified_if": "x"}}}])}, 1),
    (papers_have_headlines, {"papers/a/claims.yaml": "claims: []", "papers/b/claims.yaml": yaml.dump(
        {"headlines": [{"id": "b/H1", "short": "word " * 17}, {"id": "b/H2", "short": "word " * 16}]})}, 2),
    (files_are_small, {"a.json": "x" * 1_000_001, "b.safetensors": "x" * 1_000_001}, 1),
    (files_are_small, {"a.safetensors": "x" * 4_000_001}, 1),
    (files_name_no_machine, {"a.md": "see /" + "home/jo/runs, ../shared/opt/x, work/x/y"}, 1),
    (files_name_no_machine, {"a.txt": "-i https:/" + "/user:word@a.example" + ".com/simple/"}, 2),
    (files_name_no_machine, {"a.py": "# https://arxiv.org/abs/2506.04179, https://github.com/a/b\n"
                                     "INDEX = 'packages.example" + ".com/simple'"}, 1),  # fmt: skip
    (lock_is_index_neutral, {"uv.lock": 'registry = "https:/' + '/a.example' '.com/simple"\n'
                             'url = "https://index.invalid/files/a.whl"\n'
                             'source = { path = "wheels/b.whl" }'}, 2),  # fmt: skip
    (citation_names_every_paper, {"CITATION.cff": "references: [{title: A, type: article}]"}, 2),
    (citation_names_every_paper, {
        "CITATION.cff": "references:\n" + "- {title: A, type: x, authors: [], year: 1, identifiers: [{value: 'arXiv:1.2'}]}\n" * 9,
        "papers/a/claims.yaml": "paper: {title: A}", "papers/b/claims.yaml": "paper: {title: x, arxiv: '1.2'}",
        "papers/c/claims.yaml": "paper: {title: C, arxiv: '1.3'}"}, 1),
    (make_help_lists_every_target, {"Makefile": "L := c d\n.PHONY: help a $(L)\n"
                                    "help:\n\t@echo '  help  x'\n\t@echo '  c  y'\n"
                                    "a: ; @true\n$(L): ; @true\n"}, 2),  # fmt: skip
    (papers_have_the_same_parts, {"papers/a/eval.py": "", "papers/b/method.py": ""}, len(FILES) - 1),
    (papers_have_the_same_parts, {"papers/a/eval.py": "x = 1\n" * 61, "papers/a/speed.py": "", "papers/a/text_experiment.py": "",
                                  "papers/a/experiments/text.py": "from .. import tables\nfrom ..quantities import text\n"
                                  "from ..planes import planes"}, len(FILES) - 1 + 6),
    (papers_have_the_same_parts, {**dict.fromkeys((f"papers/a/{name}" for name in FILES), ""), "papers/a/README.md": "shown.py silent.py",
                                  "papers/a/shown.py": "\"\"\"A part.\"\"\"", "papers/a/silent.py": "x = 1",
                                  "papers/a/hidden.py": "\"\"\"A part.\"\"\"", "papers/a/standins.py": ""}, 2),
    (papers_have_the_same_parts, dict.fromkeys((f"papers/skipgpt/{name}" for name in FILES), ""), 1),  # scoring.py, against WITHOUT
    (no_import_circles, {"common/a.py": "from .b import x", "common/b.py": "def f():\n    from . import c",
                         "common/c.py": "from common.a import y", "common/d.py": "from . import a"}, 1),
    (no_import_circles, {"papers/a/x.py": "from .y import z", "papers/a/y.py": "from .x import z"}, 1),
    (rooms_import_downwards, {"common/files.py": "from .models import load", "common/models.py": "from .cellar import x",
                              "common/cellar.py": "", "common/runs/jobs.py": "from ..streaming.caches import x",
                              "common/streaming/caches.py": "", "common/benchmarks/maths.py": "from ..reasoning.verifiers import x",
                              "common/benchmarks/text.py": "from ..reasoning.verifiers import x",
                              "common/reasoning/verifiers.py": "from .rollouts import x", "common/reasoning/rollouts.py": ""}, 4),
    (kits_have_two_users, {"papers/a/eval.py": "from common.vision import seen, own, visual_tokens\nfrom common.data import both",
                           "papers/b/eval.py": "import common.vision.visual_tokens", "papers/b/data.py": "from common.vision import seen",
                           "papers/b/tests/test_data.py": "from common.vision import own",
                           "common/vision/seen.py": "from ..data import both",
                           "common/vision/own.py": "", "common/vision/visual_tokens.py": "", "common/data/both.py": "",
                           "common/data/nobody.py": "", "common/doctor.py": ""}, 3),
    (types_are_checked, {"pyproject.toml": "[tool.mypy]\nfiles = ['common/files.py']\nexclude = 'common/report'"}, 3),
    (types_are_checked, {"papers/a/method.py": "", "pyproject.toml":
        CHECKED + "[[tool.mypy.overrides]]\nmodule = ['common.report.*', 'a.method', 'torch.*']\nignore_errors = true"}, 2),
    (types_are_checked, {"pyproject.toml": CHECKED, "common/a.py": "x = y  # type: " + "ignore\n# mypy: " + "ignore-errors",
                         "papers/a/b.py": "x = y  # type: " + "ignore[misc]  # the library's own mistake"}, 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "files", "count"), BAD_TREES, ids=lambda x: getattr(x, "__name__", "")
)
def test_bad_tree_breaks(rule, files, count, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert len(list(rule(tmp_path))) == count, list(rule(tmp_path))


def test_every_rule_is_shown_to_fail():
    assert set(RULES) == {rule for rule, *_ in BAD_TREES}


def test_versions_agree():
    """One version number for the package and its citation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
