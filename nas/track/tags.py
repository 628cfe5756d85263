"""Names of curves: ``slot_share/<slot>/<choice>`` and its like, and which of them share a chart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from nas.draw.names import short_names
from nas.space import Slot
from nas.track.means import Branch

MAX_CURVES = 16
"""A slot with more choices than this gets no curve a choice: nobody can tell 128 lines in one chart apart."""

# TensorBoard sorts groups, which end at the first slash, by name, and opens the first two: how a run goes stands in
# "overview", its drawings in "plots", and the details, of each slot for example, behind them.
OVERVIEW, PLOTS = "overview/", "plots/"
BEST_ACCURACY = OVERVIEW + "accuracy_best"  # of the evaluated subnetworks, on validation images, as the next
MEAN_ACCURACY = OVERVIEW + "accuracy_mean"
TEST_ACCURACY = OVERVIEW + "accuracy_test"  # of the best one, at the end
TRAIN_LOSS = OVERVIEW + "loss_train"  # the mean over the steps since the evaluation before
VAL_LOSS = OVERVIEW + "loss_val"
LR = OVERVIEW + "lr"
IMAGES_PER_S = OVERVIEW + "images_per_s"
SUPERNET = PLOTS + "supernet"
ACCURACY_PLOT = PLOTS + "choices_accuracy"
PROBABILITY_PLOT = PLOTS + "choices_probability"
CONFUSION = PLOTS + "confusion"  # of the best one, on test images, at the end

# Of each choice: <kind>/<slot>/<choice>.
ACCURACY = "slot_accuracy"
GRAD_NORM = "slot_grad_norm"
PROBABILITY = "slot_probability"  # of a learned gate, as UNDECIDED
SHARE = "slot_share"
STEP_MS = "slot_step_ms"
ENTROPY = "slots/entropy"
FLOPS_SKIPPED = "slots/flops_skipped_share"
UNDECIDED = "slots/undecided"

_OVERVIEW = {
    "loss: training and validation": OVERVIEW + "loss_",
    "accuracy: best and mean on validation images": OVERVIEW + "accuracy_[bm]",
    "learning rate": LR,
    "images/s": IMAGES_PER_S,
}
_CHARTS = {
    "validation accuracy": ACCURACY,
    "share of the steps": SHARE,
    "gradient norm": GRAD_NORM,
    "step time (ms)": STEP_MS,
}


def safe_names(names: Sequence[str]) -> list[str]:
    """Make names fit for tags (letters, digits, ``_``, ``-``, ``.``) and keep them apart from each other."""
    safe = [re.sub(r"[^-\w.]", "_", name) or "_" for name in names]
    seen = Counter(safe)
    # No safe name has a "#", so that a numbered name cannot meet another one.
    return [f"{name}#{index}" if seen[name] > 1 else name for index, name in enumerate(safe)]


class Tags:
    """The tag of every curve of a search space, made once."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = safe_names(short_names([slot.name for slot in slots]))
        self.choices = [safe_names(slot.choices) for slot in slots]
        self.has_curves = [len(slot.choices) <= MAX_CURVES for slot in slots]

    def choice(self, kind: str, slot: int, choice: int) -> str:
        """``<kind>/<slot>/<choice>``, where ``kind`` is one of this file's constants."""
        return f"{kind}/{self.slots[slot]}/{self.choices[slot][choice]}"

    def curves(self, kind: str, values: Mapping[Branch, float]) -> dict[str, float]:
        """The values by tag, of the slots that have curves."""
        return {self.choice(kind, *b): value for b, value in values.items() if self.has_curves[b[0]]}

    def read(self, kind: str, lines: Sequence[Mapping[str, float]]) -> list[dict[int, list[tuple[int, float]]]]:
        """The curves of each slot's choices out of the lines of ``metrics.jsonl``, as (step, value)."""
        found: list[dict[int, list[tuple[int, float]]]] = [{} for _ in self.slots]
        wanted = [line for line in lines if any(tag.startswith(f"{kind}/") for tag in line)]
        for slot, choices in enumerate(self.choices):
            for choice in range(len(choices)):
                tag = self.choice(kind, slot, choice)
                if points := [(int(line["step"]), line[tag]) for line in wanted if tag in line]:
                    found[slot][choice] = points
        return found

    def layout(self) -> dict[str, dict[str, str]]:
        """Custom scalars: the overview, then a category a slot, with charts that show all its choices together.

        TensorBoard takes regexes and matches them at the beginning of a tag alone: the slash ends the slot's name.
        """
        slots = {
            name: {title: re.escape(f"{kind}/{name}/") for title, kind in _CHARTS.items()}
            for name, shown in zip(self.slots, self.has_curves, strict=True)
            if shown
        }
        return {"overview": _OVERVIEW, **slots}
