"""How long a network takes."""

import time

import pytest
import torch
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
    found = latency(Sleeps(0.003), torch.zeros(1), min_run_s=0.05)
    assert 3 <= found.median_ms < 30
    assert 0 <= found.iqr_ms < 30
    longer = latency(Sleeps(0.012), torch.zeros(1), min_run_s=0.05)
    assert longer.median_ms > 2 * found.median_ms


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.02])
def test_it_measures_for_as_long_as_told_and_in_several_blocks(seconds):
    network = Sleeps(seconds)
    started = time.perf_counter()
    found = latency(network, torch.zeros(1), min_run_s=0.04)
    assert time.perf_counter() - started >= 0.04
    assert 5 <= found.runs < len(network.calls)  # the first runs are not counted
    assert found.runs * found.median_ms >= 30 or found.iqr_ms > 0


def test_the_network_runs_in_eval_and_inference_mode_on_the_threads_told():
    network, x, before = Sleeps(), torch.ones(2, 3), torch.get_num_threads()
    for threads in (1, 2):
        network.calls.clear()
        latency(network, x, min_run_s=0.01, threads=threads)
        assert all(seen is x for seen, *_ in network.calls)
        assert {tuple(rest) for _, *rest in network.calls} == {(False, True, threads)}
    assert torch.get_num_threads() == before


def test_the_network_is_as_it_was_afterwards():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout()))
    network[1].eval()  # frozen
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    latency(network, torch.randn(2, 3, 8, 8), min_run_s=0.01)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_network_that_fails_is_as_it_was_afterwards():
    network = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        latency(network, torch.zeros(1, 3), min_run_s=0.01)
    assert network.training
