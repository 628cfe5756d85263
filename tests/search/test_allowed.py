"""The networks within bounds are those that a look at all of them finds."""

import random
import time

import pytest
from support.references import Slots

from nas.search.allowed import Allowed


def costs(space, seed, kinds=2):
    """Costs a choice, such that the sums are at odds or not, and functions of them."""
    rng = random.Random(seed)
    tables = [[[rng.randint(-3, 20) for _ in slot.choices] for slot in space.slots] for _ in range(kinds)]

    def total(table):
        return lambda architecture: 50 + sum(row[choice] for row, choice in zip(table, architecture, strict=True))

    return [total(table) for table in tables]


def test_the_allowed_are_those_of_all_that_keep_the_bounds():
    space = Slots(3, 1, 4, 2, 3)
    everything = list(space.enumerate())
    for seed in range(20):
        for kinds in (0, 1, 2):
            found = costs(space, seed, kinds)
            middle = [sorted(map(cost, everything))[10 + seed] for cost in found]
            allowed = Allowed(space, list(zip(found, middle, strict=True)))
            expected = [a for a in everything if all(c(a) <= bound for c, bound in zip(found, middle, strict=True))]
            assert list(allowed()) == expected, (seed, kinds)
            assert sorted(allowed(near=everything[30], rng=random.Random(seed))) == expected
            assert bool(expected) == any(map(allowed.keeps, allowed.smallest))
    assert list(Allowed(space, [])(near=(2, 0, 3, 1, 1)))[:2] == [(2, 0, 3, 1, 1), (2, 0, 3, 1, 0)]


def test_the_smallest_costs_are_undercut_by_none():
    space = Slots(3, 4, 2, 3)
    for seed in range(5):
        one, other = costs(space, seed)
        pairs = {(one(a), other(a)) for a in space.enumerate()}
        expected = {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)}
        assert Allowed(space, [(one, 0), (other, 0)]).smallest == sorted(expected)


@pytest.mark.speed
def test_a_large_space_is_no_obstacle():
    space = Slots(*[7] * 24)
    one, other = costs(space, 0)
    began = time.perf_counter()
    allowed = Allowed(space, [(one, 200), (other, 200)])
    assert next(allowed(rng=random.Random(0)))
    assert time.perf_counter() - began < 2
