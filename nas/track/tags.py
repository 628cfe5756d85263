"""Names of curves: ``gate/share_<slot>/<choice>`` and its like, and which of them share a chart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from nas.space import Slot
from nas.track.means import Branch

MAX_CURVES = 16
"""A slot with more choices than this gets no curve a choice: nobody can tell 128 lines in one chart apart."""

SHARE = "gate/share"
ACCURACY = "val/accuracy"  # the mean over the evaluated subnetworks, as the next but one
BEST_ACCURACY = "val/best_accuracy"
VAL_LOSS = "val/loss"
EPOCH_LOSS = "train/epoch_loss"  # the mean over the steps since the evaluation before
GRAD_NORM = "grad_norm"
STEP_MS = "time/step_ms"
PROBABILITY = "gate/probability"  # of a learned gate, as the next
UNDECIDED = "gate/undecided"

_CHARTS = {
    "share of the steps": SHARE,
    "validation accuracy": ACCURACY,
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
        self.slots = safe_names([slot.name for slot in slots])
        self.choices = [safe_names(slot.choices) for slot in slots]
        self.has_curves = [len(slot.choices) <= MAX_CURVES for slot in slots]

    def choice(self, kind: str, slot: int, choice: int) -> str:
        """``<kind>_<slot>/<choice>``, where ``kind`` is one of this file's constants."""
        return f"{kind}_{self.slots[slot]}/{self.choices[slot][choice]}"

    def curves(self, kind: str, values: Mapping[Branch, float]) -> dict[str, float]:
        """The values by tag, of the slots that have curves."""
        return {self.choice(kind, *b): value for b, value in values.items() if self.has_curves[b[0]]}

    def layout(self) -> dict[str, dict[str, str]]:
        """Custom scalars: a category a slot, with charts that show all its choices together.

        TensorBoard takes regexes and matches them at the beginning of a tag alone: the slash ends the slot's name.
        """
        return {
            name: {title: re.escape(f"{kind}_{name}/") for title, kind in _CHARTS.items()}
            for name, shown in zip(self.slots, self.has_curves, strict=True)
            if shown
        }
