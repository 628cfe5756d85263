"""NAS-Bench-Macro as published: parameters and multiply-accumulates of its architectures."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import PathFlops
from nas.nn import MBConv
from nas.settings import MacroSettings
from nas.space import build_space

PUBLISHED = {
    "00000000": (387_882, 7_713_280),
    "11111111": (1_588_874, 53_246_464),
    "22222222": (2_932_586, 105_660_928),
    "02012100": (890_666, 47_327_744),
    "10000000": (396_298, 12_128_768),
    "00200000": (464_554, 17_240_576),
    "01020120": (1_585_386, 45_705_728),
    "21012012": (1_994_922, 64_512_512),
    "12201102": (1_588_106, 60_656_128),
    "00011122": (2_377_642, 51_382_784),
    "22210000": (650_474, 48_935_424),
    "20121021": (1_998_890, 62_083_584),
}
"""Rows of the published table (CIFAR-10): architecture to (params, flops)."""


@pytest.fixture(scope="module")
def space():
    return build_space(MacroSettings())


def test_parameters_of_published_architectures_equal_the_table(space):
    supernet = space.supernet()
    size = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    added = [[size(branch) for branch in block.branches] for block in supernet.blocks]
    shared = size(supernet.stem) + size(supernet.last) + size(supernet.head)
    for text, (parameters, _) in PUBLISHED.items():
        choices = zip(added, space.decode(text), strict=True)
        assert shared + sum(sizes[choice] for sizes, choice in choices) == parameters


def test_flops_of_published_architectures_equal_twice_the_table(space):
    """The table counts multiply-accumulates, we count 2 for each; nothing else differs."""
    flops = PathFlops(space, space.supernet(), (3, 32, 32))
    assert {text: flops(space.decode(text)) for text in PUBLISHED} == {
        t: 2 * macs for t, (_, macs) in PUBLISHED.items()
    }


@pytest.mark.parametrize("text", ["00000000", "02012100", "22222222"])
def test_a_subnet_has_the_published_parameters_and_flops(space, text):
    subnet = space.subnet(space.decode(text))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert subnet.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert (sum(p.numel() for p in subnet.parameters()), counter.get_total_flops() // 2) == PUBLISHED[text]


def test_stages_and_candidates_are_as_published(space):
    supernet, shapes = space.supernet().eval(), []
    for block in (*supernet.blocks, supernet.last):
        block.register_forward_hook(lambda _, args, y: shapes.append(tuple(y.shape[1:])))
    supernet(torch.randn(1, 3, 32, 32), space.decode("21021021"))
    assert shapes == [(64, 16, 16)] * 2 + [(128, 8, 8)] * 3 + [(256, 4, 4)] * 3 + [(1280, 4, 4)]
    for number, block in enumerate(supernet.blocks):
        first = number in (0, 2, 5)
        identity, small, large = block.branches
        assert [type(m).__name__ for m in identity.modules()][1:] == (["Conv2d", "BatchNorm2d"] if first else [])
        for mb, expansion, kernel in ((small, 3, 3), (large, 6, 5)):
            assert isinstance(mb, MBConv)
            assert mb.shortcut != first
            assert mb.depthwise[0].kernel_size == (kernel, kernel)
            assert mb.depthwise[0].stride == ((2, 2) if first else (1, 1))
            assert mb.expand[0].out_channels == expansion * mb.expand[0].in_channels
