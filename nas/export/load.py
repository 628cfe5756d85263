"""Load the network in an exported folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nas.checkpoint import plain_network
from nas.errors import ExportError
from nas.export.card import CARD, WEIGHTS, damaged, read_card
from nas.export.fold import Normalised
from nas.files import sha256_of
from nas.settings import SpaceSettings, train_settings
from nas.settings.plain import fits
from nas.space import ModuleSpace, SearchSpace, build_space
from nas.state import load_weights, must_fit


def load(folder: Path | str, factory: str | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Load the network in ``folder``: without gates, called as ``network(x)``, in eval mode on the CPU.

    It is built from the settings in ``card.json`` and the tensors in ``weights.safetensors``; nothing that these files
    name is imported or called. The network of a ``custom`` space is built by its own factory, which must be importable
    and which the caller must name.

    Args:
        folder: a folder that nas-export wrote.
        factory: where the card names code that builds the network, ``package.module:callable``, the same name, or
            several joined by commas; it is called with the card's ``kwargs``. Ignored for other spaces. Or what makes
            the supernet, where it was made in a program; then what the card names is not looked at.

    Shapes:
        ``x`` is ``(B, channels, image_size, image_size)``, normalised as the card says, or uint8 where the export has
        folded that in; logits ``(B, classes)``.

    Raises:
        ExportError: a file is missing, damaged or changed, the card does not belong to the weights, or ``factory`` is
            not the one that the card names.
        SettingError: the space is unknown to this version, or its factory cannot be imported.
    """
    folder = Path(folder)
    card = read_card(folder)
    network, state = _read_weights(folder / WEIGHTS, card["files"].get(WEIGHTS))
    if network != card["network"]:
        rule = f"describes another network than that of {WEIGHTS}"
        raise ExportError("card", folder, rule, "export the network again")
    for key, largest in (("channels", 1 << 14), ("image_size", 1 << 14), ("classes", 1 << 24)):
        if type(network.get(key)) is not int or not 1 <= network[key] <= largest:
            raise damaged(folder / CARD, f"its {key} is not a number above 0, or is too large")
    if not isinstance(network.get("architecture"), str):
        raise damaged(folder / CARD, "its architecture is not text")
    size = (network["channels"], network["image_size"])
    fold = normalisation_of(folder, network)
    settings = train_settings({"space": network.get("space")}).space
    if callable(factory):
        space: SearchSpace = ModuleSpace(factory)
    else:
        _must_be_named(folder, settings, factory)
        space = build_space(settings.without_weights(), *size, network["classes"])
    architecture, image = space.decode(network["architecture"]), (size[0], size[1], size[1])
    fits = partial(must_fit, ExportError, "weights", folder / WEIGHTS, "take the network as it was")
    if callable(factory) or settings.called:
        plain = plain_network(space.supernet(), architecture, image)
    else:  # on "meta", so that neither the supernet nor wrong sizes in the card take memory
        with torch.device("meta"):
            plain = plain_network(space.build(), architecture, image)
        with fits():
            load_weights(plain, state)
        plain = plain.to_empty(device="cpu")
    with fits():
        load_weights(plain, state)
    return Normalised(plain, *fold) if fold else plain


def normalisation_of(folder: Path, network: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of each channel, ``(C,)``, where they are a part of the network.

    Raises:
        ExportError: they are not that.
    """
    if (found := network.get("normalisation")) is None:
        return None
    if fits(found, dict[str, list[float]]) and found.keys() == {"mean", "std"}:
        mean, std = torch.tensor(found["mean"]).float(), torch.tensor(found["std"]).float()
        both = torch.stack([mean, std]) if len(mean) == len(std) == network["channels"] else torch.tensor(torch.nan)
        if both.isfinite().all() and (std > 0).all():
            return mean, std
    raise damaged(folder / CARD, "its normalisation is not a mean and a deviation above 0 for each channel")


def _must_be_named(folder: Path, settings: SpaceSettings, factory: str | None) -> None:
    """Refuse to call a factory that only a file names: it could be any function of any module."""
    if called := settings.unnamed(factory or ""):
        rule = f"its network is built by {called}, which is called only if you name it too"
        remedy = f"if you trust it, write load(folder, factory={called!r})"
        if called.endswith(":GatedModel"):  # it was in the memory of a program
            rule, remedy = "its network was made in a program", "write load(folder, factory=MAKE), which makes it again"
        raise ExportError("factory", factory, f"{rule} ({folder / CARD})", remedy)


def _read_weights(path: Path, expected: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description of the network in the file's header, and the weights."""
    try:
        found = sha256_of(path)
        if found != expected:
            rule = (
                f"is not the file that the card describes: its SHA-256 is {found[:12]}..., not {str(expected)[:12]}..."
            )
            raise ExportError("weights", path, rule, "copy it again, or export the network again")
        with safe_open(path, "pt") as file:
            network = json.loads((file.metadata() or {}).get("network", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ExportError("weights", path, "does not exist", "export the network again") from None
    except ExportError:  # which is a ValueError
        raise
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ExportError("weights", path, f"is damaged ({error})", "export the network again") from None
    return network, state
