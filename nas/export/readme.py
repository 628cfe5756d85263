"""The README of an exported folder: its files, and how to load each of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nas.export.card import CARD, ONNX, PROGRAM, WEIGHTS
from nas.settings import train_settings
from nas.train.evaluation.confusion import PICTURE, TABLE

_TOP = """# {name}: {architecture}

- choices: {choices}
- accuracy: {test:.1%} on {pictures:,} test images of {data}
- {flops:,} FLOPs an image (2 x multiply-accumulates), {parameters:,} parameters

`{card}` has this, and the classes, as data.{confusion} Exported by gated-nas {version} with torch {torch}.

{input}
## {weights}

```python
from nas.export import load  # gated-nas

network = load("path/to/this/folder"{named})  # an nn.Module in eval mode, without gates
logits = network(x)
```

It builds the network from the settings in `{card}` and runs no code from these files.{custom} The bare tensors, by the
names they have in the network: `safetensors.torch.load_file("{weights}")`.
"""
_NORMALISED = """All files take float32 images `(batch, {channels}, {size}, {size})`, normalised channel by channel, and
give logits `(batch, {classes})`:

```python
mean = torch.tensor({mean}).view(-1, 1, 1)
std = torch.tensor({std}).view(-1, 1, 1)
x = (images / 255 - mean) / std
```
"""
_FOLDED = """All files take uint8 images `x`, `(batch, {channels}, {size}, {size})`, from 0 to 255, which they normalise
themselves, and give logits `(batch, {classes})`. Only the bare tensors are those of the network behind that.
"""
_PREPARED = """
Each image was prepared so: {prepared}.
"""
_CUSTOM = """ `{factory}` builds the
module; it must be importable, and it is called because you name it: a card that names another is refused."""
_MADE = """ `make_supernet` is a
function of yours that makes the supernet as it was made for the training, with any weights."""
_CONFUSION = f"\n`{TABLE}` and `{PICTURE}` say which classes it takes for which."
_PROGRAM = """
## {program}

Needs torch alone:

```python
import torch

network = torch.export.load("{program}").module()  # in eval mode, for any batch size
logits = network(x)
```
"""
_ONNX = """
## {onnx}

```python
import onnxruntime

session = onnxruntime.InferenceSession("{onnx}")
(logits,) = session.run(["logits"], {{"pictures": x.numpy()}})  # any batch size
```
"""


def readme(card: dict[str, Any], files: Collection[str]) -> str:
    """Write the README for a folder with these ``files``."""
    network, data = card["network"], card["data"]
    factory = ",".join(train_settings({"space": network["space"]}).space.called)
    made = factory.endswith(":GatedModel")  # it was in the memory of a program
    shown = "make_supernet" if made else repr(factory)
    taken = _FOLDED if "normalisation" in network else _NORMALISED
    text = _TOP.format(
        name=network["space"]["name"],
        architecture=network["architecture"],
        choices=card["choices"],
        test=card["accuracy"]["test"],
        pictures=card["accuracy"]["pictures"]["test"],
        data=data["name"],
        flops=card["flops"],
        parameters=card["parameters"],
        card=CARD,
        confusion=_CONFUSION if TABLE in files else "",
        version=card["versions"]["gated-nas"],
        torch=card["versions"]["torch"],
        input=taken.format(
            channels=network["channels"],
            size=network["image_size"],
            classes=network["classes"],
            mean=[round(value, 6) for value in data["mean"]],
            std=[round(value, 6) for value in data["std"]],
        )
        + (_PREPARED.format(**data) if data["prepared"] else ""),
        weights=WEIGHTS,
        named=f", factory={shown}" if factory else "",
        custom=(_MADE if made else _CUSTOM.format(factory=factory)) if factory else "",
    )
    text += _PROGRAM.format(program=PROGRAM) if PROGRAM in files else ""
    return text + (_ONNX.format(onnx=ONNX) if ONNX in files else "")
