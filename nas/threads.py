"""How many CPU threads: one or all, whichever is faster here and now.

torch's threads share an operation and wait for each other at its end. Where something else keeps a core busy, the whole
operation waits for the thread that shares it, and a small network can get forty times slower than on one thread. On a
quiet machine all threads may be faster. So it is measured.

Other numbers of threads add floats in another order: only the same number gives the same bits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.settings.rules import AUTO

if TYPE_CHECKING:
    from typing_extensions import Self

WARM_UP = 2
"""Pieces of work that do not count, one of each kind: the first ones prepare what later ones find."""
FEWEST_SLOWER, FEWEST_FASTER, MOST = 3, 10, 20
"""Pairs that are timed: at least so many to find all threads slower, or faster, and at most. A core that is busy now
and then makes a few of the pieces much slower: it takes more of them to know that there is none."""
CERTAIN = 3.0
"""Standard errors that the mean difference of the pairs must be away from 0."""


def set_threads(setting: int | str) -> None:
    """Let torch compute with a number of threads from now on; 0 and ``auto`` change nothing."""
    if isinstance(setting, int) and setting:
        torch.set_num_threads(setting)


class Threads:
    """Finds the faster of one and all threads by the time that pieces of the work take, in turn on one and on all.

    As a context it sets torch's number, during the choice a new one after each piece, and puts back the one before.

    Args:
        setting: a number of threads, which torch keeps from now on; 0 for torch's own number; ``auto`` to choose
            between 1 and torch's own number, which ``OMP_NUM_THREADS`` and the cores that a process may use decide.
        what: the pieces, in the line that says what was chosen.

    Attributes:
        chosen: the number that was chosen, 0 as long as that is open.
    """

    def __init__(self, setting: int | str, what: str = "step") -> None:
        set_threads(setting)
        self.most, self._what = torch.get_num_threads(), what
        self._auto = setting == AUTO
        self.chosen = 0 if self._auto and self.most > 1 else self.most
        self._seconds: dict[int, list[float]] = {1: [], self.most: []}
        self._made, self._before = 0, self.most

    @property
    def number(self) -> int:
        """Of threads, for the next piece of work."""
        if self.chosen:
            return min(self.chosen, self.most)
        return (1, self.most, self.most, 1)[self._made % 4]  # so that neither always follows the other

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.number)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def go_on(self, chosen: Any) -> None:
        """Take over what a part of the work before this one has chosen, 0 for nothing.

        Raises:
            ValueError: it is no number of threads.
        """
        if type(chosen) is not int or not 0 <= chosen <= 1024:
            raise ValueError(f"{chosen!r:.80} is no number of threads")
        if self._auto:
            self.chosen = chosen or self.chosen

    def note(self, seconds: float, must: int = 0) -> str:
        """Take note of how long a piece of work took, in the context; ``must`` pairs must do for a choice.

        Returns:
            A line that says what was chosen, once it is; else an empty text.
        """
        if self.chosen:
            return ""
        if self._made >= WARM_UP:
            self._seconds[self.number].append(seconds)
        self._made += 1
        self.chosen = self._choice(must)
        torch.set_num_threads(self.number)
        if not self.chosen:
            return ""
        other = self.most if self.chosen == 1 else 1
        took, others = (duration(statistics.fmean(self._seconds[number])) for number in (self.chosen, other))
        return f"threads: {self.chosen} (a {self._what} takes {took}; {others} with {other})"

    def choose(self, piece: Callable[[], Callable[[], object]], spend_s: float = 1.0) -> str:
        """Make the choice, in the context, by work that is done for it alone, for about ``spend_s`` seconds.

        Args:
            piece: gives the work; it is not called if there is nothing to choose.
            spend_s: after that time, three pairs must do; after three times as long, or where one number takes twice as
                long as the other, one.

        Returns:
            As :meth:`note`.
        """
        if self.chosen:
            return ""
        line, work, began = "", piece(), perf_counter()
        while not self.chosen:
            started = perf_counter()
            work()
            ended = perf_counter()
            spent = (ended - began) / max(spend_s, 1e-9)
            line = self.note(ended - started, must=1 if spent > 3 else FEWEST_SLOWER if spent > 1 else 0)
        return line

    def _choice(self, must: int) -> int:
        """The faster number, 0 as long as the pairs do not show it and are not as many as must do."""
        one, every = self._seconds[1], self._seconds[self.most]
        pairs = [b - a for a, b in zip(one, every, strict=False)]
        longer = statistics.fmean(pairs) if pairs else 0.0
        faster = 1 if longer > 0 else self.most
        if must and pairs and not 0.5 < sum(every) / sum(one) < 2:
            must = 1
        if len(one) != len(every) or len(pairs) < (must or FEWEST_SLOWER):
            return 0
        if must or len(pairs) == MOST:
            return faster
        enough = len(pairs) >= (FEWEST_SLOWER if longer > 0 else FEWEST_FASTER)
        error = statistics.stdev(pairs) / math.sqrt(len(pairs))
        return faster if enough and abs(longer) > CERTAIN * error else 0


def duration(seconds: float) -> str:
    """As in ``14.8 ms`` or ``1.2 s``."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def passes(
    network: nn.Module, x: Tensor, architectures: Iterable[object], gradients: bool = False
) -> Callable[[], object]:
    """A piece of work to time: a forward pass of ``x`` through a supernet, of each architecture on one and all threads.

    Args:
        network: in eval mode; it is left as it is.
        x: images ``(B, C, H, W)``.
        architectures: that are taken in turn.
        gradients: pass backward too.
    """
    turns = cycle([architecture for architecture in architectures for _ in range(2)])
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def work() -> None:
        with torch.set_grad_enabled(gradients):
            loss = network(x, next(turns)).sum()
            if gradients:
                torch.autograd.grad(loss, parameters, allow_unused=True)

    return work
