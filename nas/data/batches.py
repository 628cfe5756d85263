"""Batches of images; a training batch is a pure function of the seed and the step."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from nas.data.augment.crops import Frame, draw_boxes, erase, resized_crops
from nas.data.augment.mix import Mix
from nas.data.augment.named import Augmentation
from nas.data.augment.policies import POLICIES, count_operations, draw
from nas.data.balance import balanced_order
from nas.data.images import ImageSet, Splits, to_device
from nas.data.ordered import Batch, normalised, shift_and_scale
from nas.errors import DataError, require
from nas.seeds import derive, generator
from nas.settings import DataSettings, TrainRunSettings


class Epoch(NamedTuple):
    """What an epoch has drawn: entry i of all is for its i-th batch, of which n images are made here.

    An image takes 20 bytes, 24 MB for 1.2 million of them; 28 if it is cut to a box, 4 more with ``cutout``, and 3 for
    each operation of a policy.
    """

    number: int
    rows: Tensor  # int32 (steps, n), which images, in the order of the frame
    labels: Tensor  # int64 (steps, n)
    frame: tuple[list[int], Tensor] | None  # how many are mirrored, and which windows are taken, int64 (steps, n)
    boxes: Tensor | None  # float32 (steps, 4, n)
    centres: Tensor | None  # int16 (steps, 2, n), of the squares that are cut out
    policies: dict[str, tuple[Tensor, Tensor]]  # uint8 (steps, rounds, 3, n), and counts of operations, on the CPU
    mixes: list[Mix]  # empty: none is mixed


class Batches:
    """Shuffled, augmented and normalised batches.

    ``batch(step)`` depends on its arguments alone, so that a resumed run needs no state of this class. An epoch is
    drawn in one go and lies on the device, so that a step draws nothing, unless a function of the user's own does, and
    waits for no copy. Each kind of draw has a generator of its own, ``generator(seed, stream, kind, epoch)``:
    ``shuffle``, ``crop``, ``resized_crop``, ``flip``, ``cutout``, the name of a policy, ``mix``. ``settings.balance``
    may have every class come equally often in an epoch, except in the stream ``val``. In turn an image is

    - moved by up to ``settings.crop`` pixels each way, over a border of zeros: black, before normalisation; or cut to a
      random box of at least ``settings.resized_crop`` of its area, which is scaled to the size that a network sees;
    - mirrored left to right with probability 1/2, if ``settings.flip``;
    - changed by what ``settings.augment`` names (:class:`nas.data.augment.named.Augmentation`);
    - normalised;
    - erased in a square of ``settings.cutout`` pixels around a random pixel, cut off at the image's edge. What
      is erased becomes 0 after normalisation: the mean colour;
    - mixed with the one before it in the batch, the first with the last, as ``settings.mixup`` and ``cutmix`` say, and
      so is its label (:class:`nas.data.augment.mix.Mix`).

    On a GPU the images stay there as uint8. Nothing else is done for the set as a whole, so that it may lie in a file
    that is larger than memory.

    Args:
        images: the images.
        splits_mean: ``Splits.mean``, float32 ``(C,)`` on the [0, 1] scale.
        splits_std: ``Splits.std``, likewise.
        settings: how to augment.
        batch_size: images a batch; an epoch's last, partial batch is dropped.
        seed: the run's seed.
        device: where the batches are made.
        channels_last: give ``x`` in that memory format.
        stream: a second instance, for example over the validation split, draws other numbers under another name.
        part: ``(rank, ranks)``: this process's part of each batch. All processes draw for the whole batch and each
            makes its own images and the one that the first of them is mixed with, so that together they make the batch
            that one process would; with a function of the user's own each makes the whole batch, which that may mix.

    Raises:
        DataError: there are fewer images than ``batch_size``.
        SettingError: ``crop`` or ``cutout`` is not smaller than an image, the batch cannot be shared evenly, or there
            is no such function as ``augment`` names, or it does not know such images.
    """

    def __init__(
        self,
        images: ImageSet,
        splits_mean: Tensor,
        splits_std: Tensor,
        settings: DataSettings,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        stream: str = "train",
        part: tuple[int, int] = (0, 1),
    ) -> None:
        count, (channels, height, width) = len(images), images.shape
        if count < batch_size:
            rule = f"the {stream} split has only {count} images"
            remedy = f"write train.batch_size={count} or less, or change data.val_fraction"
            raise DataError("train.batch_size", batch_size, rule, remedy)
        border = 0 if settings.resized_crop else settings.crop
        for name, side in ("crop", border), ("cutout", settings.cutout):
            rule = f"must be smaller than an image, {height}x{width}"
            require(side < min(height, width), f"data.{name}", side, rule, "0 switches it off")

        rank, ranks = part
        share = batch_size // ranks
        rule = f"must be a multiple of the {ranks} processes, with 2 images or more for each"
        fits = ranks == 1 or (batch_size % ranks == 0 and share >= 2)
        require(fits, "train.batch_size", batch_size, rule, f"write train.batch_size={max(share, 2) * ranks}")
        self._augment = Augmentation(settings, channels)
        part_of = slice(rank * share, (rank + 1) * share)
        self._made, self._kept, before = self._shares(part_of, batch_size, settings.mixes)

        self.steps_per_epoch, self.device = count // batch_size, torch.device(device)
        self.settings, self.batch_size, self.seed, self.stream = settings, batch_size, seed, stream
        self._images, self._before, self._classes = images.to(device), before.to(device), len(images.classes)
        self._normalise = *shift_and_scale(splits_mean, splits_std, device), channels_last
        self._frame = Frame(len(self._made), images.shape, border, self.device)
        self._epoch: Epoch | None = None
        self._lock = Lock()  # one buffer for the borders of all batches

    @classmethod
    def of(
        cls,
        splits: Splits,
        settings: TrainRunSettings,
        stream: str = "train",
        device: torch.device | str = "cpu",
        part: tuple[int, int] = (0, 1),
    ) -> Batches:
        """The batches of a run: the held-out images for the stream ``val``, else the training images.

        Held-out images are not mixed, and no policy changes them.
        """
        images, data, train = splits.train, settings.data, settings.train
        if stream == "val":
            images, data = splits.val, replace(data, augment=data.own_functions, mixup=0.0, cutmix=0.0)
        how = (data, train.batch_size, settings.seed, device, train.way.channels_last, stream, part)
        return cls(images, splits.mean, splits.std, *how)

    def _shares(self, part: slice, number: int, mixes: bool) -> tuple[Tensor, slice, Tensor]:
        """Which images of a batch this process makes; which of those it gives, and which they are mixed with."""
        whole = torch.arange(number)
        given, before = whole[part], whole.roll(1)[part]
        if self._augment.own or len(given) == number:
            return whole, part, before
        if mixes:
            return torch.cat([before[:1], given]), slice(1, None), torch.arange(len(given))
        return given, slice(None), before[:0]

    def batch(self, step: int) -> Batch:
        """The images ``(B, C, H, W)``, float32 and normalised, and the labels of a step.

        Labels are int64 ``(B,)``, or where images are mixed the shares of the classes, float32 ``(B, classes)``.

        B is ``batch_size``, or this process's part of it.

        Raises:
            SettingError: ``augment`` gave something else than such images.
        """
        with self._lock:
            return self._batch(step)

    @property
    def draws_globally(self) -> bool:
        """Whether functions of the user's own change images, which may draw from torch's global generator."""
        return bool(self._augment.own)

    def _batch(self, step: int) -> Batch:
        epoch, place = self._place(step)
        pixels = to_device(self._images.take(epoch.rows[place], whole=True), self.device)
        if self._images.mapping is not None:
            following, first = self._place(step + 1)
            self._images.expect(following.rows[first])
        if epoch.boxes is not None:
            pixels = resized_crops(pixels, epoch.boxes[place], self._images.shape[-1])
        elif epoch.frame is not None:
            mirrored, corners = epoch.frame
            pixels = self._frame(pixels, mirrored[place], corners[place])
        drawn = {name: (each[place], counts[place].tolist()) for name, (each, counts) in epoch.policies.items()}
        seed = derive(self.seed, self.stream, "own augment", step) if self._augment.own else 0
        pixels = self._augment(pixels, drawn, seed)
        x, labels = normalised(pixels, *self._normalise), epoch.labels[place]
        if epoch.centres is not None:
            erase(x, self.settings.cutout, epoch.centres[place])
        if not epoch.mixes:
            return x[self._kept], labels[self._kept].clone()
        mix, (x_before, before) = epoch.mixes[place], (each.index_select(0, self._before) for each in (x, labels))
        return mix.images(x[self._kept], x_before), mix.labels(labels[self._kept], before, self._classes)

    def _place(self, step: int) -> tuple[Epoch, int]:
        """The epoch of a step, and which of its batches it is."""
        number, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch.number != number:
            self._epoch = self._drawn(number)
        return self._epoch, place

    def _drawn(self, number: int) -> Epoch:
        how, steps, size, device = self.settings, self.steps_per_epoch, self._images.shape[1:], self.device
        count = steps * self.batch_size

        def draws(kind: str) -> torch.Generator:
            return generator(self.seed, self.stream, kind, number)

        def made(drawn: Tensor) -> Tensor:
            """Of all images, ``(..., count)``, those that are made here, ``(steps, ..., n)``."""
            each = drawn.view(*drawn.shape[:-1], steps, self.batch_size)
            return each[..., self._made].movedim(-2, 0).contiguous()

        def below(kind: str, *highs: int) -> list[Tensor]:
            source = draws(kind)
            return [made(torch.randint(high, (count,), generator=source)) for high in highs]

        if how.balance == "sampler" and self.stream != "val":  # images that judge stay as they are
            rows = made(balanced_order(self._images.labels, count, draws("shuffle")))
        else:
            rows = made(torch.randperm(len(self._images), generator=draws("shuffle"))[:count])
        labels = self._images.labels[rows].to(device)
        (flipped,) = below("flip", 2) if how.flip else [torch.zeros_like(rows)]
        frame = boxes = centres = None
        if how.resized_crop:
            boxes = made(draw_boxes(count, how.resized_crop, draws("resized_crop")))
            boxes[:, 1] += boxes[:, 3] * flipped
            boxes[:, 3] *= 1 - 2 * flipped
            boxes = boxes.to(device)
        elif how.crop or how.flip:
            down, right = below("crop", *[2 * how.crop + 1] * 2)
            order, corners = self._frame.corners(down, right, flipped)
            rows, frame = rows.gather(1, order), (flipped.sum(1).tolist(), corners.to(device))
        if how.cutout:
            centres = torch.stack(below("cutout", *size), 1).short().to(device)
        drawn = {name: made(draw(POLICIES[name], count, draws(name))) for name in how.augment if name in POLICIES}
        policies = {name: (each.to(device), count_operations(each)) for name, each in drawn.items()}
        seed = derive(self.seed, self.stream, "mix", number)
        mixes = Mix.drawn(how.mixup, how.cutmix, size, steps, seed) if how.mixes else []
        rows = rows.int().to(self._images.device)
        return Epoch(number, rows, labels, frame, boxes, centres, policies, mixes)
