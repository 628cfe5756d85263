"""What every test stands on."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_no_leaks():
    """One thread, so that results do not depend on the machine, and a global generator that each test finds alike."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
