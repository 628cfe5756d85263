"""How good a subnetwork is on images that it was not trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Batch
from nas.gate import FairGate, Gate
from nas.settings import FairGateSettings
from nas.space import Architecture, SearchSpace, in_order
from nas.train.evaluation.prefix import PrefixWalk

KEPT_BYTES = 1 << 27
"""The most memory for what subnetworks share in an evaluation of a training."""


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
    space: SearchSpace | None = None,
) -> list[EvalResult]:
    """Accuracy and loss of subnetworks, on a private copy of the supernet.

    Args:
        supernet: left unchanged, its mode and BatchNorm statistics included.
        architectures: the subnetworks; what each is found to be does not depend on the others.
        batches: images and labels to evaluate on.
        calibration: training images on which each subnetwork's BatchNorm statistics are estimated; None takes the
            running statistics of the supernet.
        weights: parameters by name that replace those of the supernet, for example their moving averages.
        precision: ``float32``, or ``bf16`` for autocast.
        space: of the supernet: subnetworks that begin alike then share that part of the work where it can be cut into
            pieces. The results are the same, on one thread bit for bit.
    """
    model = copy.deepcopy(supernet).eval()
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    order = sorted(dict.fromkeys(architectures), key=in_order)
    walk = PrefixWalk(model, space if len(order) > 1 else None, batches, calibration, precision, KEPT_BYTES)
    found = {each: result_of(each, logits, walk.labels) for each, logits in walk.logits(order)}
    return [found[architecture] for architecture in architectures]


def result_of(architecture: Architecture, logits: Iterable[Tensor], labels: Iterable[Tensor]) -> EvalResult:
    """The result of a subnetwork that gives ``logits``, ``(B, classes)`` for each batch of ``labels``, ``(B,)``."""
    figures, predicted = list[Tensor](), list[Tensor]()
    for z, y in zip(logits, labels, strict=True):
        z = z.float()
        classes = z.argmax(dim=1)
        figures += [(classes == y).sum().double(), F.cross_entropy(z, y, reduction="sum").double()]
        predicted.append(classes.int())
    numbers = torch.stack(figures).tolist()  # all at once, since a GPU is waited for
    correct, loss, count = sum(numbers[::2]), sum(numbers[1::2]), sum(map(len, predicted))
    return EvalResult(architecture, correct / count, loss / count, count, torch.cat(predicted).cpu())
