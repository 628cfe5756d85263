import math
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.data_compat import migrate_value
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from nas.draw import draw_grid
from nas.errors import DivergedError, NasWarning
from nas.track import Writer

PNG = draw_grid(torch.rand(1, 3, 8, 10))


def write(writer, steps, sign=1):
    for step in steps:
        writer.scalars(step, {"train/loss": sign * step, "train/accuracy": 0.5})


def test_file_and_curves_hold_the_same_points(tmp_path, curve, lines):
    writer = Writer(tmp_path / "new" / "run")
    write(writer, [20, 40])
    writer.close()
    assert lines(tmp_path / "new" / "run")[0] == {"step": 20, "train/loss": 20, "train/accuracy": 0.5}
    assert curve("train/loss", tmp_path / "new" / "run") == [(20, 20), (40, 40)]


def test_resumed_curves_have_no_gaps_and_no_doubles(tmp_path, curve, lines):
    killed = Writer(tmp_path)
    write(killed, [20, 40, 60])
    size = killed.flush()
    write(killed, [80, 100])
    killed.flush()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 120, "train/lo')  # the line it was killed in

    resumed = Writer(tmp_path, step=60, metrics_bytes=size)
    write(resumed, [80, 120], sign=-1)  # without a 100, which the first run had
    resumed.close()
    want = [(20, 20), (40, 40), (60, 60), (80, -80), (120, -120)]
    assert curve("train/loss") == want
    assert [(line["step"], line["train/loss"]) for line in lines()] == want
    killed.close()


def test_a_half_written_event_file_does_not_hide_the_resumed_one(tmp_path, curve):
    killed = Writer(tmp_path)
    write(killed, [20, 40])
    size = killed.flush()
    write(killed, [60])
    killed.close()
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-5])
    resumed = Writer(tmp_path, step=40, metrics_bytes=size)
    write(resumed, [60], sign=-1)
    resumed.close()
    assert curve("train/loss") == [(20, 20), (40, 40), (60, -60)]


def test_a_resumed_event_file_is_read_last(tmp_path):
    earlier = tmp_path / f"events.out.tfevents.{int(time.time()):010d}.zzz"  # sorts last within its second
    earlier.touch()
    Writer(tmp_path, step=20).close()
    assert min(tmp_path.glob("events.*")) == earlier


def test_fresh_start_drops_all_earlier_points(tmp_path, events, curve, lines):
    old = Writer(tmp_path)
    write(old, [0, 20, 40])
    old.scalars(40, {"only/old": 1.0})
    old.close()
    fresh = Writer(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    write(fresh, [30])
    fresh.close()
    assert curve("train/loss") == [(30, 30)]
    assert "only/old" not in events().Tags()["scalars"]
    assert [line["step"] for line in lines()] == [30]


def test_tensorboard_that_has_read_the_earlier_run_forgets_it(tmp_path):
    """A TensorBoard that was open all the time has old points in memory: the new file's purge drops them."""
    Writer(tmp_path).close()
    starts = [event for event in _raw(tmp_path) if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in starts] == [(0, SessionLog.START)]


def test_flush_returns_the_length_of_what_is_on_the_disk(tmp_path, curve):
    writer = Writer(tmp_path)
    assert writer.flush() == 0
    write(writer, [20])
    assert writer.flush() == len((tmp_path / "metrics.jsonl").read_bytes()) > 0
    assert curve("train/loss") == [(20, 20)]
    writer.close()


def test_lost_metrics_are_told_and_not_filled_with_zeros(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text('{"step": 20}\n{"st')
    with pytest.warns(NasWarning, match="remembers 900"):
        writer = Writer(tmp_path, tensorboard=False, step=60, metrics_bytes=900)
    write(writer, [80])
    writer.close()
    assert [line["step"] for line in lines()] == [20, 80]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_scalar_is_refused(tmp_path, value, events, lines):
    writer = Writer(tmp_path)
    with pytest.raises(DivergedError, match=r"train/loss=.*finite.*step 20"):
        writer.scalars(20, {"train/accuracy": 0.5, "train/loss": value})
    writer.close()
    assert lines() == []
    assert events().Tags()["scalars"] == []


def test_hparams_make_no_extra_folder(tmp_path, events, curve):
    writer = Writer(tmp_path)
    write(writer, [20])
    params = {"optimizer.lr": 0.1, "gate": "uniform", "flip": True, "widths": [16, 32], "none": None}
    writer.hparams(params, ["train/accuracy"])
    writer.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert curve("train/accuracy") == [(20, 0.5)]  # it points at the curve and adds nothing to it
    content = events().SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    written = metadata.parse_session_start_info_plugin_data(content).hparams
    assert written["optimizer.lr"].number_value == 0.1
    assert written["widths"].string_value == "[16, 32]"
    assert set(written) == set(params)


def test_without_tensorboard_only_the_metrics_file_is_written(tmp_path):
    writer = Writer(tmp_path, tensorboard=False)
    write(writer, [20])
    writer.text("config", "a: 1")
    writer.image("image", PNG)
    writer.histogram("counts", [1, 2], 20)
    writer.layout({"slot": {"share": "gate/"}})
    writer.hparams({"lr": 0.1}, ["train/accuracy"])
    assert writer.flush() > 0
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_bar_k_of_a_histogram_is_choice_k(tmp_path):
    writer = Writer(tmp_path)
    writer.histogram("counts", [0, 5, 0, 2, 0], 20)
    writer.histogram("nothing", [0, 0], 20)
    writer.close()
    shown = [
        make_ndarray(migrate_value(value).tensor)  # as TensorBoard's server shows it
        for event in _raw(tmp_path)
        for value in event.summary.value
    ]
    assert [bars.tolist() for bars in shown] == [[[0.5, 1.5, 5], [1.5, 2.5, 0], [2.5, 3.5, 2]]]


def test_image_comes_back_as_it_was(tmp_path, events):
    writer = Writer(tmp_path)
    writer.image("image", PNG, 20)
    writer.close()
    (image,) = events().Images("image")
    assert (image.width, image.height, image.step) == (38, 32, 20)
    assert image.encoded_image_string == PNG


def _raw(folder):
    (file,) = folder.glob("events.*")
    return list(LegacyEventFileLoader(str(file)).Load())
