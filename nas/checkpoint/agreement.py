"""The space, images and seed that a training takes from a checkpoint, and with which what was given has to agree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.checkpoint.trained import harmless, must_be_named
from nas.errors import CheckpointError
from nas.settings import TrainRunSettings
from nas.settings.data import AUGMENTATION, PLACE
from nas.settings.plain import differences, flat


def agreed(
    settings: TrainRunSettings,
    own: TrainRunSettings,
    key: str,
    path: Path | str,
    given: Collection[str] | None = None,
) -> TrainRunSettings:
    """``settings`` with the space, data and seed of a checkpoint.

    Where the images are and how they are augmented is free: what is given of that stays. An augmentation that
    is not ours has to be given, or left out by ``data.augment=[]``.

    Args:
        settings: of the training.
        own: of the run that wrote the checkpoint.
        key: what ``path`` is called in a message, ``checkpoint`` or ``search``.
        path: of the checkpoint.
        given: the names of the settings that a user has set, as in ``space.widths``; all of them if left out.

    Raises:
        CheckpointError: a given one differs from the checkpoint's, or a function that it names is not given.
    """
    now, before = _compared(settings), _compared(own)
    free = {f"data.{name}" for name in (*AUGMENTATION, *PLACE)}
    asked = {*now, *before} if given is None else {name for name in given if name in now}
    # A setting that only another choice of its group has says which choice is meant.
    asked |= {f"{name.partition('.')[0]}.name" for name in asked - free - {*before}}
    held = asked - free
    changed = differences(*({name: one[name] for name in held if name in one} for one in (before, now)))
    if changed:
        rule = f"has another space, or its images were split otherwise ({'; '.join(changed)})"
        remedy = f"leave that out, it comes with {key}=, or leave {key}= out to train from scratch"
        raise CheckpointError(key, path, rule, remedy)
    must_be_named(
        path,
        own.space,
        ",".join(settings.space.called),
        "space.model" if own.space.name == "model" else "space.factory",
    )
    data, functions = harmless(own.data), own.data.own_functions
    if functions and "data.augment" not in asked:
        augment = f"[{','.join(own.data.augment)}]"
        rule = f"the images of {path} are changed by {', '.join(functions)}, which is called only if you name it too"
        remedy = f"write data.augment={augment} if you trust it, or data.augment=[] to do without"
        raise CheckpointError("data.augment", "[]", rule, remedy)
    kept = [name for name in (*AUGMENTATION, *PLACE) if f"data.{name}" in asked and hasattr(data, name)]
    data = replace(data, **{name: getattr(settings.data, name) for name in kept})
    return replace(settings, space=own.space, data=data, seed=own.seed)


def _compared(settings: TrainRunSettings) -> dict[str, Any]:
    return flat({"space": asdict(settings.space), "data": asdict(settings.data), "seed": settings.seed})
