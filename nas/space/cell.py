"""NAS-Bench-201 (Dong and Yang, ICLR 2020), exactly: one cell of 6 edges with 5 operations, 15,625 architectures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.errors import ArchitectureError, SpaceError, did_you_mean
from nas.nn import Active, GatedSum, PooledLinear, Zero, active_of, indices_of, open_branches
from nas.settings import CellSettings
from nas.space.base import Architecture, SearchSpace, Slot

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE = CANDIDATES.index("none")
OF_ZEROS_ZEROS = tuple(CANDIDATES.index(name) for name in ("none", "skip_connect", "avg_pool_3x3"))
NODES = 4
EDGES = tuple((source, node) for node in range(1, NODES) for source in range(node))
"""In the order of the published string: by the node that an edge leads to, then by the node that it comes from."""
STAGES = 3
EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


def relu_conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution without bias, BatchNorm; ``H' = ceil(H / stride)``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out_channels))


def _candidates(width: int) -> list[nn.Module]:
    # In the order of CANDIDATES. The padding is not part of the average.
    average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return [Zero(), nn.Identity(), relu_conv_bn(width, width, 1), relu_conv_bn(width, width, 3), average]


def _slot_name(source: int, node: int) -> str:
    return f"edge{source}_{node}"


class Cell(nn.Module):
    """Node 0 is the input, every other node sums its edges from earlier nodes, and the last node is the output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            GatedSum(_candidates(width), CANDIDATES, slot=_slot_name(source, node)) for source, node in EDGES
        )

    def forward(self, x: Tensor, entries: Sequence[Active | None]) -> Tensor:
        """The output for the six edges' ``entries``; None for an edge that need not run."""
        nodes: list[Tensor | None] = [x, *[None] * (NODES - 1)]  # None for zeros
        for (source, node), edge, entry in zip(EDGES, self.edges, entries, strict=True):
            if entry is not None:
                start, total = nodes[source], nodes[node]
                value = edge(torch.zeros_like(x) if start is None else start, entry)
                nodes[node] = value if total is None else total + value
        output = nodes[-1]
        return torch.zeros_like(x) if output is None else output


class Reduction(nn.Module):
    """The residual block between two stages: ``(B, C, H, W)`` in, ``(B, 2C, H/2, W/2)`` out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(width, 2 * width, 3, stride=2)
        self.conv_b = relu_conv_bn(2 * width, 2 * width, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.conv_b(self.conv_a(x))
        return y


class CellNet(nn.Module):
    """Stem, three stages of equal cells with reductions between them, BatchNorm-ReLU, average, Linear.

    The initial weights are torch's defaults, as in the published networks.
    """

    def __init__(self, settings: CellSettings, channels: int, classes: int) -> None:
        super().__init__()
        width = settings.width
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.cells = nn.ModuleList()
        for stage in range(STAGES):
            if stage > 0:
                self.cells.append(Reduction(width))
                width *= 2
            self.cells.extend(Cell(width) for _ in range(settings.cells))
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.head = PooledLinear(width, classes)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        entries = needed(architecture)
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, entries) if isinstance(cell, Cell) else cell(x)
        y: Tensor = self.head(self.last(x))
        return y


def needed(architecture: Architecture) -> list[Active | None]:
    """What has to run of each edge for the output of a cell and for its gradients; None for nothing.

    Left out are ``none``; what turns the zeros of a node without a value into zeros; and edges from whose end no path
    leads to the output. A convolution of such zeros stays: its BatchNorm adds a bias to them.
    """
    entries, valued = list[Active | None](), {0}
    for (source, node), entry in zip(EDGES, architecture, strict=True):  # those into a node come before those out of it
        entries.append(_without(entry, (NONE,) if source in valued else OF_ZEROS_ZEROS))
        if entries[-1] is not None:
            valued.add(node)
    reaching = {NODES - 1}
    for i, (source, node) in reversed(list(enumerate(EDGES))):
        if node not in reaching:
            entries[i] = None
        elif entries[i] is not None:
            reaching.add(source)
    return entries


def _without(entry: Active, left_out: Sequence[int]) -> Active | None:
    """The entry without some operations, or None if nothing is left."""
    kept = [index for index in open_branches(entry, len(CANDIDATES)) if index not in left_out]
    return active_of(kept) if kept else None


class CellSpace(SearchSpace):
    """The space of :class:`CellNet`: a slot for each edge of the cell, the same in every cell.

    An architecture is written as published, ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``: the nodes 1 to 3,
    each with the operations on its edges and where they come from. It is the only form, since published
    tuples of numbers use two different orders of the operations. Several open gates of an edge have an entry each.

    An edge that reaches no output does not run, and is no part of the stand-alone network, its FLOPs and parameters:
    outputs and gradients are the published ones, while the published networks compute such edges all the same.

    Raises:
        SpaceError: the sides of the images cannot be halved twice.
    """

    def __init__(self, settings: CellSettings, channels: int, image_size: int, classes: int) -> None:
        if image_size % 2 ** (STAGES - 1):
            rule = "must be divisible by 4 for space cell"
            raise SpaceError("data.image_size", image_size, rule, "use 16 or 32, or space=chain")
        super().__init__(settings.name, tuple(Slot(_slot_name(*edge), CANDIDATES) for edge in EDGES))
        self._arguments = (settings, channels, classes)

    def build(self) -> nn.Module:
        return CellNet(*self._arguments)

    def canonical(self, architecture: Architecture) -> Architecture:
        """``architecture`` with ``none`` wherever nothing has to run."""
        return tuple(NONE if entry is None else entry for entry in needed(self.validate(architecture)))

    def encode(self, architecture: Architecture) -> str:
        """The published string."""
        nodes: list[list[str]] = [[] for _ in range(1, NODES)]
        for (source, node), entry in zip(EDGES, self.validate(architecture), strict=True):
            nodes[node - 1] += [f"{CANDIDATES[index]}~{source}" for index in indices_of(entry)]
        return "+".join(f"|{'|'.join(entries)}|" for entries in nodes)

    def decode(self, text: str) -> Architecture:
        """The architecture of a published string.

        Raises:
            ArchitectureError: the text has another form, an unknown operation, or an edge out of place.
        """
        nodes = text.split("+")
        if len(nodes) != NODES - 1:
            raise _unreadable(text, f"must have {NODES - 1} nodes, joined by '+'; it has {len(nodes)}")
        return tuple(entry for node, part in enumerate(nodes, start=1) for entry in _entries(text, node, part))


def _entries(text: str, node: int, part: str) -> list[Active]:
    """What ``part`` of the published string ``text`` says of the edges that lead to ``node``."""
    if not re.fullmatch(r"\|(\w+~\d\|)+", part, re.ASCII):
        raise _unreadable(text, f"node {node} must read |operation~source|...|, not {part!r}")
    read = [(entry[:-2], int(entry[-1])) for entry in part.strip("|").split("|")]
    entries: list[list[int]] = [[] for _ in range(node)]
    sources = [source for _, source in read]
    if sources != sorted(sources) or set(sources) != set(range(node)):
        rule = f"node {node} must have the edges from {', '.join(map(str, range(node)))}, in this order"
        raise _unreadable(text, f"{rule}, not from {', '.join(map(str, sources))}")
    for name, source in read:
        if name not in CANDIDATES:
            rule = f"{name} is not an operation of this space ({', '.join(CANDIDATES)})"
            raise ArchitectureError("architecture", text, rule, did_you_mean(name, CANDIDATES, "take one of them"))
        if CANDIDATES.index(name) in entries[source]:
            raise _unreadable(text, f"node {node} has {name} from {source} twice")
        entries[source].append(CANDIDATES.index(name))
    return [active_of(entry) for entry in entries]


def _unreadable(text: str, rule: str) -> ArchitectureError:
    return ArchitectureError("architecture", text, rule, f"write for example {EXAMPLE}")
