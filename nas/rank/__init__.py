"""Whether a supernet's ranking of its subnetworks can be trusted: predictions against a table of truth."""

from nas.rank.predictions import KnownValues, Prediction, add_ranks, predict
from nas.rank.ranking import Ranking, Row, rank, tables
from nas.rank.report import scatter, write_report
from nas.rank.subject import Subject, subject_of

__all__ = [
    "KnownValues",
    "Prediction",
    "Ranking",
    "Row",
    "Subject",
    "add_ranks",
    "predict",
    "rank",
    "scatter",
    "subject_of",
    "tables",
    "write_report",
]
