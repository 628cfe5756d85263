"""The timed bars, with room for a noisy machine: ``bash scripts/test.sh -m speed --benchmark-enable``."""

import statistics

import pytest

from nas.bench import dist, find, gating, loop, search, threads
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


def test_eight_slots_cost_a_stand_alone_step():
    for choices in (2, 8, 32):
        for name, ratio in gating.eight_slots(choices, rounds=40).items():
            assert ratio.median < ROOM, (choices, name)


def test_data_and_loop_cost_little_beside_a_step():
    assert loop.data_path(rounds=40).median < 0.08 * ROOM
    found = loop.whole_loop(gating.ChainSettings(), rounds=40, threads=1)
    assert found[loop.LOOP].median > 0.97 / ROOM
    assert found[loop.LOGGING].median < 0.02 + ROOM - 1


def test_a_two_process_gated_step_costs_like_ddp():
    for choices in (2, 8, 32):
        found = dist.in_processes(2, dist.compare, choices, 30)[0]
        assert found[dist.GATED].median < dist.BAR * ROOM, choices


def test_auto_takes_the_faster_number_of_threads():
    space, images = threads.SPACES["chain"]
    step = gating.gated_step(gating.build_space(space), *gating.random_batch(images, 32))
    with threads.busy_process():
        beside = threads.choices(step, 2, rounds=5)
    for found in (beside, threads.choices(step, 2, rounds=5)):
        assert found["auto"].median < 1.1 * ROOM


def test_shared_work_saves_half_of_the_time():
    found = interleave(search.APART, search.evaluation(64), rounds=3, calls=1)
    assert found[search.TOGETHER].median < 0.45 * ROOM
    calls = search.proxies(search.GRADIENT_PROXIES, search.SCORED)
    assert interleave(search.APART, calls, rounds=10, calls=1)[search.TOGETHER].median < search.PROXIES_BAR * ROOM


def test_a_search_takes_little_time_a_trial():
    for sampler, times in search.overheads(rounds=3).items():
        assert statistics.median(times) < 20 * ROOM, sampler


def test_a_surrogate_proposes_within_a_second():
    assert statistics.median(find.proposal_seconds() for _ in range(3)) < 1 * ROOM
