"""Many examples inside one test."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


@contextmanager
def example(*what: object) -> Iterator[None]:
    """Name the example in whatever goes wrong inside: ``for name in TABLE: with example(name): ...``."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"example {', '.join(map(str, what))}: {error}") from error


def calls(text: str, argument: str = "x", **known: object) -> dict[str, Callable]:
    """Functions of one argument by what is written, between semicolons or lines: ``calls("x.sin(); F.relu(x)")``."""
    sight = {"torch": torch, "F": F, "nn": nn, **known}
    return {call: eval(f"lambda {argument}: {call}", sight) for call in map(str.strip, re.split(r"[;\n]", text))}
