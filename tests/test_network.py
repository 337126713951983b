"""The guard of conftest.py guards: nothing outside is reached, this machine still is."""

import os
import socket

import pytest

OUTSIDE = "192.0.2.1"  # TEST-NET-1, RFC 5737: assigned to nobody


def test_connections_and_look_ups_elsewhere_are_refused():
    for attempt in (
        lambda: socket.create_connection((OUTSIDE, 80), timeout=1),
        lambda: socket.socket().connect((OUTSIDE, 80)),
        lambda: socket.socket().connect_ex((OUTSIDE, 80)),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.create_connection(("::ffff:" + OUTSIDE, 80), timeout=1),
    ):
        with pytest.raises(OSError, match="without network"):
            attempt()


def test_this_machine_is_still_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


def test_hub_clients_know_that_they_are_offline():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert "NINEFOLD_DATA" not in os.environ
