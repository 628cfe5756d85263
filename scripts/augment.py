"""How many images a second each augmentation makes, beside torchvision's transforms from image to image.

python scripts/augment.py > augment.json      # docs/data/ has the result, which docs/images.md shows
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from nas.checkpoint.file import versions
from nas.data import Batches, Splits, load_splits
from nas.settings import SyntheticSettings

ROUNDS = 20
WAYS: dict[str, dict[str, Any]] = {
    "crop and flip alone": {},
    "and `data.augment=[trivial]`": {"augment": ["trivial"]},
    "- torchvision's, from image to image": {"instead": v2.TrivialAugmentWide()},
    "and `data.augment=[randaugment]`": {"augment": ["randaugment"]},
    "- torchvision's, from image to image ": {"instead": v2.RandAugment()},
    "and `data.mixup=0.2 data.cutmix=1`": {"mixup": 0.2, "cutmix": 1.0},
}


def batches(splits: Splits, batch: int, instead: Callable[[Tensor], Tensor] | None = None, **how: Any) -> Batches:
    """Batches of ``batch`` images; what ``instead`` makes of each image stands in the place of ``data.augment``."""
    found = Batches(splits.train, splits.mean, splits.std, SyntheticSettings(**how), batch, 0)
    if instead is not None:
        found._augment = lambda pixels, *_: torch.stack([instead(image) for image in pixels]).float()  # type: ignore[assignment]
    return found


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)
    columns = dict[str, dict[str, str]]()
    for side in (32, 224):
        splits = load_splits(SyntheticSettings(size=1200, image_size=side), 0)
        for batch in (64, 256):
            ways = {name: batches(splits, batch, **how) for name, how in WAYS.items()}
            speeds: dict[str, list[float]] = {name: [] for name in WAYS}
            for step in range(ROUNDS):
                for name, way in ways.items():
                    begin = time.process_time()
                    way.batch(step)
                    speeds[name].append(batch / (time.process_time() - begin))
            found = columns[f"{side}x{side}, batch {batch}"] = {}
            for name, all_speeds in speeds.items():
                low, middle, high = statistics.quantiles(all_speeds)
                found[name] = f"{middle:,.0f} ±{(high - low) / 2:,.0f}"
    rows = [[name, *(column[name] for column in columns.values())] for name in WAYS]
    print(json.dumps({"columns": ["", *columns], "rows": rows, "versions": versions()}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
