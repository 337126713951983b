"""A Python that has loaded the libraries: commands that a test types are forks of it, and start at once.

`python -P tests/warm_python.py serve SOCKET LIBRARY ...` imports them and says "ready". `... ask SOCKET -m MODULE WORD ...` hands its
folder, environment and streams over; a child of the server runs the module there, and the exit status is the child's. Nothing of
this repository is loaded before, so that a child finds the modules of the folder that it stands in, as `python -m` does.
"""

import json
import os
import signal
import socket
import sys


def ask(path: str, words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        said = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(said)
        return int.from_bytes(server.recv(1) or b"\1", "big")


def serve(path: str, libraries: list[str]) -> None:
    import importlib

    for library in libraries:
        importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(path)
        here.listen()
        print("ready", flush=True)
        while True:
            asking, _ = here.accept()
            if not os.fork():
                here.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(asking)
            asking.close()


def _answer(asking: socket.socket) -> None:
    """Never returns."""
    length, streams, _, _ = socket.recv_fds(asking, 4, 3)
    with asking.makefile("rb") as said:
        order = json.loads(said.read(int.from_bytes(length, "big")))
    if not (pid := os.fork()):
        asking.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(_run(order["words"], order["folder"], order["environment"]))
    asking.sendall(bytes([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255]))
    os._exit(0)


def _run(words: list[str], folder: str, environment: dict[str, str]) -> int:
    """`python -m MODULE WORD ...` in this process; its exit status."""
    import runpy
    import traceback

    status = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path.insert(0, folder)
        _, module, *_ = words
        sys.argv = words[1:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
    return status


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    sys.exit(ask(place, rest) if what == "ask" else serve(place, rest))
