"""Where a number comes from: commit, machine, versions. Never a user, a host, or a path."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "lightning", "peft", "trl", "datasets", "lm-eval")
# A block in a README that a command writes: the name, and what stands between the two markers.
BLOCK = re.compile(
    r"(?P<open><!-- ninefold:(?P<name>[a-z-]+) -->\n)(?P<text>.*?)"
    r"(?P<close><!-- /ninefold:(?P=name) -->)",
    re.DOTALL,
)
# Written by our commands: results, the report, and what common/files.py was writing when its process was killed.
GENERATED = re.compile(r"(^|/)(results/|report\.html$|\.[^/]+\.\w{8}\.tmp(/|$))")


def start_run(command: str, root: Path = ROOT) -> dict:
    """The `run` part of a record, but for `seconds`: call it first, add them at the end.

    command: what a user types in the repository root, with relative paths.
    """
    commit, dirty = git_state(root)
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "command": command,
        "environment": environment(root),
    }


def git_state(root: Path = ROOT) -> tuple[str, bool]:
    """(commit, dirty). What the commands write (results, report, README blocks) is no change.

    Outside git, or where git cannot be asked, $NINEFOLD_COMMIT is taken as a clean commit, and
    without it the answer is ("unknown", True).
    """
    named = os.environ.get("NINEFOLD_COMMIT")
    try:
        return _git(root, "rev-parse", "HEAD").strip(), bool(changed_files(root))
    except (OSError, subprocess.CalledProcessError):
        return (named, False) if named else ("unknown", True)


def changed_files(root: Path = ROOT) -> list[str]:
    """Files under root, relative to it, that differ from the commit or are new: what makes git_state say dirty.

    Raises OSError or subprocess.CalledProcessError where git cannot be asked.
    """
    listed = _git(root, "status", "--porcelain", "-z", "--no-renames", "-uall", "--", ".")
    inside = len(_git(root, "rev-parse", "--show-prefix").rstrip("\n"))  # git counts from the top of its repository
    changed = [(entry[:2], entry[3 + inside :]) for entry in listed.split("\0") if entry]
    return [path for how, path in changed if not _generated(root, how, path)]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    # A file's name may be any bytes.
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=True).stdout


def _generated(root: Path, how: str, path: str) -> bool:
    """Whether a changed file holds nothing but what our own commands wrote."""
    if GENERATED.search(path):
        return True
    if Path(path).name != "README.md" or how.strip() != "M":
        return False
    committed = _git(root, "show", f"HEAD:./{path}")
    return without_blocks(committed) == without_blocks((root / path).read_text(encoding="utf-8"))


def without_blocks(text: str) -> str:
    return BLOCK.sub(r"\g<open>\g<close>", text)


def environment(root: Path = ROOT) -> dict:
    """Facts about this machine that bear on a number; nothing is imported to find them."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": _cuda(),
        "threads": _threads(),
        "lock_sha256": _lock(root),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.machine()


def _cores() -> int | None:
    """Those that this process may use, where the system tells."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> dict | None:
    """The first CUDA device, if this process has torch already and torch sees one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "count": torch.cuda.device_count(),
        "memory_gb": round(device.total_memory / 1e9, 1),
        "runtime": torch.version.cuda,
    }


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return torch.get_num_threads() if torch else int(asked) if asked.isdigit() else None


def _lock(root: Path) -> str | None:
    try:
        return hashlib.sha256((root / "uv.lock").read_bytes()).hexdigest()
    except OSError:
        return None
