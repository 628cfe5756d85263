"""Randomness as a function of a seed and a place, not as hidden state.

Every random draw of a run comes from ``generator(seed, "what", counter)``. Two processes that agree on the three
draw the same numbers, whatever either drew before: so a resumed run goes on as if it had never stopped, and all
ranks take the same path without a message between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch

STREAMS = 2
"""Of what a run draws: raised when the same seed and step give other numbers, so that no run goes on with others."""


def derive(seed: int, *place: str | int) -> int:
    """A 63-bit seed for ``place`` under ``seed``; the same on every machine and in every Python."""
    digest = blake2b("/".join(map(str, (seed, *place))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *place: str | int) -> torch.Generator:
    """A CPU generator for ``place`` under ``seed``, for example ``generator(0, "shuffle", epoch)``."""
    return torch.Generator().manual_seed(derive(seed, *place))


def seed_layers(device: torch.device, seed: int, *place: str | int) -> None:
    """Seed the global generators, which a user's own layers draw from, such as dropout.

    Called before each step, so that a step's draws depend on nothing before it.
    """
    derived = derive(seed, "global", *place)
    torch.default_generator.manual_seed(derived)  # torch.manual_seed takes thirty times as long
    if device.type == "cuda":
        with torch.cuda.device(device):  # manual_seed seeds the current device
            torch.cuda.manual_seed(derived)


@contextmanager
def weights(seed: int) -> Iterator[None]:
    """Initialise modules inside: ``torch.nn`` draws from the global generator, which is put back at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "weights"))  # torch.manual_seed would reseed CUDA too
        yield
