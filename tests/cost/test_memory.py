"""What a run needs in memory is estimated from below, and what cannot fit is refused before anything is loaded."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.archives import NAMES, as_folder, encoded, of
from torch import nn

from nas.cost import memory
from nas.cost.limits import MemoryLimit, memory_limits
from nas.cost.memory import GIB, SavedBytes, check_memory, estimate_memory, explain_out_of_memory
from nas.data import expected_size, load_splits
from nas.errors import MemoryLimitError
from nas.nn import GatedSum
from nas.settings import (
    AdamWSettings,
    ChainSettings,
    CustomSettings,
    DigitsSettings,
    FixedGateSettings,
    FolderSettings,
    SGDSettings,
    SyntheticSettings,
    TrainRunSettings,
    TrainSettings,
    TwoBranchSettings,
)
from nas.space import build_space

CHAIN = TrainRunSettings(space=ChainSettings(), data=SyntheticSettings(size=40_000, crop=0))
CPU, PROCESS = torch.device("cpu"), 500_000_000


def saved_by_a_real_step(supernet, shape, architecture, images):
    """Bytes of the distinct tensors that a forward pass saves, parameters and buffers left out."""
    constant = {t.untyped_storage().data_ptr() for t in (*supernet.parameters(), *supernet.buffers())}
    saved, held = {}, []

    def save(tensor):
        held.append(tensor)  # so that no address is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        F.cross_entropy(supernet(torch.randn(images, *shape), architecture), torch.zeros(images, dtype=torch.int64))
    return sum(saved.values())


def test_saved_bytes_equal_those_of_a_real_step():
    for settings in (TwoBranchSettings(branches=3), ChainSettings(), ChainSettings(merge="concat")):
        space, shape = build_space(settings), (3, 32, 32)
        supernet = space.supernet()
        saved = SavedBytes(space, supernet, shape)
        for architecture in space.sample_many(2, torch.Generator().manual_seed(0)):
            few, many = (saved_by_a_real_step(supernet, shape, architecture, images) for images in (4, 12))
            assert saved.count(architecture) == (many - few) / 8, (settings.name, architecture)
        assert all(parameter.grad is None for parameter in supernet.parameters())
    half = SavedBytes(space, supernet, shape, "bf16")
    assert 0.4 < half.count(architecture) / saved.count(architecture) < 0.7


def test_the_largest_path_is_what_exhaustive_search_finds():
    settings = ChainSettings(widths=[4, 6], depths=[1, 2], strides=[1, 2], candidates=["conv1", "skip", "mb2_k3"])
    space = build_space(settings, image_size=16)
    saved = SavedBytes(space, space.supernet(), (3, 16, 16))
    found = {path: saved.count(path) for path in space.enumerate()}
    assert saved.largest()[0] == max(found, key=found.get) == (2, 2, 2)
    assert min(found.values()) < found[2, 2, 2] / 2


def estimate(settings, processes=1):
    return estimate_memory(settings, expected_size(settings.data), processes)


def test_each_part_follows_its_settings():
    few, many = (estimate(TrainRunSettings(space=TwoBranchSettings(branches=k))) for k in (2, 20))
    assert (few["activations"], few["data"]) == (many["activations"], many["data"]), "closed branches add neither"
    assert many["weights"] > 7 * few["weights"]

    sgd, adamw = estimate(CHAIN), estimate(replace(CHAIN, optimizer=AdamWSettings()))
    average = estimate(replace(CHAIN, optimizer=AdamWSettings(), train=TrainSettings(ema_decay=0.9)))
    assert estimate(replace(CHAIN, optimizer=SGDSettings(momentum=0)))["moments"] == 0
    assert (adamw["moments"], average["moments"]) == (2 * sgd["moments"], 3 * sgd["moments"])
    fixed = replace(CHAIN, optimizer=AdamWSettings(), gate=FixedGateSettings(architecture="1-1-1-1"))
    assert estimate(fixed)["moments"] == 0 < estimate(fixed)["activations"] <= sgd["activations"]

    large = replace(CHAIN, train=TrainSettings(batch_size=256))
    assert estimate(large)["activations"] == 4 * sgd["activations"] == 4 * estimate(large, 4)["activations"]
    splits = load_splits(replace(CHAIN.data, size=400), 0)
    held = sum(s.images.nbytes for s in (splits.train, splits.test))  # what is held out is in the same tensor
    held += sum(s.labels.nbytes for s in (splits.train, splits.val, splits.test))
    assert sgd["data"] == 100 * held


def test_a_data_set_is_sized_before_loading(tmp_path):
    files = {name: encoded(seed, width=5, height=9) for seed, name in enumerate(NAMES)} | {"train/a/notes.txt": b"?"}
    root = as_folder(tmp_path / "images", files)
    synthetic = SyntheticSettings(size=700, image_size=20, channels=1, classes=7)
    for settings in (DigitsSettings(), synthetic, of(root)):
        size, splits = expected_size(settings), load_splits(settings, 0)
        assert size.images == len(splits.train) + len(splits.val) + len(splits.test), settings.name
        assert (size.input_shape, size.classes) == (splits.input_shape, len(splits.classes)), settings.name
        assert size.mapped == (splits.train.file is not None) == (size.bytes == 8 * size.images), settings.name
    (tmp_path / "text.zip").write_text("no zip")
    for root in ("nowhere", "text.zip"):
        settings = FolderSettings(root=str(tmp_path / root))
        assert expected_size(settings) is None, "loading explains it"
        assert check_memory(TrainRunSettings(data=settings), CPU) == ""


@pytest.fixture
def limited(monkeypatch):
    """Check settings under a cgroup limit of so many bytes."""

    def check(settings, limit, processes=1, chosen=True):
        limits = [MemoryLimit("the cgroup limit", limit, PROCESS, processes, chosen)]
        monkeypatch.setattr(memory, "memory_limits", lambda *_: limits)
        return check_memory(settings, CPU, processes)

    return check


def test_the_largest_path_is_looked_for_where_it_matters(limited, monkeypatch):
    looked = []
    largest = SavedBytes.largest
    monkeypatch.setattr(SavedBytes, "largest", lambda saved: looked.append(1) or largest(saved))
    assert limited(CHAIN, 64 * GIB, chosen=False) == ""
    assert not looked
    exact = estimate_memory(CHAIN, expected_size(CHAIN.data))["activations"]
    rough = estimate_memory(CHAIN, expected_size(CHAIN.data), enough=64 * GIB)["activations"]
    assert 0 < exact < rough
    assert len(looked) == 1


def test_misfits_are_refused_with_a_remedy_that_fits(limited):
    large = replace(CHAIN, train=TrainSettings(batch_size=65536))
    state = torch.get_rng_state()
    with pytest.raises(MemoryLimitError) as refused:
        limited(large, 3 * GIB)
    rule = r"the run needs about [\d.]+ GiB \(.*process 0\.47\), the cgroup limit is 3.00 GiB"
    assert re.fullmatch(rule, refused.value.rule)
    batch = int(re.fullmatch(r"write train\.batch_size=(\d+) or less", refused.value.remedy)[1])
    assert limited(replace(large, train=TrainSettings(batch_size=batch)), 3 * GIB).startswith("needs about ")
    with pytest.raises(MemoryLimitError):
        limited(replace(large, train=TrainSettings(batch_size=2 * batch)), 3 * GIB)
    assert torch.equal(state, torch.get_rng_state())

    many = replace(CHAIN, data=SyntheticSettings(size=2 * 10**6))
    with pytest.raises(MemoryLimitError, match=r"^data\.size=2000000: .*; write a smaller data\.size$"):
        limited(many, 3 * GIB)
    huge = replace(CHAIN, space=ChainSettings(widths=[60_000], depths=[10], strides=[1]))  # it is never built
    with pytest.raises(MemoryLimitError, match=r"^space=chain: .*weights \d{4,}\..*; take a smaller space, or more m"):
        limited(huge, 3 * GIB)


def test_processes_share_memory_and_small_runs_say_nothing(limited):
    assert limited(CHAIN, 4 * GIB)
    with pytest.raises(MemoryLimitError, match=r"GiB in 8 processes \("):
        limited(CHAIN, 4 * GIB, processes=8)
    assert limited(CHAIN, 10**15, chosen=False) == ""
    assert limited(CHAIN, 2 * GIB, chosen=False) == "" != limited(CHAIN, GIB, chosen=False), "more than half of it"


def test_beside_gpus_the_machine_holds_weights_and_data(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 3 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB // 2)
    gpu = torch.device("cuda:0")
    assert memory_limits(gpu)[-1] == MemoryLimit("the memory of cuda:0", 3 * GIB, GIB // 2, chosen=False, on="cuda")
    large = replace(CHAIN, train=TrainSettings(batch_size=16384))
    monkeypatch.setattr(memory, "memory_limits", lambda *_: [MemoryLimit("a limit", 2 * GIB, 0)])
    assert "activations" not in check_memory(large, gpu)
    monkeypatch.setattr(memory, "memory_limits", lambda *_: [MemoryLimit("a limit", 2 * GIB, 0, on="cuda")])
    with pytest.raises(MemoryLimitError, match=r"^train.batch_size=16384: .*activations [\d.]+\), a limit is"):
        check_memory(large, gpu)


class Odd(nn.Module):
    """Fails on any input."""

    def __init__(self):
        super().__init__()
        self.mix = GatedSum([nn.Linear(3072, 10), nn.Linear(3072, 10)])

    def forward(self, x, architecture):
        raise KeyError(x)


def test_an_unrunnable_network_counts_by_its_weights(monkeypatch):
    monkeypatch.setattr("nas.plugin.load_named", lambda *_: Odd)
    parts = estimate(replace(CHAIN, space=CustomSettings(factory="nets:Odd")))
    assert (parts["weights"], parts["activations"]) == (2 * 4 * 2 * 30730, 0)


def test_memory_that_runs_out_is_one_line():
    told = r"^train.batch_size=64: memory ran out \(.*allocate.*batch_size=32 or a smaller evaluate.batch_size"
    with pytest.raises(MemoryLimitError, match=told), explain_out_of_memory(TrainRunSettings()):
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(MemoryLimitError, match="memory ran out"), explain_out_of_memory(TrainRunSettings()):
        bytearray(2**60)
    with pytest.raises(MemoryLimitError, match="CUDA"), explain_out_of_memory(TrainRunSettings()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="must match"), explain_out_of_memory(TrainRunSettings()):
        torch.ones(2) + torch.ones(3)


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


def machine(root, files):
    """A folder like the root of a machine, with the files of ``proc`` and ``sys``."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_smallest_cgroup_limit_counts(tmp_path):
    cases = [(VERSION_2, [3000000]), (VERSION_1, [4000000]), (CONTAINER, [2000000]), (NONE, []), ({}, [])]
    for number, (files, expected) in enumerate(cases):
        assert [limit.bytes for limit in memory_limits(CPU, 1, machine(tmp_path / f"{number}", files))] == expected


def test_limits_are_named_and_say_what_they_count(tmp_path):
    files = VERSION_2 | {
        "proc/meminfo": "MemTotal:       16000 kB\nMemFree:  100 kB\n",
        "proc/self/status": "Name:\tx\nVmSize:\t    5000 kB\nRssAnon:\t    700 kB\n",
        "proc/self/limits": "Limit      Soft Limit  Hard Limit  Units\nMax address space  10000000  unlimited  bytes\n",
    }
    assert memory_limits(CPU, 2, machine(tmp_path, files)) == [
        MemoryLimit("ulimit -v", 10_000_000, 5000 * 1024),
        MemoryLimit("the cgroup limit", 3_000_000, 700 * 1024, 2),
        MemoryLimit("this machine's memory", 16000 * 1024, 700 * 1024, 2, chosen=False),
    ]
    files = {
        "proc/meminfo": "MemTotal: 1000 kB\n",
        "proc/self/limits": "Max address space  unlimited  unlimited bytes\n",
    }
    assert [limit.name for limit in memory_limits(CPU, 1, machine(tmp_path, files))] == ["this machine's memory"]
