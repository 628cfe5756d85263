"""What ``data.augment`` names, one after the other: policies, and functions of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas.data.augment.policies import POLICIES, augmented
from nas.errors import SettingError, require
from nas.plugin import load_function
from nas.settings import DataSettings


class Augmentation:
    """Changes the images of a batch as ``settings.augment`` says, in that order.

    A policy changes each image by itself. A user's own function is called as ``function(images, generator)`` with
    float32 ``(B, C, H, W)`` on the [0, 1] scale, and gives such images. ``generator`` is torch's default one, seeded
    for the step, so that what draws from it without naming it is the same after a kill, too; it is put back afterwards.

    Args:
        settings: whose ``augment`` it is.
        channels: of an image.

    Raises:
        SettingError: there is no such function, or a policy does not know images of so many channels.
    """

    def __init__(self, settings: DataSettings, channels: int) -> None:
        self.names = settings.augment
        self.own = {name: load_function("data.augment", name, "images", "generator") for name in settings.own_functions}
        for name in self.names:
            rule = f"knows images of 1 or 3 channels, and these have {channels}"
            require(name in self.own or channels in (1, 3), "data.augment", name, rule, "leave it out")

    def __call__(self, pixels: Tensor, drawn: Mapping[str, tuple[Tensor, list[list[int]]]], seed: int) -> Tensor:
        """uint8 ``pixels``, ``(n, C, H, W)``, changed; 0 to 255, in float32 if a function of the user's own came last.

        Args:
            pixels: images of the batch; all of it, if there are functions of the user's own.
            drawn: what :func:`augmented` takes of each policy, for them.
            seed: of what the user's own functions draw.

        Raises:
            SettingError: a function of the user's own gave something else than such images.
        """
        with torch.random.fork_rng(devices=[], enabled=bool(self.own)):
            if self.own:
                torch.default_generator.manual_seed(seed)
            for name in self.names:
                if name in self.own:
                    pixels = self._called(name, pixels)
                else:
                    pixels = augmented(pixels.clamp(0, 255).round().byte(), POLICIES[name], *drawn[name])
        return pixels

    def _called(self, name: str, pixels: Tensor) -> Tensor:
        found = self.own[name](pixels.float() / 255, torch.default_generator)
        what = f"a {type(found).__name__}"
        if isinstance(found, Tensor):
            what = f"{found.dtype} {tuple(found.shape)} on {found.device}"
            if (found.dtype, found.shape, found.device) == (torch.float32, pixels.shape, pixels.device):
                if torch.isfinite(found).all():
                    return found.detach() * 255
                what = "values that are not finite"
        rule = f"gave {what}, and must give torch.float32 {tuple(pixels.shape)} on {pixels.device}"
        raise SettingError("data.augment", name, rule, "return images like those that it is given")
