import pytest
from support.images import border_is_white, count, opened

from nas.draw import draw_supernet
from nas.draw.figure import ORANGE
from nas.draw.names import short_names, shorten, shorten_parts
from nas.draw.supernet import MAX_BOXES, boxes_of, percent
from nas.space import Slot


def even(choices):
    return [1 / choices] * choices


def test_every_size_of_supernet_can_be_drawn():
    for slots, choices in (82, 2), (1, 1), (1, 2), (1, 128), (4, 4), (14, 3):
        names = [Slot(f"net.slot{i}.conv2", tuple(f"choice{k}" for k in range(choices))) for i in range(slots)]
        png = draw_supernet(names, [even(choices)] * slots, [{0: 0.5}] * slots)
        pixels = opened(png)
        assert border_is_white(pixels), (slots, choices)
        assert 700 < pixels.shape[1] <= 1400, (slots, choices)
    assert draw_supernet(names, [even(choices)] * slots, [{0: 0.5}] * slots) == png, "equal data, equal bytes"


def test_largest_share_is_orange_and_equals_are_not():
    slot = Slot("s", ("a", "b", "c"))
    largest, equal, none = (
        count(opened(draw_supernet([slot], [s])), ORANGE) for s in ([0.2, 0.5, 0.3], even(3), [0] * 3)
    )
    assert largest > 200
    assert equal == none == 0


def test_colour_grows_with_share_and_uniform_is_half():
    def strengths(*shares):
        return [box.strength for box in boxes_of(Slot("s", tuple("abcdefgh"[: len(shares)])), shares, {})]

    assert strengths(0.0, 0.2, 0.8) == pytest.approx([0, 0.3, 1])
    for choices in (2, 3, 8):
        assert strengths(*even(choices)) == pytest.approx([0.5] * choices)


def test_many_choices_show_the_largest_and_sum_others():
    shares = [0.0] * 128
    shares[100], shares[5], shares[127] = 0.6, 0.3, 0.1
    boxes = boxes_of(Slot("s", tuple(map(str, range(128)))), shares, {5: 0.9})
    assert len(boxes) == MAX_BOXES + 1
    assert {"100", "5", "127"} < {box.name for box in boxes}
    assert [box.name for box in boxes if box.largest] == ["100"]
    assert [box.name for box in boxes if box.accuracy] == ["5"]
    assert boxes[-1].name == "and 116 more"
    assert sum(box.share for box in boxes) == pytest.approx(1)


def test_long_names_keep_their_ends():
    for letters in range(3, 32):
        short = shorten("inverted_residual_bottleneck_k7", letters)
        assert len(short) <= letters
        assert (short[0], short[-1]) == ("i", "7")
    assert shorten("conv3", 5) == "conv3"
    dense = {shorten_parts(f"denseblock{n}.denselayer{m}", 20) for n in range(1, 5) for m in range(1, 25)}
    assert (len(dense), max(map(len, dense))) == (96, 20)
    assert shorten_parts(".".join("abcdefgh"), 9) == "a.b.….g.h"


def test_short_names_drop_what_all_share_and_stay_apart():
    names = [f"net.layer{n}.{m}.conv2" for n in (1, 2) for m in range(3)]
    assert short_names(names)[:2] == ["layer1.0", "layer1.1"]
    assert short_names(["net.blocks.0", "net.blocks.12"]) == ["blocks.0", "blocks.12"]
    assert short_names(["a.b", "a.b.b"]) == ["b", "b.b"]
    assert short_names(["a", "a.b", "a.c.b"]) == ["a", "a.b", "a.c.b"]
    assert short_names(["net.mix"]) == ["net.mix"]


def test_percent_keeps_two_digits():
    assert [percent(x) for x in (0, 0.0001, 0.0078, 0.0994, 0.5, 1)] == ["0%", "<0.1%", "0.8%", "9.9%", "50%", "100%"]
