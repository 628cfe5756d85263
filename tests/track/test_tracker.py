import io
import json
import math
import re

import pytest
import torch
from tensorboard.plugins.custom_scalar import layout_pb2

from nas.draw import draw_grid
from nas.errors import DivergedError
from nas.space import Slot
from nas.track import Tracker, Writer

SLOTS = (Slot("mix", ("conv1", "conv11", "skip")), Slot("mix.1", ("a", "b")))
STEP = {"loss": 1.0, "correct": 3, "images": 4, "step_s": 0.01, "data_s": 0.0}


@pytest.fixture
def writer(tmp_path):
    writer = Writer(tmp_path)
    yield writer
    writer.close()


def run(tracker, steps, log_every=4):
    for step in steps:
        norms = {(0, step % 3): 0.1 * step, (1, step % 2): 2.0} if step % 3 == 0 else None
        numbers = {"loss": 1 / step, "correct": step % 5, "images": 8, "step_s": 0.01 + step / 700, "data_s": 0.001}
        entry = (0, 2) if step % 5 == 0 else step % 3  # now and then two open gates
        tracker.step([(entry, step % 2)], grad_norms=norms, **numbers)
        if step % log_every == 0:
            tracker.log(step, lr=0.1 / step, extra={"optimizer/clipped": 0.0})


def test_window_holds_the_means_since_the_last_log(writer, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([(0, 0)], loss=9.0, correct=0, images=4, step_s=9.0, data_s=9.0)
    tracker.log(1, lr=0.5)
    tracker.step([(0, 0)], loss=1.0, correct=3, images=4, step_s=0.010, data_s=0.002, grad_norms={(0, 0): 4.0})
    tracker.step([(1, 0)], loss=2.0, correct=4, images=4, step_s=0.030, data_s=0.006)
    tracker.log(3, lr=0.25, flops_skipped_share=0.6, extra={"optimizer/clipped": 1.0})
    tracker.log(3, lr=0.25)  # an empty window writes nothing
    assert len(lines()) == 2
    want = {
        "step": 3,
        "train/loss": 1.5,
        "train/accuracy": 7 / 8,
        "time/step_ms": 20.0,
        "time/data_ms": 4.0,
        "throughput/images_per_s": 8 / 0.048,
        "throughput/flops_skipped_share": 0.6,
        "optimizer/lr": 0.25,
        "optimizer/clipped": 1.0,
        "gate/share_mix/conv1": 2 / 3,
        "gate/share_mix/conv11": 1 / 3,
        "gate/share_mix/skip": 0.0,
        "gate/share_mix.1/a": 1.0,
        "gate/share_mix.1/b": 0.0,
        "gate/entropy": (math.log(3) - 2 / 3 * math.log(2)) / math.log(3) / 2,
        "time/step_ms_mix/conv1": 10.0,
        "time/step_ms_mix/conv11": 30.0,
        "time/step_ms_mix.1/a": 20.0,
        "grad_norm_mix/conv1": 4.0,
    }
    assert lines()[1] == pytest.approx(want)
    assert tracker.images_per_s() == pytest.approx(12 / 18.048)


def test_shares_and_entropy(writer, lines):
    tracker = Tracker(writer, (*SLOTS, Slot("fixed", ("only",))))
    assert tracker.shares() == [[0, 0, 0], [0, 0], [0]]
    for path in [(0, 0, 0), (1, 0, 0), (2, 1, 0), ((0, 1, 2), (0, 1), 0), (0, 1, 0), ((1, 2), 1, 0)]:
        tracker.step([path], **STEP)
    assert tracker.counts == [[3, 3, 3], [3, 4], [6]]
    tracker.log(6, lr=0.1)
    assert tracker.counts == [[3, 3, 3], [3, 4], [6]]
    assert tracker.shares() == [[1 / 3] * 3, [3 / 7, 4 / 7], [1.0]]
    second = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7)) / math.log(2)
    assert lines()[0]["gate/entropy"] == pytest.approx((1 + second) / 2)  # "fixed" has no say


def test_entropy_without_a_choice_is_zero(writer, lines):
    tracker = Tracker(writer, (Slot("fixed", ("only",)),))
    tracker.step([(0,)], **STEP)
    tracker.log(1, lr=0.1)
    assert lines()[0]["gate/entropy"] == 0


def test_paths_of_one_step_share_its_time(writer, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([(0, 0), (1, 1)], **STEP)
    tracker.log(1, lr=0.1)
    (line,) = lines()
    assert line["time/step_ms"] == 10
    assert line["time/step_ms_mix/conv1"] == line["time/step_ms_mix.1/b"] == 5


def test_paths_of_one_step_keep_their_own_time_and_share_the_rest(writer, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([(0, 0), (1, 1)], **STEP, path_s=[0.002, 0.004])
    tracker.log(1, lr=0.1)
    (line,) = lines()
    assert line["time/step_ms_mix/conv1"] == pytest.approx(4)
    assert line["time/step_ms_mix.1/b"] == pytest.approx(6)


def test_validation_accuracy_is_a_mean_over_the_architectures_with_a_choice(writer, events, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([((0, 2), 1)], **STEP)
    tracker.evaluated(1, [((0, 0), 0.4), ((0, 1), 0.6), (((0, 1), 1), 0.8)])
    want = {"step": 1, "val/accuracy": 0.6, "val/accuracy_mix/conv1": 0.6, "val/accuracy_mix/conv11": 0.8}
    assert lines()[0] == pytest.approx({**want, "val/accuracy_mix.1/a": 0.4, "val/accuracy_mix.1/b": 0.7})
    writer.flush()
    assert events().Histograms("gate/counts_mix")[0].histogram_value.bucket == [1, 0, 1]


def test_state_round_trip_gives_the_same_values(tmp_path, lines):
    whole = Writer(tmp_path / "whole", tensorboard=False)
    tracker = Tracker(whole, SLOTS)
    run(tracker, range(1, 21))
    whole.close()

    first = Writer(tmp_path / "cut", tensorboard=False)
    killed = Tracker(first, SLOTS)
    run(killed, range(1, 11))  # in the middle of a window
    killed.evaluated(10, [((0, 1), 0.5), (((0, 2), 0), 0.25)])
    file = io.BytesIO()
    torch.save({"tracker": killed.state_dict(), "bytes": first.flush()}, file)
    run(killed, range(11, 15))
    first.close()

    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert json.loads(json.dumps(loaded["tracker"])) == loaded["tracker"]  # plain containers
    second = Writer(tmp_path / "cut", tensorboard=False, step=10, metrics_bytes=loaded["bytes"])
    resumed = Tracker(second, SLOTS, state=loaded["tracker"])
    assert resumed.state_dict() == loaded["tracker"]
    run(resumed, range(11, 21))
    second.close()
    training = [line for line in lines(tmp_path / "cut") if "train/loss" in line]
    assert training == lines(tmp_path / "whole")
    assert len(training) == 5
    assert resumed.counts == tracker.counts
    assert resumed.images_per_s() == tracker.images_per_s()


def test_a_state_is_a_copy(writer):
    tracker = Tracker(writer, SLOTS)
    run(tracker, range(1, 6))
    state = tracker.state_dict()
    before = json.dumps(state)
    other = Tracker(writer, SLOTS, state=state)
    run(tracker, range(6, 12))
    run(other, range(6, 12))
    assert json.dumps(state) == before


BROKEN = {
    "other counts": lambda s: s.update(counts=[[1]]),
    "a text among the counts": lambda s: s["counts"][0].__setitem__(0, "x"),
    "a time that is not finite": lambda s: s.update(run_s=math.nan),
    "a sum that is not finite": lambda s: s["window"].update(loss=math.inf),
    "an unknown slot": lambda s: s.update(accuracies=[[7, 0, 0.5]]),
    "an unknown choice": lambda s: s.update(grad_norms=[[0, 3, 1, 1.0]]),
    "a short row": lambda s: s.update(grad_norms=[[0, 1, 1]]),
    "a path with an unknown choice": lambda s: s.update(paths=[[[9], [0]]], path_sums=[[1, 1.0]]),
    "a path without an open choice": lambda s: s.update(paths=[[[], [0]]], path_sums=[[1, 1.0]]),
    "a path too short": lambda s: s.update(paths=[[[0]]], path_sums=[[1, 1.0]]),
    "a path without its sums": lambda s: s.update(path_sums=[]),
    "no paths": lambda s: s.pop("paths"),
    "something more": lambda s: s.update(more=1),
}


def test_a_damaged_state_is_refused_and_changes_nothing(writer):
    tracker = Tracker(writer, SLOTS)
    run(tracker, range(1, 7))
    tracker.evaluated(6, [((0, 1), 0.5)])
    good = json.dumps(tracker.state_dict())
    other = Tracker(writer, SLOTS)
    empty = other.state_dict()
    for what, damage in BROKEN.items():
        state = json.loads(good)
        damage(state)
        with pytest.raises(ValueError, match=r"it|they"):
            other.load_state_dict(state)
        assert other.state_dict() == empty, what
    other.load_state_dict(json.loads(good))
    assert other.state_dict() == tracker.state_dict()


def test_images_are_drawn_after_1_2_4_evaluations_and_the_last(writer, events, monkeypatch):
    monkeypatch.setattr("nas.track.tracker.draw_supernet", lambda *_: draw_grid(torch.rand(1, 1, 8, 8)))
    tracker = Tracker(writer, SLOTS)
    for step in range(1, 12):
        tracker.evaluated(step, [((0, 1), 0.5)])
        tracker.image(step, last=step == 11)
        tracker = Tracker(writer, SLOTS, tracker.state_dict())
    writer.flush()
    assert [image.step for image in events().Images("supernet")] == [1, 2, 4, 8, 11]


def test_layout_names_tags_that_exist(writer, events):
    tracker = Tracker(writer, (*SLOTS, Slot("stage 1/wide", ("3x3", "3x3", "5+5"))))
    tracker.start("seed: 0", None)
    for choice in range(3):
        path = (choice, choice % 2, choice)
        tracker.step([path], grad_norms=dict.fromkeys(enumerate(path), 1.0), **STEP)
    tracker.log(3, lr=0.1)
    tracker.evaluated(3, [((k, k % 2, k), 0.5) for k in range(3)])
    writer.flush()
    found = events()
    layout = layout_pb2.Layout()
    layout.ParseFromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    shown = {
        category.title: {
            chart.title: [
                tag for tag in found.Tags()["scalars"] if any(re.match(rule, tag) for rule in chart.multiline.tag)
            ]
            for chart in category.chart
        }
        for category in layout.category
    }
    assert list(shown) == ["mix", "mix.1", "stage_1_wide"]
    for kind, title in [
        ("gate/share", "share of the steps"),
        ("val/accuracy", "validation accuracy"),
        ("grad_norm", "gradient norm"),
        ("time/step_ms", "step time (ms)"),
    ]:
        assert shown["mix"][title] == [f"{kind}_mix/conv1", f"{kind}_mix/conv11", f"{kind}_mix/skip"]
        assert shown["mix.1"][title] == [f"{kind}_mix.1/a", f"{kind}_mix.1/b"]
        wide = [f"{kind}_stage_1_wide/{name}" for name in ("3x3#0", "3x3#1", "5_5")]
        assert shown["stage_1_wide"][title] == wide


def test_a_slot_of_many_choices_has_a_histogram_and_no_curves(writer, events):
    tracker = Tracker(writer, (Slot("wide", tuple(map(str, range(17)))), SLOTS[1]))
    tracker.start("seed: 0")
    tracker.step([(16, 0)], grad_norms={(0, 16): 1.0, (1, 0): 1.0}, **STEP)
    tracker.log(1, lr=0.1)
    tracker.evaluated(1, [((16, 0), 0.5)])
    tracker.image(1)
    writer.flush()
    tags = events().Tags()
    assert not [tag for tag in tags["scalars"] if "_wide/" in tag]
    assert "grad_norm_mix.1/a" in tags["scalars"]
    assert tags["histograms"] == ["gate/counts_wide", "gate/counts_mix.1"]


def test_non_finite_loss_is_refused(writer, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([(0, 0)], **{**STEP, "loss": math.nan})
    with pytest.raises(DivergedError, match="train/loss"):
        tracker.log(1, lr=0.1)
    assert lines() == []


@pytest.mark.parametrize(("slots", "choices"), [(1, 2), (1, 4096), (20, 64)])
def test_step_cost_does_not_grow_with_choices(writer, slots, choices):
    """A step looks at its own path as one key: it neither reads nor makes anything of the size of the space."""

    class Counting(list):
        touched = 0

        def __getitem__(self, index):
            Counting.touched += 1
            return super().__getitem__(index)

        def __setitem__(self, index, value):
            Counting.touched += 1
            super().__setitem__(index, value)

        def __iter__(self):
            Counting.touched += 1
            return super().__iter__()

    tracker = Tracker(writer, [Slot(f"slot{i}", tuple(map(str, range(choices)))) for i in range(slots)])
    tracker._counts = Counting(Counting(row) for row in tracker._counts)
    Counting.touched = 0
    for step in range(100):
        tracker.step([(step % 2,) * slots], **STEP)
    assert Counting.touched == 0
    assert len(tracker._paths) == 2  # an entry for each path, not for each slot or choice
    assert sum(map(sum, tracker.counts)) == 100 * slots


def test_start_writes_config_sample_and_classes(writer, events):
    tracker = Tracker(writer, SLOTS)
    tracker.start("space:\n  name: chain\n", torch.rand(5, 1, 8, 8), ["cat", "dog"])
    tracker.image(0)
    writer.flush()
    found = events()
    assert b"```yaml\nspace:\n  name: chain\n```" in found.Tensors("config/text_summary")[0].tensor_proto.string_val
    assert b"1. dog" in found.Tensors("classes/text_summary")[0].tensor_proto.string_val[0]
    assert found.Tags()["images"] == ["sample", "supernet"]
