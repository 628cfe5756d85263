"""The maps: zero is white, signs have their own colours, one scale for all, and nothing is cut off."""

import torch
from support.images import border_is_white, count, opened

from nas.draw import Map, draw_maps
from nas.draw.figure import BLUE, ORANGE
from nas.draw.maps import SCALE, number


def test_signs_have_their_own_colours_on_one_scale():
    strong = torch.tensor([[1.0, 0.5], [-0.5, -1.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    maps = [Map("a", 0.9, strong), Map("b", 0.1, strong / 2), Map("c", 0.0, torch.zeros(8, 8))]
    pixels = opened(draw_maps(torch.ones(1, 8, 8), maps, "title", "subtitle", "unit"))
    quarter = count(pixels, SCALE[0])  # the ends of the scale, in the first map alone
    assert quarter > 1000
    for colour, quarters in ((SCALE[-1], 1), (BLUE, 2), (ORANGE, 2)):
        # The frame of the first map is orange too; a colour of the bar at the scale is a column of pixels.
        assert quarters * quarter * 0.9 < count(pixels, colour) < quarters * quarter * 1.2, colour
    assert count(pixels, "#ffffff") > 8 * quarter  # the third map and the image


def test_nothing_is_cut_off_whatever_the_sizes():
    name = "a class with a name that is longer than a map is wide"
    for shape, many in ((1, 8, 8), 1), ((3, 32, 32), 10), ((3, 20, 40), 6), ((3, 64, 64), 23):
        maps = [Map(name if k % 2 else "cat", 1 / (k + 1), torch.randn(shape[1:]), "true") for k in range(many)]
        pixels = opened(draw_maps(torch.rand(shape), maps, "title", "subtitle " * 40, "the unit of these maps"))
        assert border_is_white(pixels), (shape, many)


def test_numbers_are_short_and_signed():
    assert [number(value) for value in (0.3456, -0.02, 0.0, -2.13e-7)] == ["+0.35", "-0.02", "0", "-2.1e-07"]
