"""The runs below a folder, side by side: what they were, what came out, and their curves.

Nothing is imported or called that a file names; a file is plain data that anybody may have written.
"""

from nas.runs.found import FoundRun, find_runs, read_points
from nas.runs.table import compared, first_rows, make_table, picked, write_table

__all__ = ["FoundRun", "compared", "find_runs", "first_rows", "make_table", "picked", "read_points", "write_table"]
