"""Every candidate operation of a slot gives the same shape."""

from itertools import product

import pytest
import torch
from torch import nn

from nas.errors import SettingError
from nas.nn import OPERATIONS, MBConv, operation

OTHERS = ("sep7", "dil5", "max_pool1", "avg_pool5", "mb2_k7", "conv11")


def test_operations_give_the_announced_shape():
    for name, (channels, out), stride in product([*OPERATIONS, *OTHERS], ((4, 4), (4, 6), (6, 4)), (1, 2)):
        module = operation(name, channels, out, stride)
        for height, width in ((8, 8), (7, 7), (5, 8), (1, 2)):
            y = module(torch.randn(2, channels, height, width))
            assert y.shape == (2, out, -(-height // stride), -(-width // stride)), (name, channels, out, stride)


def test_a_convolution_has_batchnorm_behind_it():
    for name in OPERATIONS:
        layers = [m for m in operation(name, 4, 6, 2).modules() if not list(m.children())]
        for layer, behind in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is None, name
                assert isinstance(behind, nn.BatchNorm2d), name
                assert behind.num_features == layer.out_channels, name


def test_skip_is_the_identity_where_shapes_agree():
    x = torch.randn(2, 4, 5, 5)
    assert operation("skip", 4, 4)(x) is x
    assert not list(operation("skip", 4, 4).parameters())
    assert (operation("skip", 4, 4, 2)(x) < 0).any()  # a projection, without ReLU
    assert (operation("skip", 4, 6)(x) < 0).any()


@pytest.mark.parametrize(("stride", "out", "shortcut"), [(1, 4, True), (2, 4, False), (1, 6, False)])
def test_mbconv_has_a_shortcut_where_shapes_agree(stride, out, shortcut):
    block = operation("mb3_k5", 4, out, stride)
    assert isinstance(block, MBConv)
    with torch.no_grad():
        block.project[1].weight.zero_()  # only the shortcut is left
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x) if shortcut else not block(x).count_nonzero()
    depthwise = block.depthwise[0]
    assert depthwise.groups == depthwise.in_channels == 12
    assert depthwise.kernel_size == (5, 5)


def test_dilation_and_kernel_are_what_the_name_says():
    assert operation("dil3", 2, 2)[0].dilation == (2, 2)
    assert operation("conv7", 2, 2)[0].kernel_size == (7, 7)
    sep = operation("sep5", 2, 3, 2)
    assert [(m.kernel_size[0], m.groups, m.stride[0]) for m in sep.modules() if isinstance(m, nn.Conv2d)] == [
        (5, 2, 2),
        (1, 1, 1),
    ]


def test_an_unknown_operation_is_refused():
    even = "conv2", "sep4", "dil2", "max_pool2", "mb3_k4"
    for name in (*even, "mb0_k3", "conv", "conv03", "conv3 ", "", "Skip", "mb3", "conv-1"):
        with pytest.raises(SettingError, match=r"space\.candidates=.*not a known operation; (choose from|did you)"):
            operation(name, 4, 4)
