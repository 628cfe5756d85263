"""A network that somebody else has written, cut into pieces that can be run one by one."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import Tensor, fx, nn
from torch.fx.node import Argument

from nas.errors import SpaceError
from nas.nn import GatedModel, InPlace, gated_blocks
from nas.nn.model import opened
from nas.space.base import Architecture
from nas.space.chained import Chained
from nas.space.model.once import RAISED, what_and_where


class Pieces(Chained):
    """A :class:`GatedModel` in pieces in a row, which are its modules themselves and no copies.

    A piece has one slot or several: where one tensor alone goes on nowhere between two slots, such as inside of a
    residual block, they lie in one piece.

    Args:
        whole: the network.
        stem: what lies before the first slot.
        blocks: the pieces with slots, in a row; each takes a tensor and gives one.
        entries: how many slots there are in each of them and before it.
    """

    def __init__(self, whole: GatedModel, stem: nn.Module, blocks: Sequence[nn.Module], entries: Sequence[int]) -> None:
        super().__init__()
        self.whole, self.stem, self.blocks, self._entries = whole, stem, nn.ModuleList(blocks), entries

    @property
    def entries(self) -> list[int]:
        return [0, *self._entries, self._entries[-1]]

    def prologue(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y

    def epilogue(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        y: Tensor = self.whole(x, architecture)
        return y

    def piece(self, number: int, x: Tensor, architecture: Architecture) -> Tensor:
        if not 0 < number <= len(self.blocks):
            return super().piece(number, x, architecture)
        with opened(architecture):
            y: Tensor = self.blocks[number - 1](x)
        return y


class _Tracer(fx.Tracer):
    """Looks into what holds a gate, up to the gated block itself, and takes everything else as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, InPlace) or not gated_blocks(m)


def in_pieces(supernet: GatedModel) -> Pieces:
    """``supernet`` in as many pieces as it can be cut into; they are as good as :func:`nas.space.chained.survey` says.

    Its forward pass is followed with ``torch.fx`` and cut before each slot, as late as possible, where one value that
    depends on the images goes on and no other does.

    Args:
        supernet: in eval mode.

    Raises:
        SpaceError: its forward pass cannot be followed: it depends on values or sizes of the images.
    """
    root = nn.Sequential(supernet.model)  # calls it with the images alone, whatever else its forward may take
    try:
        graph = _Tracer().trace(root)
    except RAISED as error:
        rule = f"cannot be run piece by piece: forward cannot be followed, {what_and_where(error)}"
        remedy = "keep decisions on the values or sizes of x inside modules that hold no gate"
        raise SpaceError("space.model", type(supernet.model).__name__, rule, remedy) from error
    nodes = list(graph.nodes)
    cuts, entries = _cuts(root, nodes)
    ends = [*cuts, (len(nodes) - 2, nodes[-1].args[0])]
    stem, *blocks = (_part(root, nodes, begin, end) for begin, end in zip([(0, nodes[0]), *cuts], ends, strict=True))
    return Pieces(supernet, stem, blocks, entries)


def _cuts(root: nn.Module, nodes: Sequence[fx.Node]) -> tuple[list[tuple[int, fx.Node]], list[int]]:
    """Behind which nodes the pieces with slots begin, with the value that goes on, and the slots up to their ends."""
    at, last_use = {node: i for i, node in enumerate(nodes)}, dict[fx.Node, int]()  # of what depends on the images
    cut, cuts, counts, known, slot = (0, nodes[0]), list[tuple[int, fx.Node]](), list[int](), 0, 0
    for i, node in enumerate(nodes):
        block = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(block, InPlace) and block.place >= known:
            if cut[0] >= slot:
                cuts.append(cut)
                counts.append(known)
            known, slot = block.place + 1, i
        if i == 0 or any(source in last_use for source in node.all_input_nodes):
            last_use[node] = max((at[user] for user in node.users), default=i)
        live = [value for value, last in last_use.items() if last > i]
        if len(live) == 1 and not any(map(_picks, live[0].users)):
            cut = i, live[0]
    return cuts, [*counts[1:], known]


def _picks(node: fx.Node) -> bool:
    """Whether it takes one of several values, such as those of ``x.chunk(2, 1)``."""
    return node.target is operator.getitem and isinstance(node.args[1], int)


def _part(
    root: nn.Module, nodes: Sequence[fx.Node], begin: tuple[int, fx.Node], end: tuple[int, Argument]
) -> nn.Module:
    """What is done behind ``begin`` up to ``end``, as a module that takes the value there and gives the value here."""
    graph = fx.Graph()
    known = {begin[1]: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in known:  # what does not depend on the images may lie before the piece
            known[node] = graph.node_copy(node, copied)
        return known[node]

    for node in nodes[begin[0] + 1 : end[0] + 1]:
        copied(node)
    graph.output(fx.node.map_arg(end[1], copied))
    return fx.GraphModule(root, graph)
