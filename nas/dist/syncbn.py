"""BatchNorm over the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas.dist.world import World


class _Sum(torch.autograd.Function):
    """The sum over the processes. Every process's loss depends on it, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum_(x.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum_(grad.clone()), None


class _Synced(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm that, in a training step, takes the statistics of the batch of all processes.

    The processes' parts of the batch must have the same size. Outside of training steps the layer is unchanged.
    torch.nn.SyncBatchNorm does the same, but on GPUs only. The mean and then the squared deviations from it are summed:
    two messages, and none of the cancellation of E[x^2] - E[x]^2.
    """

    world: World

    def forward(self, x: Tensor) -> Tensor:
        # Rank 0 evaluates alone, without gradients; a gate compares paths without gradients on all, and tracks nothing.
        if not (self.training and (torch.is_grad_enabled() or not self.track_running_stats)):
            return super().forward(x)
        self._check_input_dim(x)
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # under autocast, as F.batch_norm does
        size, shape = self.world.size, (1, -1, *([1] * (x.dim() - 2)))
        over = [axis for axis in range(x.dim()) if axis != 1]
        mean = _Sum.apply(x.mean(over), self.world) / size
        centred = x - mean.view(shape)
        variance = _Sum.apply((centred * centred).mean(over), self.world) / size
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach(), size * x.numel() // x.shape[1])
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(given)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None, "a layer that tracks statistics counts its batches"
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for own, new in (self.running_mean, mean), (self.running_var, variance * (count / (count - 1))):
            assert own is not None, "a layer that tracks statistics has them"
            own.lerp_(new.to(own), factor)


def synchronise(supernet: nn.Module, world: World) -> None:
    """Let the BatchNorm layers of ``supernet`` normalise by the batch of all processes in training steps, in place."""
    for norm in supernet.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            kind = type(norm)
            norm.__class__ = type(f"Synced{kind.__name__}", (_Synced, kind), {"world": world})
