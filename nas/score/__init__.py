"""Training-free proxies, benchmark tables, and rank correlations with their uncertainty."""

from nas.errors import ScoreError
from nas.score.benchmark import BenchmarkTable, load_table
from nas.score.correlation import Correlation, Difference, compare, correlate, kendall_tau, spearman_rho
from nas.score.noise import Ceiling, ceiling
from nas.score.proxies import PROXIES, Proxy, rank_sum
from nas.score.scoring import Scores, score

__all__ = [
    "PROXIES",
    "BenchmarkTable",
    "Ceiling",
    "Correlation",
    "Difference",
    "Proxy",
    "ScoreError",
    "Scores",
    "ceiling",
    "compare",
    "correlate",
    "kendall_tau",
    "load_table",
    "rank_sum",
    "score",
    "spearman_rho",
]
