"""What the processes send each other, and what comes of it."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from support.processes import together
from support.runs import CHAIN, assert_same, tiny
from torch import nn

from nas.dist import NO_EXCHANGE, GradientExchange, World
from nas.errors import DivergedError, RankError
from nas.gate import UniformGate
from nas.settings import ChainSettings, DistSettings, SGDSettings, TrainRunSettings
from nas.space import build_space
from nas.train import GatedOptimizer, Run, TrainStep, fit, read_steps

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


def steps_of(world, choices, paths):
    """Three steps: what was summed, and how many numbers each step has updated."""
    space, supernet = chain(choices)
    optimizer, gate, used = GatedOptimizer(supernet, SGD), UniformGate(space, 0), []
    exchange = GradientExchange(world, optimizer, DistSettings(paths=paths, check_every=1000))
    update = optimizer.step
    optimizer.step = lambda lr: used.append(sum(p.numel() for p in optimizer.used)) or update(lr)
    with pytest.MonkeyPatch.context() as patch:
        seen = note_messages(patch)
        for step in range(3):
            x, y = batch(world.rank)
            TrainStep(supernet, optimizer, exchange=exchange)((x.float(), y), gate.paths(step), 0.1, step)
    return seen, used


def test_only_the_open_branches_gradients_travel(tmp_path):
    """In one message with the loss, the right predictions and the wish to stop, whatever the number of choices."""
    alone = sum(p.numel() for p in chain(2)[0].subnet((0, 0, 0)).parameters())
    for choices in (2, 8):
        for seen, used in together(2, steps_of, tmp_path, choices, "same"):
            assert used == [alone] * 3, choices
            assert seen == [("torch.float32", alone + 3)] * 3, choices
    number = len(list(chain(8)[1].parameters()))  # own paths add four bytes each
    for seen, used in together(2, steps_of, tmp_path, 8, "own"):
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


def mixed(world, x, y):
    torch.manual_seed(0)
    model = Mixed()
    optimizer = GatedOptimizer(model, SGD)
    optimizer.optimizer.param_groups[0]["fused"] = False  # takes one dtype alone
    exchange = GradientExchange(world, optimizer, DistSettings(check_every=100)) if world.size > 1 else NO_EXCHANGE
    with pytest.MonkeyPatch.context() as patch:
        seen = note_messages(patch)
        TrainStep(model, optimizer, exchange=exchange)((x.chunk(2)[world.rank], y.chunk(2)[world.rank]), [()], 0.1)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    return seen, model.state_dict()


def test_each_dtype_travels_alone_and_layouts_are_kept(tmp_path):
    x, y = batch(0, 12)
    (seen, first), (_, second) = together(2, mixed, tmp_path, x.float(), y)
    assert sorted(seen) == [("torch.float32", 4 * 27 + 4), ("torch.float64", 50 + 3)]
    assert_same(first, second)
    for name, tensor in mixed(World(), x.float().repeat(2, 1, 1, 1), y.repeat(2))[1].items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-6)


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


def test_own_paths_average_gradients_over_ranks_using_them(tmp_path):
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
    rate = run.learning_rate

    def noting():
        drawn.append(run.paths())
        return rate()

    run.learning_rate = noting
    fit(run)
    run.tracker.writer.close()
    return drawn, dict(run.supernet.named_parameters()), run.tracker.counts


def test_ranks_draw_own_paths_and_all_are_counted(tmp_path):
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
def test_branches_that_no_rank_has_run_are_unchanged(tmp_path, paths):
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


def failing(world, what):
    """Four steps, in the third of which a rank does something else: the step, the error, what has become of it."""
    _, supernet = chain()
    optimizer = GatedOptimizer(supernet, SGD)
    exchange = GradientExchange(world, optimizer, DistSettings(check_every=2))
    x, y = batch(world.rank)
    for step in range(4):
        odd = step == 2 and world.rank == 1
        path = (0, 0, int(odd and what == "path"))
        if what == "parameters":
            supernet.stem[0].weight.requires_grad_(not odd)
        before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
        images = x.float() * (float("nan") if odd and what == "loss" else 1)
        try:
            read_steps([TrainStep(supernet, optimizer, exchange=exchange)((images, y), [path], 0.1, step)])
        except (RankError, DivergedError) as error:
            unchanged = all(torch.equal(before[name], p) for name, p in supernet.named_parameters())
            return step, str(error), unchanged, all(p.grad is None for p in supernet.parameters())
    return None


def test_ranks_that_differ_or_diverge_stop_all(tmp_path):
    """What they do at the next comparison, a loss at once; no weight has moved."""
    differs = "rank 1 runs a different architecture, or uses different parameters, than rank 0; "
    for what, words in (("path", differs), ("parameters", differs), ("loss", "the loss is nan at step 2 on path")):
        for step, message, unchanged, dropped in together(2, failing, tmp_path, what):
            assert (step, unchanged) == (2, True), what
            assert words in message
            assert dropped or what != "loss"


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
