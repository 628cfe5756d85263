"""Weights & Biases, as ``wandb.init``, ``Run.log`` and ``Run.finish`` document it."""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from nas.errors import SettingError
from nas.track.writers.base import Writer

KEPT = "wandb.id"
"""In the run's folder: which run of the service it is."""


class WandbWriter(Writer):
    """Writes to a run of ``wandb``, in the project of ``WANDB_PROJECT`` or in ``gated-nas``.

    A run that goes on is the same run of ``wandb`` again, which drops points of steps that it has. With
    ``WANDB_MODE=offline`` it does so when the folders are synchronised.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        kept = folder / KEPT
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "gated-nas"),
                group=folder.parent.name,
                name=folder.name,
                id=kept.read_text().strip() if step and kept.is_file() else None,
                resume="allow",
                dir=str(folder),
                reinit="create_new",  # a sweep has several runs in a process
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            remedy = "call wandb login, or set WANDB_MODE=offline in the environment"
            raise SettingError("track.writers", "wandb", f"cannot begin ({error})", remedy) from None
        kept.write_text(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._run.log({tag: wandb.Html(f"<pre>{html.escape(markdown)}</pre>")}, step=step)

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        self._run.log({tag: wandb.Image(Image.open(BytesIO(png)))}, step=step)

    def hparams(self, params: Mapping[str, Any], given: Collection[str]) -> None:
        self._run.config.update(dict(params))

    def close(self) -> None:
        self._run.finish()
