"""How good a subnetwork is on images that it was not trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Batch
from nas.dist import autocast
from nas.gate import FairGate, Gate
from nas.settings import FairGateSettings
from nas.space import Architecture, recalibrate
from nas.space.calibrate import estimate_statistics, norms_with_statistics


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation of one subnetwork has found.

    Attributes:
        architecture: the subnetwork.
        accuracy: share of correct predictions, 0 to 1.
        loss: mean cross-entropy.
        images: that both rest on.
        predicted: the class of each image, int32 ``(images,)`` on the CPU, for a confusion matrix.
    """

    architecture: Architecture
    accuracy: float
    loss: float
    images: int
    predicted: Tensor | None = field(default=None, repr=False, compare=False)


def architectures_to_evaluate(gate: Gate, rounds: int) -> list[Architecture]:
    """The subnetworks that represent a supernet: the same ones in every evaluation of a run.

    All architectures of a small space; of a larger one, as many as ``rounds`` times the choices of the largest slot,
    dealt as strictly fair paths, drawn once for all runs. A fixed gate has its one architecture; a learned gate adds
    the one it prefers.
    """
    space = gate.space
    number = rounds * max(len(slot.choices) for slot in space.slots)
    if space.size <= number:
        sample = list(space.enumerate())
    else:
        draws = FairGate(space, 0, FairGateSettings(mode="step_each"))
        sample = [path for i in range(number) for path in draws.paths(i)]
    return list(dict.fromkeys(gate.to_evaluate(sample)))


@torch.no_grad()
def evaluate(
    supernet: nn.Module,
    architectures: Sequence[Architecture],
    batches: Sequence[Batch],
    calibration: Sequence[Batch] | None = None,
    weights: dict[str, Tensor] | None = None,
    precision: str = "float32",
) -> list[EvalResult]:
    """Accuracy and loss of subnetworks, on a private copy of the supernet.

    Args:
        supernet: left unchanged, its mode and BatchNorm statistics included.
        architectures: the subnetworks, evaluated one after the other and independently.
        batches: images and labels to evaluate on.
        calibration: training images on which each subnetwork's BatchNorm statistics are estimated; None takes the
            running statistics of the supernet.
        weights: parameters by name that replace those of the supernet, for example their moving averages.
        precision: ``float32``, or ``bf16`` for autocast.
    """
    model = copy.deepcopy(supernet).eval()
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    results = []
    for architecture in architectures:
        logits = logits_of(model, architecture, batches, calibration, precision)
        results.append(result_of(architecture, logits, batches))
    return results


@torch.no_grad()
def logits_of(
    model: nn.Module,
    architecture: Architecture,
    batches: Sequence[Batch],
    calibration: Sequence[Batch] | None,
    precision: str,
    by_batch: bool = False,
) -> list[Tensor]:
    """The logits ``(B, classes)`` of a subnetwork for each batch; arguments as in :func:`evaluate`.

    Args:
        model: in eval mode; the BatchNorm statistics on the path become others.
        by_batch: BatchNorm normalises each batch by that batch; ``calibration`` is not looked at.
    """
    with autocast(precision, batches[0][0].device):
        if by_batch:
            with estimate_statistics(norms_with_statistics(model)):
                return [model(x, architecture) for x, _ in batches]
        if calibration is not None:
            recalibrate(model, architecture, calibration)
        return [model(x, architecture) for x, _ in batches]


def result_of(architecture: Architecture, logits: Iterable[Tensor], batches: Iterable[Batch]) -> EvalResult:
    """The result of a subnetwork that gives ``logits``, ``(B, classes)`` for each of ``batches``."""
    correct, loss, predicted = 0, 0.0, list[Tensor]()
    for z, (_, y) in zip(logits, batches, strict=True):
        z = z.float()
        classes = z.argmax(dim=1)
        correct += int((classes == y).sum())
        loss += float(F.cross_entropy(z, y, reduction="sum"))
        predicted.append(classes.int().cpu())
    count = sum(map(len, predicted))
    return EvalResult(architecture, correct / count, loss / count, count, torch.cat(predicted))
