"""From an exported folder back to a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nas.export.card import WEIGHTS, digest, read_card
from nas.export.errors import ExportError
from nas.settings import train_settings
from nas.space import build_space
from nas.train.picked import plain_network


def load(folder: Path | str) -> nn.Module:
    """The network in ``folder``, in eval mode on the CPU: ``forward(x)``, with no gate in it.

    It is built from the settings in ``card.json`` and takes the tensors of ``weights.safetensors``; no code from
    these files is run. The network of a ``custom`` space is built by its own factory, which must be importable.

    Shapes:
        ``x`` is ``(B, channels, image_size, image_size)``, normalised as the card says; logits ``(B, classes)``.

    Raises:
        ExportError: a file is missing, damaged or changed, or the card does not belong to the weights.
        SettingError: the space is unknown to this version, or its factory cannot be imported.
    """
    folder = Path(folder)
    card = read_card(folder)
    network, state = _read_weights(folder / WEIGHTS, card["files"].get(WEIGHTS))
    if network != card["network"]:
        rule = f"describes another network than that of {WEIGHTS}"
        raise ExportError("card", folder, rule, "export the network again")
    size = (network["channels"], network["image_size"])
    space = build_space(train_settings({"space": network["space"]}).space, *size, network["classes"])
    plain = plain_network(space.supernet(), space.decode(network["architecture"]), (size[0], size[1], size[1]))
    try:
        plain.load_state_dict(state)
    except RuntimeError as error:  # a user's own network may have changed under the same settings
        rule = f"does not fit the network ({' '.join(str(error).split()[:30])} ...)"
        raise ExportError("weights", folder / WEIGHTS, rule, "take the network as it was") from None
    return plain


def _read_weights(path: Path, expected: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the network is, as written beside the weights, and the weights."""
    try:
        found = digest(path)
        if found != expected:
            rule = f"is not the file that the card is of: its SHA-256 is {found[:12]}..., not {str(expected)[:12]}..."
            raise ExportError("weights", path, rule, "copy it again, or export the network again")
        with safe_open(path, "pt") as file:
            network = json.loads((file.metadata() or {}).get("network", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ExportError("weights", path, "does not exist", "export the network again") from None
    except (SafetensorError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError("weights", path, f"is damaged ({error})", "export the network again") from None
    return network, state
