"""Whether a supernet's ranking of its subnetworks can be trusted: predictions against a table of truth."""

from nas.rank.predictions import KnownValues, Prediction, add_ranks, predict
from nas.rank.ranking import Ranking, Row, rank, tables
from nas.rank.report import write_report
from nas.rank.scatter import draw
from nas.rank.subject import Subject, subject_of

__all__ = [
    "KnownValues",
    "Prediction",
    "Ranking",
    "Row",
    "Subject",
    "add_ranks",
    "draw",
    "predict",
    "rank",
    "subject_of",
    "tables",
    "write_report",
]
