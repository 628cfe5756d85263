"""Which proxies there are, what they say, and what they say at worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import ScoreError


@dataclass(frozen=True)
class Proxy:
    """A number that is computed from a network without training it.

    Attributes:
        name: as it is asked for.
        higher_is_better: whether a larger value speaks for the network.
        says: what it is, and where it comes from, in one line.
        worst: the infinity it gives to a network about which its formula says nothing (a singular matrix, no flow
            at all); None where every value is finite, and anything else an error.
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
    """Refuse what is no list of different proxies.

    Raises:
        ScoreError: a name is unknown or comes twice, or there is none.
    """
    if not proxies:
        raise ScoreError(key, list(proxies), "must name at least one proxy", f"there are {', '.join(PROXIES)}")
    for name in proxies:
        if name not in PROXIES:
            raise ScoreError(key, name, "is not a proxy", f"there are {', '.join(PROXIES)}")
        if list(proxies).count(name) > 1:
            raise ScoreError(key, name, "is named more than once", "name it once")


def checked(proxy: str, value: float) -> float:
    """``value``, if ``proxy`` may have it.

    Raises:
        ScoreError: it is not a number, or an infinity other than the proxy's stated worst.
    """
    if math.isfinite(value) or value == PROXIES[proxy].worst:
        return value
    rule = f"is {value} for this network: its numbers overflow, or its weights or the images are not finite"
    raise ScoreError("proxies", proxy, rule, "leave this proxy out, or mend the network's initial weights")
