"""Rules for layers: Linear, convolutions, normalisations, softmax and max pooling.

A rule is called as the torch function is, with a :class:`~nas.jac.plan.trace.Node` in place of a tensor that depends on
the network's input. It gives the value as torch computes it, and the derivative as a linear map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.jac.plan.maps import Convolution, Dense, Gathered, Local, LogSoftmaxed, Scaled, Softmaxed
from nas.jac.plan.steps import cannot_be_replayed, is_noting, step, viewed
from nas.jac.plan.trace import MODULES, Node, Rule, constant, no_rule, one, rule
from nas.jac.refuse import check_statistics, refuse_noise


@rule("linear")
def linear(x: Node, weight: Tensor, bias: Tensor | None = None) -> Node:
    """``F.linear``."""
    if not isinstance(x, Node) or isinstance(weight, Node) or isinstance(bias, Node):
        raise no_rule("linear with a weight that depends on the input")
    if weight.dim() != 2 or x.value.dim() < 2:
        raise no_rule("linear on single features")
    if is_noting():  # the same memory, without a tape
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return Node(_linear(x.value, weight, bias), ((x, Dense(weight)),))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not is_noting():
        return F.linear(x, weight, bias)
    if x.dim() != 2:
        return _linear(viewed(x, -1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    if len(x) == 1:  # a product with a vector takes less time
        row = step(torch.mv, weight, x[0]) if bias is None else step(torch.addmv, bias, weight, x[0])
        return row.unsqueeze(0)
    return step(torch.mm, x, weight.t()) if bias is None else step(torch.addmm, bias, x, weight.t())


def _linear_module(module: Any, x: Node) -> Node:
    own = module._parameters  # the attributes cost a microsecond each
    if "weight" in own and "bias" in own:
        return linear(x, own["weight"], own["bias"])
    return linear(x, module.weight, module.bias)


@rule("matmul", "__matmul__", "mm")
def _matmul(x: Node, y: Tensor) -> Node:
    constant("matmul", y)
    if not isinstance(x, Node) or y.dim() != 2 or x.value.dim() < 2:
        raise no_rule("matmul with anything but a constant matrix on the right")
    return one(x, x.value @ y, Dense(y.mT))


def _convolution(dimensions: int) -> Rule:
    name = f"conv{dimensions}d"

    def convolve(
        x: Node, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Node:
        constant(name, weight, bias)
        if x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} on a sample without a batch")
        value = getattr(F, name)(x.value, weight, bias, stride, padding, dilation, groups)
        if padding == "same":
            apart = list(dilation) if isinstance(dilation, (list, tuple)) else [dilation] * dimensions
            around = [d * (k - 1) for d, k in zip(apart, weight.shape[2:], strict=True)]
            if any(size % 2 for size in around):
                raise no_rule(f"{name} with padding='same' that is not the same on both sides")
            padding = [size // 2 for size in around]
        padding = 0 if padding == "valid" else padding
        return one(x, value, Convolution(weight, tuple(x.shape), (stride, padding, dilation, groups)))

    return convolve


@rule("batch_norm")
def _batch_norm(x: Node, *args: Any, **kwargs: Any) -> Node:
    if len(args) == 8:  # torch.batch_norm, with weight and bias first
        args = (*args[2:4], *args[:2], *args[4:7])
    return _normalise_by_running(x, *args, **kwargs)


def _normalise_by_running(
    x: Node,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Node:
    constant("batch_norm", mean, variance, weight, bias)
    check_statistics("batch_norm", training or mean is None or variance is None)
    value = F.batch_norm(x.value, mean, variance, weight, bias, False, momentum, eps)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    return one(x, value, Scaled(scale.view(1, -1, *[1] * (x.value.dim() - 2)).expand(1, *x.shape)))


def local(x: Node, function: Callable[[Tensor], Tensor]) -> Node:
    """The node of an operation that treats samples alike, by torch's derivative of it."""
    cannot_be_replayed()
    return one(x, function(x.value), Local(function, x.value))


@rule("layer_norm")
def _layer_norm(
    x: Node, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
) -> Node:
    constant("layer_norm", weight, bias)
    if len(shape) >= x.value.dim():
        raise no_rule("layer_norm over the batch")
    return local(x, lambda t: F.layer_norm(t, shape, weight, bias, eps))


@rule("group_norm")
def _group_norm(
    x: Node, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
) -> Node:
    constant("group_norm", weight, bias)
    return local(x, lambda t: F.group_norm(t, groups, weight, bias, eps))


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def _dropout(x: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> Node:
    if training and p > 0:
        refuse_noise("dropout")
    x.viewed = True  # what comes out is the same tensor
    return x


@rule("softmax")
def softmax(x: Node, dim: int | None = None, _stacklevel: Any = 3, dtype: Any = None) -> Node:
    """``F.softmax`` and ``torch.softmax``, which has ``dtype`` in third place."""
    dim = _from_end("softmax", x, dim, _stacklevel, dtype)
    p = step(torch.softmax, x.value, dim)
    return one(x, p, Softmaxed(p, dim))


@rule("log_softmax")
def log_softmax(x: Node, dim: int | None = None, _stacklevel: Any = 3, dtype: Any = None) -> Node:
    """``F.log_softmax`` and ``torch.log_softmax``."""
    dim = _from_end("log_softmax", x, dim, _stacklevel, dtype)
    value = step(torch.log_softmax, x.value, dim)
    return one(x, value, LogSoftmaxed(step(torch.exp, value), dim))


def _from_end(name: str, x: Node, dim: int | None, *dtypes: Any) -> int:
    dims = x.value.dim()
    other = any(isinstance(dtype, torch.dtype) and dtype is not x.value.dtype for dtype in dtypes)
    if dim is None or other or dim % dims == 0:
        raise no_rule(f"{name} with dim={dim}, or to another dtype")
    return dim % dims - dims


def _max_pool(name: str, dimensions: int) -> Rule:
    def pool(x: Node, *args: Any, return_indices: bool = False, **kwargs: Any) -> Node:
        if return_indices or x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} with return_indices or without a batch")
        value, indices = getattr(F, f"{name}_with_indices")(x.value, *args, **kwargs)
        cannot_be_replayed()
        return one(x, value, Gathered(indices, tuple(x.shape)))

    return pool


for _dimensions in (1, 2, 3):
    rule(f"conv{_dimensions}d")(_convolution(_dimensions))
    rule(f"max_pool{_dimensions}d")(_max_pool(f"max_pool{_dimensions}d", _dimensions))
rule("adaptive_max_pool2d")(_max_pool("adaptive_max_pool2d", 2))
MODULES[torch.nn.Linear] = _linear_module
MODULES[torch.nn.Softmax] = lambda m, x: softmax(x, m.dim)
MODULES[torch.nn.LogSoftmax] = lambda m, x: log_softmax(x, m.dim)
