"""All writers of a run as one.

A killed run is continued from its last checkpoint, so whatever was written after that is written a second time. The
metrics file is cut back to the length that the checkpoint remembers, and each writer drops its part in its own way:
afterwards none has a gap or a double.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.errors import DivergedError, SettingError
from nas.plugin import load_named
from nas.track.writers.base import EVENTS, Writer
from nas.track.writers.metrics import MetricsFile

_OURS = {"tensorboard": "TensorBoardWriter", "csv": "CsvWriter", "wandb": "WandbWriter", "mlflow": "MlflowWriter"}


class Writers:
    """Writes a run's scalars into ``metrics.jsonl``, and everything to its writers.

    Args:
        folder: the run's folder; made if it is not there.
        names: of the writers, as ``track.writers`` has them; with none only ``metrics.jsonl`` is written.
        step: the step of the checkpoint that is continued; 0 for a fresh start, which hides an earlier run.
            What belongs to a step has to be written before that step's checkpoint is.
        metrics_bytes: what :meth:`flush` returned for that checkpoint.

    Raises:
        SettingError: the package of a writer is missing, its service cannot be used, or it is no writer.
    """

    def __init__(
        self, folder: Path, names: Sequence[str] = ("tensorboard",), step: int = 0, metrics_bytes: int = 0
    ) -> None:
        assert step > 0 or metrics_bytes == 0, "a fresh start keeps nothing"
        makers = [(name, _maker(name)) for name in names]
        folder.mkdir(parents=True, exist_ok=True)
        if step == 0:
            _set_aside(folder)
        self.step = step
        self._metrics = MetricsFile(folder, metrics_bytes)
        self.is_open = True
        self._all = [_made(name, maker, folder, step) for name, maker in makers]

    @property
    def take_images(self) -> bool:
        """Whether any of them does something with an image; drawing one takes as long as a few hundred small steps."""
        return any(type(writer).image is not Writer.image for writer in self._all)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point for each tag, and one line of ``metrics.jsonl``; a non-finite value writes nothing."""
        for tag, value in values.items():
            if not math.isfinite(value):
                rule = f"must be a finite number, but was not at step {step}"
                raise DivergedError(tag, value, rule, "lower optimizer.lr or set train.clip_norm=1")
        self.step = step
        self._metrics.scalars(step, values)  # first: what the others keep may be made of it again
        for writer in self._all:
            writer.scalars(step, values)

    def lines(self) -> list[dict[str, float]]:
        """What :meth:`scalars` has written since the beginning of the run: ``step``, and a value a tag."""
        return self._metrics.lines()

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text, in Markdown."""
        for writer in self._all:
            writer.text(tag, markdown, step)

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        """Write an image, given as the bytes of a PNG."""
        for writer in self._all:
            writer.image(tag, png, step)

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Write which curves share a chart; see :meth:`Writer.layout`."""
        for writer in self._all:
            writer.layout(charts)

    def hparams(self, params: Mapping[str, Any], given: Collection[str]) -> None:
        """Write a new run's settings; see :meth:`Writer.hparams`."""
        for writer in self._all:
            writer.hparams(params, given)

    def flush(self) -> int:
        """Put everything on the disk; returns the length of ``metrics.jsonl`` in bytes for the checkpoint."""
        for writer in self._all:
            writer.flush()
        return self._metrics.flush()

    def close(self) -> None:
        """Write what is left and close everything."""
        self.is_open = False
        self._metrics.close()
        for writer in self._all:
            writer.close()


class NullWriter(Writers):
    """Write nothing: for a process that leaves writing to another one."""

    def __init__(self) -> None:
        self.step, self._all, self.is_open = 0, [], False

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> int:
        return 0

    def close(self) -> None: ...


def _set_aside(folder: Path) -> None:
    """Rename the event files of an earlier run in this folder, so that TensorBoard does not find them.

    A purge hides their points, but not tags that the new run lacks (in TensorBoard's fast reader) and not their
    hyperparameters, of which TensorBoard shows the first it finds.
    """
    for events in sorted(folder.glob(EVENTS + "*")):
        events.rename(events.with_name(events.name.replace(EVENTS, "events.out.old.", 1)))


def _maker(name: str) -> Callable[[Path, int], Any]:
    """The class of a writer; its packages are imported now."""
    if name not in _OURS:
        return load_named("track.writers", name)
    try:
        module = import_module(f"nas.track.writers.{name}")
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SettingError("track.writers", name, f"needs {name}", f"pip install 'gated-nas[{name}]'") from None
    return getattr(module, _OURS[name])


def _made(name: str, maker: Callable[[Path, int], Any], folder: Path, step: int) -> Writer:
    writer = maker(folder, step)
    if not isinstance(writer, Writer):
        rule, remedy = f"gave a {type(writer).__name__}, not a nas.track.Writer", "derive your class from that"
        raise SettingError("track.writers", name, rule, remedy)
    return writer
