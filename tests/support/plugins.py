"""What a user could have written: an optimizer, a schedule, a loss, an augmentation, and some that are wrong."""

import torch
from torch import nn


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, with a counter that is a Python number, as many have one."""

    def __init__(self, params, lr, beta=0.9, decay=0.1):
        super().__init__(params, {"lr": lr, "beta": beta, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(steps=0, momentum=torch.zeros_like(p))
                state["steps"] += 1
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(group["lr"] / state["steps"] * state["momentum"].lerp(p.grad, 0.1).sign())
                state["momentum"].lerp_(p.grad, 1 - group["beta"])


def no_decay_of_vectors(params, lr, decay):
    """Two groups, one with another learning rate."""
    matrices, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "lr": 2 * lr, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr)


class Counts(Lion):
    """Counts outside of its state."""

    calls = 0

    def step(self):
        self.calls += 1
        super().step()


class Listed(Lion):
    """Keeps a list, which a checkpoint does not hold."""

    def step(self):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["seen"] = [1]


def nothing(params, lr):
    return None


def half(params, lr):
    return torch.optim.SGD(params[:1], lr=lr)


def schedule(step, total_steps, steps_per_epoch):
    return 1 - step / total_steps


def sinking(step, total_steps, steps_per_epoch):
    return 0.5 - step


def loss(logits, labels):
    return nn.functional.multi_margin_loss(logits, labels)


def loss_each(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def loss_without_gradient(logits, labels):
    return loss(logits.detach(), labels)


def augment(images, generator):
    """Mixes each image with another one: one draw from ``generator``, one without naming it."""
    other = torch.randperm(len(images), generator=generator)
    return images.lerp(images[other], 0.5 * torch.rand(()))


def resize(images, generator):
    return images[..., :4]


def burn(images, generator):
    return images / 0
