"""Gate every classifier of torchvision at all convolutions of one stage, and print which of them can be.

    python scripts/torchvision_models.py                       all of them, 4 minutes on one core
    python scripts/torchvision_models.py resnet18 vit_b_16     these
    python scripts/torchvision_models.py --out outputs/torchvision_models.json

Each network is made untrained, with 10 classes. Each Conv2d of its stage becomes a slot of keep, conv1 and sep3; then
the supernet runs on a random path, and so does the network that is extracted there. That is done on the meta device at
the network's own image size, where shapes are found and nothing is computed. The smaller half of the networks are also
made in memory, and there the logits must be the same bit for bit.

The stage is found by walking down from the network as long as one child holds nine tenths of all its convolutions; of
the children there, it is the one that holds the most. A Sequential in which each convolution stands by itself, as in
VGG, is a stage as a whole. A vision transformer has one convolution, which makes its patches.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torchvision import models

from nas.errors import NasError
from nas.nn import gated_slots
from nas.space import extract, gate_modules

CANDIDATES = ["keep", "conv1", "sep3"]
KWARGS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
"""Their auxiliary classifiers make a tuple of the logits."""
SMALL = 96
"""Pixels a side where logits are computed, except for networks that take images of one size alone."""
ONE_SIZE = ("maxvit", "vision_transformer")
REAL = ("regnet",)
"""What reads numbers out of tensors while it is made, which the meta device does not have."""


@dataclass
class Found:
    """What became of a network.

    Attributes:
        family: the file of torchvision that it comes from.
        stage: whose convolutions are gated.
        computed: whether the logits were computed, not only their shape.
        reason: why it cannot be gated; empty if it can.
    """

    name: str
    family: str
    parameters: int
    stage: str = ""
    slots: int = 0
    computed: bool = False
    reason: str = ""


def convolutions(module: nn.Module) -> list[str]:
    """Names of the Conv2d in ``module``."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)]


def stage_of(model: nn.Module) -> str:
    """The name of the stage of ``model``, as the script's docstring defines it."""
    path, here, total = "", model, len(convolutions(model))
    while True:
        counts = {name: len(convolutions(child)) for name, child in here.named_children()}
        most = max(counts, key=counts.__getitem__)
        held = [name for name, count in counts.items() if count]
        if len(held) > 1 and counts[most] == 1:
            return path
        path, here = f"{path}.{most}".lstrip("."), here.get_submodule(most)
        if isinstance(here, nn.Conv2d) or counts[most] < 0.9 * total:
            return path


def check(found: Found, size: int, device: str) -> None:
    """Gate the network, run it on a random path, and compare it with the one that is extracted there."""
    torch.manual_seed(0)
    with torch.device("cpu" if found.family in REAL else device):
        model = models.get_model(found.name, weights=None, num_classes=10, **KWARGS.get(found.name, {})).to(device)
    with torch.device(device), torch.no_grad():
        size = getattr(model, "image_size", size)
        found.stage = stage_of(model)
        inner = convolutions(model.get_submodule(found.stage))
        gated = {f"{found.stage}.{name}".rstrip("."): CANDIDATES for name in inner}
        supernet = gate_modules(model, gated, input_shape=(3, size, size)).eval()
        found.slots = len(gated_slots(supernet))
        path = tuple(random.Random(0).randrange(len(CANDIDATES)) for _ in range(found.slots))
        x = torch.randn(2, 3, size, size)
        ours, alone = supernet(x, path), extract(supernet, path)(x)
    if ours.shape != (2, 10) or alone.shape != ours.shape:
        found.reason = f"gives {tuple(ours.shape)}, extracted {tuple(alone.shape)}"
    elif device != "meta" and not torch.equal(ours, alone):
        found.reason = f"the extracted network's logits differ by {float((ours - alone).abs().max()):.2g}"
    found.computed = device != "meta"


def all_found(names: list[str]) -> Iterator[Found]:
    """Each network, when it has been tried."""
    weights = {name: models.get_model_weights(name).DEFAULT for name in models.list_models(module=models)}
    half = median(weight.meta["num_params"] for weight in weights.values())
    for name in names:
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        found = Found(name, family, weights[name].meta["num_params"])
        own = weights[name].transforms().crop_size[0]
        try:
            check(found, own, "meta")
            if found.parameters <= half and not found.reason:
                check(found, own if family in ONE_SIZE else SMALL, "cpu")
        except (NasError, RuntimeError, NotImplementedError) as error:
            found.reason = str(error).splitlines()[0]
        yield found


def by_family(found: list[Found]) -> list[dict[str, Any]]:
    """One row a family, with its smallest network as an example."""
    rows = []
    for family in dict.fromkeys(one.family for one in found):
        here = [one for one in found if one.family == family]
        least = min(here, key=lambda one: one.parameters)
        counts = {"models": len(here), "gated": sum(not one.reason for one in here)}
        computed = sum(one.computed and not one.reason for one in here)
        rows.append({"family": family, **counts, "computed": computed, "example": asdict(least)})
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="torchvision_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="names of networks; all if left out")
    parser.add_argument("--out", type=Path, help="write the result there as JSON")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(1)
    found = []
    for one in all_found(asked.names or models.list_models(module=models)):
        what = one.reason or ("ok, bit for bit" if one.computed else "ok, shapes")
        print(f"{one.name:20} {one.stage:24} {one.slots:4} slots  {what}", flush=True)
        found.append(one)
    good = sum(not one.reason for one in found)
    print(f"{good} of {len(found)} can be gated, {sum(one.computed for one in found)} of them computed")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"families": by_family(found), "networks": [asdict(one) for one in found]}
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
