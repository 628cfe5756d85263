"""What tells good subnetworks from bad ones: training-free proxies, and how far any ranking can be trusted."""

from nas.errors import ScoreError
from nas.score.correlation import Correlation, Difference, compare, correlate, kendall_tau, spearman_rho
from nas.score.noise import Ceiling, ceiling
from nas.score.proxies import PROXIES, Proxy
from nas.score.rank_sum import rank_sum
from nas.score.scoring import Scores, score
from nas.score.truth import Truth, load_truth

__all__ = [
    "PROXIES",
    "Ceiling",
    "Correlation",
    "Difference",
    "Proxy",
    "ScoreError",
    "Scores",
    "Truth",
    "ceiling",
    "compare",
    "correlate",
    "kendall_tau",
    "load_truth",
    "rank_sum",
    "score",
    "spearman_rho",
]
