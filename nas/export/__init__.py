"""Stand-alone networks: files that others can load, each compared with the supernet that it came from."""

from nas.errors import ExportError
from nas.export.compare import Comparison
from nas.export.console import tables
from nas.export.fold import Normalised
from nas.export.load import load
from nas.export.source import Source, find_source
from nas.export.write import Exported, export, ready

__all__ = [
    "Comparison",
    "ExportError",
    "Exported",
    "Normalised",
    "Source",
    "export",
    "find_source",
    "load",
    "ready",
    "tables",
]
