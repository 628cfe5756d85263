"""What the processes send each other, and what comes of it."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from support.processes import together
from support.runs import CHAIN, assert_same, tiny
from torch import nn

from nas.dist import GradientExchange
from nas.dist.gradients import pack, parts
from nas.dist.world import by_dtype
from nas.errors import DivergedError, RankError
from nas.gate import UniformGate
from nas.settings import ChainSettings, DistSettings, SGDSettings, TrainRunSettings, TwoBranchSettings
from nas.space import build_space
from nas.train import GatedOptimizer, Run, TrainStep, fit

SGD = SGDSettings(lr=0.1, momentum=0.9, weight_decay=0.01)


def batch(rank, number=6, channels=3):
    draws = torch.Generator().manual_seed(100 + rank)
    x = torch.randn(number, channels, 16, 16, generator=draws, dtype=torch.float64)
    return x, torch.randint(10, (number,), generator=draws)


def chain(choices=3):
    space = build_space(ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["conv3"] * choices))
    return space, space.supernet(0)


def note_messages(monkeypatch):
    """Every tensor that is summed: its dtype and number of entries."""
    seen, send = [], dist.all_reduce

    def noting(tensor, *args, **kwargs):
        seen.append((str(tensor.dtype), tensor.numel()))
        return send(tensor, *args, **kwargs)

    monkeypatch.setattr(dist, "all_reduce", noting)
    return seen


# ------------------------------------------------------------------------------------------ what travels


def steps_of(world, choices, check_every, paths="same", number=3):
    space, supernet = chain(choices)
    optimizer = GatedOptimizer(supernet, SGD)
    exchange = GradientExchange(world, optimizer, DistSettings(paths=paths, check_every=check_every))
    gate, patch = UniformGate(space, 0), pytest.MonkeyPatch()
    seen, used = note_messages(patch), []
    for step in range(number):
        x, y = batch(world.rank)
        path = gate.paths(step)
        exchange.optimizer.step, update = lambda lr: used.append(optimizer.used), optimizer.step
        TrainStep(supernet, optimizer, exchange=exchange)((x.float(), y), path, 0.1, step)
        exchange.optimizer.step = update
        optimizer.discard()
    patch.undo()
    return seen, [sum(p.numel() for p in step) for step in used]


def test_only_the_open_branches_gradients_travel(tmp_path):
    """In one message with the loss, the right predictions and the wish to stop, whatever the number of choices."""
    alone = sum(p.numel() for p in chain(2)[0].subnet((0, 0, 0)).parameters())
    for choices in (2, 8):
        for seen, used in together(2, steps_of, tmp_path, choices, 1000):
            assert used == [alone] * 3, choices
            assert seen == [("torch.float32", alone + 3)] * 3, choices


def test_own_paths_add_four_bytes_per_parameter_tensor(tmp_path):
    number = len(list(chain(8)[1].parameters()))
    for seen, used in together(2, steps_of, tmp_path, 8, 1000, "own"):
        assert seen[0::2] == [("torch.int32", number)] * 3
        assert seen[1::2] == [("torch.float32", entries + 3) for entries in used]


class Mixed(nn.Module):
    """Parameters of two dtypes, one of them in another memory layout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.fc = nn.Linear(4, 10).double()

    def forward(self, x, architecture):
        return self.fc(self.conv(x).mean((2, 3)).double())


def mixed(world):
    torch.manual_seed(0)
    model = Mixed()
    optimizer = GatedOptimizer(model, SGD)
    optimizer.optimizer.param_groups[0]["fused"] = False  # takes one dtype alone
    exchange, patch = GradientExchange(world, optimizer, DistSettings(check_every=100)), pytest.MonkeyPatch()
    seen = note_messages(patch)
    x, y = batch(world.rank)
    TrainStep(model, optimizer, exchange=exchange)((x.float(), y), [()], 0.1)
    patch.undo()
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    return seen, model.state_dict()


def test_each_dtype_travels_alone_and_layouts_are_kept(tmp_path):
    (seen, first), (_, second) = together(2, mixed, tmp_path)
    assert sorted(seen) == [("torch.float32", 4 * 27 + 4), ("torch.float64", 50 + 3)]
    assert_same(first, second)
    torch.manual_seed(0)
    model = Mixed()
    optimizer = GatedOptimizer(model, SGD)
    optimizer.optimizer.param_groups[0]["fused"] = False
    (x, y), (x1, y1) = batch(0), batch(1)
    TrainStep(model, optimizer)((torch.cat([x, x1]).float(), torch.cat([y, y1])), [()], 0.1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-6)


def test_packed_tensors_come_back_in_their_shapes_and_layouts():
    tensors = [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(5), torch.tensor(2.0)]
    flat, views = pack(tensors)
    assert flat.shape == (2 * 3 * 16 + 5 + 1,)
    for view, tensor in zip(views, tensors, strict=True):
        assert torch.equal(view, tensor)
        assert view.stride() == tensor.stride()
    flat.zero_()
    assert all(not view.any() for view in parts(flat, tensors))
    assert [len(group) for group in by_dtype([*tensors, torch.ones(1).double()]).values()] == [3, 1]


# -------------------------------------------------------------------------------------------- own paths


def own_paths(world, paths):
    torch.set_default_dtype(torch.float64)
    _, supernet = chain()
    optimizer = GatedOptimizer(supernet, SGD)
    exchange = GradientExchange(world, optimizer, DistSettings(paths="own", check_every=1))
    for step in range(2):
        path = paths[step][world.rank]
        TrainStep(supernet, optimizer, exchange=exchange)(batch(world.rank), [path], 0.1, step, paths[step])
    return {name: p.detach() for name, p in supernet.named_parameters()}


PATHS = [[(0, 1, 2), (0, 2, 0), (1, 1, 2)], [(2, 2, 2), (0, 0, 0), (2, 0, 0)]]
"""Of three ranks in two steps: branches that all, two, one or none of them run."""


def test_own_paths_average_gradients_over_the_ranks_using_them(tmp_path):
    found = together(3, own_paths, tmp_path, PATHS)
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])

    torch.set_default_dtype(torch.float64)  # the slow and obvious version of it, in one process
    try:
        _, supernet = chain()
        velocity = {}
        for paths in PATHS:
            sums, users = {}, {}
            for rank, path in enumerate(paths):
                x, y = batch(rank)
                supernet.zero_grad()
                nn.functional.cross_entropy(supernet(x, path), y).backward()
                for name, p in supernet.named_parameters():
                    if p.grad is not None:
                        sums[name] = sums.get(name, 0) + p.grad
                        users[name] = users.get(name, 0) + 1
            assert set(users.values()) == {1, 2, 3}
            for name, p in supernet.named_parameters():
                if name in sums:
                    gradient = sums[name] / users[name] + 0.01 * p.detach()
                    velocity[name] = 0.9 * velocity.get(name, 0) + gradient
                    p.data -= 0.1 * velocity[name]
    finally:
        torch.set_default_dtype(torch.float32)
    for name, p in supernet.named_parameters():
        torch.testing.assert_close(found[0][name], p.detach(), rtol=1e-10, atol=1e-12)


def own_run(world, settings, folder):
    run = Run(settings, folder, world=world)
    drawn = []
    batches = run.batches.batch

    def noting(step):
        drawn.append(run.paths())
        return batches(step)

    run.batches.batch = noting
    fit(run)
    run.tracker.writer.close()
    return drawn, dict(run.supernet.named_parameters()), run.tracker.counts


def test_each_rank_draws_own_paths_and_all_are_counted(tmp_path):
    settings = replace(tiny(TrainRunSettings(space=CHAIN)), dist=DistSettings(paths="own", check_every=1))
    (first, weights, counts), (second, others, _) = together(2, own_run, tmp_path, settings, tmp_path / "run")
    assert [paths[1] for paths in first] == [paths[1] for paths in second]
    assert [own + other for (own, _), (other, _) in zip(first, second, strict=True)] == [p for _, p in first]
    assert any(own != other for (own, _), (other, _) in zip(first, second, strict=True))
    assert_same(weights, others)
    assert [sum(row) for row in counts] == [2 * 22] * len(counts)


# ------------------------------------------------------------------------- what must not be touched


def closed(world, paths):
    _, supernet = chain()
    optimizer = GatedOptimizer(supernet, SGD, ema_decay=0.9)
    exchange = GradientExchange(world, optimizer, DistSettings(paths=paths, check_every=1))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    all_paths = [(0, 0, 1)] if paths == "same" else [(0, 0, 1), (0, 1, 1)]
    path = all_paths[world.rank % len(all_paths)]
    x, y = batch(world.rank)
    TrainStep(supernet, optimizer, exchange=exchange)((x.float(), y), [path], 0.1, 0, all_paths)
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    return changed, [p.grad is None for p in supernet.parameters()]


@pytest.mark.parametrize("paths", ["same", "own"])
def test_branches_that_no_rank_has_run_are_bit_unchanged(tmp_path, paths):
    weights = []
    for changed, dropped in together(2, closed, tmp_path, paths):
        assert all(dropped)
        weights.append([name for name in changed if "running" not in name and "num_batches" not in name])
        opened = {".0.branches.0", ".1.branches.0", ".2.branches.1"} | ({".1.branches.1"} if paths == "own" else set())
        inside = [name for name in changed if "branches" in name]
        assert inside
        assert all(any(branch in name for branch in opened) for name in inside), inside
    assert weights[0] == weights[1]


# ---------------------------------------------------------------------------- disagreement and failure


def disagreeing(world, what):
    _, supernet = chain()
    optimizer = GatedOptimizer(supernet, SGD)
    exchange = GradientExchange(world, optimizer, DistSettings(check_every=2))
    x, y = batch(world.rank)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    for step in range(4):
        path = (0, 0, int(world.rank == 1)) if what == "path" and step == 2 else (0, 0, 0)
        if what == "parameters":
            supernet.stem[0].weight.requires_grad_(world.rank == 0 or step < 2)
        try:
            TrainStep(supernet, optimizer, exchange=exchange)((x.float(), y), [path], 0.1, step)
        except RankError as error:
            weights = dict(supernet.named_parameters())
            return step, type(error).__name__, str(error), any(not torch.equal(before[n], weights[n]) for n in weights)
    return None


@pytest.mark.parametrize("what", ["path", "parameters"])
def test_ranks_that_differ_are_stopped_at_the_next_comparison(tmp_path, what):
    for step, kind, message, trained in together(2, disagreeing, tmp_path, what):
        assert (step, kind, trained) == (2, "RankError", True)
        assert message.startswith("architecture=((0, 0, ")
        assert "rank 1 runs another architecture, or other parameters of it, than rank 0; " in message


def settings_differ(world, folder):
    settings = replace(tiny(TrainRunSettings(space=CHAIN)), seed=world.rank)
    try:
        Run(settings, folder, world=world)
    except RankError as error:
        return str(error)


def test_ranks_with_other_settings_are_refused(tmp_path):
    for message in together(2, settings_differ, tmp_path, tmp_path / "run"):
        assert "rank 1 has other settings, versions or checkpoints than rank 0" in message
    assert not (tmp_path / "run").exists()


def diverging(world, folder):
    settings = replace(tiny(TrainRunSettings(space=TwoBranchSettings())), dist=DistSettings(check_every=100))
    run = Run(settings, folder, world=world)
    batches = run.batches.batch

    def poisoned(step):
        x, y = batches(step)
        return (x * float("nan") if (step, world.rank) == (3, 1) else x), y

    run.batches.batch = poisoned
    try:
        fit(run)
    except DivergedError as error:
        left = [p.grad is None for p in run.supernet.parameters()]
        return run.step, str(error), all(left), [bool(p.isfinite().all()) for p in run.supernet.parameters()]


def test_an_infinite_loss_on_one_rank_stops_all(tmp_path):
    for step, message, dropped, finite in together(2, diverging, tmp_path, tmp_path / "run"):
        assert step == 3
        assert "the loss is nan at step 3 on path" in message
        assert dropped
        assert all(finite)
