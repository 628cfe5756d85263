"""Several proxies in one number."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from nas.errors import ScoreError


def rank_sum(columns: Mapping[str, Sequence[float]], higher_is_better: Mapping[str, bool]) -> list[float]:
    """The sum of each row's ranks in all columns; a larger one is better.

    In each column the worst value has rank 1 and the best the number of rows; equal values share the mean of their
    ranks. An infinite value, of whichever sign, is worse than every finite one.

    Args:
        columns: values by name, one a row; at least one column.
        higher_is_better: by the same names.

    Raises:
        ScoreError: a value is not a number, or the columns differ in length.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        rule = f"must have a value a row each; they have {sorted(lengths)}"
        raise ScoreError("columns", ", ".join(columns), rule, "give at least one column, and all of one length")
    total = [0.0] * lengths.pop()
    for name, values in columns.items():
        if any(math.isnan(value) for value in values):
            raise ScoreError(name, math.nan, "has no rank", "leave out what could not be scored")
        sign = 1 if higher_is_better[name] else -1
        keys = [sign * value if math.isfinite(value) else -math.inf for value in values]
        order = sorted(keys)
        ranks = [(bisect_left(order, key) + bisect_right(order, key) + 1) / 2 for key in keys]
        total = [a + b for a, b in zip(total, ranks, strict=True)]
    return total
