"""Which proxies there are, which values they may have, and several of them in one number."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.errors import ScoreError, did_you_mean


@dataclass(frozen=True)
class Proxy:
    """A number that is computed from a network without training it.

    Attributes:
        name: how settings name it.
        higher_is_better: whether a larger value speaks for the network.
        says: what it is, and where it comes from, in one line.
        worst: the infinity that it gives a network to which its formula does not apply (a singular matrix, no flow);
            None where only finite values are valid.
    """

    name: str
    higher_is_better: bool
    says: str
    worst: float | None = None


_ALL = (
    Proxy("jacob_cov", True, "how little the images' input gradients correlate (Mellor 2020)", -math.inf),
    Proxy("naswot", True, "log-determinant of the agreements of ReLU patterns (Mellor 2021)", -math.inf),
    Proxy("ntk_condition", False, "condition number of the tangent kernel (TE-NAS, Chen 2021)", math.inf),
    Proxy("synflow", True, "log of sum |w dR/dw| for absolute weights and an input of ones (Tanaka 2020)", -math.inf),
    Proxy("snip", True, "sum |w dL/dw| (Lee 2019; Abdelfattah 2021)"),
    Proxy("grasp", True, "-sum w (H dL/dw), H the Hessian (Wang 2020; Abdelfattah 2021)"),
    Proxy("grad_norm", True, "sum of the norms of the layers' gradients (Abdelfattah 2021)"),
    Proxy("fisher", True, "mean of (sum of activation x gradient)^2 / 2 a channel (Turner 2020; Abdelfattah 2021)"),
    Proxy("l2_norm", True, "sum of the norms of the layers' weights (Abdelfattah 2021)"),
    Proxy("zen", True, "log of how features change with Gaussian inputs, BatchNorm undone (Lin 2021)", -math.inf),
    Proxy("zico", True, "sum of log sum mean |g| / std g over batches (Li 2023)", -math.inf),
    Proxy("meco", True, "sum of the least eigenvalues of the feature maps' correlations (Jiang 2023)"),
    Proxy("parameters", True, "number of parameters"),
    Proxy("flops", True, "forward FLOPs of one image, 2 x multiply-accumulates"),
)
PROXIES: dict[str, Proxy] = {proxy.name: proxy for proxy in _ALL}
"""Every proxy, by name."""


def check_names(proxies: Sequence[str], key: str = "proxies") -> None:
    """Check that ``proxies`` names at least one proxy, and each once.

    Raises:
        ScoreError: a name is unknown or comes twice, or there is none.
    """
    if not proxies:
        raise ScoreError(key, list(proxies), "must name at least one proxy", f"there are {', '.join(PROXIES)}")
    for name in proxies:
        if name not in PROXIES:
            raise ScoreError(key, name, "is not a proxy", did_you_mean(name, PROXIES))
        if list(proxies).count(name) > 1:
            raise ScoreError(key, name, "is named more than once", "name it once")


def checked(proxy: str, value: float) -> float:
    """Return ``value`` if it is valid for ``proxy``.

    Raises:
        ScoreError: it is not a number, or an infinity other than the proxy's stated worst.
    """
    if math.isfinite(value) or value == PROXIES[proxy].worst:
        return value
    rule = f"is {value} for this network: its numbers overflow, or its weights or the images are not finite"
    raise ScoreError("proxies", proxy, rule, "leave this proxy out, or correct the network's initial weights")


def missing(proxy: str, what: str) -> ScoreError:
    """The error of a proxy that needs something that the network lacks."""
    return ScoreError("proxies", proxy, f"needs {what}, and the network has none", "leave it out")


def rank_sum(columns: Mapping[str, Sequence[float]], higher_is_better: Mapping[str, bool]) -> list[float]:
    """The sum of each row's ranks in all columns; a larger one is better.

    In each column the worst value has rank 1 and the best has rank ``rows``; equal values share the mean of their
    ranks. An infinite value of either sign is worse than every finite one.

    Args:
        columns: values by name, one for each row; at least one column.
        higher_is_better: whether larger is better, by the same names.

    Raises:
        ScoreError: a value is not a number, or the columns differ in length.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        rule = f"must have one value for each row; they have {sorted(lengths)}"
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
