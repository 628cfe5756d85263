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


def derive(seed: int, *place: str | int) -> int:
    """A 63-bit seed for ``place`` under ``seed``; the same on every machine and in every Python."""
    digest = blake2b("/".join(map(str, (seed, *place))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *place: str | int) -> torch.Generator:
    """A CPU generator for ``place`` under ``seed``, for example ``generator(0, "shuffle", epoch)``."""
    return torch.Generator().manual_seed(derive(seed, *place))


@contextmanager
def weights(seed: int) -> Iterator[None]:
    """Initialise modules inside: ``torch.nn`` draws from the global generator, which is put back at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "weights"))  # torch.manual_seed would reseed CUDA too
        yield
