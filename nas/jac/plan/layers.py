"""Rules for layers: Linear, convolutions, normalisations, softmax and max pooling.

A rule is called as the torch function is, with a :class:`~nas.jac.plan.trace.Node` in place of a tensor that depends on
the network's input. It gives the value as torch computes it, and the derivative as a linear map.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

from nas.jac.plan.maps import Carried, Dense, LogSoftmaxed, Scaled, Softmaxed, folded
from nas.jac.plan.steps import is_noting, step, viewed
from nas.jac.plan.trace import MODULES, RULES, Node, Rule, no_rule, rule
from nas.jac.refuse import check_statistics, refuse_noise


@rule("linear")
def _linear(x: Node, weight: Tensor, bias: Tensor | None = None) -> Node:
    if weight.dim() != 2 or x.value.dim() < 2:
        raise no_rule("linear on single features")
    if is_noting():  # the same memory, without a tape
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return Node(_linear_value(x.value, weight, bias), (x, Dense(weight)))


def _linear_value(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not is_noting():
        return F.linear(x, weight, bias)
    if x.dim() != 2:
        return _linear_value(viewed(x, -1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    if len(x) == 1:  # a product with a vector takes less time
        row = step(torch.mv, weight, x[0]) if bias is None else step(torch.addmv, bias, weight, x[0])
        return row.unsqueeze(0)
    return step(torch.mm, x, weight.t()) if bias is None else step(torch.addmm, bias, x, weight.t())


def _linear_module(module: Any, x: Node) -> Node:
    own = module._parameters  # the attributes cost a microsecond each
    if "weight" in own and "bias" in own:
        return _linear(x, own["weight"], own["bias"])
    return _linear(x, module.weight, module.bias)


@rule("matmul", "__matmul__", "mm")
def _matmul(x: Node, y: Tensor) -> Node:
    if y.dim() != 2 or x.value.dim() < 2:
        raise no_rule("matmul with anything but a constant matrix on the right")
    return Node(x.value @ y, (x, Dense(y.mT)))


def _convolution(name: str, dimensions: int) -> Rule:
    forwards, backwards = getattr(F, name), getattr(grad, f"{name}_input")

    def convolve(
        x: Node, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Node:
        if x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} on a sample without a batch")
        value = forwards(x.value, weight, bias, stride, padding, dilation, groups)
        if padding == "same":
            apart = dilation if isinstance(dilation, (list, tuple)) else [dilation] * dimensions
            around = [d * (k - 1) for d, k in zip(apart, weight.shape[2:], strict=True)]
            if any(size % 2 for size in around):
                raise no_rule(f"{name} with padding='same' that is not the same on both sides")
            padding = [size // 2 for size in around]
        arguments, shape = (stride, 0 if padding == "valid" else padding, dilation, groups), x.shape
        jvp = folded(lambda tangents: forwards(tangents, weight, None, *arguments))
        vjp = folded(lambda cotangents: backwards((len(cotangents), *shape), weight, cotangents, *arguments))
        return Node(value, (x, Carried(jvp, vjp, macs=weight[0].numel())))

    return convolve


@rule("batch_norm")
def _batch_norm(
    x: Node,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn: bool | None = None,
) -> Node:
    if cudnn is not None:  # torch.batch_norm, with weight and bias first
        mean, variance, weight, bias = weight, bias, mean, variance
    check_statistics("batch_norm", training or mean is None or variance is None)
    value = F.batch_norm(x.value, mean, variance, weight, bias, False, momentum, eps)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    return Node(value, (x, Scaled(scale.view(1, -1, *[1] * (x.value.dim() - 2)).expand(1, *x.shape))))


@rule("layer_norm")
def _layer_norm(x: Node, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, _: Any = True) -> Node:
    if len(shape) >= x.value.dim():
        raise no_rule("layer_norm over the batch")
    value = F.layer_norm(x.value, shape, weight, bias, eps)
    return _normalised(x, value, x.width // math.prod(shape), weight, eps)


@rule("group_norm")
def _group_norm(x: Node, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, _: Any = True) -> Node:
    value = F.group_norm(x.value, groups, weight, bias, eps)
    weight = None if weight is None else weight.view(-1, *[1] * (x.value.dim() - 2))
    return _normalised(x, value, groups, weight, eps)


def _normalised(x: Node, value: Tensor, groups: int, weight: Tensor | None, eps: float) -> Node:
    grouped = x.value.reshape(len(x.value), groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps).unsqueeze(1)
    y = (grouped - mean).unsqueeze(1) * scale

    def carry(stack: Tensor) -> Tensor:  # by (I - 1 1^T / n - y y^T / n) / deviation in each group of n
        centred = stack.reshape(*stack.shape[:2], *grouped.shape[1:])
        centred = centred - centred.mean(-1, keepdim=True)
        carried = (centred - y * (y * centred).mean(-1, keepdim=True)) * scale
        return carried.view(*carried.shape[:2], *stack.shape[2:])

    node = Node(value, (x, Carried(carry, carry)))
    return node if weight is None else Node(value, (node, Scaled(weight.expand(1, *x.shape))))


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def _dropout(x: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> Node:
    if training and p > 0:
        refuse_noise("dropout")
    x.viewed = True  # what comes out is the same tensor
    return x


def _softmax(function: Any, x: Node, dim: int | None = None, _stacklevel: Any = 3, dtype: Any = None) -> Node:
    """Softmax or its logarithm, by ``F`` or by ``torch``, which has ``dtype`` in third place."""
    dims = x.value.dim()
    other = any(isinstance(given, torch.dtype) and given is not x.value.dtype for given in (_stacklevel, dtype))
    if dim is None or other or dim % dims == 0:
        raise no_rule(f"{function.__name__} with dim={dim}, or to another dtype")
    dim = dim % dims - dims
    value = step(function, x.value, dim)
    if function is torch.softmax:
        return Node(value, (x, Softmaxed(value, dim)))
    return Node(value, (x, LogSoftmaxed(step(torch.exp, value), dim)))


def _max_pool(name: str, x: Node, *args: Any, return_indices: bool = False, **kwargs: Any) -> Node:
    if return_indices or x.value.dim() != int(name[-2]) + 2:
        raise no_rule(f"{name} with return_indices or without a batch")
    value, indices = getattr(F, f"{name}_with_indices")(x.value, *args, **kwargs)
    maxima, shape = indices.flatten(2).unsqueeze(1), x.shape[1:]

    def jvp(tangents: Tensor) -> Tensor:
        return torch.take_along_dim(tangents.flatten(3), maxima, 3).unflatten(3, indices.shape[2:])

    def vjp(cotangents: Tensor) -> Tensor:
        index = maxima.expand(-1, cotangents.shape[1], -1, -1)
        zeros = cotangents.new_zeros(*index.shape[:3], shape.numel())
        return zeros.scatter_add_(3, index, cotangents.flatten(3).expand_as(index)).unflatten(3, shape)

    return Node(value, (x, Carried(jvp, vjp)))


_MAX_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d")
RULES.update({f"conv{dimensions}d": _convolution(f"conv{dimensions}d", dimensions) for dimensions in (1, 2, 3)})
RULES.update({name: partial(_max_pool, name) for name in _MAX_POOLS})
RULES.update({function.__name__: partial(_softmax, function) for function in (torch.softmax, torch.log_softmax)})
MODULES[nn.Linear] = _linear_module
MODULES[nn.Softmax] = lambda m, x: _softmax(torch.softmax, x, m.dim)
MODULES[nn.LogSoftmax] = lambda m, x: _softmax(torch.log_softmax, x, m.dim)
