"""Weights that a run begins with instead of those of its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.checkpoint.file import load, newest
from nas.errors import CheckpointError
from nas.files import sha256_of
from nas.state import load_weights, must_fit

AVERAGE = "average/"
"""What the names of moving averages begin with among those of an optimizer."""


@dataclass(frozen=True, eq=False)
class Initial:
    """Weights that a run begins with.

    Attributes:
        weights: tensors by name, for the whole supernet or a part of it.
        origin: identifies where the weights come from; a run goes on only with weights of the same origin.
        whole: the checkpoint that they are all weights of; None where a part of them is right too.
    """

    weights: dict[str, Any] = field(default_factory=dict, repr=False)
    origin: str = ""
    whole: Path | None = None

    def put_into(self, supernet: nn.Module) -> None:
        """Load them.

        Raises:
            CheckpointError: they are those of another network.
        """
        if self.whole is None:
            unknown = supernet.load_state_dict(self.weights, strict=False).unexpected_keys
            assert not unknown, f"initial weights of another network: {unknown}"
            return
        remedy = "take the space and the number of classes that it was trained with"
        with must_fit(CheckpointError, "train.init", self.whole, remedy):
            load_weights(supernet, self.weights)


def initial_of(path: Path | str) -> Initial:
    """The weights of a run that has been trained, or the moving averages of them if the run evaluates those.

    The file may come from anybody: nothing that it names is imported, called or opened.

    Args:
        path: a ``step_*.safetensors``, or the folder of a run, for its newest.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = newest(path, "train.init")
    state = load(path)
    weights: dict[str, Any] = state["model"]
    weights.update(averages_of(state))
    return Initial(weights, sha256_of(path), path)


def averages_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The moving averages of the weights in a checkpoint by the names of their parameters; empty if it has none."""
    found = state["optimizer"].items()
    return {name.removeprefix(AVERAGE): value for name, value in found if name.startswith(AVERAGE)}
