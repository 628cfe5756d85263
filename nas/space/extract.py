"""From a supernet and an architecture to the plain network that it names."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, fx, nn

from nas.errors import SpaceError
from nas.nn import Active, BlockConv2d, BlockLinear, GatedBlock, GatedModel

_GATED = (GatedBlock, BlockLinear, BlockConv2d)


class _Bound(nn.Module):
    """A supernet at one architecture, so that tracing sees the input as the only argument."""

    def __init__(self, supernet: nn.Module, architecture: tuple[Active, ...]) -> None:
        super().__init__()
        self.supernet, self.architecture = supernet, architecture

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.supernet(x, self.architecture)
        return result


class _Tracer(fx.Tracer):
    """Looks into what holds a gate and takes everything else as it is."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(isinstance(child, _GATED) for child in m.modules())

    def trace(self, root: nn.Module | Callable, concrete_args: dict | None = None) -> fx.Graph:
        try:
            return super().trace(root, concrete_args)
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:  # the last is what len(x) raises
            rule = f"forward cannot be followed symbolically ({str(error).splitlines()[0]})"
            remedy = "keep decisions on the values or sizes of x inside modules that hold no gate"
            raise SpaceError("supernet", type(root).__name__, rule, remedy) from error


def extract(supernet: nn.Module, architecture: tuple[Active, ...]) -> nn.Module:
    """The subnetwork as a plain module: ``forward(x)``, no gate, only what ``architecture`` names, as a copy.

    Its parameters keep the names they have in the supernet, so that state dicts can be exchanged. It does the
    same operations on the same numbers as ``supernet(x, architecture)``: outputs, gradients and BatchNorm
    statistics agree bit for bit.

    A :class:`nas.nn.GatedModel` gives the network that it was made of, with the names that its parts had there.
    Elsewhere the path is recorded with ``torch.fx``: modules without a gate inside are copied whole; code around gates
    must not depend on the values or the sizes of ``x``.

    Raises:
        SpaceError: the code around gates depends on ``x``, or asks for a dense concatenation of unknown widths.
    """
    if isinstance(supernet, GatedModel):
        return supernet.extract(architecture)
    graph = _Tracer().trace(_Bound(supernet, architecture))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("supernet.")
    plain = fx.GraphModule(supernet, graph, class_name="Subnetwork")
    for name, module in plain.named_modules():  # a part may be in another mode, such as a frozen BatchNorm
        module.training = supernet.get_submodule(name).training
    return copy.deepcopy(plain)
