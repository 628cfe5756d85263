import pytest
import torch
from PIL import Image

from nas.space import Slot
from nas.track import draw_supernet
from nas.track.picture import ACCENT, BLUE, MAX_BOXES, _column, _fit, _length, _percent
from nas.track.sample import tile


def even(choices):
    return [1 / choices] * choices


def colours(picture):
    return {colour for _, colour in picture.getcolors(1 << 24)}


@pytest.mark.parametrize(("slots", "choices"), [(1, 1), (1, 2), (1, 128), (4, 4), (8, 3), (20, 8)])
def test_every_size_of_supernet_can_be_drawn(slots, choices):
    names = [Slot(f"slot{i}", tuple(f"choice{k}" for k in range(choices))) for i in range(slots)]
    picture = draw_supernet(names, [even(choices)] * slots, [{0: 0.5}] * slots)
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.width < 4500  # rows of at most eight slots


def test_largest_share_has_the_accent_and_equals_have_none():
    slot = Slot("s", ("a", "b", "c"))
    assert ACCENT in colours(draw_supernet([slot], [[0.2, 0.5, 0.3]]))
    assert ACCENT not in colours(draw_supernet([slot], [even(3)]))
    assert ACCENT not in colours(draw_supernet([slot], [[0.0] * 3]))


def test_colour_grows_with_the_share():
    boxes = _column(Slot("s", ("a", "b", "c")), [0.0, 0.2, 0.8], {}).boxes
    reds = [box.colour[0] for box in boxes]
    assert reds == sorted(reds, reverse=True)
    assert boxes[2].colour == BLUE


def test_of_many_choices_the_largest_are_shown_and_the_rest_are_summed():
    shares = [0.0] * 128
    shares[100], shares[5] = 0.6, 0.3
    shares[127] = 0.1
    boxes = _column(Slot("s", tuple(map(str, range(128)))), shares, {}).boxes
    assert len(boxes) == MAX_BOXES + 1
    assert {"100", "5", "127"} < {box.name for box in boxes}
    assert boxes[-1].name == "and 116 more"
    assert sum(box.share for box in boxes) == pytest.approx(1)


def test_long_names_are_cut_to_their_box_and_keep_their_ends():
    short = _fit("inverted_residual_bottleneck_k7", 13, 100)
    assert _length(short, 13) <= 100
    assert short.startswith("inv")
    assert short.endswith("k7")
    assert _fit("conv3", 13, 100) == "conv3"


def test_percent_keeps_two_digits():
    assert [_percent(x) for x in (0, 0.0001, 0.0078, 0.5, 1)] == ["0%", "<0.1%", "0.8%", "50%", "100%"]


def test_sample_pictures_stay_in_order_and_are_enlarged():
    batch = torch.linspace(0, 1, 40)[:, None, None, None].expand(40, 1, 8, 8)
    picture = tile(batch)
    assert picture.size == (8 * 32, 4 * 32)  # 8 columns and 4 rows of 3 x 8 pixels with a border of 4
    for index in (0, 9, 31):
        level = round(index / 39 * 255)
        assert picture.getpixel((index % 8 * 32 + 16, index // 8 * 32 + 16)) == pytest.approx((level,) * 3, abs=1)
    assert tile(torch.rand(3, 3, 8, 8)).size == (3 * 32, 32)
    assert isinstance(tile(torch.rand(9, 3, 96, 96)), Image.Image)
