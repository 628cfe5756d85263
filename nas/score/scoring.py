"""``score``: compute training-free proxies of a network."""

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
    """The proxies of one network.

    Attributes:
        values: by name, in the requested order; finite, or the infinity that the proxy states as its worst.
        seconds: time for all of them together.
    """

    values: dict[str, float]
    seconds: float


def score(
    network: nn.Module, proxies: Sequence[str], batches: Sequence[tuple[Tensor, Tensor]], seed: int = 0
) -> Scores:
    """Score a network without training it.

    Proxies use the network's present weights, except ``zen`` and ``synflow``, which set their own. Every BatchNorm
    uses the batch's statistics (``synflow`` replaces it by the identity; ``flops`` ignores it); dropout and everything
    else that depends on the mode is as in eval mode. All parameters count, including those that do not require grad.

    The work happens on a private copy: the network, with its gradients, buffers, modes and hooks, and torch's global
    generator stay unchanged. Proxies share passes, so one call for several proxies is cheaper than several calls.
    ``ntk_condition`` takes the most time (a backward pass for each image) and memory (the weights times the images,
    at most 512 MiB).

    Args:
        network: ``(B, C, H, W)`` to logits ``(B, classes)``.
        proxies: names in :data:`PROXIES`.
        batches: ``(x, labels)``, on the network's device. Only ``zico`` sees more than the first.
        seed: seed of the draws of ``zen`` and ``meco``.

    Raises:
        ScoreError: a proxy is unknown, does not apply to this network or these batches, or is not finite.
    """
    check_names(proxies)
    if not batches or not all(len(x) == len(labels) and len(x) >= 2 for x, labels in batches):
        rule, sizes = (
            "must be at least one batch, of at least two images, each with its label",
            [len(x) for x, _ in batches],
        )
        raise ScoreError("batches", f"of {sizes} images", rule, "give images to be scored on, such as 32")
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
    """Seed the network's own draws, so that they do not depend on which proxies are computed."""
    torch.default_generator.manual_seed(derive(seed, "score"))  # torch.manual_seed would reseed CUDA too


@contextmanager
def _private(network: nn.Module, x: Tensor) -> Iterator[nn.Module]:
    """A copy in eval mode whose parameters require grad, in a context in which gradients can be taken."""
    devices = [x.device] if x.is_cuda else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        net = copy.deepcopy(network).eval()
        for module in net.modules():  # they change what a module returns; forward hooks may be part of the network
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        for parameter in net.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        yield net
