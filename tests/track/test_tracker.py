"""What is counted in the steps, what is written of it, and how a checkpoint keeps it."""

import json
import math
import re

import pytest
import torch
from tensorboard.plugins.custom_scalar import layout_pb2

from nas.draw import draw_grid
from nas.space import Slot
from nas.track import Tracker, Writers
from nas.track.tags import TRAIN_LOSS

SLOTS = (Slot("mix", ("conv1", "conv11", "skip")), Slot("mix.1", ("a", "b")))
PNG = draw_grid(torch.rand(1, 1, 8, 8))
STEP = {"loss": 1.0, "correct": 3, "images": 4, "step_s": 0.01, "data_s": 0.0}


@pytest.fixture
def writer(tmp_path):
    writer = Writers(tmp_path)
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


def resumed(writer, state):
    tracker = Tracker(writer, SLOTS)
    tracker.load_state_dict(state)
    return tracker


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
        "overview/images_per_s": 8 / 0.048,
        "slots/flops_skipped_share": 0.6,
        "overview/lr": 0.25,
        "optimizer/clipped": 1.0,
        "slot_share/mix/conv1": 2 / 3,
        "slot_share/mix/conv11": 1 / 3,
        "slot_share/mix/skip": 0.0,
        "slot_share/mix.1/a": 1.0,
        "slot_share/mix.1/b": 0.0,
        "slots/entropy": (math.log(3) - 2 / 3 * math.log(2)) / math.log(3) / 2,
        "slot_step_ms/mix/conv1": 10.0,
        "slot_step_ms/mix/conv11": 30.0,
        "slot_step_ms/mix.1/a": 20.0,
        "slot_grad_norm/mix/conv1": 4.0,
    }
    assert lines()[1] == pytest.approx(want)
    assert tracker.images_per_s() == pytest.approx(12 / 18.048)


def test_shares_and_entropy(writer, lines):
    tracker = Tracker(writer, (*SLOTS, Slot("fixed", ("only",))))
    assert tracker.shares() == [[0, 0, 0], [0, 0], [0]]
    for path in [(0, 0, 0), (1, 0, 0), (2, 1, 0), ((0, 1, 2), (0, 1), 0), (0, 1, 0), ((1, 2), 1, 0)]:
        tracker.step([path], **STEP)
    for _ in range(2):
        assert tracker.counts == [[3, 3, 3], [3, 4], [6]]
        assert tracker.shares() == [[1 / 3] * 3, [3 / 7, 4 / 7], [1.0]]
        tracker.log(6, lr=0.1)
    second = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7)) / math.log(2)
    assert lines()[0]["slots/entropy"] == pytest.approx((1 + second) / 2)  # "fixed" has no say
    alone = Tracker(writer, (Slot("fixed", ("only",)),))
    alone.step([(0,)], **STEP)
    alone.log(1, lr=0.1)
    assert lines()[1]["slots/entropy"] == 0


def test_paths_of_one_step_share_nobodys_time(writer, lines):
    tracker = Tracker(writer, SLOTS)
    for number, (path_s, first, second) in enumerate(((None, 5, 5), ([0.002, 0.004], 4, 6))):
        tracker.step([(0, 0), (1, 1)], **STEP, path_s=path_s)
        tracker.log(1, lr=0.1)
        line = lines()[number]
        assert line["time/step_ms"] == 10
        assert line["slot_step_ms/mix/conv1"] == line["slot_step_ms/mix.1/a"] == pytest.approx(first)
        assert line["slot_step_ms/mix/conv11"] == line["slot_step_ms/mix.1/b"] == pytest.approx(second)


def test_a_choices_accuracy_averages_the_architectures_with_it(writer, events, lines):
    tracker = Tracker(writer, SLOTS)
    tracker.step([((0, 2), 1)], **STEP)
    tracker.evaluated(0, [((2, 1), 0.1)], 2.5)  # which the next evaluation replaces
    means = tracker.evaluated(1, [((0, 0), 0.4), ((0, 1), 0.6), (((0, 1), 1), 0.8)], 0.9)
    assert means == {
        "overview/loss_val": 0.9,
        "overview/accuracy_mean": pytest.approx(0.6),
        "overview/accuracy_best": 0.8,
        TRAIN_LOSS: 1.0,
    }
    want = {"step": 1, **means, "slot_accuracy/mix/conv1": 0.6, "slot_accuracy/mix/conv11": 0.8}
    assert lines()[1] == pytest.approx({**want, "slot_accuracy/mix.1/a": 0.4, "slot_accuracy/mix.1/b": 0.7})
    writer.flush()


def test_an_epochs_loss_is_the_mean_since_the_last_evaluation(writer):
    tracker, seen = Tracker(writer, SLOTS), []
    for step, loss in enumerate((5.0, 3.0, 2.0, 1.5, 1.0)):
        tracker.step([(0, 0)], **{**STEP, "loss": loss})
        tracker = resumed(writer, tracker.state_dict())
        if step % 2:
            tracker.log(step, lr=0.1)  # which begins a new window, and no new epoch
            seen.append(tracker.evaluated(step, [((0, 0), 0.5)], 1.0)[TRAIN_LOSS])
            tracker = resumed(writer, tracker.state_dict())
        seen.append(tracker.epoch_loss())
    assert seen == [5.0, 4.0, 4.0, 2.0, 1.75, 1.75, 1.0]


def test_state_round_trip_gives_the_same_values(tmp_path, lines):
    whole = Writers(tmp_path / "whole", names=[])
    tracker = Tracker(whole, SLOTS)
    run(tracker, range(1, 21))
    whole.close()

    first = Writers(tmp_path / "cut", names=[])
    killed = Tracker(first, SLOTS)
    run(killed, range(1, 11))  # in the middle of a window
    killed.evaluated(10, [((0, 1), 0.5), (((0, 2), 0), 0.25)], 1.0)
    state, size = killed.state_dict(), first.flush()
    text = json.dumps(state)
    run(killed, range(11, 15))
    first.close()
    assert json.dumps(state) == text, "it is a copy"

    second = Writers(tmp_path / "cut", names=[], step=10, metrics_bytes=size)
    other = resumed(second, json.loads(text))
    assert other.state_dict() == json.loads(text) == state
    run(other, range(11, 21))
    second.close()
    training = [line for line in lines(tmp_path / "cut") if "train/loss" in line]
    assert training == lines(tmp_path / "whole")
    assert len(training) == 5
    assert other.counts == tracker.counts
    assert other.images_per_s() == tracker.images_per_s()


BROKEN = {
    "other counts": lambda s: s.update(counts=[[1]]),
    "a text among the counts": lambda s: s["counts"][0].__setitem__(0, "x"),
    "a time that is not finite": lambda s: s.update(run_s=math.nan),
    "a sum that is not finite": lambda s: s["window"].update(loss=math.inf),
    "an unknown slot": lambda s: s.update(accuracies=[[7, 0, 1, 0.5]]),
    "an unknown choice": lambda s: s.update(grad_norms=[[0, 3, 1, 1.0]]),
    "a short row": lambda s: s.update(grad_norms=[[0, 1, 1]]),
    "a time of no steps": lambda s: s.update(step_s=[[0, 1, 0, 1.0]]),
    "a norm that is not finite": lambda s: s.update(grad_norms=[[0, 1, 1, math.nan]]),
    "no times": lambda s: s.pop("step_s"),
    "something more": lambda s: s.update(more=1),
}


def test_a_damaged_state_is_refused_and_changes_nothing(writer):
    tracker, other = Tracker(writer, SLOTS), Tracker(writer, SLOTS)
    run(tracker, range(1, 7))
    good, empty = json.dumps(tracker.state_dict()), other.state_dict()
    for what, damage in BROKEN.items():
        state = json.loads(good)
        damage(state)
        with pytest.raises(ValueError, match=r"it|they"):
            other.load_state_dict(state)
        assert other.state_dict() == empty, what


def test_images_come_at_evaluations_1_4_16_and_last(writer, events, monkeypatch):
    monkeypatch.setattr("nas.track.images.draw_supernet", lambda *_: draw_grid(torch.rand(1, 1, 8, 8)))
    tracker = Tracker(writer, SLOTS)
    for step in range(1, 12):
        tracker.evaluated(step, [((0, 1), 0.5)], 1.0)
        tracker.image(step, last=step == 11)
        tracker = resumed(writer, tracker.state_dict())
    writer.flush()
    assert [image.step for image in events().Images("plots/supernet")] == [1, 4, 11]


def test_images_of_curves_have_every_evaluation(writer, events, monkeypatch):
    drawn = []
    monkeypatch.setattr("nas.track.images.draw_choices", lambda *given: drawn.append(given) or PNG)
    tracker = Tracker(writer, SLOTS)
    tracker.evaluated(1, [((0, 0), 0.4)], 1.0)
    tracker.image(1)
    assert not drawn, "one choice a slot has nothing to be compared with"
    tracker.evaluated(2, [((0, 1), 0.5), ((2, 1), 0.7)], 1.0)
    tracker.image(2, last=True)
    assert drawn[0][1] == [{0: [(1, 0.4), (2, 0.5)], 2: [(2, 0.7)]}, {0: [(1, 0.4)], 1: [(2, pytest.approx(0.6))]}]
    assert drawn[0][2:] == (
        "Mean validation accuracy of the 1 to 2 evaluated subnetworks that contain a choice; "
        "star: the best subnetwork, 70.0%",
        [(2,), (1,)],
    )
    writer.flush()
    assert events().Tags()["images"] == ["plots/supernet", "plots/choices_accuracy"]


def test_layout_names_tags_that_exist(writer, events):
    tracker = Tracker(writer, (*SLOTS, Slot("stage 1/wide", ("3x3", "3x3", "5+5"))))
    tracker.start("seed: 0", None)
    for choice in range(3):
        path = (choice, choice % 2, choice)
        tracker.step([path], grad_norms=dict.fromkeys(enumerate(path), 1.0), **STEP)
    tracker.log(3, lr=0.1)
    tracker.evaluated(3, [((k, k % 2, k), 0.5) for k in range(3)], 1.0)
    writer.flush()
    found = events()
    layout = layout_pb2.Layout()
    layout.ParseFromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    tags = found.Tags()["scalars"]
    shown = {
        (category.title, chart.title): [tag for tag in tags if any(re.match(rule, tag) for rule in chart.multiline.tag)]
        for category in layout.category
        for chart in category.chart
    }
    curves = {"mix": ("conv1", "conv11", "skip"), "mix.1": ("a", "b"), "stage_1_wide": ("3x3#0", "3x3#1", "5_5")}
    titles = {
        "slot_accuracy": "validation accuracy",
        "slot_share": "share of the steps",
        "slot_grad_norm": "gradient norm",
        "slot_step_ms": "step time (ms)",
    }
    overview = {tag.split("/")[1] for name, matched in shown.items() if name[0] == "overview" for tag in matched}
    assert overview == {"loss_train", "loss_val", "accuracy_best", "accuracy_mean", "lr", "images_per_s"}
    assert next(iter(shown))[0] == "overview"
    shown = {name: matched for name, matched in shown.items() if name[0] != "overview"}
    expected = {
        (slot, title): [f"{kind}/{slot}/{name}" for name in names]
        for slot, names in curves.items()
        for kind, title in titles.items()
    }
    assert shown == expected


def test_many_choices_have_no_curves(writer, events):
    tracker = Tracker(writer, (Slot("wide", tuple(map(str, range(17)))), SLOTS[1]))
    tracker.start("seed: 0")
    tracker.step([(16, 0)], grad_norms={(0, 16): 1.0, (1, 0): 1.0}, **STEP)
    tracker.log(1, lr=0.1)
    tracker.evaluated(1, [((16, 0), 0.5)], 1.0)
    tracker.image(1)
    writer.flush()
    tags = events().Tags()
    assert not [tag for tag in tags["scalars"] if "/wide/" in tag]
    assert "slot_grad_norm/mix.1/a" in tags["scalars"]


def test_a_step_touches_only_its_paths_entries(writer):
    class Counting(list):
        touched = 0

        def __getitem__(self, index):
            Counting.touched += 1
            return super().__getitem__(index)

        def __iter__(self):
            pytest.fail("goes through all choices")

    tracker = Tracker(writer, [Slot(f"slot{i}", tuple(map(str, range(500)))) for i in range(3)])
    tracker.counts = Counting(map(Counting, tracker.counts))
    for step in range(100):
        tracker.step([(step % 2,) * 3], **STEP)
    assert Counting.touched == 100 * 3 * 2  # a slot, and a choice in it
    assert len(tracker._step_s.rows()) == 2 * 3


def test_start_and_end_write_what_else_there_is(writer, events, tmp_path):
    tracker = Tracker(writer, SLOTS)
    tracker.start("space:\n  name: chain\n", torch.rand(5, 1, 8, 8), ["cat", "dog"])
    tracker.image(0, last=True)
    (tmp_path / "confusion.png").write_bytes(draw_grid(torch.rand(5, 1, 8, 8)))
    tracker.tested(1, 0.5, tmp_path / "confusion.png")
    tracker.tested(1, 0.5, tmp_path / "none.png")
    writer.flush()
    found = events()
    assert b"```yaml\nspace:\n  name: chain\n```" in found.Tensors("config/text_summary")[0].tensor_proto.string_val
    assert b"1. dog" in found.Tensors("classes/text_summary")[0].tensor_proto.string_val[0]
    assert found.Tags()["images"] == ["sample", "plots/supernet", "plots/confusion"]
