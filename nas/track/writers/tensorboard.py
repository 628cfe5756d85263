"""TensorBoard's event files, directly in the run's folder.

A run that goes on tells TensorBoard to drop what a killed process has written after the checkpoint (``purge_step``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from platform import node
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from nas.draw.figure import size_of
from nas.files import sync, write_all
from nas.track.writers.base import EVENTS, Writer


class TensorBoardWriter(Writer):
    """Writes a run's scalars, texts and images as TensorBoard reads them."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._step = step
        self._events: IO[bytes] = _next_events(folder).open("xb", buffering=0)
        self._record(Event(file_version="brain.Event:2"))
        # From here on TensorBoard forgets the steps that a killed process has written after its last checkpoint.
        self._record(Event(step=step + 1 if step else 0, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # One event with all values: torch's add_scalar would queue an event for each.
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Summary(value=points), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._add(summary.text(tag, markdown), step)

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        width, height = size_of(png)
        encoded = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Write the custom scalars: category -> chart -> regex; a chart shows all tags that begin with a match."""
        multiline = {
            category: {title: ["Multiline", [regex]] for title, regex in members.items()}
            for category, members in charts.items()
        }
        self._add(summary.custom_scalars(multiline), 0)

    def hparams(self, params: Mapping[str, Any], given: Collection[str]) -> None:
        """Write the given settings for the HPARAMS tab; anything but a number, a bool or a string as its ``str``.

        Not torch's ``add_hparams``, which puts them in an extra folder: a second run in every chart. And without the
        list of columns that comes first there: TensorBoard takes that of one run for all, and makes a better one by
        itself, in which the settings come first that differ.
        """
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in params.items() if k in given}
        for part in summary.hparams(plain, {})[1:]:
            self._add(part, self._step)

    def flush(self) -> None:
        sync(self._events)

    def close(self) -> None:
        self._events.close()

    def _add(self, data: Summary, step: int) -> None:
        self._record(Event(step=step, summary=data))

    def _record(self, event: Event) -> None:
        """Write a record in one piece: here and at once, not in a thread of TensorBoard's that nobody hears fail."""
        event.wall_time = time.time()
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        write_all(self._events, record.getbuffer())


def _next_events(folder: Path) -> Path:
    """The name of a new event file, which sorts behind all others in the folder.

    TensorBoard reads event files in the order of their names, which begin with the second they were opened in. A run
    resumed within that second, or after the clock was set back, could be read first, and its purge would hide nothing.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.*.*")]
    newest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    return folder / f"{EVENTS}{max(int(time.time()), newest + 1):010d}.{node()}.{os.getpid()}.0"
