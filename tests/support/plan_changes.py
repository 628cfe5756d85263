"""Models with everything that their Jacobians depend on, and what may change about it."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def linear(into, out, **options):
    return nn.Linear(into, out, **options, dtype=torch.float64)


def chain(outputs=3):
    more = nn.Sequential(nn.Sigmoid(), linear(4, 4, bias=False), nn.ReLU())
    deep = nn.Sequential(OrderedDict(inner=linear(4, 4), more=more, empty=nn.Sequential()))
    model = nn.Sequential(OrderedDict(first=linear(3, 4), act=nn.Tanh(), deep=deep, last=linear(4, outputs)))
    model.act.note = "an attribute of no meaning"
    return model


# The model changes


def put(module, **values):
    for name, value in values.items():
        setattr(module, name, value)


def each(model, change):
    for parameter in model.parameters():
        change(parameter)


def wider(model):
    put(model.first.weight, data=random(5, 3))
    put(model.first.bias, data=random(5))
    put(model.deep.inner.weight, data=random(4, 5))


def steep(model):
    for layer in (model.first, model.deep.inner):
        put(layer.weight, data=torch.full_like(layer.weight, 1e200))
        put(layer.bias, data=torch.zeros_like(layer.bias))


class Doubled(nn.Tanh):
    def forward(self, x):
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        return super().forward(x).flip(1)


class Scale(nn.Module):
    factor = 2.0

    def forward(self, x):
        return x * self.factor


class Switch(nn.Module):
    """Branches on values and on Python state."""

    factor = 2.0

    def forward(self, x):
        return torch.tanh(self.factor * x) if x.sum() > 0 else torch.sigmoid(x)


class Slotted:
    """A function that can neither be hashed nor referred to weakly."""

    __slots__ = ()
    __hash__ = None

    def __call__(self, x):
        return torch.tanh(x)


def hook(module, args, out):
    return out * 3


def pre_hook(module, args):
    return (args[0] + 1,)


CHANGES: dict[str, Callable[[Any], object]] = {
    "step": lambda m: each(m, lambda p: p.data.sub_(0.1)),
    "load": lambda m: m.load_state_dict({key: value + 1 for key, value in m.state_dict().items()}),
    "assign": lambda m: m.load_state_dict({key: value + 1 for key, value in m.state_dict().items()}, assign=True),
    "float": lambda m: m.float(),
    "there and back": lambda m: m.float().double(),
    "steep at 0": steep,
    "data": lambda m: each(m, lambda p: put(p, data=random(*p.shape))),
    "data turned": lambda m: each(m, lambda p: put(p, data=p.data.t() if len(p) == p.shape[-1] else p.data)),
    "data spread": lambda m: each(m, lambda p: put(p, data=p.data[:1].expand(p.shape))),
    "data wider": wider,
    "shared memory": lambda m: each(m.share_memory(), lambda p: p.data.add_(0.1)),
    "tensors swapped": lambda m: torch.utils.swap_tensors(m.first.weight, nn.Parameter(random(4, 3))),
    "parameter": lambda m: put(m.first, weight=nn.Parameter(random(4, 3))),
    "parameter in float": lambda m: put(m.first, weight=nn.Parameter(torch.randn(4, 3))),
    "wrong parameter": lambda m: put(m.deep.inner, weight=nn.Parameter(random(4, 5))),
    "no bias": lambda m: put(m.first, bias=None),
    "a bias": lambda m: put(m.deep.more[1], bias=nn.Parameter(random(4))),
    "tied": lambda m: put(m.deep.inner, weight=m.deep.more[1].weight),
    "half frozen": lambda m: m.first.requires_grad_(False),
    "frozen": lambda m: m.requires_grad_(False),
    "thawed": lambda m: m.requires_grad_(True),
    "another layer": lambda m: put(m, first=linear(3, 4)),
    "another activation": lambda m: put(m, act=nn.Sigmoid()),
    "deep activation": lambda m: m.deep.more.__setitem__(2, nn.Softplus()),
    "unknown module": lambda m: m.deep.more.__setitem__(2, Scale()),
    "no module": lambda m: put(m.deep, more=None),
    "inserted": lambda m: m.deep.more.insert(1, nn.Tanh()),
    "appended to nothing": lambda m: m.deep.empty.append(nn.Tanh()),
    "removed": lambda m: m.pop(-1),
    "deep removed": lambda m: m.deep.more.pop(0),
    "reordered": lambda m: m.deep._modules.update(inner=m.deep._modules.pop("inner")),
    "moved out": lambda m: m.add_module("moved", m.deep._modules.pop("inner")),
    "repeated": lambda m: m.append(m.act),
    "exchanged": lambda m: put(m.deep, inner=m.deep.more[1]),
    "hook": lambda m: m.act.register_forward_hook(hook),
    "deep pre-hook": lambda m: m.deep.more.register_forward_pre_hook(pre_hook),
    "hook of all": lambda m: m.register_forward_hook(hook),
    "no hooks": lambda m: [hooks.clear() for p in m.modules() for hooks in (p._forward_hooks, p._forward_pre_hooks)],
    "backward hook": lambda m: m.act.register_full_backward_hook(lambda *_: None),
    "hooks exchanged": lambda m: put(m.act, _forward_hooks=OrderedDict({0: hook})),
    "forward": lambda m: put(m.act, forward=Scale().forward),
    "forward of all": lambda m: put(m, forward=Switch().forward),
    "forward for a note": lambda m: (delattr(m.act, "note"), put(m.act, forward=torch.sin)),
    "own forward again": lambda m: [part.__dict__.pop("forward", None) for part in m.modules()],
    "class": lambda m: put(m.act, __class__=Doubled),
    "known class": lambda m: put(m.act, __class__=nn.Sigmoid),
    "class of all": lambda m: put(m, __class__=Backwards),
    "state of another": lambda m: put(m.first, __dict__=linear(3, 4).__dict__),
    "parametrized": lambda m: parametrize.register_parametrization(m.first, "weight", Scale()),
    "weight norm": lambda m: parametrizations.weight_norm(m.deep.inner),
    "pruned": lambda m: prune.l1_unstructured(m.first, "weight", 0.5),
}


def alone(layer, *args, **options):
    """Makes the layer, which takes samples of 6 features."""
    return lambda: [layer(*args, **options)]


def channels(layer, *args, **options):
    """Makes the layer behind one that gives it samples of shape ``(2, 3)``."""
    return lambda: [nn.Unflatten(1, (2, 3)), layer(*args, **options)]


def judged(layer, *args):
    """Makes the layer in evaluation."""
    return lambda: [layer(*args).eval()]


ATTRIBUTES = [
    (alone(nn.LeakyReLU), "negative_slope", 0.5),
    (alone(nn.ELU), "alpha", 3.0),
    (alone(nn.CELU), "alpha", 3.0),
    (alone(nn.Softplus), "beta", 3.0),
    (alone(nn.Softplus), "threshold", 0.1),
    (alone(nn.GELU), "approximate", "tanh"),
    (alone(nn.Hardtanh), "max_val", 0.1),
    (alone(nn.PReLU), "weight", None),
    (alone(nn.ReLU), "inplace", True),
    (alone(nn.Softmax, -1), "dim", 0),
    (channels(nn.Softmax, -1), "dim", 1),
    (channels(nn.LogSoftmax, -1), "dim", 1),
    (channels(nn.Flatten), "start_dim", 2),
    (channels(nn.Flatten), "end_dim", 1),
    (alone(nn.Unflatten, 1, (2, 3)), "unflattened_size", (3, 2)),
    (judged(nn.BatchNorm1d, 6), "eps", 0.5),
    (judged(nn.BatchNorm1d, 6), "training", True),
    (judged(nn.BatchNorm1d, 6), "running_mean", None),
    (judged(nn.BatchNorm1d, 6), "running_var", torch.arange(1.0, 7.0).double()),
    (judged(nn.Dropout), "training", True),
    (alone(nn.Dropout, 0.0), "p", 0.5),
    (alone(nn.LayerNorm, 6), "eps", 0.5),
    (channels(nn.LayerNorm, 3), "normalized_shape", (2, 3)),
    (alone(nn.GroupNorm, 2, 6), "num_groups", 3),
    (channels(nn.Conv1d, 2, 2, 2), "stride", (2,)),
    (channels(nn.Conv1d, 2, 2, 2), "dilation", (2,)),
    (channels(nn.Conv1d, 2, 2, 2), "padding", (1,)),
    (channels(nn.AvgPool1d, 2, 1), "kernel_size", 3),
    (channels(nn.MaxPool1d, 2, 1), "stride", 2),
]


# The input changes


class Mine(torch.Tensor):
    pass


INPUTS = {
    "other values": lambda x: x * 2,
    "more samples": lambda x: torch.cat([x, x]),
    "one sample": lambda x: x[:1],
    "samples of two dimensions": lambda x: x.view(2, 2, 3),
    "other features": lambda x: x[:, :2],
    "no batch": lambda x: x[0],
    "float": lambda x: x.float(),
    "bfloat16": lambda x: x.bfloat16(),
    "integers": lambda x: x.long(),
    "turned": lambda x: x.t().contiguous().t(),
    "apart": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(4, 3),
    "negative view": lambda x: torch.complex(x, x).conj().imag,
    "leaf": lambda x: x.clone().requires_grad_(),
    "made": lambda x: x.clone().requires_grad_() * 1,
    "parameter": nn.Parameter,
    "subclass": lambda x: x.as_subclass(Mine),
    "not a number": lambda x: x / 0 * 0,
    "overflow": lambda x: x * 1e308,
    "meta": lambda x: x.to("meta"),
}


# What is around the call changes


def within(context):
    def around(ask):
        def asked(model, x):
            with context():
                return ask(model, x)

        return asked

    return around


class Halved(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found.mul_(0.5) if func in (torch.tanh, torch.nn.functional.linear, torch.addmm) else found


@contextmanager
def hooked(register, hook):
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)  # fills memory that is not initialised
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Asked(nn.Module):
    def __init__(self, ask, model):
        super().__init__()
        self.ask, self.model = ask, model

    def forward(self, x):
        return self.ask(self.model, x)[0].sum()


def by_weight(ask):
    def asked(model, x):
        def value(weight):
            return torch.func.functional_call(Asked(ask, model), {"model.first.weight": weight}, (x,))

        return [torch.func.grad(value)(model.first.weight.detach() * 2)]

    return asked


AROUND = {
    "no_grad": within(torch.no_grad),
    "enable_grad": within(torch.enable_grad),
    "inference_mode": within(torch.inference_mode),
    "autocast": within(partial(torch.autocast, "cpu", torch.bfloat16)),
    "function mode": within(Halved),
    "dispatch mode": within(TorchDispatchMode),
    "flop counter": within(partial(FlopCounterMode, display=False)),
    "fake tensors": within(partial(FakeTensorMode, allow_non_fake_inputs=True)),
    "meta device": within(partial(torch.device, "meta")),
    "saved tensors": within(lambda: torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t)),
    "deterministic": within(deterministic),
    "hook": within(partial(hooked, register_module_forward_hook, lambda m, args, out: out * 2)),
    "pre-hook": within(partial(hooked, register_module_forward_pre_hook, lambda m, args: (args[0] + 1,))),
    "vmap": lambda ask: lambda model, x: [torch.vmap(lambda x: ask(model, x)[0])(torch.stack([x, -x]))],
    "grad": lambda ask: lambda model, x: [torch.func.grad(lambda x: ask(model, x)[0].sum())(x)],
    "jvp": lambda ask: lambda model, x: list(torch.func.jvp(lambda x: ask(model, x)[0], (x,), (x,))),
    "functional call": by_weight,
}
