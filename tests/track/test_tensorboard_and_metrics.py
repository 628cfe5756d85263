"""The event files and ``metrics.jsonl``: what a reader of them finds, also after a kill."""

import math
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.plugins.hparams import metadata

from nas.draw import draw_grid
from nas.errors import DivergedError, NasWarning
from nas.track import NullWriter, Writers

PNG = draw_grid(torch.rand(1, 3, 8, 10))


def write(writer, steps, sign=1):
    for step in steps:
        writer.scalars(step, {"train/loss": sign * step, "train/accuracy": 0.5})


def test_resumed_curves_have_no_gaps_and_no_doubles(tmp_path, curve, lines):
    folder = tmp_path / "new" / "run"
    killed = Writers(folder)
    assert killed.flush() == 0
    write(killed, [20, 40, 60])
    size = killed.flush()
    assert size == len((folder / "metrics.jsonl").read_bytes()) > 0
    assert curve("train/loss", folder) == [(step, step) for step in (20, 40, 60)]
    assert lines(folder)[0] == {"step": 20, "train/loss": 20, "train/accuracy": 0.5}
    write(killed, [80, 100])
    killed.close()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 120, "train/lo')  # the line it was killed in
    (events,) = folder.glob("events.*")
    events.write_bytes(events.read_bytes()[:-5])  # and the record

    resumed = Writers(folder, step=60, metrics_bytes=size)
    write(resumed, [80, 120], sign=-1)  # without a 100, which the first run had
    resumed.close()
    want = [(20, 20), (40, 40), (60, 60), (80, -80), (120, -120)]
    assert curve("train/loss", folder) == want
    assert [(line["step"], line["train/loss"]) for line in lines(folder)] == want


def test_a_resumed_event_file_is_read_last(tmp_path):
    earlier = tmp_path / f"events.out.tfevents.{int(time.time()):010d}.zzz"  # sorts last within its second
    earlier.touch()
    Writers(tmp_path, step=20).close()
    assert min(tmp_path.glob("events.*")) == earlier


def test_fresh_start_drops_all_earlier_points(tmp_path, events, curve, lines):
    old = Writers(tmp_path)
    write(old, [0, 20, 40])
    old.scalars(40, {"only/old": 1.0})
    old.close()
    fresh = Writers(tmp_path)
    # A TensorBoard that was open all the time has old points in memory: the new file's purge drops them.
    starts = [event for event in _raw(tmp_path) if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in starts] == [(0, SessionLog.START)]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    write(fresh, [30])
    fresh.close()
    assert curve("train/loss") == [(30, 30)]
    assert "only/old" not in events().Tags()["scalars"]
    assert [line["step"] for line in lines()] == [30]


def test_lost_metrics_are_told_and_not_zero_filled(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text('{"step": 20}\n{"st')
    with pytest.warns(NasWarning, match="remembers 900"):
        writer = Writers(tmp_path, names=[], step=60, metrics_bytes=900)
    write(writer, [80])
    writer.close()
    assert [line["step"] for line in lines()] == [20, 80]


def test_non_finite_scalar_is_refused(tmp_path, events, lines):
    writer = Writers(tmp_path)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(DivergedError, match=r"train/loss=.*finite.*step 20"):
            writer.scalars(20, {"train/accuracy": 0.5, "train/loss": value})
    writer.close()
    assert lines() == []
    assert events().Tags()["scalars"] == []


def test_hparams_make_no_extra_folder(tmp_path, events, curve):
    writer = Writers(tmp_path)
    write(writer, [20])
    params = {"optimizer.lr": 0.1, "gate": "uniform", "flip": True, "widths": [16, 32], "none": None}
    writer.hparams({**params, "usual": 1}, [*params, "track.log_every"])
    writer.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert curve("train/accuracy") == [(20, 0.5)]  # it points at the curve and adds nothing to it
    content = events().SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    written = metadata.parse_session_start_info_plugin_data(content).hparams
    assert written["optimizer.lr"].number_value == 0.1
    assert written["widths"].string_value == "[16, 32]"
    assert set(written) == set(params)
    assert metadata.EXPERIMENT_TAG not in events().summary_metadata, "TensorBoard would show one run's columns for all"


def test_without_tensorboard_only_metrics_and_without_folder_nothing(tmp_path):
    for writer in (Writers(tmp_path, names=[]), NullWriter()):
        write(writer, [20])
        writer.text("config", "a: 1")
        writer.image("image", PNG)
        writer.layout({"slot": {"share": "gate/"}})
        writer.hparams({"lr": 0.1}, ["lr"])
        assert not writer.take_images
        assert bool(writer.flush()) == (not isinstance(writer, NullWriter))
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_images_come_back(tmp_path, events):
    writer = Writers(tmp_path)
    writer.image("image", PNG, 20)
    writer.close()
    (image,) = events().Images("image")
    assert (image.width, image.height, image.step) == (38, 32, 20)
    assert image.encoded_image_string == PNG


def _raw(folder):
    (file,) = folder.glob("events.out.tfevents.*")
    return list(LegacyEventFileLoader(str(file)).Load())
