"""`make doctor`: what this machine can run, on a screenful, before anything is installed or downloaded.

The standard library alone is imported, for this runs where packages are missing; torch, where it is there, is asked in a
process of its own. No request is made unless asked for (`--hub`; `make doctor HUB=1`). Always exit status 0: it reports.
`facts` looks, `rungs` judges, `lines` writes; the last two are functions of the facts alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)  # as requires-python in pyproject.toml
NEEDED = {"cpu": {"memory_gb": 6, "disk_gb": 2}, "gpu": {"gpu_gb": 75}}  # a card sold as 80 GB has 79 to 86
GPU_PACKAGES = ("torch", "transformers", "lightning", "peft")
# What NINEFOLD_DATA may hold, as docs/data.md lists it.
DATA = (
    "text/wikitext2_word.valid.txt", "text/wikitext2_word.test.txt", "text/ptb.valid.txt", "text/ptb.test.txt",
    "text/piqa.jsonl", "text/arc_easy.jsonl", "text/winogrande.jsonl", "text/lambada_openai.jsonl",
    "text/pubmed_qa_labeled.jsonl", "math/gsm8k_test.jsonl",
    *(f"translation/multi30k.{split}.{side}.gz" for split in ("train", "val", "test_2016_flickr") for side in ("en", "de", "fr")),
    "speech/fsdd.zip",
)
HUB = "https://huggingface.co"


# -- looking -----------------------------------------------------------------------------------------------
def facts(root: Path = ROOT, ask_hub: bool = False) -> dict:
    """All that is written and judged below. Sizes in units of 10^9 bytes; None where the system does not tell."""
    packages = required(root)
    torch = packages.get("torch", {}).get("version")
    cards = smi_cards()
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    return {
        "python": platform.python_version(),
        "cores": cores(),
        "memory_gb": memory()[0],
        "available_gb": memory()[1],
        "disk_gb": shutil.disk_usage(root).free / 1e9,
        "cards": cards,
        # A build for CPUs sees no card: no need to wait for its import.
        "torch_cards": torch_cards() if torch and (cards or not torch.endswith("+cpu")) else [],
        "packages": packages,
        "hub": {"endpoint": endpoint, "offline": next((n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if switched_on(n)), None),
                "answer": hub_answer(endpoint) if ask_hub else None},
        "data": data_files(os.environ.get("NINEFOLD_DATA")),
        "cache": cache(Path(os.environ.get("NINEFOLD_CACHE") or root / ".cache" / "ninefold")),
    }


def cores() -> int | None:
    """Those that this process may use: affinity, and a container's quota."""
    allowed = getattr(os, "sched_getaffinity", None)
    count = len(allowed(0)) if allowed else os.cpu_count()
    quota = read("/sys/fs/cgroup/cpu.max").split()
    if count and len(quota) == 2 and quota[0].isdigit():
        count = max(1, min(count, round(int(quota[0]) / int(quota[1]))))
    return count


def memory() -> tuple[float | None, float | None]:
    """(all, available): the machine's, or a container's where that is less."""
    found = dict(re.findall(r"(?m)^(MemTotal|MemAvailable):\s+(\d+) kB", read("/proc/meminfo")))
    whole, free = (int(found[n]) * 1024 / 1e9 if n in found else None for n in ("MemTotal", "MemAvailable"))
    limit, used = (read(f"/sys/fs/cgroup/memory.{n}").strip() for n in ("max", "current"))
    if whole and limit.isdigit() and int(limit) / 1e9 < whole:
        whole, free = int(limit) / 1e9, min(free or whole, (int(limit) - int(used or 0)) / 1e9)
    return whole, free


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def smi_cards() -> list[list]:
    """[name, memory in 10^9 bytes] of each NVIDIA card that the driver shows."""
    said = answer_of("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    return [[name.strip(), float(mib) * 2**20 / 1e9] for name, mib in re.findall(r"(?m)^(.*),\s*(\d+)\s*$", said)]


def torch_cards() -> list[list]:
    """The same, of those that the installed torch can use."""
    code = ("import json, torch; print(json.dumps([[p.name, p.total_memory / 1e9] for p in "
            "map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))]))")
    try:
        return json.loads(answer_of(sys.executable, "-c", code).strip().splitlines()[-1])
    except (ValueError, IndexError):
        return []


def answer_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def required(root: Path) -> dict[str, dict]:
    """{package: {"range", "version" or None, "fits"}} for what pyproject.toml asks for: of every paper, and of its
    families, as far as `make setup` installs them (group "all")."""
    import tomllib
    from importlib import metadata

    asked, found = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")), {}
    groups = asked.get("dependency-groups", {})
    families = [groups[entry["include-group"]] for entry in groups.get("all", ()) if entry["include-group"] != "dev"]
    for line in [*asked["project"]["dependencies"], *(line for lines in families for line in lines)]:
        if (read := re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", line)) is None:
            raise ValueError(f"pyproject.toml: {line!r} is no package with a range")
        name, wanted = read.groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        found[name] = {"range": wanted, "version": version, "fits": version is not None and fits(version, wanted)}
    return found


def fits(version: str, wanted: str) -> bool:
    """Whether "2.13.0+cpu" is in ">=2.11,<2.14". The operators of pyproject.toml and no others: ValueError."""
    compare = {">=": lambda a, b: a >= b, "<": lambda a, b: a < b, "==": lambda a, b: a == b}

    def numbers(text: str) -> list[int]:
        if (read := re.match(r"\d+(\.\d+)*", text)) is None:
            raise ValueError(f"version {text!r} does not begin with a number")
        return ([int(n) for n in read.group().split(".")] + [0] * 4)[:4]

    for part in filter(None, wanted.split(",")):
        found = re.fullmatch(r"\s*(>=|<|==)\s*(\d[\d.]*)\s*", part)
        if not found:
            raise ValueError(f"range {wanted!r}: {part!r} is none of >=, <, == with a version")
        if not compare[found.group(1)](numbers(version), numbers(found.group(2))):
            return False
    return True


def switched_on(name: str) -> bool:
    """As the hub's client reads its switches."""
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def hub_answer(endpoint: str) -> str:
    """What one request to the hub's address gave: any answer of a server counts."""
    from urllib import error, request

    try:
        with request.urlopen(request.Request(endpoint, method="HEAD"), timeout=5):
            return "answers"
    except error.HTTPError as said:
        return f"answers (status {said.code})"
    except (OSError, ValueError) as reason:
        return f"does not answer ({getattr(reason, 'reason', None) or reason})"


def data_files(folder: str | None) -> dict:
    """Which of DATA are in the folder; nothing is opened."""
    there = [name for name in DATA if folder and (Path(folder).expanduser() / name).is_file()]
    return {"folder": folder, "found": there, "missing": [name for name in DATA if name not in there]}


def cache(place: Path) -> dict:
    """Where it is, how large, and whether a file can be made there, or where its folder would be."""
    size = sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir()) / 1e9 if place.is_dir() else 0.0
    above = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            writable = True
    except OSError:
        writable = False
    return {"place": str(place.relative_to(ROOT) if ROOT in place.parents else place), "gb": size, "writable": writable}


# -- judging -----------------------------------------------------------------------------------------------
def rungs(seen: dict) -> dict[str, tuple[bool, str]]:
    """{rung: (can be run, why not or what to know)}."""
    unfit = [name for name, package in seen["packages"].items() if not package["fits"]]
    everything = [f"packages: {listed(unfit)}; `make setup` installs them"] if unfit else []
    if not seen["cache"]["writable"]:
        everything.append("the cache cannot be written: set NINEFOLD_CACHE to a folder that can")
    need, cpu = NEEDED["cpu"], list(everything)
    if seen["available_gb"] is not None and seen["available_gb"] < need["memory_gb"]:
        cpu.append(f"{seen['available_gb']:.1f} GB of memory are available, {need['memory_gb']} are needed")
    if seen["disk_gb"] < need["disk_gb"]:
        cpu.append(f"{seen['disk_gb']:.1f} GB of disk are free, {need['disk_gb']} are needed")
    cards = seen["torch_cards"]
    no_card = [] if cards else ["no GPU here"] if not seen["cards"] else ["the installed torch cannot use the GPU: it is another build"]
    gpu = [*no_card, *(p for p in everything if not p.startswith("packages:"))]
    if cards and max(gb for _, gb in cards) < NEEDED["gpu"]["gpu_gb"]:
        gpu.append(f"the GPU has {max(gb for _, gb in cards):.0f} GB, one of 80 GB is needed")
    if lacking := [name for name in GPU_PACKAGES if name in unfit or name not in seen["packages"]]:
        gpu.append(f"packages: {', '.join(lacking)}")
    paper, hub = [*no_card, *everything], seen["hub"]
    if hub["offline"]:
        paper.append(f"the hub is switched off by {hub['offline']}; only models that its cache holds can be opened")
    elif (hub["answer"] or "").startswith("does not"):
        paper.append("the hub does not answer")
    slow = "" if (seen["cores"] or 2) >= 2 else "on one core it takes about twice the ten minutes"
    return {"cpu": (not cpu, "; ".join(cpu) or slow), "gpu": (not gpu, "; ".join(gpu)),
            "paper": (not paper, "; ".join(paper) or "how many GPUs and how long: the head of each config in configs/cuda")}


def listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- writing -----------------------------------------------------------------------------------------------
def lines(seen: dict) -> list[str]:
    """A line or two for each fact, then what can be run."""
    packages, hub, data, kept = (seen[name] for name in ("packages", "hub", "data", "cache"))
    other = [f"{name} {p['version']} is not {p['range']}" for name, p in packages.items() if p["version"] and not p["fits"]]
    absent = [name for name, package in packages.items() if not package["version"]]
    main = ", ".join(f"{name} {packages[name]['version']}" for name in GPU_PACKAGES if packages.get(name, {}).get("version"))
    offline = f"switched off by {hub['offline']}" if hub["offline"] else hub["endpoint"]
    right = len(packages) - len(other) - len(absent)
    said = [
        ("python", f"{seen['python']} (3.11 to 3.14 will do)"),
        ("cores", str(seen["cores"])),
        ("memory", "unknown" if seen["memory_gb"] is None else f"{seen['memory_gb']:.1f} GB, {seen['available_gb'] or 0:.1f} GB available"),
        ("disk", f"{seen['disk_gb']:.0f} GB free"),
        ("gpu", "; ".join(f"{name}, {gb:.0f} GB" for name, gb in seen["torch_cards"] or seen["cards"]) or "none"),
        ("packages", f"{right} of {len(packages)} as pyproject.toml asks" + (f": {main}" if main else "")),
        *(("", text) for text in other),
        *(("", f"missing: {', '.join(absent[i : i + 10])}") for i in range(0, len(absent), 10)),
        ("hub", f"{offline}, {hub['answer'] or 'not asked (HUB=1 asks)'}; used only where a config names a model of it"),
        ("data", "NINEFOLD_DATA is not set: no real benchmark data, which no verdict needs" if not data["folder"] else
                 f"{len(data['found'])} of {len(DATA)} files in {data['folder']}"),
        *(("", text) for text in missing_by_folder(data)),
        ("cache", f"{kept['place']}: {kept['gb']:.1f} GB, {'writable' if kept['writable'] else 'CANNOT BE WRITTEN'}"),
    ]
    return [f"  {name:<10s} {text}" for name, text in said] + [
        f"  RUNG={rung:<6s}{'yes' if can else 'no'}{': ' if why else ''}{why}" for rung, (can, why) in rungs(seen).items()]


def missing_by_folder(data: dict) -> list[str]:
    """A line for each folder of NINEFOLD_DATA that lacks files; nothing where it is not set."""
    out = []
    for folder in dict.fromkeys(name.partition("/")[0] for name in data["missing"] if data["folder"]):
        here = [name.partition("/")[2] for name in data["missing"] if name.startswith(f"{folder}/")]
        all_of_it = len(here) == sum(name.startswith(f"{folder}/") for name in DATA)
        out.append(f"missing in {folder}/: " + (f"all {len(here)}, e.g. {here[0]}" if all_of_it and len(here) > 1 else ", ".join(here)))
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="doctor", description="Say what this machine can run.")
    parser.add_argument("--hub", action="store_true", help="ask the model hub, too (one request)")
    options = parser.parse_args(argv)
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        print(f"doctor: this is Python {platform.python_version()}; Ninefold needs 3.11 to 3.14. "
              "Name one: make doctor PYTHON=python3.12")
        return 0
    print("\n".join(["doctor: Ninefold on this machine", *lines(facts(ask_hub=options.hub))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
