"""Gates that do not learn: a path is a function of the seed and the step."""

import math
from collections import Counter

import pytest
import torch
from support.references import Slots

from nas.errors import ArchitectureError, SettingError
from nas.gate import build_gate
from nas.nn import indices_of
from nas.settings import (
    FairGateSettings,
    FixedGateSettings,
    GateSettings,
    LearnedGateSettings,
    MacroSettings,
    UniformGateSettings,
)
from nas.space import build_space

SETTINGS = {
    "fixed": FixedGateSettings(architecture="1-0-2-0+3"),
    "uniform": UniformGateSettings(),
    "fair": FairGateSettings(),
    "fair, step_each": FairGateSettings(mode="step_each"),
    "uniform, several": UniformGateSettings(open=[1, 2]),
    "fair, several": FairGateSettings(open=[1, 3]),
    "learned, several": LearnedGateSettings(open=[1, 2]),
    "learned": LearnedGateSettings(),
}
RANDOM = [name for name in SETTINGS if name != "fixed" and "several" not in name]
SPACE = Slots(2, 1, 3, 5)


def gate(name, space=SPACE, seed=0):
    return build_gate(SETTINGS[name], space, seed, total_steps=100)


@pytest.mark.parametrize("name", SETTINGS)
def test_paths_depend_on_seed_and_step_alone(name):
    steps = [*range(30), *range(245, 275), 10_000]
    forward = [gate(name).paths(step) for step in steps]
    one = gate(name)
    assert [one.paths(step) for step in steps] == forward
    assert [one.paths(step) for step in reversed(steps)] == forward[::-1]
    assert gate(name).paths(10_000) == forward[-1]  # as a resumed run asks
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert [gate(name).paths(step) for step in steps] == forward
    assert torch.equal(torch.get_rng_state(), before)
    assert ([gate(name, seed=1).paths(step) for step in steps] == forward) is (name == "fixed")
    assert len(set(forward)) == 1 if name == "fixed" else len(set(forward)) > 10
    for path in (path for paths in forward for path in paths):
        assert SPACE.validate(path)
        assert all(type(entry) in (int, tuple) for entry in path)


@pytest.mark.parametrize("name", RANDOM)
def test_every_architecture_is_equally_likely(name):
    space = Slots(3, 2, 4)
    one, drawn, step = gate(name, space), Counter(), 0
    while drawn.total() < 4800:
        drawn.update(one.paths(step))
        step += 1
    expected = drawn.total() / space.size
    chi_square = sum((drawn[a] - expected) ** 2 / expected for a in space.enumerate())
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def rounds(one, count, paths_per_round):
    """The paths of the first ``count`` rounds, however many a step gives."""
    paths, step = [], 0
    while len(paths) < count * paths_per_round:
        paths += one.paths(step)
        step += 1
    assert len(paths) == count * paths_per_round, "a step does not cut through a round"
    return [paths[i * paths_per_round : (i + 1) * paths_per_round] for i in range(count)]


@pytest.mark.parametrize("mode", ["accumulate", "step_each"])
def test_a_slots_round_runs_each_choice_once(mode):
    for counts in ((4, 4, 4), (2, 5, 1, 3)):
        longest = max(counts)
        one = build_gate(FairGateSettings(mode=mode), Slots(*counts), 3, total_steps=100)
        assert len(one.paths(0)) == (longest if mode == "accumulate" else 1)
        paths = [path for part in rounds(one, 30, longest) for path in part]
        for slot, count in enumerate(counts):
            entries = [path[slot] for path in paths]
            for start in range(0, len(entries) - count + 1, count):
                assert sorted(entries[start : start + count]) == list(range(count))


def test_both_modes_run_the_same_paths():
    together, apart = gate("fair"), gate("fair, step_each")
    assert [p for step in range(4) for p in together.paths(step)] == [apart.paths(step)[0] for step in range(20)]


def test_slots_of_a_fair_gate_are_dealt_independently():
    paths = rounds(build_gate(FairGateSettings(), Slots(3, 3), 0, 100), 200, 3)
    pairs = Counter(path for part in paths for path in part)
    assert len(pairs) == 9
    assert min(pairs.values()) > 0.7 * 600 / 9


@pytest.mark.parametrize("numbers", [[2], [3], [1, 2], [1, 2, 4]])
def test_a_round_of_sets_is_strictly_fair(numbers):
    space, length = Slots(4, 6), {4: math.gcd(4, sum(numbers)), 6: math.gcd(6, sum(numbers))}
    one = build_gate(FairGateSettings(mode="step_each", open=numbers), space, 3, total_steps=100)
    for slot, count in enumerate((4, 6)):
        together = len(numbers) * count // length[count]
        for start in range(0, 5 * together, together):
            entries = [one.paths(step)[0][slot] for step in range(start, start + together)]
            opened = [indices_of(entry) for entry in entries]
            ran = Counter(index for indices in opened for index in indices)
            assert ran == dict.fromkeys(range(count), together * sum(numbers) // len(numbers) // count)
            assert Counter(map(len, opened)) == dict.fromkeys(numbers, together // len(numbers))
            assert all(entry in one.space.entries(slot) for entry in entries)
    steps = build_gate(FairGateSettings(open=numbers), space, 3, 100)
    assert steps.paths(1)[0] == one.paths(len(steps.paths(0)))[0]


def test_a_fixed_gate_always_opens_the_same():
    one = gate("fixed")
    assert {one.paths(step) for step in range(5)} == {((1, 0, 2, (0, 3)),)}
    macro = build_gate(FixedGateSettings(architecture="02012100"), build_space(MacroSettings()), 0, 100)
    assert macro.paths(9) == ((0, 2, 0, 1, 2, 1, 0, 0),)


def test_a_fixed_architecture_must_fit_the_space():
    for text in ("", "1", "1-0-2", "2-0-0-0", "1-0-2-x", "1-0-2-0+0", "1-0-2-5", "1-1-2-0"):
        with pytest.raises(ArchitectureError, match=r"architecture=.*: .+; .+"):
            build_gate(FixedGateSettings(architecture=text), SPACE, 0, 100)


def test_an_unknown_gate_or_mode_is_refused():
    with pytest.raises(SettingError, match=r"gate\.name=dice: is not a known gate; use fixed"):
        build_gate(GateSettings(name="dice"), SPACE, 0, 100)
    with pytest.raises(SettingError, match=r"gate\.mode=both: must be one of accumulate, step_each"):
        FairGateSettings(mode="both")
    for wrong in (0, [], [1, 1], [1, 0], "two", [True], True, None):
        with pytest.raises(SettingError, match=r"gate\.open=.*: (must be a whole number|names one of them twice)"):
            UniformGateSettings(open=wrong)
    for setting in ("lr", "every", "target_weight"):
        with pytest.raises(SettingError, match=rf"gate\.{setting}=0: must be above 0"):
            LearnedGateSettings(**{setting: 0})


def test_gates_without_learning_have_no_state():
    for name in ("fixed", "uniform", "fair"):
        assert gate(name).state_dict() == {}, name
        gate(name).load_state_dict({})
        with pytest.raises(ValueError, match="this gate learns nothing"):
            gate(name).load_state_dict({"logits": 0})
