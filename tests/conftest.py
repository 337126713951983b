"""No test uses the network, a hub, a screen or the user's own data.

Set before any library is imported: the hub clients' offline switches, a drawing backend without a
window, two threads (the machine that the suite is measured on), or one where pytest-xdist runs a
process a core. Then the order: what takes longest begins. Then sockets: a connection to, or a name
look-up of, anything but this machine fails as it would without a network.
`papers/conftest.py` takes the same into the papers' tests, and `make copy-<paper>` along with them.
"""

import functools
import ipaddress
import os
import socket

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("NINEFOLD_DATA", None)  # a test that wants data makes its own and sets this


# Files that take longest, the longest first.
LONG = ("tests/test_papers.py", "tests/test_tutorial.py", "papers/vica/tests/test_training.py", "tests/benchmarks/test_benchmarks.py",
        "papers/gpe/tests/test_paper_scale.py", "papers/gpe/tests/test_session.py", "papers/gpe/tests/test_decoding.py",
        "papers/gpe/tests/test_method.py", "papers/vica/tests/test_paper_scale.py", "tests/vision/test_llava.py",
        "papers/gpe/tests/test_training.py", "papers/visipruner/tests/test_training.py", "papers/skipgpt/tests/test_paper_scale.py",
        "papers/gpe/tests/test_harness.py", "papers/decouplingkl/tests/test_training.py", "papers/onpolicysft/tests/test_harness.py",
        "papers/onpolicysft/tests/test_training.py", "tests/runs/test_survival.py", "tests/report/test_report_browser.py",
        "tests/test_environment.py", "tests/test_families.py", "papers/skipgpt/tests/test_skipping.py")


def pytest_configure(config):
    """pytest-xdist would begin with the files of most tests: a file of one long test then leaves one process alone at the end."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    place = {file: number for number, file in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture(scope="session", autouse=True)
def environment_seen_once():
    """lm-eval has torch describe the whole machine at every evaluation, which takes a second of it each time."""
    from torch.utils import collect_env

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pretty_env_info", functools.cache(collect_env.get_pretty_env_info))
        yield


class NoNetwork(OSError):
    """Raised in place of a connection that would leave this machine."""


def is_here(host):
    """Whether an address or name means this machine; names are judged without looking them up."""
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    if isinstance(host, bytes):
        host = host.decode()
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_elsewhere(host):
    if not is_here(host):
        raise NoNetwork(f"a test tried to reach {host!r}; tests run without network")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Loopback and Unix sockets work (DDP on two processes needs them); nothing else does."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    look_up = socket.getaddrinfo

    def checked(original):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse_elsewhere(address[0])
            return original(self, address)

        return call

    def checked_look_up(host, *args, **kwargs):
        refuse_elsewhere(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", checked(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", checked(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", checked_look_up)
