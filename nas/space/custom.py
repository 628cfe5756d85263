"""A user's own network: any module with gated blocks in it and ``forward(x, architecture)``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nas.errors import SettingError, SpaceError
from nas.nn import gated_slots
from nas.plugin import call_factory
from nas.settings import CustomSettings
from nas.space.base import Architecture, SearchSpace, Slot


class CustomSpace(SearchSpace):
    """The space of the module that ``settings.factory`` returns; its slots are the gated blocks found in it.

    Entry ``i`` of an architecture belongs to the i-th gated block, in the order in which the module's
    ``__init__`` assigned them; blocks that name the same ``slot`` count as one.

    If the module has a method ``canonical(architecture)``, it is that of the space.

    Raises:
        SettingError: the factory cannot be imported or called, or returns no module.
        SpaceError: the module has no gated block.
    """

    def __init__(self, settings: CustomSettings) -> None:
        self._settings = settings
        module = self.build()
        slots = tuple(Slot(name, blocks[0].choices) for name, blocks in gated_slots(module).items())
        if not slots:
            rule = "has no gated block"
            remedy = "put a nas.nn.GatedConcat or GatedSum around the branches that are to be chosen from"
            raise SpaceError("space.factory", settings.factory, rule, remedy)
        super().__init__(settings.name, slots)
        self._canonical: Callable[[Architecture], Architecture] | None = getattr(module, "canonical", None)

    def canonical(self, architecture: Architecture) -> Architecture:
        """What the module's own ``canonical`` says; the same architecture where it has none.

        Raises:
            ArchitectureError: that is no architecture of this space.
            SpaceError: that is not its own canonical form.
        """
        if self._canonical is None:
            return architecture
        found = self.validate(self._canonical(architecture))
        if (again := self.validate(self._canonical(found))) != found:
            rule = f"canonical({architecture}) is {found}, but canonical({found}) is {again}"
            raise SpaceError("space.factory", self._settings.factory, rule, "give all names of a network the same one")
        return found

    def build(self) -> nn.Module:
        module = call_factory("space", self._settings.factory, self._settings.kwargs)
        if not isinstance(module, nn.Module):
            rule = f"gave a {type(module).__name__}, not a torch.nn.Module"
            raise SettingError("space.factory", self._settings.factory, rule, "return the supernet")
        return module
