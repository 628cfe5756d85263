"""The update of a step: only the parameters that got a gradient, whatever the size of the supernet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nas.eager import eager_optimizer
from nas.errors import SettingError, require
from nas.settings import AdamWSettings, CustomOptimizerSettings, OptimizerSettings, SGDSettings
from nas.state import restore
from nas.train.update.own_optimizer import OwnState, own_optimizer


def _build(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    # The fused kernels update a parameter in one pass; they exist for these devices.
    fused = parameters[0].device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in parameters)
    match settings:
        case SGDSettings():
            decay, momentum = settings.weight_decay, settings.momentum
            sgd = eager_optimizer(torch.optim.SGD)(
                parameters, settings.lr, momentum, weight_decay=decay, nesterov=settings.nesterov, fused=fused
            )
            if momentum:
                # Fused SGD takes all moments of a call or none; a branch that runs for the first time has to have one.
                for parameter in parameters:
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case AdamWSettings():
            betas, decay = (settings.beta1, settings.beta2), settings.weight_decay
            return eager_optimizer(torch.optim.AdamW)(parameters, settings.lr, betas, weight_decay=decay, fused=fused)
        case CustomOptimizerSettings():
            return own_optimizer(settings, parameters)
    raise SettingError("optimizer.name", settings.name, "is not a known optimizer", "use sgd, adamw or custom")


class GatedOptimizer:
    """A torch optimizer that sees only the parameters that a step has used.

    Each parameter reports when the backward pass has accumulated its gradient; ``step`` clips and updates those
    that did, and drops their gradients. Closed branches are left alone: no decay, no momentum, no cost.

    Args:
        supernet: the network whose trainable parameters are updated.
        settings: the settings of the optimizer.
        clip_norm: largest norm of a step's gradient; 0 for no limit.
        ema_decay: decay of the moving average of the weights; 0 for none. A weight's average moves when the
            weight does.
    """

    def __init__(
        self, supernet: nn.Module, settings: OptimizerSettings, clip_norm: float = 0.0, ema_decay: float = 0.0
    ) -> None:
        self._named = {name: p for name, p in supernet.named_parameters() if p.requires_grad}
        self.parameters = list(self._named.values())
        rule, remedy = "has no parameter that can be trained", "leave requires_grad on for some of them"
        require(bool(self.parameters), "space", type(supernet).__name__, rule, remedy)
        self.optimizer = _build(settings, self.parameters)
        self._own = OwnState(settings, self.optimizer) if isinstance(settings, CustomOptimizerSettings) else None
        groups = self.optimizer.param_groups
        self._rates = [group["lr"] / settings.lr for group in groups]
        self._group_of = {p: i for i, group in enumerate(groups) for p in group["params"]}
        self.clip_norm, self.ema_decay = clip_norm, ema_decay
        self.average: dict[Tensor, Tensor] = {}
        if ema_decay:
            self.average = {p: p.detach().clone() for p in self.parameters}
        self._used: dict[Tensor, None] = {}  # ordered, each once
        self._held = torch.zeros((), dtype=torch.float32, device=self.parameters[0].device)  # 1 holds all updates back
        self._one = torch.ones_like(self._held)
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._note)

    def _note(self, parameter: Tensor) -> None:
        if parameter.grad is not None:  # torch reports an undefined gradient, too
            self._used[parameter] = None

    @property
    def used(self) -> list[Tensor]:
        """The parameters that have received a gradient since the last step, in that order."""
        return list(self._used)

    def use(self, parameters: Iterable[Tensor]) -> None:
        """Update ``parameters``, which have a gradient, in this step: other processes may have used more."""
        self._used = dict.fromkeys(parameters)

    def hold_unless_finite(self, figures: Tensor) -> None:
        """Make no update any more, neither in this step nor later, if one of ``figures``, a loss, is not finite.

        The device decides that, and nothing is read here.
        """
        torch._amp_foreach_non_finite_check_and_unscale_([figures], self._held, self._one)  # 1 if so, else as it was

    def step(self, lr: float) -> None:
        """Update what has a gradient, at learning rate ``lr``, unless that is held back, and drop the gradients.

        Weights, moments, step counters and averages are held back on the device by the fused optimizers. For another,
        as the user's own, it is read in each step whether they are to be.
        """
        used = self.used
        self._used.clear()
        fused = self._own is None and all(group["fused"] for group in self.optimizer.param_groups)
        if fused:
            self.optimizer.found_inf = self._held  # type: ignore[attr-defined]  # where they look for it
        if fused or not self._held:
            self._update(used, lr)
        for parameter in used:
            parameter.grad = None

    @torch.no_grad()
    def _update(self, used: list[Tensor], lr: float) -> None:
        if self.clip_norm:
            nn.utils.clip_grad_norm_(used, self.clip_norm)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["params"], group["lr"] = [], lr * rate
        for parameter in used:
            self.optimizer.param_groups[self._group_of[parameter]]["params"].append(parameter)
        self.optimizer.step()
        if self._own is not None:
            self._own.check(self._named)
        if self.ema_decay:
            share = (1 - self._held) * (1 - self.ema_decay)
            torch._foreach_lerp_([self.average[p] for p in used], used, [share.to(p.dtype) for p in used])

    def averages(self) -> dict[str, Tensor] | None:
        """The moving averages by the names of their parameters; None if there are none."""
        return {name: self.average[p] for name, p in self._named.items()} if self.average else None

    def state_dict(self) -> dict[str, Tensor]:
        """The moments, as ``exp_avg/NAME`` for example, and as ``average/NAME`` the moving averages; no copies."""
        state, average = self.optimizer.state, self.average
        if self._own is not None:
            found = self._own.tensors(self._named)
        else:
            found = {f"{kind}/{name}": m for name, p in self._named.items() for kind, m in state.get(p, {}).items()}
        return found | {f"average/{name}": average[p] for name, p in self._named.items() if p in average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Copy what ``state_dict()`` returned into a new optimizer.

        Raises:
            ValueError: it is of another optimizer or network.
        """
        if self._own is not None:
            self._own.load(self._named, state)
        elif isinstance(self.optimizer, torch.optim.AdamW):
            for name, parameter in self._named.items():  # those that have been updated; the others begin when they are
                if f"exp_avg/{name}" in state:
                    fused = self.optimizer.defaults["fused"]
                    count = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
                    first, second = torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach())
                    self.optimizer.state[parameter] = {"step": count, "exp_avg": first, "exp_avg_sq": second}
        restore(self.state_dict(), state)
