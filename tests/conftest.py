"""What every test stands on."""

import random

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_no_leaks():
    """One thread, so that results do not depend on the machine, and a global generator that each test finds alike."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.thorough)])
def sample(request):
    """``sample(items, number)``: so many of them, drawn at random in each run and in order; all with ``-m thorough``.

    A test names the item in its messages, so that a failure can be repeated.
    """

    def draw(items, number):
        items = list(items)
        if request.param == "all":
            return items
        return [items[i] for i in sorted(random.sample(range(len(items)), min(number, len(items))))]

    return draw
