"""How good a subnetwork is on pictures it has not been trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Batch
from nas.dist import autocast
from nas.gate import FairGate, FixedGate, Gate, LearnedGate
from nas.settings import FairGateSettings
from nas.space import Architecture, recalibrate


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found."""

    architecture: Architecture
    accuracy: float
    """Share of correct predictions, 0 to 1."""
    loss: float
    """Mean cross-entropy."""


def architectures_to_evaluate(gate: Gate, rounds: int) -> list[Architecture]:
    """The subnetworks that stand for a supernet: the same ones in every evaluation of a run.

    All of a space that is small enough, else ``rounds`` rounds in which each choice of each slot occurs once,
    drawn once for all runs. A fixed gate has its one architecture; a learned gate adds its favourite.
    """
    if isinstance(gate, FixedGate):
        return [gate.architecture]
    space = gate.space
    if space.size <= rounds * max(len(slot.choices) for slot in space.slots):
        return list(space.enumerate())
    draws = FairGate(space, 0, FairGateSettings(mode="accumulate"))
    found = [path for i in range(rounds) for path in draws.paths(i)]
    if isinstance(gate, LearnedGate):
        found.append(gate.best())
    return list(dict.fromkeys(found))


@torch.no_grad()
def evaluate(
    supernet: nn.Module,
    architectures: Sequence[Architecture],
    batches: Sequence[Batch],
    calibration: Sequence[Batch] | None = None,
    weights: dict[str, Tensor] | None = None,
    precision_name: str = "float32",
) -> list[EvalResult]:
    """Accuracy and loss of subnetworks, on a private copy of the supernet.

    Args:
        supernet: stays as it is, mode and BatchNorm statistics included.
        batches: what to judge on, ``(x, y)``.
        calibration: training pictures to estimate BatchNorm statistics on, anew for each subnetwork; None takes
            the running statistics as they are.
        weights: parameters by name to judge instead of the supernet's own, for example their moving average.
    """
    model = copy.deepcopy(supernet).eval()
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    found = []
    for architecture in architectures:
        with autocast(precision_name, batches[0][0].device):
            if calibration is not None:
                recalibrate(model, architecture, calibration)
            found.append(result_of(architecture, (model(x, architecture) for x, _ in batches), batches))
    return found


def result_of(architecture: Architecture, logits: Iterable[Tensor], batches: Iterable[Batch]) -> EvalResult:
    """Accuracy and loss of a network that gives the ``logits`` ``(B, classes)`` for each of the batches ``(x, y)``."""
    correct, loss, count = 0, 0.0, 0
    for z, (_, y) in zip(logits, batches, strict=True):
        z = z.float()
        correct += int((z.argmax(dim=1) == y).sum())
        loss += float(F.cross_entropy(z, y, reduction="sum"))
        count += len(y)
    return EvalResult(architecture, correct / count, loss / count)
