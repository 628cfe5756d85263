"""What is one for all processes, and what each has for itself."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from support.processes import together
from support.runs import CHAIN, assert_same, curves, state_of, tiny
from torch import nn

from nas.dist import World, choose_device, synchronise
from nas.dist.join import meet
from nas.errors import RankLost, SettingError
from nas.settings import CustomSettings, DistSettings, TrainRunSettings
from nas.signals import Abandoned
from nas.train import Run, fit, loop

RESTLESS = TrainRunSettings(space=CustomSettings(factory="support.restless:Restless"))


def restless(world, settings, folder):
    run = Run(settings, folder / str(world.rank), world=world)
    first = {name: tensor.clone() for name, tensor in run.supernet.state_dict().items()}
    run.supernet.drawn.clear()  # of the checks before the first step
    fit(run)
    run.tracker.writer.close()
    return first, run.supernet.drawn


def test_ranks_share_initial_weights_but_not_dropout(tmp_path):
    """Dropout differs in each step, too, and is the same after a restart. Rank 0 alone writes."""
    settings, folder = tiny(RESTLESS, save_every=11), tmp_path / "run"
    (first, *drawn), (second, *others) = together(2, restless, tmp_path, settings, folder)
    assert_same(first, second)
    found = [*drawn, *others]
    every = [tuple(mask.tolist()) for drawn in found for mask in drawn]
    assert len(every) == len(set(every)) == 2 * 22
    assert {"metrics.jsonl", "step_000000022.safetensors"} <= {path.name for path in (folder / "0").iterdir()}
    assert not (folder / "1").exists()
    max((folder / "0").glob("step_*.safetensors")).unlink()
    (folder / "1").symlink_to(folder / "0")
    again = [drawn for _, drawn in together(2, restless, tmp_path, settings, folder)]
    for whole, rest in zip(found, again, strict=True):
        assert len(rest) == 11
        assert all(map(torch.equal, whole[11:], rest))


# --------------------------------------------------------------------------------------------- evaluation


def evaluated(world, settings, folder, slow):
    """Train; the evaluation at step ``slow`` takes for ever, and rank 0 gets a SIGTERM in it."""
    loop.GRACE_S = 0.5
    run = Run(settings, folder, world=world)
    evaluate = run.evaluate

    def evaluating(*args):
        if run.step == slow:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        return evaluate(*args)

    run.evaluate = evaluating
    try:
        fit(run)
    except (Abandoned, RankLost) as stop:
        return run.step, str(stop)
    finally:
        run.tracker.writer.close()
        if slow is not None:
            dist.destroy_process_group()  # as processes that end, each at its time
    state = state_of(run)
    return {key: state[key] for key in ("model", "optimizer", "counts")}, [found.accuracy for found in run.evaluated]


def test_a_stopped_evaluation_is_made_up_for(tmp_path):
    settings = tiny(TrainRunSettings(space=CHAIN))
    whole = together(2, evaluated, tmp_path, settings, tmp_path / "whole", None)
    for step in (11, 22):
        folder = tmp_path / str(step)
        assert together(2, evaluated, tmp_path, settings, folder, step)[0] == (step, "stopped by SIGTERM")
        assert (folder / f"step_{step:09d}.safetensors").is_file()  # nothing that was trained is lost
        found = together(2, evaluated, tmp_path, settings, folder, None)
        assert_same(found[0], whole[0], f"stopped at {step}")
        assert curves(folder)[0] == curves(tmp_path / "whole")[0], step


# ----------------------------------------------------------------------------------------- what is sent at the start


def odd_tensors(world):
    wide = torch.arange(12).reshape(3, 4) * (world.rank + 1)
    tensors = {
        "strided": (wide * 1.5)[:, :3],
        "bool": torch.tensor([True, False, bool(world.rank)]),
        "int16": torch.full((3,), world.rank, dtype=torch.int16),
        "channels_last": torch.full((2, 3, 4, 4), float(world.rank)).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(7.0 + world.rank),
        "empty": torch.empty(0),
        "expanded": torch.ones(1).expand(5),
        "behind": torch.full((50,), 3.0 + world.rank),
    }
    world.broadcast_([*tensors.values(), "extra state"])
    return {name: (tensor.clone(), tensor.stride()) for name, tensor in tensors.items()}


def test_any_buffer_becomes_that_of_rank_0(tmp_path):
    first, second = together(2, odd_tensors, tmp_path)
    assert_same(first, second)
    assert torch.equal(first["strided"][0], (torch.arange(12).reshape(3, 4) * 1.5)[:, :3])
    assert torch.equal(first["behind"][0], torch.full((50,), 3.0))
    assert first["int16"][0].tolist() == [0, 0, 0]


def normalised(world):
    norm = nn.BatchNorm2d(3)
    synchronise(norm, world)
    x = (torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 20).bfloat16().split(4)[world.rank]
    return norm(x), norm.running_mean, norm.running_var


def test_synchronised_statistics_of_bf16_are_those_of_float32(tmp_path):
    found = together(2, normalised, tmp_path)
    norm = nn.BatchNorm2d(3)
    x = (torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 20).bfloat16()
    y = norm(x)
    assert found[0][0].dtype == y.dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([part[0] for part in found]), y, rtol=0, atol=0.02)
    for part in found:
        torch.testing.assert_close(part[1], norm.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(part[2], norm.running_var, rtol=1e-4, atol=1e-6)


def test_synchronised_batchnorm_goes_without_a_bias():
    norm, x = nn.BatchNorm1d(3), torch.randn(8, 3)
    norm.bias = None
    expected = norm(x)
    synchronise(norm, World())
    torch.testing.assert_close(norm(x), expected)


# ---------------------------------------------------------------------------------------------- finding each other


def test_processes_meet_whatever_an_earlier_start_has_left():
    store = dist.HashStore()
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            # The last ones come first, and find the invitation of the start before.
            others = [pool.submit(meet, store, rank, 3, 20.0) for rank in (2, 1)]
            time.sleep(0.1)
            names = {meet(store, 0, 3, 20.0), *(other.result() for other in others)}
        assert len(names) == 1


def test_a_process_alone_does_not_wait_for_ever():
    for rank, rule in enumerate(("not all the others have answered", "rank 0 has not invited")):
        with pytest.raises(RuntimeError, match=rule):
            meet(dist.HashStore(), rank, 2, 0.1)


# -------------------------------------------------------------------------------------------------- settings


def test_settings_that_several_processes_cannot_have_are_refused():
    with pytest.raises(SettingError, match=r"dist.batchnorm=sync: needs the same paths in all processes"):
        DistSettings(paths="own", batchnorm="sync")
    with pytest.raises(SettingError, match=r"train.device=cuda:0: is one GPU, but each process takes one of its own"):
        choose_device("cuda:0", local_rank=1)
