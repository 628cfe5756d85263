"""The gradients that are summed while the backward pass still runs."""

import pytest
import torch
import torch.distributed as dist
from support.processes import together
from support.runs import assert_same
from torch import nn
from torch.utils.checkpoint import checkpoint

from nas.dist import NO_EXCHANGE, GradientExchange, World
from nas.errors import RankLost
from nas.settings import ChainSettings, DistSettings, SGDSettings
from nas.space import build_space
from nas.train import GatedOptimizer, TrainStep

SGD = SGDSettings(lr=0.1, momentum=0.9)
SPACE = ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["conv3"] * 3)
STEPS = [[(0, 0, 1)], [(0, 0, 1)], [(0, 0, 2), (1, 0, 2)], [(2, 0, 2), (0, 1, 2)]]
"""In the last two some branches get a gradient from the first path alone. The first compares the processes' work."""


def part(world, size=12):
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(size, 3, 16, 16, generator=draws), torch.randint(10, (size,), generator=draws)
    return x.chunk(world.size)[world.rank], y.chunk(world.size)[world.rank]


@pytest.fixture
def small_messages(monkeypatch):
    """A convolution of the chain, 576 bytes, fills a message."""
    monkeypatch.setattr(GradientExchange, "message_bytes", 500)


def step_on(world, model):
    optimizer = GatedOptimizer(model, SGD)
    exchange = GradientExchange(world, optimizer, DistSettings(check_every=50)) if world.size > 1 else NO_EXCHANGE
    return TrainStep(model, optimizer, exchange=exchange)


def overlapping(world):
    """Of each step the entries of its messages, with "stem" when its gradient comes, the last; then the weights."""
    supernet, seen, send = build_space(SPACE).supernet(0), [], dist.all_reduce
    step = step_on(world, supernet)
    supernet.stem[0].weight.register_post_accumulate_grad_hook(lambda _: seen[-1].append("stem"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", lambda t, **how: seen[-1].append(t.numel()) or send(t, **how))
        for number, paths in enumerate(STEPS):
            seen.append([])
            step(part(world), paths, 0.1, number)
    return seen, dict(supernet.named_parameters())


def test_messages_leave_before_the_backward_pass_ends(tmp_path, small_messages, monkeypatch):
    (seen, weights), (others, other_weights) = together(2, overlapping, tmp_path)
    assert seen == others
    assert_same(weights, other_weights)
    opened = [entries_of({0, 3, 7}), entries_of({0, 3, 7}), entries_of({0, 1, 3, 8}), entries_of({0, 2, 3, 4, 8})]
    for number, (messages, expected) in enumerate(zip(seen, opened, strict=True)):
        assert sum(entries for entries in messages if entries != "stem") == expected + 2 * len(STEPS[number]) + 1
        before_the_end = messages.index("stem") - messages[: messages.index("stem")].count("stem")
        assert before_the_end >= (2 if number == 1 else 0), messages
        assert len(messages) == 2 if number == 0 else len(messages) > 4
    monkeypatch.undo()
    seen, whole = together(2, overlapping, tmp_path)[0]
    assert all(len([entries for entries in messages if entries != "stem"]) == 1 for messages in seen)
    assert_same(weights, whole)


def entries_of(branches):
    """The numbers in the parameters of the stem, the head and these branches of all nine."""
    supernet = build_space(SPACE).supernet(0)
    inside = [list(branch.parameters()) for block in supernet.modules() for branch in getattr(block, "branches", [])]
    outside = {id(p) for p in supernet.parameters()} - {id(p) for branch in inside for p in branch}
    shared = sum(p.numel() for p in supernet.parameters() if id(p) in outside)
    return shared + sum(p.numel() for branch in branches for p in inside[branch])


class Passed(torch.autograd.Function):
    """``x``, with a ``weight`` in the graph to which no gradient comes."""

    @staticmethod
    def forward(ctx, x, weight):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Surprising(nn.Module):
    """The graph shows ``unused``, whose gradient never comes; does not show ``hidden``; shows ``twice`` once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.hidden, self.twice = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.unused, self.last = nn.Parameter(torch.zeros(200)), nn.Linear(4, 10)

    def forward(self, x, architecture):
        y = checkpoint(lambda y: self.twice(self.hidden(y).relu()).relu(), self.first(x), use_reentrant=True)
        return self.last(Passed.apply(self.twice(y), self.unused).mean((2, 3)))


def surprised(world):
    model = Surprising().double()
    step = step_on(world, model)
    for number in range(1, 4):
        x, y = part(world)
        step((x.double(), y), [()], 0.1, number)
    return dict(model.named_parameters())


def test_unforeseen_missing_and_repeated_gradients_are_summed(tmp_path, small_messages):
    first, second = together(2, surprised, tmp_path)
    assert_same(first, second)
    for name, weight in surprised(World()).items():
        torch.testing.assert_close(first[name], weight, rtol=1e-10, atol=1e-12)


class Gone(Exception):
    pass


def lost(world):
    """Rank 1 fails in the middle of its backward pass and leaves: what is on its way in both, the error of rank 0."""
    supernet = build_space(SPACE).supernet(0)
    step = step_on(world, supernet)

    def fail(_):
        assert step.exchange._waits
        if world.rank == 1:
            raise Gone

    supernet.stem[0].weight.register_post_accumulate_grad_hook(fail)
    with pytest.raises(Gone if world.rank else RankLost) as error:
        step(part(world), [(0, 0, 0)], 0.1, 1)
    dist.destroy_process_group()
    return [step.exchange._waits, step.exchange._sums], str(error.value)


def test_a_peer_lost_in_backward_leaves_nothing_pending(tmp_path, small_messages):
    found = together(2, lost, tmp_path)
    assert [pending for pending, _ in found] == [[[], {}]] * 2
    assert "lost contact with the other processes" in found[0][1]
