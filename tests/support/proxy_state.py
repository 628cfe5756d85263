"""Everything that scoring could change, to be compared afterwards."""

import itertools
import random

import torch
from torch import Tensor, nn

from nas.score import PROXIES, score
from support.proxy_networks import CORNERS, NETWORKS, build

NAMES = list(PROXIES)
EVERY = [*NETWORKS, *CORNERS]


def had_of(name: str) -> list[str]:
    """A single image has no statistics in a BatchNorm1d."""
    return [proxy for proxy in NAMES if (name, proxy) != ("linear", "meco")]


def values_of(network: nn.Module, names: list[str], batches: list, seed: int = 0) -> dict[str, float]:
    return score(network, names, batches, seed=seed).values


def state_of(network: nn.Module) -> dict[str, object]:
    """Everything that a module holds, and everything global that scoring may touch; tensors as bytes."""
    state: dict[str, object] = {}
    for name, module in network.named_modules():
        held = {key: sorted(value) if isinstance(value, dict) else value for key, value in vars(module).items()}
        state[f"{name} type"] = (type(module), id(module))
        state[f"{name} dict"] = {key: value for key, value in held.items() if not isinstance(value, Tensor)}
        state[f"{name} hooks"] = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")}
    tensors = itertools.chain(network.named_parameters(remove_duplicate=False), network.named_buffers())
    for name, tensor in tensors:
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
        hooks = (len(tensor._backward_hooks or {}), len(tensor._post_accumulate_grad_hooks or {}))
        content = (tensor.dtype, tensor.shape, tensor.detach().numpy().tobytes())
        state[f"{name} tensor"] = (id(tensor), tensor.data_ptr(), tensor.requires_grad, grad, hooks, content)
    state["random"] = (torch.get_rng_state().tolist(), random.getstate())
    state["modes"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    return state


def assert_unchanged(before: dict[str, object], network: nn.Module) -> None:
    after = state_of(network)
    assert [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)] == []


def used(name: str) -> nn.Module:
    """A network in mid-life: gradients on some parameters, parts in eval mode, hooks of others on it."""
    network = build(name)
    for i, parameter in enumerate(network.parameters()):
        if i % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    modules = list(network.modules())
    modules[1].eval()
    modules[1].register_forward_hook(lambda *_: None)
    network.register_full_backward_hook(lambda *_: None)
    return network
