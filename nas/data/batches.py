"""Batches of images; a training batch is a pure function of the seed and the step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.data.augment.crops import draw_boxes, erase, resized_crops, windows
from nas.data.augment.mix import Mix
from nas.data.augment.named import Augmentation
from nas.data.balance import balanced_order
from nas.data.images import ImageSet, Splits
from nas.data.ordered import Batch, memory_format, shift_and_scale
from nas.errors import DataError, require
from nas.seeds import derive, generator
from nas.settings import DataSettings, TrainRunSettings


class Batches:
    """Shuffled, augmented and normalised batches.

    ``batch(step)`` depends on its arguments alone, so that a resumed run needs no state of this class. The order
    of an epoch comes from ``generator(seed, stream, "shuffle", epoch)``; ``settings.balance`` may have every class
    come equally often in it, except in the stream ``val``. The augmentation of a step comes from
    ``generator(seed, stream, "augment", step)``. In turn an image is

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
        self._share_out(slice(rank * share, (rank + 1) * share), batch_size, settings.mixes)

        self.steps_per_epoch = count // batch_size
        self.settings, self.batch_size, self.seed, self.stream = settings, batch_size, seed, stream
        self._classes = len(images.classes)
        self.count, self.device, self._format = count, torch.device(device), memory_format(channels_last)
        self._shift, self._scale = shift_and_scale(splits_mean, splits_std, device)
        self._images, self._labels = images.to(device), images.labels.to(device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

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

    def _share_out(self, part: slice, number: int, mixes: bool) -> None:
        """Which images of a batch this process makes; which of those it gives, and which they are mixed with."""
        whole = torch.arange(number)
        given, before = whole[part], whole.roll(1)[part]
        if self._augment.own or len(given) == number:
            self._made, self._kept, self._before = whole, part, before
        elif mixes:
            self._made = torch.cat([before[:1], given])
            self._kept, self._before = slice(1, None), torch.arange(len(given))
        else:
            self._made, self._kept, self._before = given, slice(None), before[:0]

    def batch(self, step: int) -> Batch:
        """The images ``(B, C, H, W)``, float32 and normalised, and the labels of a step.

        Labels are int64 ``(B,)``, or where images are mixed the shares of the classes, float32 ``(B, classes)``.

        B is ``batch_size``, or this process's part of it.

        Raises:
            SettingError: ``augment`` gave something else than such images.
        """
        index, draws = self._index(step), generator(self.seed, self.stream, "augment", step)
        pixels = self._images.take(index, whole=True).to(self.device)
        self._images.expect(self._index(step + 1))
        pixels = self._cropped(pixels, draws)
        pixels = self._mirrored(pixels, draws)
        seed = derive(self.seed, self.stream, "own augment", step)
        values = self._augment(pixels, self._made, self.batch_size, draws, seed)
        x = values.sub_(self._shift).mul_(self._scale)
        self._cut_out(x, draws)
        labels = self._labels.index_select(0, index.to(self.device))
        x, labels = self._mixed(x, labels, step) if self.settings.mixes else (x[self._kept], labels[self._kept])
        return x.contiguous(memory_format=self._format), labels

    def _index(self, step: int) -> Tensor:
        """Which images this process makes for a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            draws = generator(self.seed, self.stream, "shuffle", epoch)
            self._epoch, self._order = epoch, self._shuffled(draws)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size][self._made]

    def _shuffled(self, draws: torch.Generator) -> Tensor:
        if self.settings.balance == "sampler" and self.stream != "val":  # images that judge stay as they are
            return balanced_order(self._labels.cpu(), self.steps_per_epoch * self.batch_size, draws)
        return torch.randperm(self.count, generator=draws)

    def _draw(self, high: int, draws: torch.Generator) -> Tensor:
        """A number below ``high`` for each image that this process makes; all processes draw for the whole batch."""
        return torch.randint(high, (self.batch_size,), generator=draws)[self._made]

    def _cropped(self, pixels: Tensor, draws: torch.Generator) -> Tensor:
        if least := self.settings.resized_crop:
            boxes = draw_boxes(self.batch_size, least, draws)[:, self._made]
            return resized_crops(pixels, boxes, self._images.shape[-1])
        if not (border := self.settings.crop):
            return pixels
        down, right = (self._draw(2 * border + 1, draws) for _ in range(2))
        return windows(pad(pixels, (border,) * 4), down, right, *pixels.shape[2:])

    def _mirrored(self, pixels: Tensor, draws: torch.Generator) -> Tensor:
        if not self.settings.flip:
            return pixels
        # Choosing among the batch and its mirror image takes a third of the time of torch.where on bytes.
        chosen = torch.arange(len(pixels)) + len(pixels) * self._draw(2, draws)
        return torch.cat([pixels, pixels.flip(-1)]).index_select(0, chosen.to(self.device))

    def _cut_out(self, x: Tensor, draws: torch.Generator) -> None:
        if side := self.settings.cutout:
            erase(x, side, torch.stack([self._draw(length, draws) for length in x.shape[2:]]))

    def _mixed(self, x: Tensor, labels: Tensor, step: int) -> Batch:
        how, before = self.settings, self._before.to(self.device)
        seed = derive(self.seed, self.stream, "mix", step)
        mix = Mix.drawn(how.mixup, how.cutmix, (x.shape[2], x.shape[3]), seed)
        mixed = mix.images(x[self._kept], x.index_select(0, before))
        return mixed, mix.labels(labels[self._kept], labels.index_select(0, before), self._classes)
