"""Write a subnetwork of a trained supernet as files; each file is loaded again and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.checkpoint import Trained, calibrated, plain_network
from nas.data import Batch
from nas.errors import ExportError
from nas.export.card import CARD, ONNX, PROGRAM, README, WEIGHTS, make_card, metadata_of
from nas.export.compare import Comparison, Reference
from nas.export.fold import Normalised
from nas.export.formats import (
    make_program,
    need_onnx,
    run_onnx,
    run_program,
    write_onnx,
    write_program,
    write_weights,
)
from nas.export.load import load
from nas.export.readme import readme
from nas.files import put, sha256_of
from nas.space import Architecture, ModuleSpace
from nas.train.evaluation.confusion import write_confusion


@dataclass(frozen=True)
class Exported:
    """An exported network."""

    folder: Path
    card: dict[str, Any]
    comparisons: list[Comparison]
    """One for each file that contains weights."""


def ready(folder: Path, onnx: bool) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        ExportError: ``folder`` is not empty, or packages for ``onnx`` are missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        rule = "exists already and is not empty"
        raise ExportError("run", folder, rule, "take another run=NAME, or delete the folder")
    if onnx:
        need_onnx()


def export(
    trained: Trained,
    architecture: Architecture,
    folder: Path | str,
    program: bool = True,
    onnx: bool = False,
    images: int = 256,
    fold: bool = False,
) -> Exported:
    """Write the subnetwork ``architecture`` of ``trained`` into ``folder``, which appears whole or not at all.

    The network is float32, contiguous, in eval mode, with the BatchNorm statistics that the run evaluates it with.
    Every file is loaded again and compared with the supernet's subnetwork.

    Args:
        trained: the supernet and its images.
        architecture: which subnetwork.
        folder: an absent or empty folder.
        program: write a ``torch.export`` program.
        onnx: write ONNX; needs ``program`` and the packages of the ``[onnx]`` extra.
        images: number of test images to compare on.
        fold: the files take uint8 images and normalise them themselves.

    Raises:
        ExportError: the folder is not empty, a format cannot express the network, or a file computes something else.
        ArchitectureError: ``architecture`` does not fit the space.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    ready(folder, onnx)
    trained.space.validate(architecture)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)  # left by a killed export
    try:
        unfinished.mkdir(parents=True)
        exported = _write(trained, architecture, unfinished, program, onnx, images, fold)
        put(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Exported(folder, *exported)


def _write(
    trained: Trained, architecture: Architecture, folder: Path, program: bool, onnx: bool, images: int, fold: bool
) -> tuple[dict[str, Any], list[Comparison]]:
    splits = trained.splits
    # The files have no memory formats, so the supernet is compared in the contiguous one too.
    supernet = calibrated(trained, architecture).to(memory_format=torch.contiguous_format)
    plain = plain_network(supernet, architecture, splits.input_shape)
    number = min(images, len(splits.test))
    compared = splits.test.subset(torch.arange(number))
    ((x, _),) = trained.batches(compared, number)
    reference = Reference.of(
        supernet, architecture, x.contiguous(), compared.take(torch.arange(number)) if fold else None
    )

    predicted = {name: predictions(plain, trained.batches(getattr(splits, name))) for name in ("val", "test")}
    labels = {"val": splits.val.labels, "test": splits.test.labels}
    accuracies = {name: float((found == labels[name]).double().mean()) for name, found in predicted.items()}
    title = f"{trained.space.name} {trained.space.encode(architecture)}"
    write_confusion(folder, labels["test"], predicted["test"], splits.classes, title)
    card = make_card(trained, architecture, plain, accuracies, fold)
    write_weights(folder / WEIGHTS, plain, card["network"])
    comparisons = []
    if program:
        whole, dtype = (Normalised(plain, splits.mean, splits.std), torch.uint8) if fold else (plain, torch.float32)
        recorded, metadata = make_program(whole, splits.input_shape, dtype), metadata_of(card)
        write_program(folder / PROGRAM, recorded, metadata)
        comparisons.append(reference.compare(folder / PROGRAM, run_program(folder / PROGRAM)))
        if onnx:
            write_onnx(folder / ONNX, recorded, metadata)
            comparisons.append(reference.compare(folder / ONNX, run_onnx(folder / ONNX)))
    (folder / README).write_text(readme(card, {path.name for path in folder.iterdir()}))
    card["files"] = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    # Last, as users do it: with the card, the digests and the README in place.
    made = trained.space.build if type(trained.space) is ModuleSpace else ",".join(trained.settings.space.called)
    network = load(folder, made)
    return card, [reference.compare(folder / WEIGHTS, network, exact=True), *comparisons]


@torch.no_grad()
def predictions(network: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """The class that ``network`` gives each image, int64 ``(N,)``."""
    return torch.cat([network(x).argmax(1) for x, _ in batches])
