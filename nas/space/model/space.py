"""The space of an existing network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from nas.plugin import load_function
from nas.settings import ModelSettings
from nas.settings.rules import is_import_name
from nas.space.custom import ModuleSpace
from nas.space.model.candidates import Candidate
from nas.space.model.gate import gate_modules
from nas.space.model.pretrained import build_model, with_classes


class ModelSpace(ModuleSpace):
    """The space of the network that ``settings.model`` names, some of whose modules become slots.

    The supernets of a seed begin with the network's own weights where ``settings`` name some, else with random ones;
    all other candidates begin with random ones.

    Args:
        settings: which network, which modules, and which candidates.
        channels, image_size, classes: of the data.

    Raises:
        SettingError: the network or its weights cannot be had, or it has another number of classes.
        SpaceError: as :func:`gate_modules` says.
    """

    def __init__(self, settings: ModelSettings, channels: int, image_size: int, classes: int) -> None:
        shape = (channels, image_size, image_size)
        super().__init__(lambda: _made_by(settings, shape, classes), settings.name, ("space.model", settings.model))


def _made_by(settings: ModelSettings, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = with_classes(build_model(settings, classes), classes, settings.replace_head, input_shape)
    return gate_modules(model, _candidates(settings.gated), settings.share, input_shape)


def _candidates(gated: Mapping[str, Sequence[str]]) -> dict[str, list[Candidate]]:
    """The candidates of each pattern, those of the user's own imported."""

    def one(name: str) -> Candidate:
        return load_function("space.gated", name, "a module") if is_import_name(name) else name

    return {pattern: [one(name) for name in names] for pattern, names in gated.items()}
