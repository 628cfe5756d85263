"""A user's own network: any module with gated blocks in it and ``forward(x, architecture)``."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from nas.errors import SettingError, SpaceError
from nas.nn import gated_slots
from nas.plugin import call_factory
from nas.settings import CustomSettings
from nas.space.base import Architecture, SearchSpace, Slot


class ModuleSpace(SearchSpace):
    """The space of a module, or of a function or class that makes one.

    The supernets of a module are copies of it, with the weights that it has, whatever the seed.

    Entry ``i`` of an architecture belongs to the i-th gated block, in the order in which the module's
    ``__init__`` assigned them; blocks that name the same ``slot`` count as one.

    If the module has a method ``canonical(architecture)``, it is that of the space.

    Args:
        network: the module, with gated blocks in it and ``forward(x, architecture)``, or what makes it.
        name: of the space.
        origin: key and value of what named the module, for messages.

    Raises:
        SpaceError: the module has no gated block.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[], nn.Module],
        name: str = "custom",
        origin: tuple[str, object] | None = None,
    ) -> None:
        self._network = network
        module = self.build()
        self._origin = origin or ("network", type(module).__name__)
        slots = tuple(Slot(name, blocks[0].choices) for name, blocks in gated_slots(module).items())
        if not slots:
            rule = "has no gated block"
            remedy = "put a nas.nn.GatedConcat or GatedSum around the branches that are to be chosen from"
            raise SpaceError(*self._origin, rule, remedy)
        super().__init__(name, slots)
        self._canonical: Callable[[Architecture], Architecture] | None = getattr(module, "canonical", None)

    @property
    def has_aliases(self) -> bool:
        return self._canonical is not None

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
            raise SpaceError(*self._origin, rule, "give all names of a network the same one")
        return found

    def build(self) -> nn.Module:
        return copy.deepcopy(self._network) if isinstance(self._network, nn.Module) else self._network()


class CustomSpace(ModuleSpace):
    """The space of the module that ``settings.factory`` returns; its slots are the gated blocks found in it.

    Raises:
        SettingError: the factory cannot be imported or called, or returns no module.
        SpaceError: the module has no gated block.
    """

    def __init__(self, settings: CustomSettings) -> None:
        super().__init__(lambda: _made_by(settings), settings.name, ("space.factory", settings.factory))


def _made_by(settings: CustomSettings) -> nn.Module:
    module = call_factory("space.factory", settings.factory, settings.kwargs)
    if not isinstance(module, nn.Module):
        rule = f"gave a {type(module).__name__}, not a torch.nn.Module"
        raise SettingError("space.factory", settings.factory, rule, "return the supernet")
    return module
