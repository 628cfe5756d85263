"""Searching a space for good subnetworks: objectives, proposers, the evaluation of candidates, and the study."""

from nas.search.evaluate.evaluator import Evaluator, Finetune
from nas.search.outcome import SearchOutcome, SearchResult, read_result, summarize
from nas.search.report import files, front_table, summary
from nas.search.run import Search, search
from nas.search.target import SearchTarget

__all__ = [
    "Evaluator",
    "Finetune",
    "Search",
    "SearchOutcome",
    "SearchResult",
    "SearchTarget",
    "files",
    "front_table",
    "read_result",
    "search",
    "summarize",
    "summary",
]
