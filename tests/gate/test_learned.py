"""A gate that learns which paths are good, by comparing whole paths."""

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from support.references import ModuleSpace, Slots, softmax
from support.runs import assert_same
from torch import nn

from nas.cost import PathFlops
from nas.errors import SettingError
from nas.gate import LearnedGate, build_gate
from nas.nn import GatedSum, indices_of
from nas.seeds import generator
from nas.settings import LearnedGateSettings

COUNTS = (2, 5, 1, 3)
EAGER = {"every": 1, "warmup": 0.0}


def uneven_gate(seed=0, **settings):
    return LearnedGate(Slots(*COUNTS), seed, LearnedGateSettings(**settings), total_steps=100)


def set_logits(gate, rows):
    """Rows that are shorter than the longest are filled with zeros."""
    logits = torch.zeros_like(gate.logits)
    for slot, row in rows.items():
        logits[slot, : len(row)] = torch.tensor(row)
    gate.load_state_dict({**gate.state_dict(), "logits": logits})


def test_missing_choices_are_never_drawn():
    gate = uneven_gate(**EAGER)
    set_logits(gate, {0: [-60.0, -60.0]})  # padding of 0 would win by far
    for step in range(500):
        for path in (*gate.paths(step), *gate.compared(step)):
            assert all(entry < count for entry, count in zip(path, COUNTS, strict=True))
    for step in range(20):
        gate.learn(gate.compared(step), (1.0, 2.0))
    for row, count in zip(gate.logits.tolist(), COUNTS, strict=True):
        assert not any(row[count:])  # padding does not learn
    assert [len(row) for row in gate.probabilities()] == list(COUNTS)
    assert [sum(row) for row in gate.probabilities()] == pytest.approx([1] * 4)
    assert all(entry < count for entry, count in zip(gate.favourite(), COUNTS, strict=True))


def test_paths_mix_the_gate_with_uniform_ones():
    gate, draws = uneven_gate(explore=0.3), 4000
    set_logits(gate, {0: [50.0], 1: [0.0, 1.0, -1.0, 0.5, 2.0], 3: [50.0]})
    chances = softmax([0.0, 1.0, -1.0, 0.5, 2.0])
    assert gate.probabilities()[1] == pytest.approx(chances)
    assert gate.favourite() == (0, 4, 0, 0)
    paths = [gate.paths(step)[0] for step in range(draws)]
    mixed = [0.7 * chance + 0.3 / 5 for chance in chances]
    counts = [sum(path[1] == choice for path in paths) for choice in range(5)]
    assert sum((n - draws * p) ** 2 / (draws * p) for n, p in zip(counts, mixed, strict=True)) < 18.5  # p = 0.001
    # Whole paths are of one kind: both other slots leave their favourite together, or neither does.
    others = sum(path[0] != 0 and path[3] != 0 for path in paths) / draws
    assert others == pytest.approx(0.3 * 1 / 2 * 2 / 3, abs=0.02)


def test_compared_paths_are_the_gates_and_differ():
    gate = uneven_gate(**EAGER)
    set_logits(gate, {slot: [1.0] for slot in range(4)})
    pairs = [gate.compared(step) for step in range(2000)]
    assert all(first != second for first, second in pairs)
    share = sum(first[3] == 0 for first, _ in pairs) / len(pairs)
    assert share == pytest.approx(softmax([1.0, 0.0, 0.0])[0], abs=0.04)
    set_logits(gate, {slot: [100.0] for slot in range(4)})
    assert gate.compared(0) == ()  # it has decided
    assert LearnedGate(Slots(1, 1), 0, LearnedGateSettings(**EAGER), 100).compared(7) == ()


def test_comparisons_begin_after_the_warm_up():
    gate = uneven_gate(every=3, warmup=0.25)
    assert [step for step in range(40) if gate.compared(step)] == [26, 29, 32, 35, 38]


def log_probability(logits, path, numbers):
    """Of the order in which branches were drawn, one softmax over those that are left after the other."""
    total = 0
    for slot, count in enumerate(COUNTS):
        left, known = list(range(count)), [n for n in numbers if n <= count]
        for branch in indices_of(path[slot]):
            total = total + logits[slot, left].log_softmax(0)[left.index(branch)]
            left.remove(branch)
        if len(numbers) > 1:
            number = known.index(len(indices_of(path[slot])))
            total = total + logits[slot, 5 : 5 + len(known)].log_softmax(0)[number]
    return total


@pytest.mark.parametrize("numbers", [[1], [1, 2, 4], [1, 3]])
def test_gradient_is_that_of_the_paths_log_probabilities(numbers):
    gate = build_gate(LearnedGateSettings(**EAGER, open=numbers), Slots(*COUNTS), 0, 100)
    slow = torch.zeros(gate.logits.shape, dtype=torch.float64, requires_grad=True)
    for step in range(5):
        paths, losses = gate.compared(step), (2.0 + step, 1.5)
        with torch.no_grad():
            slow.copy_(gate.logits)
        log = lambda path: log_probability(slow, path, numbers)  # noqa: E731
        baselines = losses[::-1]  # each path's is the other's loss
        objective = sum(log(p) * (own - other) for p, own, other in zip(paths, losses, baselines, strict=True)) / 2
        (expected,) = torch.autograd.grad(objective, [slow])
        before = gate.logits.detach().clone()
        gate.learn(paths, losses)
        torch.testing.assert_close(gate.logits.grad.double(), expected, rtol=1e-6, atol=1e-7)
        moved = gate.logits.detach() - before
        assert torch.equal(moved.sign(), -gate.logits.grad.sign()), "no momentum of other steps"
        assert not gate.logits.grad[torch.isinf(gate._mask)].any(), "padding does not learn"
        assert moved.count_nonzero()


def test_sets_are_drawn_one_branch_after_the_other():
    gate, draws = build_gate(LearnedGateSettings(explore=0.0, open=[1, 2]), Slots(4), 0, 100), 8000
    set_logits(gate, {0: [0.0, 1.0, -1.0, 0.5, 0.3, -0.3]})
    chances, (one, two) = softmax([0.0, 1.0, -1.0, 0.5]), softmax([0.3, -0.3])
    drawn = Counter(gate.paths(step)[0][0] for step in range(draws))
    expected = {branch: one * chance for branch, chance in enumerate(chances)}
    for a, b in itertools.combinations(range(4), 2):
        ways = chances[a] * chances[b] * (1 / (1 - chances[a]) + 1 / (1 - chances[b]))
        expected[a, b] = two * ways
    assert sum(expected.values()) == pytest.approx(1)
    assert sum((drawn[e] - draws * p) ** 2 / (draws * p) for e, p in expected.items()) < 27.9  # 9 degrees, p = 0.001
    assert gate.probabilities()[0] == pytest.approx(chances)
    assert gate.favourite() == (1,)
    set_logits(gate, {0: [0.0, 1.0, -1.0, 0.5, -0.3, 0.3]})
    assert gate.favourite() == ((1, 3),)


def test_better_sets_are_found_in_noise():
    """The best path of two slots has choices 0 and 2 in one, and choice 1 alone in the other."""
    for seed in range(3):
        gate = build_gate(LearnedGateSettings(**EAGER, open=[1, 2]), Slots(3, 3), seed, 300)
        random = generator(seed, "noise")
        for step in range(300):
            if paths := gate.compared(step):
                apart = [
                    [len({*indices_of(e)} ^ best) for e, best in zip(p, ({0, 2}, {1}), strict=True)] for p in paths
                ]
                losses = 0.1 * torch.tensor(apart).sum(1) + 0.1 * torch.randn(2, generator=random)
                gate.learn(paths, losses.tolist())
        assert gate.favourite() == ((0, 2), 1), seed


def test_shuffled_rewards_leave_the_gate_uniform():
    steps, runs = 40, 80
    ends = torch.zeros(runs, 2, 3)
    for seed in range(runs):
        gate = LearnedGate(Slots(3, 3), seed, LearnedGateSettings(**EAGER), total_steps=steps)
        random = generator(seed, "shuffled")
        for step in range(steps):
            if paths := gate.compared(step):
                losses = [sum(path) for path in paths]  # the first choices are best ...
                order = torch.randperm(2, generator=random).tolist()  # ... and nobody can tell
                gate.learn(paths, [losses[i] for i in order])
        ends[seed] = gate.logits.detach()
    # Mean of n random walks, in units of its standard error: 6 of them, p = 0.001 for the largest.
    assert (ends.mean(0) / ends.std(0) * math.sqrt(runs)).abs().max() < 3.8


@pytest.mark.parametrize("better", [0, 2])
def test_better_choices_are_found_in_noise(better):
    """Two slots, each of which has one choice with a lower loss, in noise of twice the difference."""
    found = 0
    for seed in range(10):
        gate = LearnedGate(Slots(3, 3), seed, LearnedGateSettings(**EAGER), total_steps=250)
        random = generator(seed, "noise")
        for step in range(250):
            if paths := gate.compared(step):
                means = torch.tensor([0.1 * sum(entry != better for entry in path) for path in paths])
                gate.learn(paths, (means + 0.2 * torch.randn(2, generator=random)).tolist())
        found += gate.favourite() == (better, better)
    assert found == 10


# ------------------------------------------------------------------------------------------------------- the cost


class Widths(nn.Module):
    """Three slots whose choices cost 2 * 8 * 8, twice that, and four times that."""

    def __init__(self):
        super().__init__()
        wide = lambda n: nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(n)))  # noqa: E731
        self.blocks = nn.ModuleList(GatedSum(wide(n) for n in (1, 2, 4)) for _ in range(3))

    def forward(self, x, architecture):
        x = x.flatten(1)
        for block, active in zip(self.blocks, architecture, strict=True):
            x = block(x, active)
        return x


def priced_gate(target, seed=0, **settings):
    space = ModuleSpace(Widths)
    flops = PathFlops(space, space.supernet(), (8, 1, 1))
    how = LearnedGateSettings(target={"flops": target}, **EAGER, **settings)
    return build_gate(how, space, seed, 300, flops), flops


@pytest.mark.parametrize("units", [3, 6, 12])
def test_a_target_pulls_the_gate_to_its_cost(units):
    gate, flops = priced_gate(128.0 * units)
    assert gate.reward((0, 0, 1), 0.5) == pytest.approx(-0.5 - abs(4 / units - 1))
    for step in range(300):
        if paths := gate.compared(step):
            gate.learn(paths, (0.0, 0.0))
    assert flops(gate.favourite()) == 128 * units


def test_a_target_out_of_reach_is_refused():
    for target in (100, 2000):
        with pytest.raises(SettingError) as refused:
            priced_gate(target)
        rule = "paths of space test have 384 to 1,536 FLOPs an image; write for example gate.target.flops=960"
        assert str(refused.value) == f"gate.target.flops={target}: {rule}"
    for name, value, rule in ("size", 1.0, "only flops"), ("flops", -1.0, "above 0"), ("flops", math.nan, "above 0"):
        with pytest.raises(SettingError, match=rf"gate\.target\.{name}=.*: .*{rule}.*; write for example gate\.target"):
            LearnedGateSettings(target={name: value})


# ----------------------------------------------------------------------------------------------------- its state


def test_a_restored_gate_goes_on_bit_for_bit():
    undisturbed, restored = uneven_gate(**EAGER), uneven_gate(**EAGER)
    learn = lambda gate, step: gate.learn(gate.compared(step), (math.sin(step), math.cos(step)))  # noqa: E731
    for step in range(5):
        learn(undisturbed, step)
    restored.load_state_dict(copy.deepcopy(undisturbed.state_dict()))
    for step in range(5, 10):
        learn(undisturbed, step)
        learn(restored, step)
    assert_same(restored.state_dict(), undisturbed.state_dict())
    assert [restored.paths(step) for step in range(20)] == [undisturbed.paths(step) for step in range(20)]


def test_a_gate_refuses_the_state_of_another():
    gate = uneven_gate()
    state = gate.state_dict()
    wrong = [{**state, "logits": torch.zeros(1, 2)}, {**state, "step": -torch.ones(())}, {**state, "more": 1}, {}]
    wrong += [{**state, name: value.double()} for name, value in state.items()]
    wrong += [{**state, name: value + torch.nan} for name, value in state.items()]
    for one in wrong:
        with pytest.raises(ValueError, match=r"is \(1, 2\)|is negative|is unknown|is missing|float64|not finite"):
            gate.load_state_dict(one)
        assert not gate.logits.any(), one
