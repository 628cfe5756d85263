"""What a supernet must be like is checked on a copy, before it is trained."""

import warnings

import pytest
from support.references import ModuleSpace, unchanged
from torch import nn

from nas.errors import NasWarning, SpaceError
from nas.nn import BlockConv2d, GatedConcat, GatedSum, conv_bn_relu
from nas.settings import ChainSettings, MacroSettings, TwoBranchSettings
from nas.space import build_space, check_supernet


class Net(nn.Module):
    """A gated block and what comes behind it."""

    def __init__(self, block, behind):
        super().__init__()
        self.block, self.behind = block, behind

    def forward(self, x, architecture):
        y = self.block(x, architecture[0])
        return self.behind(y.dense() if isinstance(self.block, GatedConcat) else y)


def head(channels, classes=10):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def conv(channels, kernel=3, **options):
    return nn.Conv2d(3, channels, kernel, **options)


def check(make, classes=10):
    space = ModuleSpace(make)
    supernet = space.supernet()
    check_supernet(space, supernet, 3, 8, classes)
    return supernet


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


REFUSED = {
    r"slot=block: its branches disagree in shape: branch0 gives \(2, 4, 6, 6\), branch1 gives \(2, 6, 6, 6\); ": (
        lambda: Net(GatedSum([conv(4), conv(6)]), head(4))
    ),
    r"a gives \(2, 4, 6, 6\), c gives \(2, 4, 3, 3\); make them agree": (
        lambda: Net(GatedSum([conv(4), conv(4), conv(4, stride=2)], ["a", "b", "c"]), head(4))
    ),
    r"branch0 gives \(2, 4, 6, 6\), branch1 gives \(2, 1, 6, 6\)": (  # would broadcast with two open
        lambda: Net(GatedSum([conv(4), conv(1)]), head(4))
    ),
    r"branch0 gives \(2, 4, 6, 6\), branch1 gives \(2, 2, 4, 4\)": (
        lambda: Net(GatedConcat([conv(4), conv(2, kernel=5)]), head(6))
    ),
    r"slot=block: widths \(4, 3\) should be \(4, 2\)": (
        lambda: Net(GatedConcat([conv(4), conv(2)], widths=[4, 3]), head(7))
    ),
    r"space=test: gives \(2, 7\) for 2 images; the data needs \(2, 10\)": (
        lambda: Net(GatedSum([conv(4), conv(4)]), head(4, classes=7))
    ),
}


def test_a_network_that_is_no_supernet_is_refused():
    for message, make in REFUSED.items():
        with pytest.raises(SpaceError, match=message):
            check(make)
    supernet = check(lambda: Net(GatedConcat([conv(4), conv(2)]), head(6)))
    assert supernet.block.widths == (4, 2), "branches of different widths agree in a concatenation"


def fails(error):
    class Fails(nn.Module):
        def forward(self, x):
            raise error

    return lambda: Net(GatedSum([conv(4), conv(4)]), Fails())


def test_a_crashing_network_is_refused_in_one_line():
    message = r"space=test: does not run on \(2, 3, 8, 8\) images: .+; mend its forward\(x, architecture\)"
    for make in (
        lambda: Net(GatedSum([conv(4), conv(4)]), head(5)),
        fails(TypeError("first line\nsecond line")),
        fails(IndexError("no such entry")),
    ):
        with pytest.raises(SpaceError, match=message) as error:
            check(make)
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is not None


def test_a_batchnorm_behind_a_concatenation_is_warned_of():
    for behind in (
        (nn.ReLU(), nn.BatchNorm2d(6), head(6)),
        (nn.Flatten(), nn.BatchNorm1d(6 * 36), nn.Linear(6 * 36, 10)),
    ):
        told = r"behind\.1 is a BatchNorm behind a concatenation: its bias fills the zeros"
        with pytest.warns(NasWarning, match=told):
            check(lambda behind=behind: Net(GatedConcat([conv(4), conv(2)]), nn.Sequential(*behind)))


class NormInside(nn.Module):
    """BatchNorm inside the branches, and one behind a zero-aware convolution, as it should be."""

    def __init__(self):
        super().__init__()
        self.mix = GatedConcat([conv_bn_relu(3, 4, 3), conv_bn_relu(3, 2, 3)])
        self.project = BlockConv2d(2, [4, 2], 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), head(6)

    def forward(self, x, architecture):
        return self.head(self.norm(self.project(self.mix(x, architecture[0]))))


def test_good_networks_pass_without_a_warning():
    check(NormInside)
    check(lambda: Net(GatedSum([conv(6), conv(6)]), nn.Sequential(nn.BatchNorm2d(6), head(6))))
    for settings in (TwoBranchSettings(branches=3), ChainSettings(), ChainSettings(merge="concat"), MacroSettings()):
        space = build_space(settings, image_size=16)
        check_supernet(space, space.supernet(), 3, 16, 10)


def test_the_check_leaves_everything_unchanged():
    space = ModuleSpace(NormInside)
    supernet = space.supernet()
    with unchanged(supernet):
        check_supernet(space, supernet, 3, 8, 10)


def test_what_follows_a_later_branch_is_tried():
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = GatedConcat([conv(4), conv(6)])
            self.head = BlockConv2d(2, 4, 10, 1)  # the second branch is 6 wide

        def forward(self, x, architecture):
            return self.head(self.mix(x, architecture[0])).mean(dim=(2, 3))

    with pytest.raises(SpaceError, match=r"space=test: does not run on \(2, 3, 8, 8\) images: .* 6 channels"):
        check(Behind)
