"""One image through a network that somebody else has written."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.errors import NasError, SpaceError

_TORCH = str(Path(torch.__file__).parent) + os.sep
RAISED = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a network of somebody else may raise where it cannot be run, or followed."""


@torch.no_grad()
def run_once(model: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    """What ``model`` gives for an image of zeros in eval mode; it is in the mode that it was in.

    Args:
        model: ``model(x)`` gives logits ``(B, classes)``.
        input_shape: of the image, ``(C, H, W)``.

    Raises:
        SpaceError: it does not run on such an image, changes it in place, or gives something else than logits.
    """
    name, modes = type(model).__name__, [(part, part.training) for part in model.modules()]
    like = next(model.parameters(), torch.empty(0))
    x = torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype)
    try:
        y: object = model.eval()(x)
    except NasError:
        raise
    except RAISED as error:
        rule = f"does not run on an image of {input_shape}: {what_and_where(error)}"
        remedy = "give it images of the size that it takes, mend it there, or write gates into forward (space=custom)"
        raise SpaceError("space.model", name, rule, remedy) from error
    finally:
        for part, training in modes:
            part.training = training
    if x._version:
        remedy = "let forward begin with x = x.clone(), or leave out the inplace=True that meets the images"
        raise SpaceError("space.model", name, "changes the images that it is given in place", remedy)
    if not isinstance(y, Tensor) or y.ndim != 2:
        what = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise SpaceError("space.model", name, f"gives {what} and no logits (B, classes)", "wrap it so that it does")
    return y


def what_and_where(error: Exception) -> str:
    """What ``error`` says, and where it comes from, outside of torch itself: ``... (resnet.py:268)``."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if not f.filename.startswith(_TORCH)), frames[-1])
    return f"{(str(error) or repr(error)).splitlines()[0]} ({Path(frame.filename).name}:{frame.lineno})"
