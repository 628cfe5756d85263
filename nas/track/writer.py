"""The one place that writes: TensorBoard's event files and ``metrics.jsonl``, both directly in the run's folder.

A killed run is continued from its last checkpoint, so whatever either file got after that is written a second
time. TensorBoard is told to drop its part (``purge_step``), the metrics file is cut back to the length that the
checkpoint remembers: afterwards neither has a gap or a double.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from platform import node
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from nas.draw.figure import size_of
from nas.errors import DivergedError, NasWarning
from nas.files import sync, write_all

EVENTS = "events.out.tfevents."
OLD = "events.out.old."


class Writer:
    """Writes a run's scalars, texts, images and histograms into ``folder``.

    Args:
        folder: the run's folder; made if it is not there.
        tensorboard: without it only ``metrics.jsonl`` is written, and only scalars.
        step: the step of the checkpoint that is continued; 0 for a fresh start, which hides an earlier run.
            What belongs to a step has to be written before that step's checkpoint is.
        metrics_bytes: what :meth:`flush` returned for that checkpoint.
    """

    def __init__(self, folder: Path, tensorboard: bool = True, step: int = 0, metrics_bytes: int = 0) -> None:
        assert step > 0 or metrics_bytes == 0, "a fresh start keeps nothing"
        folder.mkdir(parents=True, exist_ok=True)
        self.step = step
        _cut(folder / "metrics.jsonl", metrics_bytes)
        # Unbuffered: each line is there for `tail -f` at once.
        self._metrics = (folder / "metrics.jsonl").open("ab", buffering=0)
        self._events: IO[bytes] | None = None
        if step == 0:
            _set_aside(folder)
        if tensorboard:
            self._events = _next_events(folder).open("xb", buffering=0)
            self._record(Event(file_version="brain.Event:2"))
            # From here on TensorBoard forgets the steps that a killed process has written after its last checkpoint.
            self._record(Event(step=step + 1 if step else 0, session_log=SessionLog(status=SessionLog.START)))

    @property
    def tensorboard(self) -> bool:
        """Whether texts, images and histograms are written at all."""
        return self._events is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point for each tag, and one line of ``metrics.jsonl``; a non-finite value writes nothing."""
        for tag, value in values.items():
            if not math.isfinite(value):
                rule = f"must be a finite number, but was not at step {step}"
                raise DivergedError(tag, value, rule, "lower optimizer.lr or set train.clip_norm=1")
        self.step = step
        line = json.dumps({"step": step, **values}, allow_nan=False)
        write_all(self._metrics, line + "\n")
        # One event with all values: torch's add_scalar would queue an event for each.
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Summary(value=points), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text, which TensorBoard shows as Markdown."""
        self._add(summary.text(tag, markdown), step)

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        """Write an image, given as the bytes of a PNG."""
        width, height = size_of(png)
        encoded = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)

    def histogram(self, tag: str, counts: Sequence[int], step: int) -> None:
        """Write a histogram whose bar ``k``, from k - 0.5 to k + 0.5, is ``counts[k]``."""
        used = [k for k, count in enumerate(counts) if count]
        if not used:
            return  # TensorBoard has nothing to show for a histogram of nothing
        # It drops empty bars at both ends and takes min and max as the outer edges of those that are left.
        data = summary.histogram_raw(
            tag,
            min=used[0] - 0.5,
            max=used[-1] + 0.5,
            num=sum(counts),
            sum=sum(k * count for k, count in enumerate(counts)),
            sum_squares=sum(k * k * count for k, count in enumerate(counts)),
            bucket_limits=[k + 0.5 for k in range(len(counts))],
            bucket_counts=list(counts),
        )
        self._add(data, step)

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Write the custom scalars: category -> chart -> regex; a chart shows all tags that begin with a match."""
        multiline = {
            category: {title: ["Multiline", [regex]] for title, regex in members.items()}
            for category, members in charts.items()
        }
        self._add(summary.custom_scalars(multiline), 0)

    def hparams(self, params: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Write a run's settings for the HPARAMS tab.

        Not torch's ``add_hparams``, which puts them in an extra folder: a second run in every chart.

        Args:
            params: what was set; anything but a number, a bool or a string is written as its ``str``.
            metrics: tags of curves whose last values the tab shows beside them.
        """
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in params.items()}
        for part in summary.hparams(plain, dict.fromkeys(metrics, 0.0)):
            self._add(part, self.step)

    def flush(self) -> int:
        """Put everything on the disk; returns the length of ``metrics.jsonl`` in bytes for the checkpoint."""
        sync(self._metrics)
        if self._events is not None:
            sync(self._events)
        return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Write what is left and close the files."""
        self._metrics.close()
        if self._events is not None:
            self._events.close()

    def _add(self, data: Summary, step: int) -> None:
        if self._events is not None:
            self._record(Event(step=step, summary=data))

    def _record(self, event: Event) -> None:
        """Write a record in one piece: here and at once, not in a thread of TensorBoard's that nobody hears fail."""
        assert self._events is not None
        event.wall_time = time.time()
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        write_all(self._events, record.getbuffer())


class NullWriter(Writer):
    """Writes nothing: for a process that leaves writing to another one."""

    def __init__(self) -> None:
        self.step, self._events = 0, None

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> int:
        return 0

    def close(self) -> None: ...


def _cut(path: Path, size: int) -> None:
    """Cut ``path`` to at most ``size`` bytes and to whole lines."""
    there = path.read_bytes() if path.exists() else b""
    if len(there) < size:
        rule = f"has {len(there)} bytes, the checkpoint remembers {size}; its curves will have a gap"
        warnings.warn(f"{path}: {rule}", NasWarning, stacklevel=3)
    kept = there[:size].rfind(b"\n") + 1
    if kept < len(there):
        os.truncate(path, kept)


def _set_aside(folder: Path) -> None:
    """Rename the event files of an earlier run in this folder, so that TensorBoard does not find them.

    A purge hides their points, but not tags that the new run lacks (in TensorBoard's fast reader) and not their
    hyperparameters, of which TensorBoard shows the first it finds.
    """
    for events in sorted(folder.glob(EVENTS + "*")):
        events.rename(events.with_name(events.name.replace(EVENTS, OLD, 1)))


def _next_events(folder: Path) -> Path:
    """The name of a new event file, which sorts behind all others in the folder.

    TensorBoard reads event files in the order of their names, which begin with the second they were opened in. A run
    resumed within that second, or after the clock was set back, could be read first, and its purge would hide nothing.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.*.*")]
    newest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    return folder / f"{EVENTS}{max(int(time.time()), newest + 1):010d}.{node()}.{os.getpid()}.0"
