"""Compiled parts compute what they compute uncompiled, and each kind is compiled once."""

import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from nas.errors import NasWarning, SettingError
from nas.nn import GatedSum, PooledLinear, conv_bn_relu
from nas.nn import compiled as module
from nas.nn.compiled import compile_branches, compile_s

CHANNELS_LAST = torch.channels_last


class Net(nn.Module):
    """Two slots that are built alike, the first of which runs twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            GatedSum([conv_bn_relu(4, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5)), nn.Identity()])
            for _ in range(2)
        )
        self.head = PooledLinear(4, 3)

    def forward(self, x, architecture):
        first, second = zip(self.blocks, architecture, strict=True)
        for block, entry in (first, first, second):
            x = block(x, entry)
        return self.head(x)


@pytest.fixture
def counters(monkeypatch, tmp_path_factory):
    """What the compiler counts; nothing is compiled yet in this process, and little on disk."""
    folder = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    from torch._dynamo.utils import counters

    module._compiled.cache_clear()
    counters.clear()
    return counters


def passed(net, architecture, seed=0):
    """Output and gradients of a forward and backward pass."""
    x = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(memory_format=CHANNELS_LAST)
    torch.manual_seed(1)
    y = net(x.requires_grad_(), architecture)
    net.zero_grad()
    y.square().mean().backward()
    return [y, x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


def test_compiled_parts_compute_what_they_are(counters):
    """To rounding, with the same random numbers; gradients lie in memory as weights do, so that none is copied."""
    eager = Net().to(memory_format=CHANNELS_LAST)
    ours, before = copy.deepcopy(eager), compile_s()
    compile_branches(ours)
    assert compile_s() == before
    for architecture in ((0, 0), (1, 0), ((0, 1), 2)):
        for got, expected in zip(passed(ours, architecture), passed(eager, architecture), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert all(p.grad.stride() == p.stride() for p in ours.parameters() if p.grad is not None)
    assert counters["stats"]["unique_graphs"] == 3  # convolution, the one with dropout, head
    assert compile_s() > before
    weights = [*ours.blocks[1].branches[0].parameters()]
    with torch.no_grad():
        weights[0].zero_()  # in place, as an optimizer does
    assert not passed(ours, (2, 0))[3].any()
    found, copied = dict(counters["stats"]), copy.deepcopy(ours)
    with torch.no_grad():
        ours(torch.randn(3, 4, 8, 8), (0, 0))
    passed(copied, (0, 0))
    assert counters["stats"] == found, "evaluation and copies compile nothing"


class Deciding(nn.Module):
    """Decides by values, which a graph cannot."""

    def forward(self, x):
        return x if x.sum() > 0 else x / 2


def test_what_cannot_be_compiled_runs_as_it_is(counters):
    net, x = GatedSum([nn.Sequential(Deciding(), nn.ReLU())]), torch.ones(2, requires_grad=True)
    compile_branches(net)
    with pytest.warns(NasWarning, match=r"branches\.0 cannot be compiled and runs as it is"):
        assert net(x, 0).tolist() == [1, 1]
    with warnings.catch_warnings(action="error"):
        assert net(-x, 0).tolist() == [0, 0]


def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingError, match=r"train.compile=branches: needs a C\+\+ compiler on a CPU; install g\+\+"):
        compile_branches(Net())


AGAIN = """
import torch
from nas.nn.compiled import compile_branches
from nas.nn import conv_bn_relu, GatedSum
from torch._dynamo.utils import counters
net = GatedSum([conv_bn_relu(4, 4, 3)])
compile_branches(net)
net(torch.randn(2, 4, 8, 8), 0).sum().backward()
print(counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.thorough
def test_a_second_run_finds_the_code_on_disk(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", AGAIN]
    hits = [subprocess.run(command, env=environment, capture_output=True, text=True).stdout for _ in range(2)]
    assert hits == ["0\n", "1\n"]
    assert any((tmp_path / ".cache/gated-nas/inductor").iterdir())
