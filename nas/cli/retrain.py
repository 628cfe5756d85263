"""``nas-train architecture=...``: train one subnetwork alone, and what it is to be compared with."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import same_command
from nas.files import only_one

if TYPE_CHECKING:
    from rich.console import Console

    from nas.settings import TrainRunSettings


def retrain_job(settings: TrainRunSettings, folder: Path, text: str, out: Console) -> dict[str, Any]:
    """Train, or go on training, in folders inside ``folder``; print what came out side by side."""
    from nas.export import find_source
    from nas.signals import Interrupted
    from nas.train import comparison, retrain

    if settings.search or settings.architecture == "best":
        source = find_source(settings.checkpoint, settings.search, settings.architecture, weights=False)
        settings = replace(settings, checkpoint=source.checkpoint, architecture=source.architecture, search="")
    try:
        with only_one(folder):
            result = retrain(settings, folder, text, out.print if settings.track.progress else lambda line: None)
    except Interrupted as stop:
        out.print(f"{stop}, saved; to go on: {same_command(settings.run)}")
        sys.exit(128 + stop.signal_number)
    out.print(comparison(result))
    out.print(f"run:         {folder}\nTensorBoard: tensorboard --logdir {shlex.quote(str(folder))}")
    scratch = result.rows[0]
    accuracies = {"val_accuracy": scratch.val_accuracy, "test_accuracy": scratch.test_accuracy}
    return {"architecture": scratch.architecture, **accuracies}
