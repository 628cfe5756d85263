"""What a run needs in memory is said, and what cannot fit is refused, before anything is loaded."""

import re
from dataclasses import replace
from time import perf_counter

import pytest
import torch
from PIL import Image
from torch import nn

from nas.cost.machine import MemoryLimit
from nas.data import load_splits
from nas.data.size import data_size
from nas.errors import NasWarning
from nas.nn import GatedSum
from nas.settings import (
    AdamWSettings,
    ChainSettings,
    CifarSettings,
    CustomSettings,
    DigitsSettings,
    EvaluateSettings,
    FairGateSettings,
    FixedGateSettings,
    FolderSettings,
    LearnedGateSettings,
    SGDSettings,
    SyntheticSettings,
    TrainRunSettings,
    TrainSettings,
    TwoBranchSettings,
)
from nas.train import admit
from nas.train.admit import MemoryLimitError, check_memory, is_out_of_memory, out_of_memory_told
from nas.train.needs import needs_of, network_of

CHAIN = TrainRunSettings(space=ChainSettings(), data=SyntheticSettings(size=100_000, crop=0))
GIB = 2**30
PROCESS = 500_000_000


def needs(settings, processes=1, where="cpu"):
    size = data_size(settings.data)
    return needs_of(settings, network_of(settings, size), size, processes, where)


@pytest.fixture
def limited(monkeypatch):
    """Check settings under a cgroup limit of so many bytes."""

    def check(settings, limit, processes=1):
        limits = [MemoryLimit("the cgroup limit", limit, PROCESS)]
        monkeypatch.setattr(admit, "memory_limits", lambda: limits)
        return check_memory(replace(settings, train=replace(settings.train, device="cpu")), processes)

    return check


# ---------------------------------------------------------------------------------------------------- data sets


def assert_like(size, splits):
    """Right to a picture a class."""
    for split in ("train", "val", "test"):
        assert abs(getattr(size, split) - len(getattr(splits, split))) <= size.classes, split
    assert (size.channels, size.image_size) == (splits.channels, splits.image_size)
    assert size.classes == len(splits.classes)
    held = sum(s.images.nbytes + s.labels.nbytes for s in (splits.train, splits.val, splits.test))
    assert size.splits_bytes == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        DigitsSettings(),
        SyntheticSettings(size=700, image_size=20, channels=1, classes=7, val_fraction=0.3),
        SyntheticSettings(size=900, train_images=300),
    ],
)
def test_a_data_set_is_sized_before_it_is_loaded(settings):
    assert_like(data_size(settings), load_splits(settings, 0))


def test_a_folder_is_sized_by_the_names_of_its_files(tmp_path):
    for split, number in (("train", 6), ("test", 3)):
        for label in "ab":
            place = tmp_path / "pictures" / split / label
            place.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (5, 9)).save(place / f"{i}.png")
            (place / "notes.txt").write_text("no picture")
    settings = FolderSettings(root=str(tmp_path / "pictures"), image_size=8, cache=str(tmp_path), val_fraction=0.3)
    assert_like(data_size(settings), load_splits(settings, 0))
    for picture in tmp_path.rglob("*.png"):
        picture.write_bytes(b"damaged")
    assert data_size(settings).train == 8, "nothing is decoded"


def test_what_cannot_be_looked_into_is_left_to_the_loading(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    for root in ("nowhere", "text.zip", ""):
        settings = FolderSettings(root=str(tmp_path / root))
        assert data_size(settings) is None
        assert check_memory(TrainRunSettings(data=settings)) == ""


# --------------------------------------------------------------------------------------------------------- needs


def test_closed_branches_add_parameters_and_moments_alone():
    few, many = (needs(TrainRunSettings(space=TwoBranchSettings(branches=k))) for k in (2, 20))
    assert (few.gradients, few.activations, few.data) == (many.gradients, many.activations, many.data)
    assert many.parameters > 7 * few.parameters
    assert many.moments > 7 * few.moments


def test_moments_follow_the_optimizer():
    plain = needs(replace(CHAIN, optimizer=SGDSettings(momentum=0)))
    sgd, adamw = needs(CHAIN), needs(replace(CHAIN, optimizer=AdamWSettings()))
    average = needs(replace(CHAIN, optimizer=AdamWSettings(), train=TrainSettings(ema_decay=0.9)))
    assert plain.moments == 0
    assert (adamw.moments, average.moments) == (2 * sgd.moments, 3 * sgd.moments)
    assert 1.9 < sgd.parameters / sgd.moments < 2.1  # the FLOPs are counted on a copy
    one = replace(CHAIN, gate=FixedGateSettings(architecture="1-1-1-1"))
    assert needs(one).moments == sgd.moments, "SGD's are there from the start"
    adamw_of_one = needs(replace(one, optimizer=AdamWSettings()))
    assert adamw_of_one.moments == 2 * adamw_of_one.gradients < adamw.moments / 5


def test_gradients_of_a_round_are_those_of_all_its_paths():
    one, each = needs(CHAIN), needs(replace(CHAIN, gate=FairGateSettings(mode="step_each")))
    summed = needs(replace(CHAIN, gate=FairGateSettings()))
    assert each.gradients == one.gradients < summed.gradients
    assert summed.gradients == summed.moments
    assert summed.activations < one.activations * 1.05, "its paths run one after the other"


def test_activations_grow_with_the_batch_and_are_shared_by_processes():
    small, large = (needs(replace(CHAIN, train=TrainSettings(batch_size=size))) for size in (512, 2048))
    assert 2.5 < large.activations / small.activations < 4.1  # without the holes between small blocks it is 4
    shared = needs(replace(CHAIN, train=TrainSettings(batch_size=2048)), processes=4)
    assert shared.activations == pytest.approx(small.activations, rel=0.01)
    assert shared.gradients == 2 * small.gradients
    assert shared.data == small.data
    more = needs(replace(CHAIN, data=SyntheticSettings(size=300), train=TrainSettings(batch_size=2048)))
    assert more.activations < small.activations, "no batch has more pictures than there are"


def test_a_learned_gate_keeps_more_and_a_border_is_a_copy():
    learned = needs(replace(CHAIN, gate=LearnedGateSettings()))
    assert learned.activations > needs(CHAIN).activations * 1.05
    bordered = needs(replace(CHAIN, data=replace(CHAIN.data, crop=4)))
    assert bordered.data - needs(CHAIN).data == 90_000 * 3 * 40 * 40


def test_beside_a_gpu_the_machine_holds_the_data_and_the_gpu_the_step():
    whole, host, gpu = (needs(CHAIN, where=where) for where in ("cpu", "host", "cuda"))
    assert (host.gradients, host.activations, host.moments, host.evaluation) == (0, 0, 0, 0)
    assert host.loading == whole.loading
    assert host.data == data_size(CHAIN.data).splits_bytes
    assert gpu.activations <= whole.activations
    assert (gpu.gradients, gpu.moments, gpu.evaluation) == (whole.gradients, whole.moments, whole.evaluation)
    assert gpu.saving == 0


def test_the_total_is_what_is_held_at_the_fullest_time():
    few = replace(CHAIN, data=SyntheticSettings(size=2000))
    large = needs(replace(few, train=TrainSettings(batch_size=1024)))
    held = large.parameters + large.moments + large.data
    assert large.parts()["activations of the largest path"] > large.total / 2
    assert large.total == max(
        held + large.gradients + large.activations,
        held + large.evaluation,
        held + large.kept + large.saving,
        large.loading,
    )
    thinned = needs(replace(CHAIN, data=SyntheticSettings(size=200_000, train_images=100, val_fraction=0.001)))
    assert thinned.total < needs(replace(CHAIN, data=SyntheticSettings(size=200_000))).total
    assert needs(replace(CHAIN, data=replace(CHAIN.data, train_images=100, val_fraction=1e-5))).loading > 7e8


# ---------------------------------------------------------------------------------------------------- the check


@pytest.mark.parametrize(
    ("settings", "limit", "key"),
    [
        (replace(CHAIN, train=TrainSettings(batch_size=65536)), 6 * GIB, "train.batch_size"),
        (replace(CHAIN, evaluate=EvaluateSettings(batch_size=2**14)), 2 * GIB, "evaluate.batch_size"),
        (replace(CHAIN, data=SyntheticSettings(size=2 * 10**7)), 4 * GIB, "data.size"),
        (replace(CHAIN, data=CifarSettings(crop=40)), GIB * 3 // 2, "data.train_images"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_remedy_that_does(limited, settings, limit, key):
    begun = perf_counter()
    with pytest.raises(MemoryLimitError) as refused:
        limited(settings, limit)
    assert perf_counter() - begun < 20
    told = refused.value
    assert told.key == key
    assert re.fullmatch(r"the run needs about [\d.]+ GiB \(.*process 0\.\d+\), the cgroup limit is .* GiB", told.rule)
    part, name = key.split(".")
    number = int(re.fullmatch(rf"write {re.escape(key)}=(\d+) or less", told.remedy)[1])
    mended = replace(settings, **{part: replace(getattr(settings, part), **{name: number})})
    assert limited(mended, limit).startswith("needs about ")


def test_a_space_that_is_too_large_is_refused_without_being_built(limited):
    huge = replace(CHAIN, space=ChainSettings(widths=[60_000], depths=[10], strides=[1]))
    with pytest.raises(MemoryLimitError, match=r"^space=chain: .*parameters \d{4,}\..*; take a smaller space .*"):
        limited(huge, 100 * GIB)


def test_a_process_that_is_too_large_itself_is_told_to_have_more(limited):
    with pytest.raises(MemoryLimitError, match=r"^cgroup limit=0\.49 GiB: .*; raise it$"):
        limited(CHAIN, PROCESS * 21 // 20)


def test_processes_on_one_machine_share_its_memory(limited):
    settings = replace(CHAIN, train=TrainSettings(batch_size=1024))
    assert limited(settings, 4 * GIB)
    with pytest.raises(MemoryLimitError, match=r"GiB in 8 processes \("):
        limited(settings, 4 * GIB, processes=8)


def test_an_ordinary_run_says_nothing(monkeypatch):
    machine = [MemoryLimit("this machine's memory", 10**15, PROCESS, set=False)]
    monkeypatch.setattr(admit, "memory_limits", lambda: machine)
    assert check_memory(CHAIN) == ""
    monkeypatch.setattr(admit, "memory_limits", lambda: [replace(machine[0], bytes=2 * GIB)])
    assert check_memory(CHAIN).endswith("; this machine's memory is 2.00 GiB"), "more than half of it"


def test_memory_that_others_have_taken_is_a_warning(monkeypatch):
    limit = MemoryLimit("this machine's memory", 10**15, PROCESS, set=False)
    monkeypatch.setattr(admit, "memory_limits", lambda: [limit])
    monkeypatch.setattr(admit, "available_bytes", lambda: 10**6)
    with pytest.warns(NasWarning, match="other processes leave 0.00 GiB"):
        check_memory(CHAIN)


class Odd(nn.Module):
    """Looks at values, as no network can that has none."""

    def __init__(self):
        super().__init__()
        self.mix = GatedSum([nn.Linear(3072, 10), nn.Linear(3072, 10)])

    def forward(self, x, architecture):
        y = self.mix(x.flatten(1), architecture[0])
        return y if y.sum().item() > 0 else -y


def test_a_network_that_needs_values_is_checked_by_its_parameters(limited, monkeypatch):
    monkeypatch.setattr("nas.space.custom._load", lambda _: Odd)
    settings = replace(CHAIN, space=CustomSettings(factory="nets:Odd"))
    assert network_of(settings, data_size(settings.data)).path is None
    assert limited(settings, 4 * GIB)
    with pytest.raises(MemoryLimitError):
        limited(settings, GIB // 2)


def test_the_check_leaves_no_trace(limited):
    state = torch.get_rng_state()
    limited(CHAIN, 8 * GIB)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.empty(1).device.type == "cpu"


# ---------------------------------------------------------------------------------------------- memory runs out


def test_memory_that_runs_out_is_one_line_and_other_errors_stay():
    told = r"^train.batch_size=64: memory ran out \(.*allocate.*batch_size=32 and"
    with pytest.raises(MemoryLimitError, match=told), out_of_memory_told(TrainRunSettings()):
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(MemoryLimitError, match="memory ran out"), out_of_memory_told(TrainRunSettings()):
        bytearray(2**60)
    with pytest.raises(RuntimeError, match="must match"), out_of_memory_told(TrainRunSettings()):
        torch.ones(2) + torch.ones(3)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(OSError("cannot allocate memory"))
