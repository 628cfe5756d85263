"""Several proxies in one number: the sum of ranks."""

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
    rows, names = draw(st.integers(0, 7)), draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    columns = {name: draw(st.lists(VALUES, min_size=rows, max_size=rows)) for name in names}
    return columns, {name: draw(st.booleans()) for name in names}


def better(a: float, b: float, higher: bool) -> bool:
    """Whether ``a`` beats ``b``; an infinity beats nothing."""
    if math.isinf(a) or math.isinf(b):
        return math.isfinite(a) and math.isinf(b)
    return a > b if higher else a < b


def slow(columns: dict[str, Sequence[float]], higher: dict[str, bool]) -> list[float]:
    """One for itself, one for each row that it beats, a half for each tie."""
    sums = []
    for i in range(len(next(iter(columns.values())))):
        total = 0.0
        for name, values in columns.items():
            for j, other in enumerate(values):
                beats, beaten = better(values[i], other, higher[name]), better(other, values[i], higher[name])
                total += 1.0 if i == j or beats else 0.0 if beaten else 0.5
        sums.append(total)
    return sums


@settings(max_examples=200, deadline=None)
@given(tables())
def test_a_rank_counts_the_rows_it_beats(table):
    assert rank_sum(*table) == slow(*table)


def test_the_best_has_the_largest_sum():
    columns = {"accuracy": [0.3, 0.9, 0.5], "condition": [50.0, 2.0, math.inf]}
    assert rank_sum(columns, {"accuracy": True, "condition": False}) == [1 + 2, 3 + 3, 2 + 1]
    shared = {"up": [1.0, 2.0, 2.0, 5.0], "down": [1.0, 2.0, 3.0, 4.0]}
    assert rank_sum(shared, {"up": True, "down": False}) == [1 + 4, 2.5 + 3, 2.5 + 2, 4 + 1]
    for up in (True, False):
        assert rank_sum({"a": [-math.inf, -1e300, math.inf]}, {"a": up}) == [1.5, 3.0, 1.5]


def test_nan_and_unequal_columns_have_no_ranks():
    for column in ([1.0, math.nan], [math.nan], [math.inf, math.nan]):
        with pytest.raises(NasError, match="score"):
            rank_sum({"score": column}, {"score": True})
    for columns in ({}, {"a": [1.0], "b": [1.0, 2.0]}):
        with pytest.raises(NasError, match="must have one value"):
            rank_sum(columns, dict.fromkeys(columns, True))
