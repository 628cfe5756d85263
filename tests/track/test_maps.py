"""The maps: zero is white, signs have their own colours, one scale for all, and everything fits the page."""

import pytest
import torch

from nas.track.maps import Map, coloured, draw_maps, number


def luminance(colours):
    return (colours.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).tolist()


def test_zero_is_white_and_colours_darken_to_both_sides():
    colours = coloured(torch.linspace(-1, 1, 21), 1.0)
    light = luminance(colours)
    assert colours[10].tolist() == [255, 255, 255]
    assert light[:11] == sorted(light[:11])
    assert light[10:] == sorted(light[10:], reverse=True)
    assert all(b > r for r, _, b in colours[:10].tolist())  # blue below zero
    assert all(r > b for r, _, b in colours[11:].tolist())  # orange above


def test_the_scale_is_linear_in_between_and_clipped_beyond():
    assert torch.equal(coloured(torch.tensor([0.5]), 2.0), coloured(torch.tensor([0.25]), 1.0))
    assert torch.equal(coloured(torch.tensor([7.0]), 1.0), coloured(torch.tensor([1.0]), 1.0))
    assert coloured(torch.zeros(2, 2), 0.0).tolist() == [[[255] * 3] * 2] * 2


def test_all_maps_share_one_scale():
    values = torch.full((8, 8), 0.5)
    page = draw_maps(torch.rand(3, 8, 8), [Map("a", 0.9, values), Map("b", 0.1, values / 10)], "t", "s", "u")
    strong, weak = (tuple(coloured(value, 0.5).tolist()) for value in (torch.tensor(0.5), torch.tensor(0.05)))
    counts = {colour: count for count, colour in page.convert("RGB").getcolors(1 << 24)}
    assert counts[weak] > 200 * 200
    assert counts[strong] > 200 * 200


@pytest.mark.parametrize("count", [1, 3, 5, 6, 10, 23])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 20, 40), (3, 224, 224)])
def test_nothing_is_drawn_over_the_border(count, shape):
    name = "a class with a name that is longer than a map is wide"
    maps = [Map(name if k % 2 else "cat", 1 / (k + 1), torch.randn(*shape[1:]), "true") for k in range(count)]
    page = draw_maps(torch.rand(*shape), maps, "title", "subtitle " * 20, "the unit of these maps")
    width, height = page.size
    for box in (0, 0, width, 20), (0, height - 20, width, height), (0, 0, 20, height), (width - 20, 0, width, height):
        assert page.crop(box).getcolors() == [((box[2] - box[0]) * (box[3] - box[1]), (255, 255, 255))]


def test_every_pixel_of_a_map_is_equally_large():
    values = torch.zeros(10, 10)
    values[4, 6] = 1
    page = draw_maps(torch.zeros(1, 10, 10), [Map("a", 1.0, values)], "t", "s", "u").convert("RGB")
    dark = tuple(coloured(torch.tensor(1.0), 1.0).tolist())
    places = [i for i, pixel in enumerate(page.get_flattened_data()) if pixel == dark]
    columns, rows = {i % page.width for i in places}, {i // page.width for i in places}
    assert len(rows) >= 26
    assert len(columns) >= 26


def test_numbers_are_short_and_signed():
    assert [number(value) for value in (0.3456, -0.02, 0.0, -2.13e-7)] == ["+0.35", "-0.02", "0", "-2.1e-07"]
