"""The timed bars, with room for a noisy machine: ``bash scripts/test.sh -m speed --benchmark-enable``."""

import pytest

from nas.bench import gating
from nas.bench.compare import interleave
from nas.cost.allocator import keep_freed_memory

ROOM = 1.25
"""A gated step that costs more than this is broken on any machine; the figures in README are closer to 1."""

pytestmark = pytest.mark.speed


@pytest.fixture(autouse=True)
def _steady_memory():
    keep_freed_memory()


@pytest.mark.parametrize("branches", [2, 8, 32, 128])
def test_a_gated_step_costs_a_stand_alone_step(branches, benchmark):
    space = gating.build_space(gating.TwoBranchSettings(branches=branches))
    x, y = gating.random_batch(64, 32)
    gated = gating.gated_step(space, x, y)
    alone = gating.plain_step(gating.with_weights_of(gating.standalone_two_branch(), space.subnet((0,))), x, y)
    benchmark.pedantic(gated, rounds=10, warmup_rounds=2)
    assert interleave("alone", {"alone": alone, "gated": gated}, rounds=40)["gated"].median < ROOM


@pytest.mark.parametrize("choices", [2, 8, 32])
def test_eight_slots_cost_a_stand_alone_step(choices):
    found = gating.eight_slots(choices, rounds=40)
    assert found["gated"].median < ROOM
    assert found["learned gate: weights alone"].median < ROOM
    assert found["learned gate: logits alone"].median < ROOM


def test_a_batch_costs_little_beside_a_step():
    assert gating.data_path(rounds=40).median < 0.08 * ROOM


def test_the_loop_keeps_the_bare_steps_speed():
    assert gating.whole_loop(rounds=40, threads=1).median > 0.9 / ROOM
