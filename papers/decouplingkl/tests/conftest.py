"""What several of these files share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """The same order of additions here as in the child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
