"""NAS-Bench-Macro (Su et al., CVPR 2021), exactly: 8 slots of 3 candidates, 6,561 architectures."""

from __future__ import annotations

from torch import Tensor, nn

from nas.nn import GatedSum, PooledLinear, conv_bn_relu, operation
from nas.settings import MacroSettings
from nas.space.base import Architecture, SearchSpace, Slot
from nas.space.chained import Chained

CANDIDATES = ("skip", "mb3_k3", "mb6_k5")
"""Digits 0, 1 and 2 of the published table: Identity, MB3_K3, MB6_K5."""
DEPTHS = (2, 3, 3)


class MacroNet(Chained):
    """Stem 32; stages of 64, 128 and 256 channels, the first slot of each with stride 2; head 1280."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        width = 32
        self.stem = conv_bn_relu(channels, width, 3)
        self.blocks = nn.ModuleList()
        for depth in DEPTHS:
            out = 2 * width
            for i in range(depth):
                stride = 2 if i == 0 else 1
                self.blocks.append(GatedSum([operation(name, width, out, stride) for name in CANDIDATES], CANDIDATES))
                width = out
        self.last = conv_bn_relu(width, 1280, 1)
        self.head = PooledLinear(1280, classes)

    def prologue(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y

    def epilogue(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.last(x))
        return y


class MacroSpace(SearchSpace):
    """The space of :class:`MacroNet`. An architecture is written as in the published table: ``02012100``."""

    def __init__(self, settings: MacroSettings, channels: int, image_size: int, classes: int) -> None:
        super().__init__(settings.name, tuple(Slot(f"slot{i}", CANDIDATES) for i in range(sum(DEPTHS))))
        self._arguments = (channels, classes)

    def build(self) -> nn.Module:
        return MacroNet(*self._arguments)

    def encode(self, architecture: Architecture) -> str:
        """The digits of the published table; where several gates of a slot are open, the common form."""
        text = super().encode(architecture)
        return text if "+" in text else text.replace("-", "")

    def decode(self, text: str) -> Architecture:
        """The architecture of the digits ``text``."""
        return super().decode(text if "-" in text or len(text) > len(self.slots) else "-".join(text))
