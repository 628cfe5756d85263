"""How long a run still takes: its steps, and all that it does between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Beside:
    """Something that a run does beside its steps.

    Attributes:
        left: how often it is still done after a step; a part counts as a part.
        guess: how many steps it takes as long as, until it was seen.
    """

    left: Callable[[int], float]
    guess: float = 0.0


class TimeLeft:
    """Estimates the time left from what a step, and each of the other things, has taken so far.

    Args:
        step: where the run starts.
        total: its number of steps.
        others: by name, what it does beside them.
    """

    def __init__(self, step: int, total: int, others: Mapping[str, Beside] | None = None) -> None:
        self._total, self._others = total, others or {}
        self._seen: dict[str, list[float]] = {name: [] for name in self._others}
        self.begin(step)

    def begin(self, step: int) -> None:
        """Forget how long the steps before ``step`` have taken."""
        self._step, self._began, self._beside = step, perf_counter(), 0.0

    @contextmanager
    def beside(self, name: str) -> Iterator[None]:
        """What happens in the context is no step, but ``name``."""
        began = perf_counter()
        yield
        seconds = perf_counter() - began
        self._beside += seconds
        if name in self._seen:
            self._seen[name].append(seconds)

    def seconds(self, step: int) -> float | None:
        """Seconds that are left after ``step``; None as long as nothing was seen."""
        made = step - self._step
        if made <= 0:
            return None
        each = (perf_counter() - self._began - self._beside) / made
        left = (self._total - step) * each
        for name, other in self._others.items():
            seen = self._seen[name][1:] or self._seen[name]  # the first one prepares what the others find
            left += other.left(step) * (sum(seen) / len(seen) if seen else other.guess * each)
        return left
