"""Settings of the search spaces."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from nas.errors import require
from nas.settings import rules
from nas.settings.rules import MISSING, Settings

WIDEST, MOST_BRANCHES = 1 << 16, 100_000
"""Most channels of a layer; most branches of a supernet. Settings may come from a file of somebody else."""

_DOTTED = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass
class SpaceSettings(Settings, group="space"):
    """What all spaces have in common: a name."""

    name: str = MISSING

    @property
    def called(self) -> tuple[str, ...]:
        """What of the user's own code is called to build the network: ``package.module:name`` each."""
        return ()

    def unnamed(self, named: str) -> str:
        """All of :attr:`called`, joined by commas, if something of it is not in ``named``, which is joined likewise."""
        return ",".join(self.called) if not {*self.called} <= {*named.split(",")} else ""

    def without_weights(self) -> SpaceSettings:
        """The settings of the same network without weights of its own, where they come out of a checkpoint."""
        return self


@dataclass
class TwoBranchSettings(SpaceSettings):
    """One slot of ``branches`` small convolutional branches, then three dense layers."""

    name: str = "two_branch"
    branches: int = rules.positive(2, MOST_BRANCHES)
    width: int = rules.positive(1, WIDEST)
    """Multiplies the channels of the branches (6 and 16)."""


def _check_stages(settings: Any, *lists: str) -> None:
    """``lists`` have an entry above 0 for each stage, and the slots of all stages are not too many."""
    entries = [getattr(settings, name) for name in lists]
    names = f"{', '.join(lists[:-1])} and {lists[-1]}"
    remedy = "write for example " + " ".join(f"space.{n}={[[16, 32], [2, 2], [1, 2]][i]}" for i, n in enumerate(lists))
    same = len({len(one) for one in entries}) == 1 and entries[0] != []
    rule = f"{names} must have one entry a stage"
    value = ", ".join(map(str, entries))
    require(same, f"space.{', '.join(lists)}", value, rule, remedy.replace(", ", ","))
    for name, found in zip(lists, entries, strict=True):
        remedy = f"write for example space.{name}=[1,2]"
        require(min(found) > 0, f"space.{name}", found, "every entry must be above 0", remedy)
        ok = name == "depths" or max(found) <= WIDEST
        require(ok, f"space.{name}", found, f"must be at most {WIDEST:,}", "write smaller numbers")
    candidates, depths = settings.candidates, settings.depths
    slots, branches = sum(depths), sum(depths) * len(candidates)
    rule = f"makes {branches:,} branches, and may make {MOST_BRANCHES:,} in 1,000 slots"
    ok = slots <= 1000 and branches <= MOST_BRANCHES
    require(ok, "space.depths", depths, rule, "write for example space.depths=[2,2]")
    ok = len(candidates) > 0 and all(isinstance(name, str) for name in candidates)
    rule, remedy = "must be names of operations, at least one", "write for example space.candidates=[conv1,conv3]"
    require(ok, "space.candidates", candidates, rule, remedy)


@dataclass
class ChainSettings(SpaceSettings):
    """Slots in a row, in stages: stage ``i`` has ``depths[i]`` slots of ``widths[i]`` channels."""

    name: str = "chain"
    widths: list[int] = field(default_factory=lambda: [16, 32])
    depths: list[int] = field(default_factory=lambda: [2, 2])
    strides: list[int] = field(default_factory=lambda: [1, 2])
    """Stride of the first slot of each stage."""
    stem_stride: int = rules.positive(2, WIDEST)
    candidates: list[str] = field(default_factory=lambda: ["skip", "conv1", "conv3", "conv5"])
    merge: str = rules.choice("sum", "concat")
    """How a slot's branches meet: ``sum`` or ``concat`` (followed by a 1x1 convolution, a weight a branch)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_stages(self, "widths", "depths", "strides")


@dataclass
class ResidualSettings(SpaceSettings):
    """A residual network: stage ``i`` halves the image, then adds ``depths[i]`` slots to ``widths[i]`` channels."""

    name: str = "residual"
    widths: list[int] = field(default_factory=lambda: [48, 96, 192])
    depths: list[int] = field(default_factory=lambda: [2, 2, 2])
    candidates: list[str] = field(default_factory=lambda: ["none", "conv1", "conv3", "conv5"])
    """Operations, or ``none``: nothing is added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_stages(self, "widths", "depths")


@dataclass
class MacroSettings(SpaceSettings):
    """NAS-Bench-Macro: 8 slots of Identity, MB3_K3 and MB6_K5; 6,561 architectures."""

    name: str = "macro"


@dataclass
class CellSettings(SpaceSettings):
    """NAS-Bench-201: one cell of 6 edges with 5 operations, repeated; 15,625 architectures."""

    name: str = "cell"
    cells: int = rules.positive(5, 1000)
    """In each of the three stages; N in the publication."""
    width: int = rules.positive(16, WIDEST)
    """Channels of the first stage; the second and the third have twice and four times as many."""


@dataclass
class CustomSettings(SpaceSettings):
    """A module of the user's own with gated blocks in it and ``forward(x, architecture)``."""

    name: str = "custom"
    factory: str = rules.import_name("space.factory=my_pkg.my_net:MyNet")
    """``package.module:callable``; called with ``kwargs`` it gives the supernet."""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def called(self) -> tuple[str, ...]:
        return (self.factory,)


@dataclass
class ModelSettings(SpaceSettings):
    """An existing network, some of whose modules become slots."""

    name: str = "model"
    model: str = MISSING
    """A classifier of ``torchvision.models``, ``timm.NAME``, or ``package.module:callable``, called with ``kwargs``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    gated: dict[str, list[str]] = field(default_factory=dict)
    """Names of modules, ``*`` for any letters, and the candidates in their place: keep, skip, none, conv1, sep3, ...,
    linear, low4, or ``package.module:callable``, called with the module."""
    share: bool = False
    """The modules of a pattern make one slot, not one each."""
    weights: str = ""
    """A file with the network's weights: safetensors, or ``torch.save(model.state_dict())``."""
    replace_head: bool = False
    """Put a new last layer, with an output for each class of the data, in place of the one that there is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be a name of torchvision.models, timm.NAME, or read package.module:callable"
        ok = self.model == MISSING or rules.is_import_name(self.model) or _DOTTED.fullmatch(self.model) is not None
        require(ok, "space.model", self.model, rule, "write for example space.model=resnet18")

    @property
    def called(self) -> tuple[str, ...]:
        named = [self.model, *(name for names in self.gated.values() for name in names)]
        return tuple(name for name in dict.fromkeys(named) if ":" in name or name.startswith("timm."))

    def without_weights(self) -> ModelSettings:
        ours = ":" in self.model  # whose arguments mean whatever they mean there
        kwargs = {key: value for key, value in self.kwargs.items() if ours or key not in ("weights", "pretrained")}
        return replace(self, weights="", kwargs=kwargs)
