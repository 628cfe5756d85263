"""Correlations against SciPy, resample by resample; the ceiling against simulated tables whose truth is known."""

import math
import time

import pytest
import torch
from scipy import stats

from nas.errors import NasError
from nas.score.correlation import (
    best,
    compare,
    correlate,
    kendall_tau,
    kendall_taus,
    pick,
    resamples,
    spearman_rho,
    spearman_rhos,
)
from nas.score.noise import ceiling, one_against_others


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def slow_tau_b(a, b):
    """By its definition, pair by pair."""
    agree = untied_a = untied_b = 0
    for i in range(len(a)):
        for j in range(i):
            one, other = (a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])
            agree, untied_a, untied_b = agree + one * other, untied_a + (one != 0), untied_b + (other != 0)
    return agree / math.sqrt(untied_a * untied_b)


def test_tau_counts_pairs_with_ties_and_infinities():
    a = [3.0, 1.0, 1.0, -math.inf, 2.0, math.inf, 3.0]
    b = [2.0, 1.0, 3.0, 0.0, 2.0, 5.0, 4.0]
    assert kendall_tau(numbers(*a), numbers(*b)) == pytest.approx(slow_tau_b(a, b), abs=1e-15)


def test_agreement_is_1_and_reversal_minus_1():
    a = noise(30)
    for function in (kendall_tau, spearman_rho):
        assert function(a, a.exp()) == pytest.approx(1)
        assert function(a, -a) == pytest.approx(-1)


def test_a_constant_correlates_with_nothing():
    a, counts = noise(20), resamples(20, 50)
    same = torch.full_like(a, 0.1)
    for one, other in ((a, same), (same, a), (same, same)):
        assert kendall_tau(one, other) == spearman_rho(one, other) == 0
        assert not kendall_taus(one, other, counts).any()
        assert not spearman_rhos(one, other, counts).any()
    found = correlate(same, a)
    assert (found.tau, found.tau_low, found.tau_high, found.rho, found.top_tau) == (0, 0, 0, 0, 0)


def test_correlations_of_resamples_are_scipys(monkeypatch):
    monkeypatch.setattr("nas.score.correlation._BLOCK", 50)
    for n in (2, 9, 130):
        a, b = (3 * noise(n)).round(), noise(n, seed=1) + noise(n)
        assert spearman_rho(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        counts = resamples(n, 30)
        assert (counts.sum(dim=1) == n).all()
        taus, rhos = kendall_taus(a, b, counts), spearman_rhos(a, b, counts)
        for row, tau, rho in zip(counts, taus, rhos, strict=True):
            drawn = torch.arange(n).repeat_interleave(row.long())
            if len({*a[drawn].tolist()}) > 1 and len({*drawn.tolist()}) > 1:
                assert tau == pytest.approx(stats.kendalltau(a[drawn], b[drawn]).statistic, abs=1e-12)
                assert rho == pytest.approx(stats.spearmanr(a[drawn], b[drawn]).statistic, abs=1e-12)
            else:
                assert tau == rho == 0


def test_resamples_depend_on_their_seed_alone():
    state = torch.get_rng_state()
    assert torch.equal(resamples(9, 20, seed=3), resamples(9, 20, seed=3))
    assert not torch.equal(resamples(9, 20, seed=3), resamples(9, 20, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


def test_intervals_cover_the_true_tau_as_stated():
    """Of a normal pair with correlation 0.6, tau is 2/pi asin(0.6)."""
    true, hits, counts = 2 / math.pi * math.asin(0.6), 0, resamples(60, 300)
    for seed in range(100):
        a = noise(60, seed=2 * seed)
        found = correlate(a, 0.6 * a + 0.8 * noise(60, seed=2 * seed + 1), counts)
        hits += found.tau_low <= true <= found.tau_high
    assert 0.88 <= hits / 100 <= 0.99


def test_figures_of_several_draws_are_their_means():
    truth = noise(40)
    draws = truth + noise(3, 40, seed=1)
    all_of_them, alone = correlate(draws, truth), [correlate(draw, truth) for draw in draws]
    for name in ("tau", "rho", "top_tau", "regret", "pick_rank"):
        assert getattr(all_of_them, name) == pytest.approx(sum(getattr(one, name) for one in alone) / 3)
    assert all_of_them.tau_spread == pytest.approx(numbers(*(one.tau for one in alone)).std().item())
    assert (all_of_them.draws, alone[0].draws, alone[0].tau_spread) == (3, 1, None)
    assert all_of_them.tau_low < all_of_them.tau < all_of_them.tau_high


def test_each_draw_is_held_against_what_it_has_not_seen():
    truths, draws = noise(3, 40), noise(3, 40) + noise(3, 40, seed=1)
    unseen = torch.stack([noise(40, seed=2 + draw).argsort() < 30 for draw in range(3)])
    counts = resamples(40)
    found = correlate(draws, truths, counts, unseen)
    alone = [correlate(d[u], t[u], counts[:, u]) for d, t, u in zip(draws, truths, unseen, strict=True)]
    for name in ("tau", "rho", "top_tau", "regret", "pick_rank"):
        assert getattr(found, name) == pytest.approx(sum(getattr(one, name) for one in alone) / 3), name
    assert (found.n, found.draws, found.top_n) == (30, 3, 10)
    other = noise(40, seed=9)
    taus = [kendall_tau(other[u], t[u]) for t, u in zip(truths, unseen, strict=True)]
    difference = compare(draws, other, truths, counts, unseen)
    assert difference.difference == pytest.approx(found.tau - sum(taus) / 3)
    assert difference.low < difference.difference < difference.high


def test_the_top_is_a_tenth_with_its_ties():
    assert len(best(noise(256))) == 26
    assert len(best(noise(40))) == 10
    assert len(best(noise(4))) == 4
    ties = torch.zeros(30, dtype=torch.float64)
    ties[:3] = 1
    assert len(best(ties)) == 30
    truth = noise(200)
    top = truth.topk(20).indices
    assert correlate(noise(200, seed=1), truth).top_tau == pytest.approx(
        kendall_tau(noise(200, seed=1)[top], truth[top])
    )


def test_ties_share_regret_and_rank_of_the_pick():
    truth = numbers(0.5, 0.9, 0.8, 0.6)
    assert pick(numbers(0, 0, 1, 0), truth) == pytest.approx((0.1, 2))
    assert pick(numbers(0, 1, 0, 0), truth) == pytest.approx((0, 1))
    assert pick(numbers(1, 0, 1, 0), truth) == pytest.approx((0.25, 3))
    assert pick(numbers(1, 1, 1, 1), truth) == pytest.approx((0.2, 2.5))


def test_paired_intervals_find_what_unpaired_ones_hide():
    truth = noise(200)
    worse = truth + noise(200, seed=1)
    better = truth + 0.9 * (worse - truth)
    found = compare(better, worse, truth)
    assert found.difference == pytest.approx(kendall_tau(better, truth) - kendall_tau(worse, truth))
    assert found.low > 0
    assert found.certain
    assert correlate(better, truth).tau_low < correlate(worse, truth).tau_high
    back = compare(worse, better, truth)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert back.certain
    assert not compare(worse, worse, truth).certain


def test_what_has_no_order_is_refused():
    with pytest.raises(NasError, match="predictions=nan: 1 of 3 values"):
        correlate(numbers(1.0, math.nan, 2.0), torch.arange(3).double())
    with pytest.raises(NasError, match=r"architectures=1: .* at least 2"):
        correlate(numbers(1.0), numbers(0.0))


def table(n, spread, scatter, seeds, seed=0):
    truth = 0.5 + spread * noise(n, seed=seed)
    shift = 0.02 * torch.arange(seeds)  # what a seed does to all alike
    return truth, truth[:, None] + shift + scatter * noise(n, seeds, seed=seed + 1)


@pytest.fixture
def _few_tables(monkeypatch):
    monkeypatch.setattr("nas.score.noise.TABLES", 30)


@pytest.mark.usefixtures("_few_tables")
@pytest.mark.parametrize(("scatter", "seeds"), [(0.01, 3), (0.03, 2), (0.03, 5)])
def test_the_ceiling_is_the_truths_own_tau(scatter, seeds):
    spread, found, exact = 0.03, [], []
    for seed in range(0, 10, 2):
        truth, seen = table(300, spread, scatter, seeds, seed)
        found.append(ceiling(seen))
        exact.append(kendall_tau(truth, seen.mean(dim=1)))
    reliability = spread**2 / (spread**2 + scatter**2 / seeds)
    mean = sum(one.tau for one in found) / len(found)
    assert mean == pytest.approx(2 / math.pi * math.asin(math.sqrt(reliability)), abs=0.02)
    assert mean == pytest.approx(sum(exact) / len(exact), abs=0.02)
    for one in found:
        assert one.noise == pytest.approx(scatter, rel=0.15)
        assert one.reliability == pytest.approx(reliability, abs=0.08)
        assert one.tau_low < one.tau < one.tau_high
        assert one.one_seed_modelled == pytest.approx(one.one_seed_tau, abs=0.08)


@pytest.mark.usefixtures("_few_tables")
def test_a_table_with_gaps_has_a_ceiling_too():
    """Effects of seeds count here: a row's mean depends on which seeds it has."""
    spread, scatter, found, exact = 0.03, 0.03, [], []
    for seed in range(0, 10, 2):
        truth, seen = table(300, spread, scatter, 4, seed)
        there = torch.rand(300, 4, generator=torch.Generator().manual_seed(seed)) < 0.6
        there[:, 0] |= ~there.any(dim=1)
        gaps = seen * there
        found.append(ceiling(gaps, trained=there))
        exact.append(kendall_tau(truth, gaps.sum(dim=1) / there.sum(dim=1)))
    assert sum(one.tau for one in found) / 5 == pytest.approx(sum(exact) / 5, abs=0.02)
    for one in found:
        assert (one.fewest, one.seeds) == (1, 4)
        assert one.noise == pytest.approx(scatter, rel=0.15)
        assert one.one_seed_modelled == pytest.approx(one.one_seed_tau, abs=0.12)
    alone = torch.arange(3).repeat(10)[:, None] == torch.arange(3)  # a training each, on one of three seeds
    assert ceiling(noise(30, 3) * alone, trained=alone) is None


@pytest.mark.usefixtures("_few_tables")
def test_the_ceiling_lies_between_noise_and_truth():
    assert ceiling(noise(300, 3)).tau < 0.35
    exact = ceiling(noise(50, 1).expand(-1, 3))
    assert exact.tau == pytest.approx(1)
    assert exact.noise == pytest.approx(0, abs=1e-12)
    assert ceiling(torch.full((9, 3), 0.5)).tau == 0
    assert ceiling(noise(20, 1)) is None  # one training says nothing about its noise


def test_one_seed_is_compared_with_the_others_mean():
    x = noise(30, 3)
    expected = [kendall_tau(x[:, j], x[:, [k for k in range(3) if k != j]].mean(dim=1)) for j in range(3)]
    assert one_against_others(x) == pytest.approx(sum(expected) / 3)
    assert one_against_others(x[:, :2]) == pytest.approx(kendall_tau(x[:, 0], x[:, 1]))


@pytest.mark.speed
def test_a_thousand_resamples_take_under_a_second():
    a, b = noise(256), noise(256, seed=1)
    began = time.perf_counter()
    correlate(a, b)
    assert time.perf_counter() - began < 1
