"""Several proxies in one number: the laws of the sum of ranks."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import NasError
from nas.score import rank_sum

VALUES = st.sampled_from([-math.inf, -3.0, -1e-300, 0.0, 1.0, 1.0 + 1e-15, 7.0, 1e300, math.inf])
"""Few, so that ties come up."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, list[float]], dict[str, bool]]:
    rows, names = draw(st.integers(1, 7)), draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    columns = {name: draw(st.lists(VALUES, min_size=rows, max_size=rows)) for name in names}
    return columns, {name: draw(st.booleans()) for name in names}


def better(a: float, b: float, higher: bool) -> bool:
    """Whether ``a`` beats ``b``; an infinity beats nothing."""
    if math.isinf(a) or math.isinf(b):
        return math.isfinite(a) and math.isinf(b)
    return a > b if higher else a < b


def slow(columns: dict[str, Sequence[float]], higher: dict[str, bool]) -> list[float]:
    """One for itself, one for each row that it beats, a half for each that it ties with."""
    sums = []
    for i in range(len(next(iter(columns.values())))):
        total = 0.0
        for name, values in columns.items():
            for j, other in enumerate(values):
                beats, beaten = better(values[i], other, higher[name]), better(other, values[i], higher[name])
                total += 1.0 if i == j or beats else 0.0 if beaten else 0.5
        sums.append(total)
    return sums


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_rank_counts_the_rows_that_are_beaten(table):
    assert rank_sum(*table) == slow(*table)


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_columns_does_not_matter(table, random):
    columns, higher = table
    rows = list(range(len(next(iter(columns.values())))))
    random.shuffle(rows)
    shuffled = {name: [columns[name][i] for i in rows] for name in reversed(columns)}
    before = rank_sum(columns, higher)
    assert rank_sum(shuffled, higher) == [before[i] for i in rows]


@settings(max_examples=40, deadline=None)
@given(tables())
def test_only_the_order_of_values_counts(table):
    columns, higher = table
    bent = {name: [math.atan(v / 3) if math.isfinite(v) else v for v in values] for name, values in columns.items()}
    same_ties = {name: len(set(bent[name])) == len(set(columns[name])) for name in columns}
    if all(same_ties.values()):
        assert rank_sum(bent, higher) == rank_sum(columns, higher)


@settings(max_examples=40, deadline=None)
@given(tables())
def test_negating_a_column_is_asking_for_the_opposite(table):
    columns, higher = table
    negated = {name: [-value for value in values] for name, values in columns.items()}
    assert rank_sum(negated, {name: not up for name, up in higher.items()}) == rank_sum(columns, higher)


@settings(max_examples=40, deadline=None)
@given(tables())
def test_the_ranks_given_out_are_always_as_many(table):
    sums = rank_sum(*table)
    assert sum(sums) == len(table[0]) * len(sums) * (len(sums) + 1) / 2


def test_the_best_has_the_largest_sum():
    columns = {"accuracy": [0.3, 0.9, 0.5], "condition": [50.0, 2.0, math.inf]}
    assert rank_sum(columns, {"accuracy": True, "condition": False}) == [1 + 2, 3 + 3, 2 + 1]


def test_an_infinity_of_either_sign_is_worse_than_anything_finite():
    assert rank_sum({"a": [-math.inf, -1e300, math.inf]}, {"a": True}) == [1.5, 3.0, 1.5]


@pytest.mark.parametrize("column", [[1.0, math.nan], [math.nan], [math.inf, math.nan]])
def test_nan_has_no_rank(column):
    with pytest.raises(NasError, match="score"):
        rank_sum({"score": column}, {"score": True})


@pytest.mark.parametrize("columns", [{}, {"a": [1.0], "b": [1.0, 2.0]}])
def test_columns_must_be_there_and_of_one_length(columns):
    with pytest.raises(NasError):
        rank_sum(columns, dict.fromkeys(columns, True))


def test_no_rows_have_no_ranks():
    assert rank_sum({"a": []}, {"a": True}) == []
