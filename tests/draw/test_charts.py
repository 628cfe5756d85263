"""The charts of searches and rankings, and the grid of training images: what must be seen is drawn."""

import math
import subprocess
import sys

import pytest
import torch
from support.images import border_is_white, count, opened

from nas.draw import (
    MOST,
    Axis,
    Panel,
    Points,
    draw_choices,
    draw_confusion,
    draw_curve,
    draw_curves,
    draw_front,
    draw_grid,
    draw_scatter,
    draw_values,
    draw_verdict,
)
from nas.draw.figure import BLUE, ORANGE
from nas.draw.scatter import finite_mean, is_squashed
from nas.space import Slot

LOSS, COST, SIZE = Axis("loss", True), Axis("MFLOPs", True), Axis("accuracy (%)", False)


def test_a_front_has_a_panel_for_each_pair():
    rows = [(3.0, 1.0, 50.0), (2.0, 2.0, 60.0), (1.0, 3.0, 70.0), (3.0, 3.0, 40.0)]
    sizes = {}
    for number in (2, 3):
        cut = [row[:number] for row in rows]
        points = Points(cut, cut[3:], cut[:3], cut[0], ["0-1", "1-1", "2-1"])
        pixels = opened(draw_front([LOSS, COST, SIZE][:number], points))
        assert border_is_white(pixels)
        assert count(pixels, BLUE) > 100
        assert count(pixels, ORANGE) > 20  # the star
        sizes[number] = pixels.shape[1]
    assert 2.3 < sizes[3] / sizes[2] < 3


def test_a_confusion_matrix_is_whole_with_any_number_of_classes():
    for many in (2, 30, 130):
        counts = 3 * torch.eye(many, dtype=torch.int64)
        counts[0, 1], counts[1] = 9, 0  # the second class has no images
        pixels = opened(draw_confusion(counts, [f"${name}" for name in range(many)], "all of them"))
        assert border_is_white(pixels)
        assert max(pixels.shape) <= 1400
        assert many != 30 or count(pixels, BLUE) > 2000, "classes that are always right"
        assert many > 2 or count(pixels, "#db7422") > 2000, "three quarters of a class are another"


def test_values_and_hypervolume_are_drawn_over_the_trials():
    values = draw_values(Axis("naswot (larger is better)", False), {1: 1.0, 3: 2.0}, {2: 5.0}, [1.0, 2.0])
    curve = draw_curve([1, 3, 4], [0.1, 0.5, 0.5], "loss 0.1", "loss 2.0")
    for png in (values, curve):
        assert border_is_white(opened(png))
        assert count(opened(png), BLUE) > 300
    assert LOSS.text == "loss, smaller is better"
    assert Axis("naswot (larger is better)", False).text == "naswot (larger is better)"


def test_the_best_choice_of_each_slot_is_named(monkeypatch):
    seen = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, text, **_: seen.append(text))
    slots = [Slot(f"net.{k}.op", ("$a", "b", "c")) for k in range(14)] + [Slot("net.alone.op", ("a",))]
    curves = [{0: [(1, 0.9), (2, 0.5)], 2: [(2, 0.5 + 0.01 * k)]} for k in range(14)] + [{0: [(2, 0.9)]}]
    pixels = opened(draw_choices(slots, curves, "Accuracy", [(2,)] * 15))
    assert border_is_white(pixels)
    assert pixels.shape[1] <= 1400
    assert [text for text in seen if "\n" in text][-1] == "net.13\nc 63.0%, 13.0 points ahead of $a"
    assert len([text for text in seen if "\n" in text]) == 12
    assert not [text for text in seen if text.startswith(("net.0\n", "net.1\n", "net.alone"))], "smallest leads"


def test_any_name_of_a_run_can_be_drawn():
    names = [f"run $_{{{k}$" for k in range(MOST)]
    names[0] = "gate=uniform optimizer.lr=0.05 " * 10
    png = draw_curves({"a$^": {name: [(0, 1.0), (5, 2.0)] for name in names}})
    assert border_is_white(opened(png))


def test_a_verdict_shows_every_pair():
    shown = [opened(draw_verdict(range(n), [53.0] * n, [50.0 + i for i in range(n)], "better " * 20)) for n in (2, 8)]
    for pixels in shown:
        assert border_is_white(pixels)
    for colour in (BLUE, ORANGE):
        assert count(shown[1], colour) > 2 * count(shown[0], colour) > 100


def test_a_scatter_fits_every_panel_and_takes_infinities():
    values = torch.linspace(0, 1, 30, dtype=torch.float64)[None]
    top = torch.arange(30) > 26
    odd = values.clone()
    odd[0, :3] = -math.inf
    panels = [Panel("loss\ntau 1", values, 29), Panel("naswot", odd, 28), Panel("flops", torch.ones_like(values), 0)]
    five = opened(draw_scatter([*panels, *panels[:2]], 100 * values[0], values[0], top))
    two = opened(draw_scatter(panels[:2], 100 * values[0], None, top))
    assert border_is_white(five)
    assert border_is_white(two)
    assert five.shape[1] == pytest.approx(2 * two.shape[1], rel=0.1)
    assert five.shape[0] > 1.5 * two.shape[0]


def test_infinite_predictions_are_drawn_beyond_the_finite_ones():
    values = torch.tensor([[0.0, 1.0, math.inf, -math.inf], [2.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert finite_mean(values).tolist() == pytest.approx([1.0, 1.0, 1.6, 0.4])
    assert finite_mean(torch.tensor([[-math.inf]])).isfinite().all()
    assert is_squashed(torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0]))
    assert not is_squashed(torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0]))


def test_samples_stay_in_order_and_small_ones_grow():
    batch = torch.linspace(0, 1, 40)[:, None, None, None].expand(40, 1, 8, 8)
    pixels = opened(draw_grid(batch))
    assert pixels.shape == (4 * 32, 8 * 32, 3)  # 4 rows and 8 columns of 3 x 8 pixels with a border of 4
    for index in (0, 9, 31):
        level = round(index / 39 * 255)
        assert pixels[index // 8 * 32 + 16, index % 8 * 32 + 16].tolist() == pytest.approx([level] * 3, abs=1)
    assert opened(draw_grid(torch.rand(3, 3, 8, 8))).shape == (32, 3 * 32, 3)
    assert opened(draw_grid(torch.rand(9, 3, 96, 96))).shape == (2 * 104, 8 * 104, 3)


def test_training_does_not_import_matplotlib_before_it_draws():
    code = "import sys, nas.train, nas.track, nas.draw; print([m for m in sys.modules if m.startswith('matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
