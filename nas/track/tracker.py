"""Counts what happens in the steps, in plain numbers, and writes it down when told to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from nas.draw import draw_grid, draw_supernet
from nas.nn import active_of, indices_of
from nas.settings.plain import filled
from nas.space import Architecture, Slot
from nas.track.tags import ACCURACY, GRAD_NORM, SHARE, STEP_MS, Tags
from nas.track.writer import NullWriter, Writer

Branch = tuple[int, int]
"""(slot, choice)"""


@dataclass
class Window:
    """Sums over the steps since the last :meth:`Tracker.log`."""

    steps: int = 0
    loss: float = 0.0
    correct: int = 0
    images: int = 0
    step_s: float = 0.0
    data_s: float = 0.0


class Tracker:
    """What a training run did, since its beginning and since the last :meth:`log`.

    Per-choice curves are written for slots of at most 16 choices; a slot with more has its histogram
    ``gate/counts_<slot>`` and nothing else, because nobody can read 128 curves in one chart.

    Args:
        writer: where everything goes.
        slots: the slots of the search space, for their names.
        state: what :meth:`state_dict` returned, to go on from there.

    Raises:
        ValueError: the state is damaged, or that of another search space.
    """

    def __init__(self, writer: Writer | NullWriter, slots: Sequence[Slot], state: dict[str, Any] | None = None) -> None:
        self.writer = writer
        self.slots = slots
        self.tags = Tags(slots)
        # The whole run.
        self._counts = [[0] * len(slot.choices) for slot in slots]  # without the window's
        self._run_images = 0
        self._run_s = 0.0
        self._evaluations = 0
        self._accuracies: list[dict[int, float]] = [{} for _ in slots]  # of the last evaluation
        self._clear_window()
        if state is not None:
            self.load_state_dict(state)

    def _clear_window(self) -> None:
        self._window = Window()
        # architecture -> [runs, seconds]. A step touches one entry, however many slots and choices there are.
        self._paths: dict[Architecture, list[float]] = {}
        self._grad_norms: dict[Branch, list[float]] = {}  # [observations, sum]

    # ------------------------------------------------------------------------------------------------ collect

    def step(
        self,
        paths: Sequence[Architecture],
        *,
        loss: float,
        correct: int,
        images: int,
        step_s: float,
        data_s: float,
        path_s: Sequence[float] | None = None,
        grad_norms: Mapping[Branch, float] | None = None,
    ) -> None:
        """Take note of one step of training.

        Args:
            paths: the architectures that ran, usually one.
            loss: mean loss of the step.
            correct: number of images that were classified correctly.
            images: number of images that were classified.
            step_s: seconds of forward, backward and update.
            data_s: seconds of waiting for the batch.
            path_s: seconds of each path; they share the rest of ``step_s``, or all of it, evenly.
            grad_norms: (slot, choice) -> gradient norm of the branch's parameters, in the steps that have it.
        """
        window = self._window
        window.steps += 1
        window.loss += loss
        window.correct += correct
        window.images += images
        window.step_s += step_s
        window.data_s += data_s
        own = path_s or [0.0] * len(paths)
        shared = (step_s - sum(own)) / len(paths)
        for path, seconds in zip(paths, own, strict=True):
            _add(self._paths.setdefault(path, [0, 0.0]), 1, seconds + shared)
        for branch, norm in (grad_norms or {}).items():
            _add(self._grad_norms.setdefault(branch, [0, 0.0]), 1, norm)

    # -------------------------------------------------------------------------------------------------- write

    def start(self, config_text: str, sample: Tensor | None = None, classes: Sequence[str] = ()) -> None:
        """Write what a run is, before its first step.

        Args:
            config_text: the composed config as YAML.
            sample: images (B, 1 or 3, H, W) in [0, 1] as training sees them; the first 32 are shown.
            classes: names of the classes, in the order of their labels.
        """
        self.writer.text("config", f"```yaml\n{config_text.strip()}\n```", self.writer.step)
        if classes:
            listing = "\n".join(f"{label}. {name}" for label, name in enumerate(classes))
            self.writer.text("classes", f"```\n{listing}\n```", self.writer.step)
        if sample is not None and self.writer.tensorboard:
            self.writer.image("sample", draw_grid(sample), self.writer.step)
        self.writer.layout(self.tags.layout())

    def log(
        self,
        step: int,
        *,
        lr: float,
        flops_skipped_share: float | None = None,
        extra: Mapping[str, float] | None = None,
    ) -> None:
        """Write the window's means and begin a new window; nothing if no step was made since the last time.

        Args:
            step: number of steps made so far.
            lr: learning rate of the last step.
            flops_skipped_share: share of the FLOPs of all branches that the gate saved, in [0, 1].
            extra: other scalars, by tag.
        """
        window = self._window
        if window.steps == 0:
            return
        branches = self._branches()
        self._counts, self._paths = self.counts, {}  # first, so that the shares need not go through the paths
        seconds = window.step_s + window.data_s
        values = {
            "train/loss": window.loss / window.steps,
            "train/accuracy": window.correct / window.images,
            "time/step_ms": 1000 * window.step_s / window.steps,
            "time/data_ms": 1000 * window.data_s / window.steps,
            "optimizer/lr": lr,
        }
        if seconds > 0:  # a coarse clock may have seen no time go by
            values["throughput/images_per_s"] = window.images / seconds
        if flops_skipped_share is not None:
            values["throughput/flops_skipped_share"] = flops_skipped_share
        values |= self._gate_values()
        values |= self._curves(STEP_MS, {branch: 1000 * total / runs for branch, (runs, total) in branches.items()})
        norms = {branch: total / number for branch, (number, total) in sorted(self._grad_norms.items())}
        values |= self._curves(GRAD_NORM, norms)
        assert extra is None or not values.keys() & extra.keys(), "extra repeats a tag"
        self.writer.scalars(step, {**values, **(extra or {})})
        self._run_images += window.images
        self._run_s += seconds
        self._clear_window()

    def evaluated(self, step: int, accuracies: Sequence[tuple[Architecture, float]]) -> None:
        """Write the accuracies, in [0, 1], of subnetworks on held-out images, and how often each choice ran."""
        assert accuracies, "nothing was evaluated"
        self._evaluations += 1
        sums: dict[Branch, list[float]] = {}
        for path, accuracy in accuracies:
            for branch in _branches_of(path):
                _add(sums.setdefault(branch, [0, 0.0]), 1, accuracy)
        means = {branch: total / number for branch, (number, total) in sorted(sums.items())}
        self._accuracies = [{} for _ in self.slots]
        for (slot, choice), mean in means.items():
            self._accuracies[slot][choice] = mean
        overall = sum(accuracy for _, accuracy in accuracies) / len(accuracies)
        self.writer.scalars(step, {ACCURACY: overall, **self._curves(ACCURACY, means)})
        for name, counts in zip(self.tags.slots, self.counts, strict=True):
            self.writer.histogram(f"gate/counts_{name}", counts, step)

    def image(self, step: int, last: bool = False) -> None:
        """Write an image of the supernet, with shares and the last evaluation's accuracies drawn in.

        It is written after the evaluations number 1, 2, 4, 8, ... and after the ``last`` one: TensorBoard shows ten
        images of a tag, and drawing one takes as long as a few hundred small steps.
        """
        is_power_of_two = self._evaluations & (self._evaluations - 1) == 0
        if self.writer.tensorboard and (last or is_power_of_two):
            self.writer.image("supernet", draw_supernet(self.slots, self.shares(), self._accuracies), step)

    # -------------------------------------------------------------------------------------------------- totals

    @property
    def counts(self) -> list[list[int]]:
        """How often each choice of each slot ran since the beginning of the run."""
        counts = [list(row) for row in self._counts]
        for (slot, choice), (runs, _) in self._branches().items():
            counts[slot][choice] += int(runs)
        return counts

    def shares(self) -> list[list[float]]:
        """:attr:`counts` of each slot divided by their sum; zeros before the first step."""
        return [[count / max(sum(row), 1) for count in row] for row in self.counts]

    def images_per_s(self) -> float:
        """Images trained on in a second over the whole run, waiting for data included; 0 before the first."""
        seconds = self._run_s + self._window.step_s + self._window.data_s
        return (self._run_images + self._window.images) / seconds if seconds > 0 else 0.0

    def _branches(self) -> dict[Branch, list[float]]:
        """The window's [runs, seconds] of each (slot, choice) that ran, in order."""
        branches: dict[Branch, list[float]] = {}
        for path, (runs, seconds) in self._paths.items():
            for branch in _branches_of(path):
                _add(branches.setdefault(branch, [0, 0.0]), runs, seconds)
        return dict(sorted(branches.items()))

    def _gate_values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        entropies = []
        for slot, shares in enumerate(self.shares()):
            if len(shares) > 1:
                nats = -sum(share * math.log(share) for share in shares if share)
                entropies.append(nats / math.log(len(shares)))
            values |= self._curves(SHARE, {(slot, choice): share for choice, share in enumerate(shares)})
        values["gate/entropy"] = sum(entropies) / len(entropies) if entropies else 0.0
        return values

    def _curves(self, kind: str, values: Mapping[Branch, float]) -> dict[str, float]:
        """The values by tag, of the slots that have curves."""
        return {self.tags.choice(kind, *b): value for b, value in values.items() if self.tags.has_curves[b[0]]}

    # --------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that was collected, as JSON has it, for a checkpoint."""
        state = State(
            counts=[list(row) for row in self._counts],
            run_images=self._run_images,
            run_s=self._run_s,
            evaluations=self._evaluations,
            accuracies=[[slot, *item] for slot, row in enumerate(self._accuracies) for item in row.items()],
            window=self._window,
            paths=[[list(indices_of(entry)) for entry in path] for path in self._paths],
            path_sums=[list(sums) for sums in self._paths.values()],
            grad_norms=[[*branch, *sums] for branch, sums in self._grad_norms.items()],
        )
        return asdict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is damaged, or that of another search space; the tracker is as it was.
        """
        new = filled(State, state)
        self._check(new)
        self._counts = [list(row) for row in new.counts]
        self._run_images, self._run_s, self._evaluations = new.run_images, new.run_s, new.evaluations
        self._accuracies = [{} for _ in self.slots]
        for slot, choice, accuracy in new.accuracies:
            self._accuracies[int(slot)][int(choice)] = accuracy
        self._window = new.window
        paths = [tuple(active_of(entry) for entry in path) for path in new.paths]
        self._paths = {path: list(sums) for path, sums in zip(paths, new.path_sums, strict=True)}
        self._grad_norms = {(int(slot), int(choice)): sums for slot, choice, *sums in new.grad_norms}

    def _check(self, state: State) -> None:
        known = {(slot, choice) for slot, row in enumerate(self.slots) for choice in range(len(row.choices))}
        named = [tuple(row[:2]) for row in (*state.accuracies, *state.grad_norms)]
        for path in state.paths:
            named += [(slot, k) for slot, entry in enumerate(path) for k in entry or [-1]]
        numbers = [n for rows in (state.accuracies, state.grad_norms, state.path_sums) for row in rows for n in row]
        numbers += [*asdict(state.window).values(), state.run_s]
        fits = (
            [len(row) for row in state.counts] == [len(slot.choices) for slot in self.slots]
            and all(len(path) == len(self.slots) for path in state.paths)
            and known.issuperset(named)
            and all(map(math.isfinite, numbers))
            and all(len(row) == 3 for row in state.accuracies)
            and all(len(row) == 4 for row in state.grad_norms)
            and [len(row) for row in state.path_sums] == [2] * len(state.paths)
        )
        if not fits:
            raise ValueError("they are damaged, or those of another search space")


@dataclass
class State:
    """What a checkpoint keeps of a tracker."""

    counts: list[list[int]]
    run_images: int
    run_s: float
    evaluations: int
    accuracies: list[list[float]]
    """Slot, choice, accuracy."""
    window: Window
    paths: list[list[list[int]]]
    path_sums: list[list[float]]
    """Runs and seconds of each path."""
    grad_norms: list[list[float]]
    """Slot, choice, observations, sum."""


def _add(sums: list[float], number: float, value: float) -> None:
    """Add to [number of observations, their sum]."""
    sums[0] += number
    sums[1] += value


def _branches_of(path: Architecture) -> Iterator[Branch]:
    return ((slot, choice) for slot, entry in enumerate(path) for choice in indices_of(entry))
