"""How each pixel of an image moves the probability of each class, drawn as one map for each class.

    python scripts/sensitivity.py outputs/train/first
    python scripts/sensitivity.py outputs/train/first --image 17 --architecture 0-2-1-3 --out maps.png

Takes a subnetwork out of the newest checkpoint of a run of nas-train and gives it BatchNorm statistics of its own,
puts a softmax behind it, and asks nas.jac for the Jacobian of the probabilities by the pixels of one test image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # --help answers without torch
    from torch import Tensor, nn


REPEATS = 20
UNIT = "change of the probability per unit of pixel value (0 black, 1 white), all channels of a pixel together"


class Parser(argparse.ArgumentParser):
    """A mistake in the arguments is one line, too."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: {message}; --help says what there is\n")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments on the command line."""
    parser = Parser(prog="sensitivity", description="How each pixel moves the probability of each class.")
    parser.add_argument("run", type=Path, help="the folder of a run, such as outputs/train/first")
    parser.add_argument("-f", "--factory", default="", help="of a network of your own, such as my_net:MyNet")
    parser.add_argument("-a", "--architecture", help="such as 0-2-1-3; the best one of the run's report when left out")
    parser.add_argument("-p", "--image", "--picture", type=int, default=0, help="index in the test split (default 0)")
    parser.add_argument("-c", "--classes", type=int, default=10, help="draw so many, the most probable (default 10)")
    parser.add_argument("-o", "--out", type=Path, help="PNG to write; sensitivity_PICTURE.png in the run's folder")
    asked = parser.parse_args(words)
    if asked.classes < 1:
        parser.error(f"--classes={asked.classes}: must be at least 1")
    return asked


def main(words: list[str] | None = None) -> None:
    """Entry point; what a user can mend ends with status 1 and one line on standard error."""
    asked = parse(words)
    from nas.errors import NasError
    from nas.jac import JacobianError

    warnings.showwarning = lambda message, *_: print(f"sensitivity: {message}", file=sys.stderr)
    try:
        run(asked)
    except (NasError, JacobianError) as error:
        sys.exit(f"sensitivity: {error}")
    except OSError as error:
        sys.exit(f"sensitivity: {error.filename or asked.run}: {error.strerror or error}")


def run(asked: argparse.Namespace) -> None:
    """Load, compute, check, say and draw."""
    import torch

    from nas.draw import Map, draw_maps
    from nas.files import write_whole
    from nas.jac import check

    torch.set_num_threads(1)  # one image is too little to share: threads that wait for each other take longer
    subject = load(asked.run, asked.architecture, asked.image, asked.factory)
    with torch.no_grad():
        chances = subject.network(subject.x)[0]
    jac, first_ms, again_ms = timed_jacobian(subject)
    # A hundredth of the largest derivative cannot be seen; a softmax near 0 or 1 loses that much in float32.
    found = check(subject.network, subject.x, jac, tolerance=0.01)
    maps = pixel_maps(jac, subject.std)
    order = chances.argsort(descending=True).tolist()
    print(f"{subject.title}\n{subject.subtitle}")
    for k in order:
        steepest = float(maps[k].abs().max())
        print(f"  {subject.classes[k]:<16} {100 * chances[k]:5.1f}%  steepest pixel: {steepest:.3g} per unit")
    print(f"Jacobian {tuple(jac.shape)}: {first_ms:.1f} ms, then {again_ms:.1f} ms (median of {REPEATS} calls)")
    print(f"It {found}")
    path = asked.out or asked.run / f"sensitivity_{asked.image}.png"
    shown = [
        Map(subject.classes[k], float(chances[k]), maps[k], "true" if k == subject.label else "")
        for k in order[: asked.classes]
    ]
    write_whole(path, draw_maps(subject.pixels, shown, subject.title, subject.subtitle, UNIT))
    print(f"drawn: {path}")


# ------------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True)
class Subject:
    """A subnetwork with its softmax, and an image for it.

    Attributes:
        network: ``(1, C, H, W)`` to probabilities ``(1, classes)``.
        x: the image as the network takes it, normalised.
        pixels: ``(C, H, W)`` from 0 (black) to 1.
        std: ``(C,)``, what the pixels were divided by.
    """

    network: nn.Module
    x: Tensor
    pixels: Tensor
    std: Tensor
    classes: tuple[str, ...]
    label: int
    title: str
    subtitle: str


def load(folder: Path, text: str | None, image: int, factory: str = "") -> Subject:
    """The subnetwork named ``text`` of the run in ``folder``, on an image of the test split."""
    from torch import nn

    from nas.checkpoint import calibrated, load_trained, plain_network
    from nas.data import Ordered
    from nas.errors import DataError

    trained = load_trained(folder, factory=factory)
    splits, space = trained.splits, trained.space
    architecture = space.decode(text if text is not None else best_architecture(folder))
    if not 0 <= image < len(splits.test):
        rule = f"must be the index of one of the {len(splits.test)} test images"
        raise DataError("image", image, rule, f"write 0 to {len(splits.test) - 1}")
    subnet = plain_network(calibrated(trained, architecture), architecture, splits.input_shape)
    chosen = splits.test.subset(splits.test.labels.new_tensor([image]))
    ((x, y),) = Ordered(chosen, splits.mean, splits.std, 1)
    label, name = int(y), f"{space.encode(architecture)} ({space.describe(architecture)})"
    return Subject(
        network=nn.Sequential(subnet, nn.Softmax(-1)),
        x=x,
        pixels=chosen.take(y.new_tensor([0]))[0].float() / 255,
        std=splits.std,
        classes=splits.classes,
        label=label,
        title=f"Test image {image} of {len(splits.test):,}: {splits.classes[label]}",
        subtitle=f"{folder.resolve().name} at step {trained.step:,}, subnetwork {name}",
    )


def best_architecture(folder: Path) -> str:
    """The best of those that the run's report has evaluated on validation images."""
    from nas.errors import CheckpointError
    from nas.train.report import read_report

    if not (folder / "report.json").is_file():
        rule = "has no report.json yet, which knows the best subnetwork"
        raise CheckpointError("run", folder, rule, "let the run finish, or write --architecture=0-2-1-3")
    try:
        return read_report(folder).subnetworks[0].architecture
    except (ValueError, KeyError):
        rule = "has a report.json that cannot be read"
        raise CheckpointError("run", folder, rule, "write the subnetwork's --architecture=0-2-1-3") from None


def timed_jacobian(subject: Subject) -> tuple[Tensor, float, float]:
    """``(1, classes, C, H, W)``, the milliseconds of the first call, and the median of more."""
    from nas.jac import jacobian

    times = []
    for _ in range(1 + REPEATS):
        started = perf_counter()
        jac = jacobian(subject.network, subject.x)
        times.append(1000 * (perf_counter() - started))
    return jac, times[0], statistics.median(times[1:])


def pixel_maps(jac: Tensor, std: Tensor) -> Tensor:
    """``(classes, H, W)``: by the pixel before it was normalised, as (pixel - mean) / std, all channels together."""
    return (jac[0] / std[:, None, None]).sum(1)


if __name__ == "__main__":
    main()
