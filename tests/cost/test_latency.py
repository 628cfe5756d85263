"""How long a network takes."""

import time

import pytest
import torch
from support.references import unchanged
from torch import nn

from nas.cost import latency


class Sleeps(nn.Module):
    """Takes ``seconds`` and keeps what it was called with."""

    def __init__(self, seconds=0.002):
        super().__init__()
        self.seconds, self.calls = seconds, []

    def forward(self, x):
        self.calls.append((x, self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        time.sleep(self.seconds)
        return x


def test_a_latency_is_that_of_one_run():
    for seconds in (0.0, 0.002, 0.01):
        network, started = Sleeps(seconds), time.perf_counter()
        found = latency(network, torch.zeros(1), min_run_s=0.04)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        assert elapsed_ms >= 40, "it measures for as long as it is told"
        assert 5 <= found.runs < len(network.calls), "in several blocks, and the first runs are not counted"
        # At least half of the runs take the median or longer, whatever else the machine does.
        assert 1000 * seconds <= found.median_ms <= 2 * elapsed_ms / found.runs, seconds
        assert found.iqr_ms >= 0


def test_it_runs_in_eval_mode_on_given_threads():
    network, x, before = Sleeps(), torch.ones(2, 3), torch.get_num_threads()
    for threads in (1, 2):
        network.calls.clear()
        latency(network, x, min_run_s=0.01, threads=threads)
        assert all(seen is x for seen, *_ in network.calls)
        assert {tuple(rest) for _, *rest in network.calls} == {(False, True, threads)}
    assert torch.get_num_threads() == before


def test_the_network_is_unchanged_afterwards():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout()))
    network[1].eval()  # frozen
    with unchanged(network):
        latency(network, torch.ones(2, 3, 8, 8), min_run_s=0.01)
    network = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        latency(network, torch.zeros(1, 3), min_run_s=0.01)
    assert network.training
