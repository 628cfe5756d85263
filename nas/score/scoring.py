"""``score``: what training-free proxies say about a network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from nas.errors import ScoreError
from nas.score.probes import PROBES
from nas.score.proxies import check_names, checked
from nas.score.shared import SHARED, of_batches
from nas.seeds import derive


@dataclass(frozen=True)
class Scores:
    """What proxies say about one network.

    Attributes:
        values: by name, in the order asked; finite, or the infinity that the proxy states as its worst.
        seconds: how long it took.
    """

    values: dict[str, float]
    seconds: float


def score(
    network: nn.Module, proxies: Sequence[str], batches: Sequence[tuple[Tensor, Tensor]], seed: int = 0
) -> Scores:
    """Score a network without training it.

    It is scored as it is, with its present weights, but for ``zen`` and ``synflow``, which bring their own. Every
    BatchNorm takes the batch's own statistics (``synflow``: is the identity; ``flops``: does not matter), and dropout
    and whatever else differs between the modes is as in eval mode. All parameters count, also those that do not
    require grad.

    The module comes back bit for bit as it was, with its gradients, buffers, modes and hooks, and so does torch's
    global generator: everything happens on a private copy. What one pass can serve is computed once, so that asking
    for several proxies in one call is cheaper than in several. The gradients of ``ntk_condition`` take the most time
    (a backward pass for each image) and memory (the weights, times the images, at most 512 MiB).

    Args:
        network: ``(B, C, H, W)`` to logits ``(B, classes)``.
        proxies: names in :data:`PROXIES`.
        batches: ``(x, labels)``, on the network's device. All but ``zico`` see the first alone; ``zico`` sees all.
        seed: of what ``zen`` and ``meco`` draw.

    Raises:
        ScoreError: a proxy is unknown, or cannot be had of this network or these batches, or is not finite.
    """
    check_names(proxies)
    _check_batches(batches)
    began = perf_counter()
    found: dict[str, float] = {}
    shared = [name for name in proxies if name in SHARED]
    with _private(network, batches[0][0]) as net:
        if shared:
            _reseed(seed)
            found |= of_batches(net, shared, batches)
        for name in proxies:
            if name in PROBES:
                _reseed(seed)
                found[name] = PROBES[name](net, batches[0][0], seed)
    values = {name: checked(name, found[name]) for name in proxies}
    return Scores(values, perf_counter() - began)


def _reseed(seed: int) -> None:
    """What a network draws by itself does not depend on which proxies are asked for."""
    torch.default_generator.manual_seed(derive(seed, "score"))  # torch.manual_seed would reseed CUDA too


@contextmanager
def _private(network: nn.Module, x: Tensor) -> Iterator[nn.Module]:
    """A copy in eval mode whose parameters require grad, in a context in which gradients can be taken."""
    devices = [x.device] if x.is_cuda else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        net = copy.deepcopy(network).eval()
        for module in net.modules():  # they look at gradients, and wrap what a module gives; forward hooks may compute
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        for parameter in net.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        yield net


def _check_batches(batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    ok = bool(batches) and all(len(x) == len(labels) and len(x) >= 2 for x, labels in batches)
    sizes = [len(x) for x, _ in batches]
    rule = "must be at least one batch, of at least two images, each with its label"
    if not ok:
        raise ScoreError("batches", f"of {sizes} images", rule, "give images to be scored on, such as 32")
