"""Which checkpoint and architecture a user means: named ones, the best of a search, or the best of a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from nas.checkpoint import saved
from nas.errors import CheckpointError, SettingError
from nas.files import sha256_of
from nas.train import best_of_run


@dataclass(frozen=True)
class Source:
    """A checkpoint, and an architecture in it.

    Attributes:
        checkpoint: a checkpoint or the folder of a run.
        architecture: as text.
    """

    checkpoint: str
    architecture: str


def find_source(checkpoint: str, search: str, architecture: str, weights: bool = True) -> Source:
    """Resolve ``architecture=best`` and ``search=``.

    Args:
        checkpoint: a checkpoint or the folder of a run; empty with ``search``.
        search: the folder of a search; empty with ``checkpoint``. Where its best network was trained in its finals,
            the weights are those of that training.
        architecture: as text, or ``best``, the best of the search or in the report of the run.
        weights: refuse a search without a checkpoint; otherwise its ``checkpoint`` is empty.

    Raises:
        SettingError: neither ``checkpoint`` nor ``search`` is given.
        CheckpointError: the search was made without a checkpoint, its checkpoint has changed since, or the run has no
            report.
    """
    if search:
        from nas.search import read_result  # here, so that loading a network does not import Optuna

        if saved(Path(search)):
            raise CheckpointError("search", search, "is a run of nas-train", f"write checkpoint={search}")
        result = read_result(Path(search))
        chosen = result.best if architecture == "best" else architecture
        if weights and chosen == result.best and result.weights and saved(Path(search) / result.weights):
            return Source(str(Path(search) / result.weights), chosen)
        if result.checkpoint is None and not weights:
            return Source("", chosen)
        if not result.checkpoint:
            rule = "was made without a checkpoint, so it has no weights"
            remedy = f"train the best one: nas-train architecture=best {shlex.quote(f'search={search}')}"
            raise CheckpointError("search", search, rule, remedy)
        path, remedy = Path(result.checkpoint), "search again, or name checkpoint= and architecture="
        if not path.is_file():
            raise CheckpointError("search", search, f"its checkpoint {path} no longer exists", remedy)
        if sha256_of(path) != result.checkpoint_digest:
            raise CheckpointError("search", search, f"its checkpoint {path} is not the file that was searched", remedy)
        return Source(result.checkpoint, chosen)
    if not checkpoint:
        rule = "one of checkpoint and search must be given"
        raise SettingError("checkpoint", "''", rule, "write for example checkpoint=outputs/train/first")
    if not Path(checkpoint).exists():
        raise CheckpointError("checkpoint", checkpoint, "does not exist", "name the folder of a run of nas-train")
    if (Path(checkpoint) / "journal.log").is_file():
        raise CheckpointError("checkpoint", checkpoint, "is a search", f"write search={checkpoint}")
    return Source(checkpoint, best_of_run(checkpoint) if architecture == "best" else architecture)
