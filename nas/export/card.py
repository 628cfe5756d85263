"""The card of an exported network: what it is, its measurements, and what is needed to build it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from nas.checkpoint import Trained, versions
from nas.cost import count_flops
from nas.errors import ExportError
from nas.nn import indices_of
from nas.settings import DataSettings, FolderSettings
from nas.space import Architecture

FORMAT = 1
NORMALISED = "float32 (batch, channels, image_size, image_size): (image / 255 - mean) / std, channel by channel"
FOLDED = "uint8 (batch, channels, image_size, image_size), 0 to 255: the network normalises them itself"
CARD, WEIGHTS, PROGRAM, ONNX, README = "card.json", "weights.safetensors", "network.pt2", "network.onnx", "README.md"


def network_of(trained: Trained, architecture: Architecture, fold: bool = False) -> dict[str, Any]:
    """What a network is built from besides its weights, as plain data that survives JSON.

    With ``fold`` it has ``normalisation`` in it, the mean and the deviation of each channel.
    """
    splits = trained.splits
    network = {
        "space": asdict(trained.settings.space),
        "architecture": trained.space.encode(architecture),
        "channels": splits.channels,
        "image_size": splits.image_size,
        "classes": len(splits.classes),
    }
    if fold:
        network["normalisation"] = {"mean": splits.mean.tolist(), "std": splits.std.tolist()}
    plain: dict[str, Any] = json.loads(json.dumps(network))
    return plain


def make_card(
    trained: Trained, architecture: Architecture, plain: nn.Module, accuracies: dict[str, float], fold: bool = False
) -> dict[str, Any]:
    """The card, without the digests of the files.

    Args:
        trained: the supernet that the network comes from.
        architecture: the network's architecture.
        plain: the network.
        accuracies: by split, 0 to 1.
        fold: the exported network normalises its images itself.
    """
    space, splits, settings = trained.space, trained.splits, trained.settings
    path = trained.path.resolve()
    return {
        "format": FORMAT,
        "network": network_of(trained, architecture, fold),
        "choices": space.describe(architecture),
        "slots": [
            {"name": slot.name, "choices": list(slot.choices), "open": [slot.choices[i] for i in indices_of(entry)]}
            for slot, entry in zip(space.slots, architecture, strict=True)
        ],
        "accuracy": {**accuracies, "pictures": {"val": len(splits.val), "test": len(splits.test)}},
        "batch_norm": _batch_norm(trained),
        "flops": count_flops(trained.supernet, architecture, splits.input_shape),
        "flops_are": "2 x multiply-accumulates of convolutions and matrix products, forward, for one image",
        "parameters": sum(p.numel() for p in plain.parameters()),
        "input": FOLDED if fold else NORMALISED,
        "data": {
            "name": settings.data.name,
            "classes": list(splits.classes),
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
            "prepared": prepared(settings.data),
        },
        # Only the run's folder and the file: the other folders of this machine are nobody else's business.
        "checkpoint": {"path": f"{path.parent.name}/{path.name}", "step": trained.step, "sha256": trained.digest},
        "trained_in": settings.train.way.precision,
        "versions": versions(),
    }


def metadata_of(card: dict[str, Any]) -> dict[str, str]:
    """What the files of programs carry along, as text: the card, and what a caller needs of it by itself."""
    network, data = card["network"], card["data"]
    size = network["image_size"]
    values = {"classes": data["classes"], "mean": data["mean"], "std": data["std"]}
    values["input_size"] = [network["channels"], size, size]
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in {**values, "card": card}.items()}
    return {"input": card["input"], **texts}


def prepared(data: DataSettings) -> str:
    """How an image file becomes what a network takes, before it is normalised; "" where there were no files."""
    if not isinstance(data, FolderSettings):
        return ""
    square = f"{data.kept_size}x{data.kept_size}"
    resized = {
        "crop": f"scaled on the shorter side and cut to the middle {square}",
        "squash": f"scaled to {square} on both sides",
        "pad": f"scaled on the longer side and padded with black to {square}",
    }[data.resize]
    middle = f", then cut to the middle {data.image_size}x{data.image_size}" * (data.kept_size != data.image_size)
    return f"upright, RGB, what is transparent on white, {resized}{middle}"


def _batch_norm(trained: Trained) -> str:
    evaluate = trained.settings.evaluate
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trained.supernet.modules()):
        return "there is none"
    if not evaluate.recalibrate:
        return "running statistics of the training"
    number = min(evaluate.recalibrate_images, len(trained.splits.train))
    return f"statistics estimated for this architecture on {number} training images"


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card in an exported folder.

    Raises:
        ExportError: the card is missing, damaged, or of another version.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        rule, remedy = f"has no {CARD} in it", "name a folder that nas-export has written"
        raise ExportError("folder", folder, rule, remedy) from None
    except (ValueError, RecursionError) as error:  # of JSON, or of the encoding
        raise damaged(path, str(error)) from None
    if not isinstance(card, dict):
        raise damaged(path, "it is not a JSON object")
    if card.get("format") != FORMAT:
        rule = f"has format {card.get('format')}, this version reads {FORMAT}"
        raise ExportError("card", path, rule, "use the version of gated-nas that wrote it")
    for key in ("network", "files"):
        if not isinstance(card.get(key), dict):
            raise damaged(path, f"it has no {key}")
    return card


def damaged(path: Path, why: str) -> ExportError:
    """The error of a card with missing or wrong entries."""
    return ExportError("card", path, f"is damaged ({why})", "export the network again")
