"""Searching a trained supernet: evaluating many of its subnetworks, and the study that asks for them."""

from nas.search.evaluator import Evaluator
from nas.search.finetune import Finetune
from nas.search.report import files, front_table, summary
from nas.search.result import SearchResult, read_result
from nas.search.run import Search, search

__all__ = [
    "Evaluator",
    "Finetune",
    "Search",
    "SearchResult",
    "files",
    "front_table",
    "read_result",
    "search",
    "summary",
]
