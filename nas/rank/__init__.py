"""Whether a supernet's ranking of its subnetworks can be trusted: predictions against a benchmark table."""

from nas.rank.prediction import Prediction, add_ranks
from nas.rank.predictions import KnownValues, predict
from nas.rank.ranking import Ranking, Row, rank, tables
from nas.rank.report import scatter, write_report
from nas.rank.target import RankTarget, load_target

__all__ = [
    "KnownValues",
    "Prediction",
    "RankTarget",
    "Ranking",
    "Row",
    "add_ranks",
    "load_target",
    "predict",
    "rank",
    "scatter",
    "tables",
    "write_report",
]
