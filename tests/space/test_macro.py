"""NAS-Bench-Macro as published: parameters and multiply-accumulates of its architectures."""

import pytest
import torch

from nas.cost import PathFlops, PathParameters, count_parameters
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


def test_parameters_and_flops_are_those_of_the_table(space):
    """The table counts multiply-accumulates, we count 2 for each; nothing else differs."""
    supernet = space.supernet()
    parameters, flops = PathParameters(space, supernet), PathFlops(space, supernet, (3, 32, 32))
    for text, (published, macs) in PUBLISHED.items():
        architecture = space.decode(text)
        assert (parameters(architecture), flops(architecture)) == (published, 2 * macs), text
    assert count_parameters(space.subnet(space.decode("02012100"))) == PUBLISHED["02012100"][0]


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
