"""Rules for operations that only move, add up or average the entries within each sample, and the table of all rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan import rules
from nas.jac.plan.maps import Reshaped, Structural
from nas.jac.plan.steps import cannot_be_replayed
from nas.jac.plan.trace import MODULES, RULES, Node, no_rule


def reshaped(name: str, x: Node, value: Tensor) -> Node:
    """The node of a change of shape, if it leaves samples apart."""
    if value.dim() < 2 or value.shape[0] != x.value.shape[0] or math.prod(value.shape[1:]) != x.width:
        raise no_rule(f"{name} from {tuple(x.value.shape)} to {tuple(value.shape)}, across samples")
    if value.data_ptr() != x.value.data_ptr():
        cannot_be_replayed()
    node = rules.one(x, value, Reshaped(tuple(x.shape), tuple(value.shape[1:])))
    node.viewed = x.viewed = True
    return node


def reshape(name: str) -> rules.Rule:
    """The rule for a tensor method that changes the shape."""
    return lambda x, *args, **kwargs: reshaped(name, x, getattr(x.value, name)(*args, **kwargs))


def structural(name: str, x: Node, operation: Callable[[Tensor], Tensor]) -> Node:
    """The node of an operation that is linear and treats samples alike."""
    cannot_be_replayed()
    value = operation(x.value)
    if value.dim() < 2 or value.shape[0] != x.value.shape[0]:
        raise no_rule(f"{name} to {tuple(value.shape)}, across samples")
    return rules.one(x, value, Structural(operation, tuple(x.shape)))


def pooling(function: Callable[..., Tensor], dimensions: int) -> rules.Rule:
    """The rule for average pooling, adaptive or not."""

    def rule(x: Node, *args: Any, **kwargs: Any) -> Node:
        if x.value.dim() != dimensions + 2:
            raise no_rule(f"{function.__name__} on a sample without a batch")
        return structural(function.__name__, x, lambda t: function(t, *args, **kwargs))

    return rule


def pad(x: Node, pad: Any, mode: str = "constant", value: float | None = None) -> Node:
    """``F.pad``: a constant other than zero moves the value and not the derivative."""
    if len(pad) // 2 >= x.value.dim():
        raise no_rule("pad of the batch")
    padded = structural("pad", x, lambda t: F.pad(t, pad, mode))
    if mode == "constant" and value:
        padded.value = F.pad(x.value, pad, mode, value)
    return padded


def dims_of(name: str, x: Node, dim: Any) -> list[int]:
    """The dimensions an operation goes over, counted from the start, if the batch is not among them."""
    if dim is None:
        raise no_rule(f"{name} over all dimensions, the batch too")
    dims = [int(d) % x.value.dim() for d in (dim if isinstance(dim, (list, tuple)) else [dim])]
    if 0 in dims:
        raise no_rule(f"{name} over the batch")
    return dims


def reduction(name: str) -> rules.Rule:
    """The rule for ``mean`` and ``sum``."""

    def rule(x: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
        dims = dims_of(name, x, dim)
        if dtype not in (None, x.value.dtype):
            raise no_rule(f"{name} with dtype={dtype}")
        if not keepdim and len(dims) == x.value.dim() - 1:  # the result would be (B,): an entry needs a dimension
            raise no_rule(f"{name} to a single number a sample without keepdim")
        return structural(name, x, lambda t: getattr(torch, name)(t, dims, keepdim))

    return rule


def permute(x: Node, *dims: Any, dim: Any = ()) -> Node:
    """``Tensor.permute``."""
    dims = dims or (dim,)
    order = list(dims[0]) if isinstance(dims[0], (list, tuple)) else list(dims)
    if order[0] % x.value.dim() != 0:
        raise no_rule("permute that moves the batch")
    return _viewed(x, structural("permute", x, lambda t: t.permute(order)))


def transpose(x: Node, dim0: int, dim1: int) -> Node:
    """``Tensor.transpose``."""
    dims_of("transpose", x, (dim0, dim1))
    return _viewed(x, structural("transpose", x, lambda t: t.transpose(dim0, dim1)))


def getitem(x: Node, index: Any) -> Node:
    """Basic indexing that takes all samples: ``x[:, ...]``."""
    first = index[0] if isinstance(index, (list, tuple)) and index else index
    plain = (
        all(isinstance(part, (int, slice, type(None), type(...))) for part in index) if first is not index else False
    )
    if not plain or first != slice(None):
        raise no_rule("indexing that does not begin with [:, ...] and go on with numbers and slices")
    picked = tuple(index)
    return _viewed(x, structural("indexing", x, lambda t: t[picked]))


def contiguous(x: Node, **kwargs: Any) -> Node:
    """``Tensor.contiguous``, which may be the same tensor."""
    x.viewed = True
    return x


def chunk(x: Node, chunks: int, dim: int = 0) -> list[Node]:
    """``Tensor.chunk``, a node a part."""
    dims_of("chunk", x, dim)
    count = len(x.value.chunk(chunks, dim))
    return [
        _viewed(x, structural("chunk", x, lambda t, part=part: t.chunk(chunks, dim)[part]))  # type: ignore[misc]
        for part in range(count)
    ]


def _viewed(x: Node, node: Node) -> Node:
    node.viewed = x.viewed = True
    return node


def cat(tensors: list[Node | Tensor], dim: int = 0) -> Node:
    """Concatenation within samples: each part gets its slice of a cotangent."""
    values = [part.value if isinstance(part, Node) else part for part in tensors]
    value = torch.cat(values, dim)
    dim = int(dim) % value.dim()
    if dim == 0:
        raise no_rule("cat over the batch")
    edges, start = [], 0
    if any(own.dim() != value.dim() for own in values):
        raise no_rule("cat with an empty tensor of other dimensions")
    for part, own in zip(tensors, values, strict=True):
        stop = start + own.shape[dim]
        if isinstance(part, Node):
            before, after = start, value.shape[dim] - stop
            place = [0, 0] * (value.dim() - dim - 1) + [before, after]

            def padded(t: Tensor, place: list[int] = place) -> Tensor:
                return F.pad(t, place)

            edges.append((part, Structural(padded, tuple(part.shape))))
        start = stop
    return Node(value, tuple(edges))


def _linear_module(module: nn.Linear, x: Node) -> Node:
    own = module._parameters  # the attributes cost a microsecond each, and a small Jacobian takes eighty
    if "weight" in own and "bias" in own:
        return rules.linear(x, own["weight"], own["bias"])  # type: ignore[arg-type]
    return rules.linear(x, module.weight, module.bias)


ELEMENTWISE = {
    F: "leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid relu6 tanhshrink "
    "hardshrink softshrink threshold",
    torch: "exp expm1 log log1p sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt rsqrt square reciprocal "
    "erf abs neg pow clamp clamp_min clamp_max",
}
for _room, _names in ELEMENTWISE.items():
    RULES.update({_name: rules.elementwise(getattr(_room, _name)) for _name in _names.split()})
RULES.update(
    {"__pow__": rules.elementwise(torch.pow), "__neg__": RULES["neg"], "__abs__": RULES["abs"]}
    | dict.fromkeys(("add", "__add__", "__radd__"), rules.add)
    | dict.fromkeys(("sub", "subtract", "__sub__"), rules.subtract)
    | dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), rules.multiply)
    | dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), rules.divide)
    | dict.fromkeys(("matmul", "__matmul__", "mm"), rules.matmul)
    | {"__rsub__": rules.subtract_from, "rsub": rules.subtract_from, "__rtruediv__": rules.divide_into}
    | {"linear": rules.linear, "relu": rules.relu, "tanh": rules.tanh, "sigmoid": rules.sigmoid}
    | {"softmax": rules.softmax, "log_softmax": rules.log_softmax, "batch_norm": rules.batch_norm}
    | {"layer_norm": rules.layer_norm, "group_norm": rules.group_norm}
    | dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), rules.dropout)
    | {f"dropout{d}": rules.dropout for d in ("", "1d", "2d", "3d")}
    | {f"conv{d}d": rules.convolution(d) for d in (1, 2, 3)}
    | {f"max_pool{d}d": rules.max_pool(d) for d in (1, 2, 3)}
    | {"adaptive_max_pool2d": rules.adaptive_max_pool2d}
    | {
        f"{kind}avg_pool{d}d": pooling(getattr(F, f"{kind}avg_pool{d}d"), d)
        for kind in ("", "adaptive_")
        for d in (1, 2, 3)
    }
    | {name: reshape(name) for name in ("flatten", "reshape", "view", "unsqueeze", "squeeze", "unflatten")}
    | {"mean": reduction("mean"), "sum": reduction("sum"), "pad": pad, "permute": permute, "transpose": transpose}
    | {"__getitem__": getitem, "chunk": chunk, "cat": cat, "concat": cat, "concatenate": cat}
    | {"clone": lambda x, **kwargs: x, "contiguous": contiguous}
    | {"log_sigmoid": rules.elementwise(F.logsigmoid), "_threshold": RULES["threshold"]}
    | {"__rdiv__": rules.divide_into}
)
MODULES.update(
    {
        nn.Linear: _linear_module,
        nn.ReLU: lambda m, x: rules.relu(x),
        nn.Tanh: lambda m, x: rules.tanh(x),
        nn.Sigmoid: lambda m, x: rules.sigmoid(x),
        nn.Softmax: lambda m, x: rules.softmax(x, m.dim),
        nn.LogSoftmax: lambda m, x: rules.log_softmax(x, m.dim),
        nn.Flatten: lambda m, x: reshaped("flatten", x, x.value.flatten(m.start_dim, m.end_dim)),
        nn.Identity: lambda m, x: x,
    }
)
