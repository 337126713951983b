"""claims.yaml, read and checked before any run: what is claimed, where, and which rule decides it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import RecordError
from .rules import rule_problem
from .shapes import check_shape, read_bytes


@dataclass(frozen=True)
class Claims:
    """One claims.yaml: `paper` (key, title, ...), `claims`, `headlines`, and the sha256 of the file."""

    paper: dict
    claims: list[dict]
    sha256: str
    headlines: tuple[dict, ...] = ()

    def __iter__(self) -> Iterator[dict]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def find(self, claim_id: str, rung: str | None = None) -> dict | None:
        """The claim "skipgpt/C9" or "C9": its entry for the rung, else its first entry."""
        found = [c for c in self.claims if claim_id in (c["id"], c["id"].partition("/")[2])]
        return next((c for c in found if c["rung"] == rung), found[0] if found else None)


def load_claims(path: str | Path) -> Claims:
    """Reads and checks claims.yaml. Raises RecordError that names the file and the field."""
    path = Path(path)
    raw = read_bytes(path)
    try:
        content = yaml.load(raw, Loader=_Loader)
    except Exception as error:  # PyYAML lets through whatever its constructors raise: `!!bool x` is a KeyError
        said = " ".join(str(error).split()) or type(error).__name__
        raise RecordError(f"{path}: not valid YAML: {said[:500]}") from None
    check_shape(content, "claims.schema.json", path)
    seen = set()
    for i, claim in enumerate(content["claims"]):
        at, rule = f"{path}: $.claims[{i}]", None
        if claim["id"].partition("/")[0] != content["paper"]["key"]:
            raise RecordError(f"{at}.id: {claim['id']} is not of paper {content['paper']['key']}")
        if (claim["id"], claim["rung"]) in seen:
            raise RecordError(f"{at}.id: {claim['id']} appears twice at rung {claim['rung']}")
        seen.add((claim["id"], claim["rung"]))
        if claim.get("status") != "not-checkable" and (rule := rule_problem(claim)):
            raise RecordError(f"{at}.{rule[0]}: {claim['id']}: {rule[1]}")
    headlines = content.get("headlines", ())
    names = {claim["id"].partition("/")[2] for claim in content["claims"]}
    for i, headline in enumerate(headlines):
        if headline["id"].partition("/")[0] != content["paper"]["key"]:
            raise RecordError(f"{path}: $.headlines[{i}].id: {headline['id']} is not of paper {content['paper']['key']}")
        named = dict.fromkeys([*headline["rows"], *([headline["shows"]] if "shows" in headline else [])])
        if unknown := [name for name in named if name not in names]:
            raise RecordError(f"{path}: $.headlines[{i}]: {headline['id']} names {', '.join(unknown)}, which is no claim here")
        if headline.get("shows", headline["rows"][0]) not in headline["rows"]:
            raise RecordError(f"{path}: $.headlines[{i}].shows: {headline['id']} shows {headline['shows']}, which is none of its rows, so "
                              "that its number would stand beside a word that does not rest on it")
    return Claims(content["paper"], content["claims"], hashlib.sha256(raw).hexdigest(), tuple(headlines))


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-5 as a number, and refuses a key given twice and merge keys, all unlike YAML 1.1.

    Ten merges of ten merges of ... would fill the memory before anything could count them.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"merge key {key.value!r}, line {key.start_mark.line + 1}: write the entries out")
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} appears twice, line {key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
