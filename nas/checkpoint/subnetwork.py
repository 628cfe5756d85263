"""A subnetwork out of a trained supernet, as the run evaluates it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nas.checkpoint.trained import Trained
from nas.dist import autocast
from nas.space import Architecture, extract, infer_widths, recalibrate


def calibrated(trained: Trained, architecture: Architecture) -> nn.Module:
    """A copy of the supernet, in eval mode, with the BatchNorm statistics that the run evaluates ``architecture`` with.

    They are estimated on the run's calibration images; with ``evaluate.recalibrate=false`` they are the running ones.
    The copy is good for this one architecture.
    """
    model = copy.deepcopy(trained.supernet).eval()
    if trained.settings.evaluate.recalibrate:
        batches = trained.calibration()
        with autocast(trained.settings.train.way.precision, torch.device("cpu")):
            recalibrate(model, architecture, batches)
    return model


def plain_network(supernet: nn.Module, architecture: Architecture, image: tuple[int, int, int]) -> nn.Module:
    """The subnetwork as a plain module ``forward(x)``, in eval mode, as a copy.

    Args:
        supernet: is left in eval mode.
        architecture: of the subnetwork.
        image: shape ``(C, H, W)`` of an input.
    """
    infer_widths(supernet, image)
    return extract(supernet.eval(), architecture).eval()
