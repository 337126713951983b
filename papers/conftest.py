"""The papers' tests run under the same guard as the house's: see tests/conftest.py."""

from tests.conftest import environment_seen_once, no_network  # noqa: F401
