"""Fixtures that read back what was written."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture
def events(tmp_path):
    """Reads the event files of a folder, as TensorBoard does."""

    def read(folder=tmp_path):
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
        accumulator.Reload()
        return accumulator

    return read


@pytest.fixture
def curve(events):
    """Reads a scalar's points as (step, value)."""

    def read(tag, *folder):
        return [(point.step, point.value) for point in events(*folder).Scalars(tag)]

    return read


@pytest.fixture
def lines(tmp_path):
    """Reads the lines of ``metrics.jsonl``."""

    def read(folder=tmp_path):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return read
