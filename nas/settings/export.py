"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass

from nas.errors import require
from nas.settings import rules
from nas.settings.rules import Settings


@dataclass
class ExportSettings(Settings):
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
    fold_normalisation: bool = False
    """The files take uint8 images, 0 to 255, and normalise them themselves."""
    pictures: int = rules.at_least(1, 256)
    """Test images on which every file is compared with the supernet."""
    threads: int | str = rules.thread_count()
    """CPU threads; ``auto`` takes one or all, whichever is faster; 0 leaves torch's own choice."""
    run: str = rules.run_name()
    """Names the folder ``outputs/export/<run>``, which must not be there yet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rules.one_source(self.checkpoint, self.search)
        require(bool(self.architecture), "architecture", "''", "must not be empty", "write best, or for example 1-0-2")
        ok = self.program or not self.onnx
        require(ok, "onnx", "true", "is translated from the program", "leave program=false out, or onnx=true")
