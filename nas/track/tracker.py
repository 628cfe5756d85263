"""Counts what happens in the steps, in plain numbers, and writes it down when told to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.draw import draw_grid
from nas.settings.plain import filled
from nas.space import Architecture, Slot
from nas.track.images import draw_run
from nas.track.means import Branch, BranchMeans, branches_of
from nas.track.state import Epoch, State, Window
from nas.track.tags import (
    ACCURACY,
    BEST_ACCURACY,
    CONFUSION,
    ENTROPY,
    FLOPS_SKIPPED,
    GRAD_NORM,
    IMAGES_PER_S,
    LR,
    MEAN_ACCURACY,
    SHARE,
    STEP_MS,
    TEST_ACCURACY,
    TRAIN_LOSS,
    VAL_LOSS,
    Tags,
)
from nas.track.writers import Writers


class Tracker:
    """What a training run did, since its beginning and since the last :meth:`log`.

    Per-choice curves are written for slots of at most 16 choices, because nobody can read 128 curves in one chart.

    Args:
        writer: where everything goes.
        slots: the slots of the search space, for their names.
    """

    def __init__(self, writer: Writers, slots: Sequence[Slot]) -> None:
        self.writer, self.slots, self.tags = writer, slots, Tags(slots)
        self.counts = [[0] * len(slot.choices) for slot in slots]
        """How often each choice of each slot ran since the beginning of the run."""
        self._run_images = 0  # without the window's, as the next
        self._run_s = 0.0
        self._evaluations = 0
        self._accuracies = BranchMeans()  # of the last evaluation, as the next, which a checkpoint does not keep
        self._evaluated: list[tuple[Architecture, float]] = []
        self._epoch = Epoch()
        self._begin_window()

    def _begin_window(self) -> None:
        self._window = Window()
        self._step_s = BranchMeans()
        self._grad_norms = BranchMeans()

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
        self._epoch.add(loss)
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
            for slot, choice in branches_of(path):
                self.counts[slot][choice] += 1
                self._step_s.add((slot, choice), seconds + shared)
        for branch, norm in (grad_norms or {}).items():
            self._grad_norms.add(branch, norm)

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
        if sample is not None and self.writer.take_images:
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
        seconds = window.step_s + window.data_s
        values = {
            "train/loss": window.loss / window.steps,
            "train/accuracy": window.correct / window.images,
            "time/step_ms": 1000 * window.step_s / window.steps,
            "time/data_ms": 1000 * window.data_s / window.steps,
            LR: lr,
        }
        if seconds > 0:  # a coarse clock may have seen no time go by
            values[IMAGES_PER_S] = window.images / seconds
        if flops_skipped_share is not None:
            values[FLOPS_SKIPPED] = flops_skipped_share
        values |= self._gate_values()
        values |= self.tags.curves(STEP_MS, self._step_s.means(1000))
        values |= self.tags.curves(GRAD_NORM, self._grad_norms.means())
        assert extra is None or not values.keys() & extra.keys(), "extra repeats a tag"
        self.writer.scalars(step, {**values, **(extra or {})})
        self._run_images += window.images
        self._run_s += seconds
        self._begin_window()

    def evaluated(self, step: int, accuracies: Sequence[tuple[Architecture, float]], loss: float) -> dict[str, float]:
        """Write how subnetworks do on held-out images, the training loss since the last time, and how often each ran.

        Args:
            step: number of steps made so far.
            accuracies: of each subnetwork, in [0, 1].
            loss: mean over the subnetworks.

        Returns:
            The losses and accuracies that were written, by tag; the branches' are not among them.
        """
        assert accuracies, "nothing was evaluated"
        self._evaluations += 1
        self._epoch.over = True
        self._evaluated, self._accuracies = [*accuracies], BranchMeans()
        for path, accuracy in accuracies:
            for branch in branches_of(path):
                self._accuracies.add(branch, accuracy)
        found = [accuracy for _, accuracy in accuracies]
        values = {VAL_LOSS: loss, MEAN_ACCURACY: sum(found) / len(found), BEST_ACCURACY: max(found)}
        if (trained := self.epoch_loss()) is not None:
            values[TRAIN_LOSS] = trained
        self.writer.scalars(step, {**values, **self.tags.curves(ACCURACY, self._accuracies.means())})
        return values

    def tested(self, step: int, accuracy: float, confusion: Path) -> None:
        """Write the accuracy on test images, in [0, 1], of the subnetwork that is best on validation images.

        ``confusion`` is the PNG of its confusion matrix, if there is one.
        """
        self.writer.scalars(step, {TEST_ACCURACY: accuracy})
        if self.writer.take_images and confusion.is_file():
            self.writer.image(CONFUSION, confusion.read_bytes(), step)

    def image(self, step: int, last: bool = False) -> None:
        """Write images of the supernet, with shares and the last evaluation's accuracies, and of its choices.

        They are written after the evaluations number 1, 4, 16, 64, ... and after the ``last`` one: TensorBoard shows
        ten images of a tag, and drawing one takes as long as a few hundred small steps.
        """
        number = self._evaluations
        is_power_of_four = number & (number - 1) == 0 and number.bit_length() % 2 == 1
        if self.writer.take_images and (last or is_power_of_four):
            lines = self.writer.lines()
            drawn = draw_run(self.slots, self.shares(), self._accuracies, self._evaluated, lines)
            for tag, png in drawn.items():
                self.writer.image(tag, png, step)

    # -------------------------------------------------------------------------------------------------- totals

    def shares(self) -> list[list[float]]:
        """:attr:`counts` of each slot divided by their sum; zeros before the first step."""
        return [[count / max(sum(row), 1) for count in row] for row in self.counts]

    def epoch_loss(self) -> float | None:
        """Mean training loss since the last evaluation, or up to it if no step followed; None before the first step."""
        return self._epoch.loss / self._epoch.steps if self._epoch.steps else None

    def seconds(self) -> float:
        """Seconds of training over the whole run, waiting for data included."""
        return self._run_s + self._window.step_s + self._window.data_s

    def images_per_s(self) -> float:
        """Images trained on in a second over the whole run, waiting for data included; 0 before the first."""
        seconds = self.seconds()
        return (self._run_images + self._window.images) / seconds if seconds > 0 else 0.0

    def _gate_values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        entropies = []
        for slot, shares in enumerate(self.shares()):
            if len(shares) > 1:
                nats = -sum(share * math.log(share) for share in shares if share)
                entropies.append(nats / math.log(len(shares)))
            values |= self.tags.curves(SHARE, {(slot, choice): share for choice, share in enumerate(shares)})
        values[ENTROPY] = sum(entropies) / len(entropies) if entropies else 0.0
        return values

    # --------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that was collected, as JSON has it, for a checkpoint."""
        totals = self._run_images, self._run_s, self._evaluations
        tables = self._accuracies.rows(), self._step_s.rows(), self._grad_norms.rows()
        return asdict(State(self.counts, *totals, self._window, *tables, self._epoch))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is damaged, or that of another search space; the tracker is as it was.
        """
        new = filled(State, state)
        rows = [*new.accuracies, *new.step_s, *new.grad_norms]
        numbers = [new.run_s, new.epoch.loss, *asdict(new.window).values(), *(number for row in rows for number in row)]
        known = {(slot, choice) for slot, row in enumerate(self.counts) for choice in range(len(row))}
        if (
            list(map(len, new.counts)) != list(map(len, self.counts))
            or not all(len(row) == 4 and tuple(row[:2]) in known and row[2] > 0 for row in rows)
            or not all(map(math.isfinite, numbers))
        ):
            raise ValueError("they are damaged, or those of another search space")
        self.counts = [list(row) for row in new.counts]
        self._run_images, self._run_s, self._evaluations = new.run_images, new.run_s, new.evaluations
        self._window, self._epoch = new.window, new.epoch
        self._accuracies, self._step_s = BranchMeans(new.accuracies), BranchMeans(new.step_s)
        self._grad_norms = BranchMeans(new.grad_norms)
