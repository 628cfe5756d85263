"""One subnetwork of a trained supernet: which one a run found best, and the network as the run judges it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from nas.dist import autocast
from nas.errors import CheckpointError
from nas.space import Architecture, extract, recalibrate, show_widths
from nas.train.report import read_report
from nas.train.trained import Trained


def best_of_run(path: Path | str) -> str:
    """The subnetwork that was best on validation pictures, as text, of those that a run has judged at its end.

    Args:
        path: the run's folder, or a checkpoint in it.

    Raises:
        CheckpointError: the run has left no report, or one that cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        return read_report(folder).subnetworks[0].architecture
    except FileNotFoundError:
        rule = f"there is no report.json in {folder} to say which subnetwork is best"
        raise CheckpointError("architecture", "best", rule, "finish the run, or name one, as in 1-0-2") from None
    except IndexError:
        rule = f"{folder / 'report.json'} cannot be read (it has no subnetworks)"
        raise CheckpointError("architecture", "best", rule, "name the architecture, as in 1-0-2") from None
    except CheckpointError as error:
        rule = f"{error.value} {error.rule}"
        raise CheckpointError("architecture", "best", rule, "name the architecture, as in 1-0-2") from None


def calibrated(trained: Trained, architecture: Architecture) -> nn.Module:
    """A copy of the supernet, in eval mode, with the BatchNorm statistics that the run judges ``architecture`` with.

    They are estimated anew on the run's calibration pictures, or where the run has ``evaluate.recalibrate=false``
    the running ones. The copy is good for this one architecture.
    """
    model = copy.deepcopy(trained.supernet).eval()
    if trained.settings.evaluate.recalibrate:
        batches = trained.calibration()
        with autocast(trained.settings.train.precision, torch.device("cpu")):
            recalibrate(model, architecture, batches)
    return model


def plain_network(supernet: nn.Module, architecture: Architecture, picture: tuple[int, int, int]) -> nn.Module:
    """The subnetwork as a plain module in eval mode, as a copy; ``supernet``, for pictures ``(C, H, W)``, is so too."""
    show_widths(supernet, picture)
    return extract(supernet.eval(), architecture).eval()
