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
from nas.nn import GatedSum, PooledLinear, compiled, conv_bn_relu
from nas.nn.compiled import compile_branches, compile_s

CHANNELS_LAST = torch.channels_last


class Net(nn.Module):
    """Two slots that are built alike, the first of which runs twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            GatedSum([conv_bn_relu(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Identity()]) for _ in range(2)
        )
        self.head = PooledLinear(4, 3)

    def forward(self, x, architecture):
        first, second = zip(self.blocks, architecture, strict=True)
        for block, entry in (first, first, second):
            x = block(x, entry)
        return self.head(x)


@pytest.fixture
def kinds(monkeypatch, tmp_path_factory):
    """What was compiled in this process: nothing yet."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))
    monkeypatch.setattr(compiled, "_kinds", {})
    return compiled._kinds


def passed(net, architecture, seed=0):
    """Output and gradients of a forward and backward pass."""
    x = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(memory_format=CHANNELS_LAST)
    y = net(x.requires_grad_(), architecture)
    net.zero_grad()
    y.square().mean().backward()
    return [y, x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


def test_compiled_parts_compute_what_they_are(kinds):
    """To rounding; gradients lie in memory as weights do, so that none is copied."""
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
    assert len(kinds) == 2  # the branch of three layers, and the head
    assert compile_s() > before
    weights = [*ours.blocks[1].branches[0].parameters()]
    with torch.no_grad():
        weights[0].zero_()  # in place, as an optimizer does
    assert not passed(ours, (2, 0))[3].any()
    copied = copy.deepcopy(ours)
    kinds.clear()
    with torch.no_grad():
        ours(torch.randn(3, 4, 8, 8), (0, 0))
    passed(copied, (0, 0))
    assert not kinds, "evaluation and copies compile nothing"


class Own(nn.Module):
    """Counts its calls, which no compiler sees."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def test_what_cannot_be_compiled_runs_as_it_is(kinds):
    own, x = Own(), torch.ones(2, 2, requires_grad=True)
    net = GatedSum([nn.Sequential(own), nn.Sequential(nn.RNN(2, 2)), nn.Sequential(nn.Dropout())])
    compile_branches(net)
    assert [net(x, 0).sum().item() for _ in range(2)] == [4, 4]
    assert own.calls == 2
    assert not kinds
    with pytest.warns(NasWarning, match=r"branches.1 cannot be compiled and runs as it is \(it gives a tuple"):
        net(x, 1)
    with pytest.warns(NasWarning, match=r"branches.2 .* \(it draws random numbers"):
        net(x, 2)
    with warnings.catch_warnings(action="error"):
        assert isinstance(net(x, 1), tuple)


def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingError, match=r"train.compile=branches: needs a C\+\+ compiler on a CPU; install g\+\+"):
        compile_branches(Net())


AGAIN = """
import torch
from nas.nn.compiled import compile_branches
from nas.nn import conv_bn_relu, GatedSum
net = GatedSum([conv_bn_relu(4, 4, 3)])
compile_branches(net)
from torch._dynamo.utils import counters
net(torch.randn(2, 4, 8, 8), 0).sum().backward()
print(counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.thorough
def test_a_second_run_finds_the_code_on_disk(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-c", AGAIN]
    hits = [subprocess.run(command, env=environment, capture_output=True, text=True).stdout for _ in range(2)]
    assert hits == ["0\n", "2\n"]
    assert any((tmp_path / ".cache/gated-nas/inductor").iterdir())


class One(nn.Module):
    """A block with two branches."""

    def __init__(self, *branches):
        super().__init__()
        self.block = GatedSum(branches)

    def forward(self, x, architecture):
        return self.block(x, architecture[0])


def test_what_is_used_twice_is_another_kind(kinds):
    """A layer, or a weight: the same shapes, and another function."""
    convs = [nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(8)]
    convs[3].weight, convs[7].weight = convs[2].weight, convs[6].weight
    relus = nn.ReLU(), nn.ReLU()
    eager = One(
        nn.Sequential(convs[0], relus[0], convs[0]),
        nn.Sequential(convs[1], relus[1], convs[1], relus[1]),
        nn.Sequential(convs[2], convs[3], convs[4]),
        nn.Sequential(convs[5], convs[6], convs[7]),
    )
    ours = copy.deepcopy(eager)
    compile_branches(ours)
    for choice in range(4):
        for got, expected in zip(passed(ours, (choice,)), passed(eager, (choice,)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(kinds) == 4


def test_a_folder_that_cannot_be_written_is_a_warning(kinds, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file"))
    net = One(conv_bn_relu(4, 4, 3))
    compile_branches(net)
    with pytest.warns(
        NasWarning, match=r"train.compile=branches: block.branches.0 cannot be compiled and runs as it is"
    ):
        passed(net, (0,))


def test_what_gives_its_input_runs_as_it_is(kinds):
    net = One(nn.Sequential(nn.Identity()))
    compile_branches(net)
    with pytest.warns(NasWarning, match="it gives what it gets, or a view of it"):
        passed(net, (0,))
