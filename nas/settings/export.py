"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass

from nas.errors import require
from nas.settings.rules import check_run, check_threads


@dataclass
class ExportSettings:
    """All settings of ``nas-export``."""

    checkpoint: str = ""
    """A run of ``nas-train``, or one of its checkpoints."""
    search: str = ""
    """A search of ``nas-search``, instead of a checkpoint: the one that it searched."""
    factory: str = ""
    """Of a checkpoint with a custom space, ``package.module:callable``: the one that it names, called if named here."""
    architecture: str = "best"
    """As in ``1-0-2``; ``best`` of the search, or of the report of the run."""
    program: bool = True
    """Write a torch.export program."""
    onnx: bool = False
    """Write ONNX, translated from the program."""
    pictures: int = 256
    """Test images on which every file is compared with the supernet."""
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice."""
    run: str = "unnamed"
    """Names the folder ``outputs/export/<run>``, which must not be there yet."""

    def __post_init__(self) -> None:
        both = f"{self.checkpoint}, {self.search}"
        ok = not (self.checkpoint and self.search)
        require(ok, "checkpoint, search", both, "a search has its own checkpoint", "leave one of them out")
        require(bool(self.architecture), "architecture", "''", "must not be empty", "write best, or for example 1-0-2")
        ok = self.program or not self.onnx
        require(ok, "onnx", "true", "is translated from the program", "leave program=false out, or onnx=true")
        require(self.pictures >= 1, "pictures", self.pictures, "must be at least 1", "write pictures=256")
        check_threads("threads", self.threads)
        check_run(self.run)
