"""Counts what happens in the steps, in plain numbers, and writes it down when told to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nas.space import Architecture, Slot
from nas.track.picture import draw_supernet
from nas.track.sample import tile
from nas.track.silent import NoWriter
from nas.track.tags import ACCURACY, GRAD_NORM, SHARE, STEP_MS, Tags
from nas.track.tally import Sums, add, as_architecture, as_lists, branches_of
from nas.track.writer import Writer


class Tracker:
    """What a training run did, since its beginning and since the last :meth:`log`.

    Per-choice curves are written for slots of at most 16 choices; a slot with more has its histogram
    ``gate/counts_<slot>`` and nothing else, because nobody can read 128 curves in one chart.

    Args:
        writer: where everything goes.
        slots: the slots of the search space, for their names.
        state: what :meth:`state_dict` returned, to go on from there.
    """

    def __init__(self, writer: Writer | NoWriter, slots: Sequence[Slot], state: dict[str, Any] | None = None) -> None:
        self.writer = writer
        self.slots = slots
        self.tags = Tags(slots)
        # The whole run.
        self._counts = [[0] * len(slot.choices) for slot in slots]  # without the window's
        self._run_images = 0
        self._run_s = 0.0
        self._accuracies: list[dict[int, float]] = [{} for _ in slots]  # of the last evaluation
        self._clear_window()
        if state is not None:
            self._restore(state)

    def _clear_window(self) -> None:
        self._steps = 0
        self._loss = 0.0
        self._correct = 0
        self._images = 0
        self._step_s = 0.0
        self._data_s = 0.0
        # architecture -> [runs, seconds]. A step touches one entry, however many slots and choices there are.
        self._paths: Sums[Architecture] = {}
        self._grad_norms: Sums[tuple[int, int]] = {}  # (slot, choice) -> [observations, sum]

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
        grad_norms: Mapping[tuple[int, int], float] | None = None,
    ) -> None:
        """Take note of one step of training.

        Args:
            paths: the architectures that ran, usually one.
            loss: mean loss of the step.
            correct: pictures that were classified rightly.
            images: pictures that were classified.
            step_s: seconds of forward, backward and update.
            data_s: seconds of waiting for the batch.
            path_s: seconds of each path; what is left of ``step_s``, or all of it, they share evenly.
            grad_norms: (slot, choice) -> gradient norm of the branch's parameters, in the steps that have it.
        """
        self._steps += 1
        self._loss += loss
        self._correct += correct
        self._images += images
        self._step_s += step_s
        self._data_s += data_s
        own = path_s or [0.0] * len(paths)
        shared = (step_s - sum(own)) / len(paths)
        for path, seconds in zip(paths, own, strict=True):
            add(self._paths, path, 1, seconds + shared)
        if grad_norms is not None:
            for branch, norm in grad_norms.items():
                add(self._grad_norms, branch, 1, norm)

    # -------------------------------------------------------------------------------------------------- write

    def start(self, config_text: str, sample: Tensor | None = None, classes: Sequence[str] = ()) -> None:
        """Write what a run is, before its first step.

        Args:
            config_text: the composed config as YAML.
            sample: pictures (B, 1 or 3, H, W) in [0, 1] as training sees them; the first 32 are shown.
            classes: names of the classes, in the order of their labels.
        """
        self.writer.text("config", f"```yaml\n{config_text.strip()}\n```", self.writer.step)
        if classes:
            listing = "\n".join(f"{label}. {name}" for label, name in enumerate(classes))
            self.writer.text("classes", f"```\n{listing}\n```", self.writer.step)
        if sample is not None and self.writer.tensorboard:
            self.writer.image("sample", tile(sample), self.writer.step)
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
        if self._steps == 0:
            return
        branches = self._branches()
        self._counts, self._paths = self.counts, {}  # first, so that the shares need not go through the paths
        seconds = self._step_s + self._data_s
        values = {
            "train/loss": self._loss / self._steps,
            "train/accuracy": self._correct / self._images,
            "time/step_ms": 1000 * self._step_s / self._steps,
            "time/data_ms": 1000 * self._data_s / self._steps,
            "optimizer/lr": lr,
        }
        if seconds > 0:  # a coarse clock may have seen no time go by
            values["throughput/images_per_s"] = self._images / seconds
        if flops_skipped_share is not None:
            values["throughput/flops_skipped_share"] = flops_skipped_share
        values |= self._gate_values()
        for branch, (runs, total_s) in branches.items():
            if self.tags.has_curves[branch[0]]:
                values[self.tags.choice(STEP_MS, *branch)] = 1000 * total_s / runs
        for branch, (norms, total) in sorted(self._grad_norms.items()):
            if self.tags.has_curves[branch[0]]:
                values[self.tags.choice(GRAD_NORM, *branch)] = total / norms
        assert extra is None or not values.keys() & extra.keys(), "extra repeats a tag"
        self.writer.scalars(step, {**values, **(extra or {})})
        self._run_images += self._images
        self._run_s += seconds
        self._clear_window()

    def evaluated(self, step: int, accuracies: Sequence[tuple[Architecture, float]]) -> None:
        """Write the accuracies, in [0, 1], of subnetworks on held-out pictures, and how often each choice ran."""
        assert accuracies, "nothing was evaluated"
        sums: Sums[tuple[int, int]] = {}
        for path, accuracy in accuracies:
            for branch in branches_of(path):
                add(sums, branch, 1, accuracy)
        self._accuracies = [{} for _ in self.slots]
        values = {ACCURACY: sum(accuracy for _, accuracy in accuracies) / len(accuracies)}
        for (slot, choice), (number, total) in sorted(sums.items()):
            self._accuracies[slot][choice] = total / number
            if self.tags.has_curves[slot]:
                values[self.tags.choice(ACCURACY, slot, choice)] = total / number
        self.writer.scalars(step, values)
        for name, counts in zip(self.tags.slots, self.counts, strict=True):
            self.writer.histogram(f"gate/counts_{name}", counts, step)

    def picture(self, step: int) -> None:
        """Write the supernet as a picture, with shares and the last evaluation's accuracies drawn in."""
        if self.writer.tensorboard:
            picture = draw_supernet(self.slots, self.shares(), self._accuracies)
            self.writer.image("supernet", picture, step)

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
        """Pictures trained on in a second over the whole run, waiting for data included; 0 before the first."""
        seconds = self._run_s + self._step_s + self._data_s
        return (self._run_images + self._images) / seconds if seconds > 0 else 0.0

    def _branches(self) -> Sums[tuple[int, int]]:
        """The window's [runs, seconds] of each (slot, choice) that ran, in order."""
        branches: Sums[tuple[int, int]] = {}
        for path, (runs, seconds) in self._paths.items():
            for branch in branches_of(path):
                add(branches, branch, runs, seconds)
        return dict(sorted(branches.items()))

    def _gate_values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        entropies = []
        for slot, shares in enumerate(self.shares()):
            if len(shares) > 1:
                nats = -sum(share * math.log(share) for share in shares if share)
                entropies.append(nats / math.log(len(shares)))
            if self.tags.has_curves[slot]:
                values |= {self.tags.choice(SHARE, slot, k): share for k, share in enumerate(shares)}
        values["gate/entropy"] = sum(entropies) / len(entropies) if entropies else 0.0
        return values

    # --------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that was collected, as plain dicts, lists and numbers, for a checkpoint."""
        return {
            "counts": [list(row) for row in self._counts],
            "run": [self._run_images, self._run_s],
            "accuracies": [[list(item) for item in row.items()] for row in self._accuracies],
            "window": [self._steps, self._loss, self._correct, self._images, self._step_s, self._data_s],
            "paths": [[as_lists(path), *value] for path, value in self._paths.items()],
            "grad_norms": [[*branch, *value] for branch, value in self._grad_norms.items()],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        counts = [list(row) for row in state["counts"]]
        assert list(map(len, counts)) == list(map(len, self._counts)), "the state is of another search space"
        self._counts = counts
        self._run_images, self._run_s = state["run"]
        self._accuracies = [dict(row) for row in state["accuracies"]]
        self._steps, self._loss, self._correct, self._images, self._step_s, self._data_s = state["window"]
        self._paths = {as_architecture(path): [runs, seconds] for path, runs, seconds in state["paths"]}
        self._grad_norms = {(slot, choice): [n, total] for slot, choice, n, total in state["grad_norms"]}
