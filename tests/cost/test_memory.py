"""What a step keeps for its backward pass, counted on tensors without memory; and the limits of a machine."""

import resource

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.cost.machine import available_bytes, cgroup_limit, memory_limits, process_bytes
from nas.cost.memory import largest_path, path_memory, supernet_bytes, without_memory
from nas.nn import GatedConcat, GatedSum
from nas.settings import CellSettings, ChainSettings, MacroSettings, TwoBranchSettings
from nas.space import build_space
from nas.space.base import SearchSpace, Slot

PICTURE = (3, 8, 8)
SPACES = {
    "two_branch": (TwoBranchSettings(branches=3), 32),
    "chain": (ChainSettings(candidates=["skip", "conv3", "sep3", "max_pool3", "mb2_k3"]), 16),
    "concat": (ChainSettings(merge="concat"), 16),
    "macro": (MacroSettings(), 32),
    "cell": (CellSettings(cells=1, width=4), 16),
}


class Plain(nn.Module):
    """Convolution, BatchNorm, ReLU, mean, Linear: the second branch is never run below."""

    def __init__(self):
        super().__init__()
        self.mix = GatedSum([self.branch(5), self.branch(50)])
        self.head = nn.Linear(5, 4)

    @staticmethod
    def branch(width):
        layers = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        return nn.Sequential(*layers, nn.Conv2d(width, 5, 1))

    def forward(self, x, architecture):
        return self.head(self.mix(x, architecture[0]).mean(dim=(2, 3)))


def kept_by_a_real_step(supernet, picture, architecture, pictures):
    """Bytes of the distinct tensors that a forward pass saves, parameters and buffers left out."""
    constant = {t.untyped_storage().data_ptr() for t in (*supernet.parameters(), *supernet.buffers())}
    kept, held = {}, []

    def keep(tensor):
        held.append(tensor)  # so that no address is given away twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = supernet(torch.randn(pictures, *picture), architecture)
        F.cross_entropy(logits, torch.zeros(pictures, dtype=torch.int64)).backward()
    return sum(kept.values())


def test_activations_equal_a_count_by_hand():
    pixels, width, classes = 8 * 8, 5, 4
    floats = 3 * pixels  # the convolution keeps the picture
    floats += width * pixels  # BatchNorm keeps its input
    floats += width * pixels  # ReLU keeps its output, which the second convolution keeps too
    floats += width  # the Linear keeps its input
    floats += classes  # the cross-entropy keeps the logarithms of the probabilities ...
    per_picture = 4 * floats + 8  # ... and the label
    fixed = 4 * 2 * width + 4  # BatchNorm keeps the mean and deviation of each channel, the loss its total weight
    memory = path_memory(without_memory(Plain()), PICTURE, (0,))
    assert (memory.saved_per_picture, memory.saved) == (per_picture, fixed)
    assert memory.sizes == (4 * 5 * 64, 4 * 5 * 64, 4 * 3 * 64, 4 * 5, 4 * 4, 8)
    assert memory.workspace(7) == 7 * 3 * memory.sizes[0]
    assert memory.in_tensors_below(1280, 1) == 768 + 20 + 16 + 8 + 3 * 768
    assert memory.activations(7) == 7 * per_picture + fixed


@pytest.mark.parametrize("name", SPACES)
def test_activations_equal_those_of_a_real_step_at_any_batch_size(name):
    settings, side = SPACES[name]
    space, picture = build_space(settings, image_size=side), (3, side, side)
    supernet = space.supernet()
    shadow, draws = without_memory(supernet), torch.Generator().manual_seed(0)
    for architecture, pictures in zip(space.sample_many(3, draws), (2, 3, 8), strict=True):
        expected = kept_by_a_real_step(supernet, picture, architecture, pictures)
        memory = path_memory(shadow, picture, architecture)
        assert memory.activations(pictures) == expected, architecture
        with_gradient = {p: p.numel() * 4 for p in supernet.parameters() if p.grad is not None}
        assert memory.gradients == sum(with_gradient.values())
        supernet.zero_grad()


def test_closed_branches_add_parameters_and_nothing_else():
    few, many = (build_space(TwoBranchSettings(branches=k)).supernet() for k in (2, 20))
    memories = [path_memory(without_memory(net), (3, 32, 32), (1,)) for net in (few, many)]
    assert memories[0] == memories[1]
    assert supernet_bytes(many)[0] > 7 * supernet_bytes(few)[0]


def test_the_largest_path_is_that_of_an_exhaustive_search():
    settings = ChainSettings(widths=[4, 6], depths=[1, 2], strides=[1, 2], candidates=["conv1", "skip", "mb2_k3"])
    space, picture = build_space(settings, image_size=16), (3, 16, 16)
    supernet = without_memory(space.supernet())
    found = {path: path_memory(supernet, picture, path).saved_per_picture for path in space.enumerate()}
    path, memory = largest_path(space, supernet, picture)
    assert memory.saved_per_picture == found[path] == max(found.values())
    assert path == (2, 2, 2)
    assert min(found.values()) < memory.saved_per_picture / 2


class Unequal(nn.Module):
    """Two slots: the largest choices have different numbers."""

    def __init__(self):
        super().__init__()
        self.first = GatedSum([nn.Conv2d(3, 3, 3, padding=1), nn.Identity()])
        self.second = GatedConcat([nn.Flatten(), nn.Sequential(nn.Conv2d(3, 40, 1), nn.Sigmoid(), nn.Flatten())])

    def forward(self, x, architecture):
        z = self.second(self.first(x, architecture[0]), architecture[1])
        return z.values[0][:, :4]


class UnequalSpace(SearchSpace):
    """Of the network above."""

    def __init__(self):
        super().__init__("unequal", (Slot("first", ("conv", "skip")), Slot("second", ("none", "wide"))))

    def build(self):
        return Unequal()


def test_each_slot_takes_its_own_largest_choice():
    space = UnequalSpace()
    path, _ = largest_path(space, without_memory(space.build()), PICTURE)
    assert path == (0, 1)


def test_a_copy_without_memory_leaves_the_network_as_it_was():
    supernet = Plain()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    shadow = without_memory(supernet)
    path_memory(shadow, PICTURE, (0,))
    assert {t.device.type for t in shadow.state_dict().values()} == {"meta"}
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in shadow.modules())


def test_half_precision_keeps_about_half():
    supernet = without_memory(build_space(MacroSettings()).supernet())
    single, half = (path_memory(supernet, (3, 32, 32), (2,) * 8, name) for name in ("float32", "bf16"))
    assert 0.49 < half.saved_per_picture / single.saved_per_picture < 0.55
    assert half.saved >= single.gradients // 2  # the weights in both precisions
    assert half.gradients == single.gradients


# -------------------------------------------------------------------------------------------------------- limits


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY = "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:   9000 kB\n"
STATUS = "Name:\tpython\nVmSize:\t    5000 kB\nVmRSS:\t    700 kB\n"
VERSION_2 = {
    "proc/self/cgroup": "0::/user.slice/job.scope/task\n",
    "sys/fs/cgroup/user.slice/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/job.scope/memory.max": "3000000\n",
    "sys/fs/cgroup/user.slice/job.scope/task/memory.max": "5000000\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4000000\n",
    "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
}
CONTAINER = {"proc/self/cgroup": "4:memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n"}
NONE = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}


@pytest.mark.parametrize(
    ("files", "limit"), [(VERSION_2, 3000000), (VERSION_1, 4000000), (CONTAINER, 2000000), (NONE, None), ({}, None)]
)
def test_the_smallest_limit_on_the_way_up_counts(tmp_path, files, limit):
    assert cgroup_limit(write(tmp_path, files)) == limit


def test_a_limit_is_named_and_says_what_it_counts(tmp_path, monkeypatch):
    root = write(tmp_path, VERSION_2 | {"proc/meminfo": MEMORY, "proc/self/status": STATUS})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10_000_000, 10_000_000))
    address, group, machine = memory_limits(root)
    assert (address.name, address.bytes, address.process, address.each) == ("ulimit -v", 10_000_000, 5000 * 1024, True)
    assert (group.name, group.bytes, group.process, group.each) == ("the cgroup limit", 3_000_000, 700 * 1024, False)
    assert (machine.bytes, machine.process, machine.set) == (16000 * 1024, 700 * 1024, False)
    assert available_bytes(root) == 9000 * 1024


def test_a_cgroup_that_may_have_more_than_there_is_sets_no_limit(tmp_path):
    files = VERSION_2 | {"proc/meminfo": "MemTotal: 1000 kB\n", "proc/self/status": STATUS}
    assert "the cgroup limit" not in [limit.name for limit in memory_limits(write(tmp_path, files))]


def test_a_process_knows_what_it_takes():
    before, mapped = process_bytes()
    block = torch.ones(25_000_000)
    after, _ = process_bytes()
    assert 90e6 < after - before < 120e6
    assert mapped > before > 50e6
    del block
