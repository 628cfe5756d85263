"""``suite=dist``: what is compared trains alike, every row has its figures; the model of a step's cost."""

import io
import json

import pytest
import torch
from rich.console import Console
from support.processes import FORK, together

from nas.bench import dist, gating, scale, suites
from nas.bench.compare import Ratio
from nas.errors import SettingError
from nas.settings import BenchSettings


def losses(world, choices):
    calls = dist.steps(world, choices)
    return {name: float(call().loss if name in (dist.GATED, dist.OWN) else call()) for name, call in calls.items()}


def test_variants_train_and_stand_alone_ones_alike(tmp_path):
    first, second = together(2, losses, tmp_path, 2)
    for found in (first, second):
        assert list(found) == [dist.DDP, dist.WITH_BUFFERS, dist.GATED, dist.OWN, dist.UNUSED]
        assert found[dist.DDP] == found[dist.WITH_BUFFERS]
        assert all(0 < loss < 10 for loss in found.values())
    # All processes have the same images here, so the mean over them is what each has by itself.
    assert first[dist.GATED] == pytest.approx(first[dist.UNUSED], rel=1e-5)


def moved(world):
    gating.SGD.lr = dist.SGD.lr = 0.1
    torch.manual_seed(0)
    step = dist.gated_step(world, gating.slots_space(2), *gating.random_batch(dist.BATCH, dist.SIDE), "same")
    before = step().loss
    for _ in range(20):
        last = step().loss
    return before, last


def test_the_gated_step_that_is_timed_really_trains(tmp_path):
    for before, last in together(2, moved, tmp_path):
        assert last < 0.8 * before
    assert gating.SGD.lr == 1e-12  # of this process


def test_the_suite_measures_and_prints_every_row(monkeypatch):
    ratio = Ratio(1.1, 1.0, 1.2, 3, 10.0)
    names = [dist.DDP, dist.WITH_BUFFERS, dist.GATED, dist.OWN, dist.UNUSED]
    monkeypatch.setattr(dist, "in_processes", lambda number, work, *args: [dict.fromkeys(names, ratio)] * number)
    told = []
    result = suites.measure(BenchSettings(suite="dist", rounds=3), told.append)
    assert told == [f"8 slots, K = {k}, 2 processes" for k in (2, 8, 32)]
    assert json.loads(json.dumps(result)) == result
    assert [row["bars"].get("32") for row in result["rows"]] == [1.15, None, None, None]
    page = io.StringIO()
    Console(file=page, width=110).print(suites.table(result))
    assert page.getvalue().count("1.10 ±0.10") == 4 * 3
    assert "…" not in page.getvalue()


def test_what_travels_does_not_grow_with_branches():
    few, many = dist.travelling(2), dist.travelling(32)
    assert few[dist.GATED] == many[dist.GATED]
    assert many[dist.UNUSED] > 15 * few[dist.UNUSED]


def test_several_threads_are_refused():
    with pytest.raises(SettingError, match=r"threads=2: must be 1 for suite=dist"):
        BenchSettings(suite="dist", threads=2)


def test_a_process_that_fails_ends_the_suite(monkeypatch):
    monkeypatch.setattr(dist.multiprocessing, "get_context", lambda kind: FORK)
    with pytest.raises(ZeroDivisionError):
        dist.in_processes(1, failing)


def failing(world):
    return 1 / 0


# ---------------------------------------------------------------------------------------- the model of a step


def test_the_models_parts_add_up():
    network, link = scale.Network(open_bytes=1000, all_bytes=9000, tensors=50), scale.Link(0.5, bytes_per_ms=1000)
    assert [scale.gated_ms(10, network, one) for one in (None, link)] == [10, 11.5]
    # Two thirds of 12 ms, the backward pass, beside the 10.5 ms of all but the last message; with a core, and without.
    for core, step_ms in ((0.0, 4 + 10.5 + 2.5), (0.5, 4 + 8 + 5.25 + 2.5)):
        slow = scale.Link(0.5, bytes_per_ms=100, core=core)
        assert scale.gated_ms(12, scale.Network(1200, 0, 0), slow, message_bytes=200) == pytest.approx(step_ms)
    assert [scale.unused_ms(10, network, one, 0.1) for one in (None, link)] == [15, 24.5]
    for choices, ranks, share in ((2, 1, 0.5), (2, 2, 0.75), (1, 7, 1), (32, 1, 1 / 32)):
        assert scale.union_share(choices, ranks) == pytest.approx(share)
    tree = scale.tree(1024, hop_ms=0.01, bytes_per_ms=100)  # which sends every byte twice
    assert tree.sum_ms(1000) == pytest.approx(2 * 10 * 0.01 + 2 * 1000 / 100)
    assert scale.tree(65, 1, 1).latency_ms == 14
    measured = scale.eight_slots(8)
    assert (measured.open_bytes, measured.all_bytes) == tuple(dist.travelling(8).values())
